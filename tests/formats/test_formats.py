"""Pairs are unchanged after export and import in other projects' formats; files from other projects are read or
rejected."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble.formats import FORMATS, FormatError, dataset_card, read_pairs, write
from scramble.formats.bad_rows import BadRows
from scramble.formats.images import file_name
from scramble.records import Edit, ImageFile, ImageRecord, PreferencePair
from scramble.sources import SourceError, read_bundles, scramble_release
from scramble.storage.tables import write_table


def picture(color: str, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(buffer, format)
    return buffer.getvalue()


IMAGES = [
    ImageRecord("000000000009", ImageFile(picture("red", "JPEG")), ("A dog on a mat.",), "coco:captions_train2017"),
    ImageRecord("odd/name: 7", ImageFile(picture("blue", "PNG")), ("Zwei Hüte.",), "world"),
    ImageRecord("odd_name_ 7", ImageFile(picture("green", "PNG")), (), "world"),
]
PAIRS = [
    PreferencePair(
        "p1",
        ("000000000009",),
        "caption:",
        "A dog on a mat.",
        'A "mat" on a dog.',
        "swap-object",
        "swap.phrases",
        (Edit((2, 14), (2, 16)),),
        7,
        "coco",
        {"grammar": 0.5},
    ),
    PreferencePair("p2", ("odd/name: 7",), "Describe the\nimage.", "Zwei Hüte.", "Zwei Mützen. 🎩", "replace", seed=3),
    PreferencePair("p3", ("odd/name: 7",), "caption:", "Two hats.", "Three hats.", "replace-number"),
]


def read(path: Path) -> tuple[dict[str, bytes], list[PreferencePair]]:
    """Return the images by id and the pairs of a file, as ``data=pairs`` reads them."""
    bundles = list(read_bundles("pairs", path, BadRows(None, 0.0)))
    images = {image.image_id: image.image.read() for bundle in bundles for image in bundle.images}
    return images, [pair for bundle in bundles for pair in bundle.pairs]


def without(pair: PreferencePair) -> tuple[Any, ...]:
    return (pair.prompt, pair.chosen, pair.rejected, pair.image_ids)


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(tmp_path: Path, name: str) -> None:
    path, count = write(name, IMAGES, PAIRS, tmp_path / "out")
    assert count == 3
    images, pairs = read(path)
    assert pairs == PAIRS
    assert images == {image.image_id: image.image.bytes for image in IMAGES[:2]}
    assert list(read_pairs(path)) == PAIRS


@pytest.mark.parametrize("name", FORMATS)
def test_rows_without_our_provenance_are_read(tmp_path: Path, name: str) -> None:
    """Rows as other projects write them, without our column; image ids are the file names."""
    path, _ = write(name, IMAGES[:1], PAIRS[:1], tmp_path)
    if name == "trl-parquet":
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(path).drop_columns(["provenance"]), path)
    else:
        text = path.read_text()
        rows = json.loads(text) if name in ("scramble", "llama-factory") else [json.loads(text)]
        rows[0].pop("provenance")
        path.write_text(json.dumps(rows) if path.suffix == ".json" else json.dumps(rows[0]) + "\n")
    images, (pair,) = read(path)
    assert without(pair) == without(PAIRS[0])
    assert pair.kind == ("swap-object" if name == "scramble" else "unknown")
    assert images == {"000000000009": IMAGES[0].image.bytes}


def test_rows_are_as_the_other_projects_document_them(tmp_path: Path) -> None:
    rows = {}
    for name in ("trl", "llama-factory", "ms-swift", "scramble"):
        path, _ = write(name, IMAGES[:1], PAIRS[:1], tmp_path / name)
        rows[name] = json.loads(path.read_text().removeprefix("[").removesuffix("]\n"))
        rows[name].pop("provenance")
    image = "images/000000000009.jpg"
    chosen, rejected = PAIRS[0].chosen, PAIRS[0].rejected
    assert rows["trl"] == {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "caption:"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": chosen}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": rejected}]}],
        "images": [image],
    }
    assert rows["llama-factory"] == {
        "conversations": [{"from": "human", "value": "<image>caption:"}],
        "chosen": {"from": "gpt", "value": chosen},
        "rejected": {"from": "gpt", "value": rejected},
        "images": [image],
    }
    info = json.loads((tmp_path / "llama-factory" / "dataset_info.json").read_text())
    assert info["scramble_pairs"]["file_name"] == "llama_factory.json" and info["scramble_pairs"]["ranking"] is True
    assert rows["ms-swift"] == {
        "messages": [{"role": "user", "content": "<image>caption:"}, {"role": "assistant", "content": chosen}],
        "rejected_response": rejected,
        "images": [image],
    }
    assert rows["scramble"]["conversations"][0] == {"from": "human", "value": "<image>\ncaption:"}
    assert rows["scramble"]["image"] == image


def test_datasets_and_trl_take_the_export(tmp_path: Path) -> None:
    """TRL's own preparation finds a placeholder for every image, and ``datasets`` decodes embedded images."""
    from datasets import load_dataset
    from trl.data_utils import prepare_multimodal_messages

    path, _ = write("trl-parquet", IMAGES, PAIRS, tmp_path)
    data = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert data[0]["images"][0].size == (32, 24) and not (tmp_path / "images").exists()
    for row in data:
        # Arrow fills missing fields of a struct with None, which TRL must accept.
        parts = prepare_multimodal_messages(row["prompt"] + row["chosen"], row["images"])
        kinds = [part["type"] for message in parts for part in message["content"]]
        assert kinds == ["image", "text", "text"]


def test_the_release_format_is_read_by_the_source(tmp_path: Path) -> None:
    path, _ = write("scramble", IMAGES, PAIRS[:1], tmp_path)
    (bundle,) = scramble_release.bundles(path, BadRows())
    (image,), (pair,) = bundle.images, bundle.pairs
    assert without(pair) == without(PAIRS[0]) and pair.kind == "swap-object"
    assert image.captions == ("A dog on a mat.",)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    stray = PreferencePair("p9", ("nowhere",), "caption:", "a", "b", "x")
    with pytest.raises(FormatError, match="the image nowhere of pair p9 is missing from"):
        write("trl", IMAGES, [stray], tmp_path)
    assert not (tmp_path / "pairs.jsonl").exists()
    two = PreferencePair("p8", ("000000000009", "odd/name: 7"), "caption:", "a", "b", "x")
    with pytest.raises(FormatError, match="p8 has 2 images"):
        write("scramble", IMAGES, [two], tmp_path)
    path, count = write("ms-swift", IMAGES, [two], tmp_path)
    assert count == 1 and read(path)[1] == [two]
    with pytest.raises(FormatError, match="unknown format 'csv': choose one of trl"):
        write("csv", IMAGES, PAIRS, tmp_path)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("trl", {"prompt": "p", "chosen": "c"}, "rejected"),
        ("trl", {"prompt": "p", "chosen": "c", "rejected": "c", "images": []}, "the same text"),
        ("ms-swift", {"messages": [], "rejected_response": "r"}, "messages is not a string"),
        ("llama-factory", {"conversations": [1, 2], "chosen": {}, "rejected": {}}, "conversations is not a string"),
        ("scramble", [1], "rows are not JSON objects"),
        (
            "trl",
            {
                "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "p"}]}],
                "chosen": "c",
                "rejected": "r",
            },
            "1 image placeholder for 0 images",
        ),
        (
            "ms-swift",
            {
                "messages": [{"role": "user", "content": "<image>p"}, {"role": "assistant", "content": "c"}],
                "rejected_response": "r",
            },
            "1 image placeholder for 0 images",
        ),
        (
            "llama-factory",
            {
                "conversations": [{"from": "human", "value": "<image><image>p"}],
                "images": ["0.png"],
                "chosen": {"from": "gpt", "value": "c"},
                "rejected": {"from": "gpt", "value": "r"},
            },
            "2 image placeholders for 1 image",
        ),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, name: str, row: Any, message: str) -> None:
    file = FORMATS[name][0]
    text = json.dumps([row]) if file.endswith(".json") else json.dumps(row)
    (tmp_path / file).write_text(text + "\n")
    with pytest.raises(SourceError, match=message) as error:
        read(tmp_path / file)
    assert file in str(error.value)


def test_file_names_are_safe_and_distinct() -> None:
    png = b"\x89PNG..."
    assert file_name("a.png", png) == "a.png" and file_name("x", png) == "x.png"
    names = [file_name(i, png) for i in ("../../etc/passwd", "a/b", "a_b", "a b", "é", "x" * 400)]
    assert len(set(names)) == 6 and all("/" not in name and not name.startswith(".") for name in names)
    assert max(map(len, names)) < 200


# -------------------------------------------------------------------------------------------------- pairs for the audit


def test_sugarcrepe_files_with_gaps_are_read(shared: Path) -> None:
    folder = shared / "data" / "sugarcrepe_sample"
    pairs = list(read_pairs(folder))
    assert len(pairs) == 280 and len({pair.pair_id for pair in pairs}) == 280
    assert {pair.kind for pair in pairs} == {
        "add-attribute",
        "add-object",
        "replace-attribute",
        "replace-object",
        "replace-relation",
        "swap-attribute",
        "swap-object",
    }
    swaps = list(read_pairs(folder / "swap_obj.json"))
    assert swaps[1].pair_id == "swap_obj-3" and swaps[1].image_ids == ("000000287347",)
    assert swaps[1].chosen == "A woman prepares a pizza while a man watches."


def test_own_data_sets_are_read(tmp_path: Path) -> None:
    write_table(tmp_path, PreferencePair, PAIRS)
    assert list(read_pairs(tmp_path)) == list(read_pairs(tmp_path / "pairs.parquet")) == PAIRS


def test_unknown_pair_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(FormatError, match=r"x\.jsonl: the columns \(question, answer\) match no known format"):
        list(read_pairs(tmp_path / "x.jsonl"))
    (tmp_path / "swap_obj.json").write_text('{"4": {"filename": "1.jpg", "caption": "a"}}')
    with pytest.raises(FormatError, match="key 4"):
        list(read_pairs(tmp_path / "swap_obj.json"))
    with pytest.raises(FormatError, match="does not exist"):
        list(read_pairs(tmp_path / "gone.jsonl"))


def test_the_card_counts_and_loads_on_the_hub_library() -> None:
    from huggingface_hub import DatasetCard

    table = (["kind", "length", "unigram"], [["swap-object", 50.0, 51.25]])
    text = dataset_card(
        "Demo | pairs", IMAGES, PAIRS * 2, audit=table, licences={"world": "CC0-1.0"}, notes="Made by tests."
    )
    card: Any = DatasetCard(text)
    assert card.data.size_categories == "n<1K" and card.data.language == "en"
    assert "6 preference pairs on 3 images" in text
    assert "| swap-object | 2 | 33.3 % | 5.0 | 5.0 |" in text
    assert "| coco:captions_train2017 | 1 | captions CC BY 4.0; images under their Flickr licences |" in text
    assert "| world | 2 | CC0-1.0 |" in text and "| swap-object | 50.0 | 51.2 |" in text and "Made by tests." in text
    assert "The pairs were not audited" in dataset_card("Demo", IMAGES, PAIRS)
    unknown = [ImageRecord("a", ImageFile(b"x"), source="hf:me/mine")]
    assert "not stated" in dataset_card("Demo", unknown, PAIRS)
