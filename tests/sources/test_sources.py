"""Every source reads files in its format, and each kind of bad row is named and counted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble.sources import BadRows, SourceError, read, read_bundles, scramble_release
from scramble.storage.jsonl import read_jsonl


def encoded(color: str, format: str = "PNG", size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, format)
    return buffer.getvalue()


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in zip(names, ["red", "green", "blue", "white"] * len(names), strict=False):
        (folder / name).write_bytes(encoded(color, "JPEG" if name.endswith("jpg") else "PNG"))


def write_jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


# ------------------------------------------------------------------------------------------------------ image folder


def test_image_folder_jsonl_groups_captions_that_are_apart(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.jpg")
    rows = [
        {"image": "a.png", "caption": "  A red\n square. "},
        {"image": "b.jpg", "caption": ["A green square.", "Something green."]},
        {"image": "a.png", "caption": "A square, red."},
    ]
    write_jsonl(tmp_path / "captions.jsonl", rows)
    records = list(read("image_folder", tmp_path))
    assert [record.image_id for record in records] == ["a.png", "b.jpg"]
    assert records[0].captions == ("A red square.", "A square, red.")
    assert records[1].captions == ("A green square.", "Something green.")
    assert records[0].image.bytes == (tmp_path / "a.png").read_bytes()
    assert records[1].image.open().size == (40, 40)


def test_image_folder_csv_by_path_with_other_columns(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures", "a.png")
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["file_name", "text", "key"], ["a.png", 'A "red", square.', "seven"]])
    (record,) = read(
        "image_folder",
        tmp_path / "list.csv",
        images=tmp_path / "pictures",
        embed=False,
        image_column="file_name",
        caption_column="text",
        id_column="key",
    )
    assert record.image_id == "seven" and record.captions == ('A "red", square.',)
    assert record.image.bytes is None and record.image.path == str(tmp_path / "pictures" / "a.png")
    assert record.image.open().getpixel((1, 1)) == (255, 0, 0)


def test_each_bad_row_is_listed_with_its_reason(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "empty.png")
    whole = encoded("red", "JPEG", 400)
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.png").write_bytes(b"not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    rows = [
        {"id": 1, "image": "a.png", "caption": "A red square."},
        {"id": 2, "image": "a.png"},
        {"id": 3, "image": "a.png", "caption": " \n"},
        {"id": 4, "image": "a.png", "caption": 7},
        {"id": 5, "caption": "No image."},
        {"id": 1, "image": "b.png", "caption": "Another image under the first id."},
        {"id": 6, "image": "cut.jpg", "caption": "Truncated."},
        {"id": 7, "image": "noise.png", "caption": "Unreadable."},
        {"id": 8, "image": "empty.png", "caption": "Empty file."},
        {"id": 9, "image": "gone.png", "caption": "Missing."},
        '{"id": 10, "image": "a.png", "capt',
        {"id": 1, "image": "a.png", "caption": "A red square."},
    ]
    write_jsonl(tmp_path / "captions.jsonl", rows)
    bad = BadRows(tmp_path / "out" / "rejected_rows.jsonl", max_fraction=0.95)
    (record,) = read("image_folder", tmp_path, bad=bad, id_column="id")
    assert record.image_id == "1" and bad.used == 1 and bad.rejected == 11
    listed = {row["row"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "rejected_rows.jsonl")}
    expected = {
        2: "row without caption",
        3: "empty caption",
        4: "caption is of type int, not a string",
        5: "row without image",
        6: "duplicate id",
        7: "unreadable image",
        8: "unreadable image",
        9: "unreadable image",
        10: "missing image",
        11: "not JSON",
        12: "duplicate caption",
    }
    assert listed.keys() == expected.keys()
    for row, reason in expected.items():
        assert listed[row].startswith(reason), (row, listed[row])
    assert "gone.png" in listed[10] and "cut.jpg" in listed[7] and "1 is a.png and b.png" in listed[6]


def test_too_many_bad_rows_stop_with_counts_and_the_first_of_them(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    rows = [{"image": "a.png", "caption": f"Caption {i}."} for i in range(93)]
    rows += [{"image": "a.png", "caption": ""}] * 5 + [{"image": "gone.png", "caption": "x"}] * 2
    write_jsonl(tmp_path / "captions.jsonl", rows)
    with pytest.raises(SourceError) as error:
        list(read("image_folder", tmp_path))
    for part in ("7 of 100", "5 x empty caption", "0.05", "row 94", "captions.jsonl"):
        assert part in str(error.value), part
    assert len(list(read("image_folder", tmp_path, bad=BadRows(max_fraction=0.07)))) == 1


def test_empty_data_set_missing_file_and_wrong_column_are_named(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text("")
    with pytest.raises(SourceError, match="the data set is empty"):
        list(read("image_folder", tmp_path))
    with pytest.raises(SourceError, match="nowhere does not exist"):
        list(read("image_folder", tmp_path / "nowhere"))
    write_jsonl(tmp_path / "captions.jsonl", [{"photo": "a.png", "caption": "x"}])
    with pytest.raises(SourceError, match=r"no column image, only photo, caption"):
        list(read("image_folder", tmp_path))
    (tmp_path / "captions.csv").write_text("image,caption\n")
    with pytest.raises(SourceError, match=r"but contains captions.jsonl and captions.csv"):
        list(read("image_folder", tmp_path))
    with pytest.raises(SourceError, match="unknown source 'cocoa'"):
        list(read("cocoa", tmp_path))
    write_jsonl(tmp_path / "none.jsonl", [{"image": "gone.png", "caption": "x"}])
    with pytest.raises(SourceError, match=r"only row cannot be used. The error is: .*none.jsonl, row 1: missing image"):
        list(read("image_folder", tmp_path / "none.jsonl"))


def test_streams_lazily_and_stops_at_the_limit(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_jsonl(tmp_path / "captions.jsonl", [{"image": n, "caption": "x"} for n in ("a.png", "b.png", "gone.png")])
    stream = read("image_folder", tmp_path)
    assert next(stream).image_id == "a.png"
    assert len(list(read("image_folder", tmp_path, limit=2))) == 2


# -------------------------------------------------------------------------------------------------------------- coco


def write_coco(root: Path, annotations: list[Any], missing: tuple[int, ...] = ()) -> None:
    images: list[dict[str, Any]] = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (9, 25)]
    write_images(root / "val2017", *(image["file_name"] for image in images if image["id"] not in missing))
    (root / "annotations").mkdir()
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(content))


def test_coco_root_and_file_read_alike(tmp_path: Path) -> None:
    annotations = [
        {"id": 1, "image_id": 25, "caption": "A giraffe."},
        {"id": 2, "image_id": 9, "caption": "A bowl. "},
        {"id": 3, "image_id": 25, "caption": "Two giraffes."},
    ]
    write_coco(tmp_path, annotations)
    records = list(read("coco", tmp_path, split="val2017"))
    assert [(r.image_id, r.captions) for r in records] == [
        ("000000000009", ("A bowl.",)),
        ("000000000025", ("A giraffe.", "Two giraffes.")),
    ]
    assert records == list(read("coco", tmp_path / "annotations" / "captions_val2017.json"))


def test_coco_bad_rows(tmp_path: Path) -> None:
    annotations = [
        {"id": 1, "image_id": 9, "caption": "A bowl."},
        {"id": 1, "image_id": 9, "caption": "Again."},
        {"id": 2, "image_id": 9, "caption": ""},
        {"id": 3, "image_id": 77, "caption": "No such image."},
        {"id": 4, "image_id": 25, "caption": "Gone."},
    ]
    write_coco(tmp_path, annotations, missing=(25,))
    bad = BadRows(max_fraction=1)
    assert [r.image_id for r in read("coco", tmp_path, split="val2017", bad=bad)] == ["000000000009"]
    assert bad.reasons == {"duplicate id": 1, "empty caption": 1, "missing image": 2}
    with pytest.raises(SourceError, match=r"captions_train2017\.json does not exist"):
        list(read("coco", tmp_path))


# ---------------------------------------------------------------------------------------------------- datasets, release


@pytest.mark.parametrize("layout", ["parquet", "arrow", "folder of parquet", "save_to_disk"])
def test_hf_local_layouts(tmp_path: Path, layout: str) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    images = [encoded("red"), encoded("red"), encoded("green")]
    content = {"picture": [{"bytes": b} for b in images], "text": ["A red one.", "Red.", "Green."], "key": [4, 4, 6]}
    features = Features(picture=ImageFeature(), text=Value("string"), key=Value("int64"))
    data = Dataset.from_dict(content, features=features)
    path = tmp_path / "data"
    if layout == "save_to_disk":
        data.save_to_disk(str(path))
    elif layout == "arrow":
        data.save_to_disk(str(path))
        (path,) = path.glob("*.arrow")
    else:
        path.mkdir()
        data.to_parquet(str(path / "part.parquet"))
        path = path if layout == "folder of parquet" else path / "part.parquet"
    records = list(read("hf", path, image_column="picture", caption_column="text", id_column="key"))
    assert [(r.image_id, r.captions) for r in records] == [("4", ("A red one.", "Red.")), ("6", ("Green.",))]
    assert [r.image.bytes for r in records] == images[1:]
    with pytest.raises(SourceError, match="no column image, only picture, text, key"):
        list(read("hf", path))


def test_hf_bad_rows_and_unknown_hub_id(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = {"image": [encoded("red"), encoded("red")[:60], encoded("blue"), None], "caption": ["a", "b", "", "d"]}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "x.parquet"))
    bad = BadRows(tmp_path / "bad.jsonl", max_fraction=0.9)
    assert [r.captions for r in read("hf", tmp_path / "x.parquet", bad=bad)] == [("a",)]
    assert bad.reasons == {"unreadable image": 1, "row without image": 1, "empty caption": 1}
    with pytest.raises(SourceError, match=r"data.path=nobody/nothing cannot be opened"):
        list(read("hf", "nobody/nothing"))


@pytest.mark.parametrize("streaming", [True, False])
def test_hf_hub_data_is_streamed_up_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """A hub repository with two parquet files of 40 rows each is opened by ``datasets`` from a local copy.

    Three images are rows 1 to 3, so that a stream is read up to row 4, twice (captions, then images).
    """
    import datasets

    pictures, read_rows = [encoded("red", size=i + 1) for i in range(80)], []
    content = {"image": [{"bytes": picture} for picture in pictures], "caption": [f"{i}." for i in range(80)]}
    features = datasets.Features(image=datasets.Image(), caption=datasets.Value("string"))
    data = datasets.Dataset.from_dict(content, features=features)
    for part in range(2):
        file = tmp_path / "data" / f"train-{part:05d}-of-00002.parquet"
        file.parent.mkdir(exist_ok=True)
        data.select(range(40 * part, 40 * part + 40)).to_parquet(str(file))
    load, opened = datasets.load_dataset, []

    def counted(row: dict[str, Any]) -> dict[str, Any]:
        read_rows.append(row["caption"])
        return row

    def load_local(path: str, name: str | None, **options: Any) -> Any:
        opened.append((path, options["streaming"]))
        files = sorted(map(str, tmp_path.glob("data/*.parquet")))
        options["revision"] = None
        rows = load("parquet", data_files={"train": files}, cache_dir=str(tmp_path / "cache"), **options)
        if not streaming:
            return rows
        rows = rows.cast_column("image", datasets.Image(decode=False))
        return rows.map(counted, features=rows.features)

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    records = list(read("hf", "nobody/pictures", streaming=streaming, limit=3))
    assert [(r.image_id, r.captions) for r in records] == [(f"{i:08d}", (f"{i - 1}.",)) for i in (1, 2, 3)]
    assert [r.image.bytes for r in records] == pictures[:3]
    assert opened == [("nobody/pictures", streaming)]
    assert len(read_rows) == (4 + 3 if streaming else 0)


def release_row(image: str, chosen: str, rejected: str, prompt: str = "<image>\ncaption:") -> dict[str, Any]:
    human = {"from": "human", "value": prompt}
    return {
        "id": Path(image).stem,
        "image": image,
        "conversations": [human, {"from": "gpt", "value": chosen}],
        "rejected_conversations": [human, {"from": "gpt", "value": rejected}],
    }


def test_scramble_release_gives_images_with_their_pairs(tmp_path: Path) -> None:
    write_images(tmp_path / "train2017", "000000000009.jpg", "000000000025.jpg")
    question = "<image>\nDoes the image show 'A dog on a cat.'? Please answer yes or no."
    rows: list[Any] = [
        release_row("coco/train2017/000000000009.jpg", "A dog on a mat.", "A mat on a dog."),
        release_row("000000000025.jpg", "A cat.", "A hat."),
        release_row("coco/train2017/000000000009.jpg", "No", "Yes", question),
        release_row("000000000077.jpg", "A cow.", "A car."),
        release_row("000000000025.jpg", "Same.", "Same."),
        {"id": "x", "image": "000000000009.jpg", "conversations": []},
    ]
    (tmp_path / "release.json").write_text(json.dumps(rows))
    bad = BadRows(max_fraction=0.5)
    options: dict[str, Any] = {"images": tmp_path / "train2017"}
    bundles = list(scramble_release.bundles(tmp_path / "release.json", bad, **options))
    assert [bundle.key for bundle in bundles] == ["000000000009", "000000000025"]
    assert bundles[0].images[0].captions == ("A dog on a mat.",)
    first, second = bundles[0].pairs
    assert (first.prompt, first.chosen, first.rejected) == ("caption:", "A dog on a mat.", "A mat on a dog.")
    assert (first.kind, second.kind) == ("rearrange", "yes-no")
    assert second.prompt == "Does the image show 'A dog on a cat.'? Please answer yes or no."
    assert bad.used == 3 and bad.rejected == 3
    release = tmp_path / "release.json"
    assert list(read_bundles("pairs", release, BadRows(max_fraction=0.5), limit=1, **options)) == bundles[:1]
    again = list(read_bundles("pairs", release, BadRows(max_fraction=0.5), **options))
    assert again == bundles


# ------------------------------------------------------------------------------------------- ids, names, null values


def test_ids_that_are_0_and_images_in_lists_of_one(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "1.png")
    rows = [
        {"id": 0, "image": "0.png", "caption": "A dog."},
        {"id": 1, "image": ["1.png"], "caption": '["A cat.", "A cow."]'},
        {"id": None, "image": "1.png", "caption": "x"},
        {"id": True, "image": "1.png", "caption": "x"},
        {"id": 3, "image": 0, "caption": "x"},
        {"id": 4, "image": ["0.png", "1.png"], "caption": "x"},
        '{"id": 5, "image": "0.png", "caption": NaN}',
        '{"id": 6, "image": NaN, "caption": "x"}',
        '{"id": 7, "image": "0.png", "caption": "half \\ud83d"}',
    ]
    write_jsonl(tmp_path / "captions.jsonl", rows)
    bad = BadRows(max_fraction=0.9)
    records = list(read("image_folder", tmp_path, bad=bad, id_column="id"))
    assert [(r.image_id, r.captions) for r in records] == [("0", ("A dog.",)), ("1", ("A cat.", "A cow."))]
    assert bad.reasons == {
        "row without id": 1,
        "id is neither a string nor a number": 1,
        "image is of type int, not a path": 1,
        "image is of type list, not a path": 1,
        "row without caption": 1,
        "row without image": 1,
        "caption contains a lone surrogate, which is not valid Unicode": 1,
    }


def test_a_column_that_no_row_has_is_named_with_its_key(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "captions.jsonl", [{"image": "a.png", "subject": "x"}])
    with pytest.raises(SourceError, match=r"no caption among image, subject .*data\.caption_column"):
        list(read("image_folder", tmp_path))


def test_too_many_bad_rows_name_the_key_that_allows_them(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write_jsonl(tmp_path / "captions.jsonl", [{"image": "a.png", "caption": "x"}, {"image": "a.png"}])
    with pytest.raises(SourceError, match=r"raise data\.max_rejected"):
        list(read("image_folder", tmp_path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_coco_without_annotation_ids_and_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    annotations = [{"image_id": image, "caption": f"Caption {n}."} for n, image in enumerate((9, "25", 9, 25.0))]
    write_coco(tmp_path, annotations)
    file = tmp_path / "annotations" / "captions_val2017.json"
    file.write_bytes(file.read_text().encode(encoding))
    captions = {r.image_id: r.captions for r in read("coco", tmp_path, split="val2017")}
    assert captions == {
        "000000000009": ("Caption 0.", "Caption 2."),
        "000000000025": ("Caption 1.", "Caption 3."),
    }


def test_coco_rows_of_other_types_are_listed(tmp_path: Path) -> None:
    write_coco(tmp_path, [{"id": 0, "image_id": 9, "caption": "A bowl."}, 7, {"id": [1], "image_id": [9]}, None])
    file = tmp_path / "annotations" / "captions_val2017.json"
    content = json.loads(file.read_text())
    content["images"] += [None, {"id": None}, {"id": 30, "file_name": 5}, {"id": [9], "file_name": "x.jpg"}]
    file.write_text(json.dumps(content))
    bad = BadRows(max_fraction=0.95)
    assert [r.captions for r in read("coco", tmp_path, split="val2017", bad=bad)] == [("A bowl.",)]
    assert bad.reasons == {
        "not a JSON object": 2,
        "missing image": 1,
        "row without caption": 1,
        "row without id": 3,
        "image is of type int, not a path": 1,
    }


def test_release_images_in_folders_of_their_own_keep_apart(tmp_path: Path) -> None:
    for n, color in enumerate(["red", "green", "blue"]):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "image.png").write_bytes(encoded(color))
    (tmp_path / "image.png").write_bytes(encoded("white"))  # this is not the missing image of another row
    rows = [release_row(f"{n}/image.png", f"A dog {n}.", f"A cat {n}.") for n in (0, 1, 2, 0, 3)]
    rows.append(release_row("0/image.jpg", "A dog.", "A cat."))
    (tmp_path / "release.json").write_text(json.dumps(rows))
    bad = BadRows(max_fraction=0.5)
    bundles = list(scramble_release.bundles(tmp_path / "release.json", bad, images=tmp_path))
    assert [bundle.images[0].image_id for bundle in bundles] == ["0/image.png", "1/image", "2/image"]
    assert [len(bundle.pairs) for bundle in bundles] == [2, 1, 1]
    assert all(pair.image_ids == (bundle.key,) for bundle in bundles for pair in bundle.pairs)
    colors = ("red", "green", "blue")
    assert [bundle.images[0].image.bytes for bundle in bundles] == [encoded(color) for color in colors]
    assert bad.reasons == {"missing image": 2}


def test_scene_graphs_refuse_a_name_that_two_images_have(tmp_path: Path) -> None:
    from scramble.sources import scene_graphs

    for folder in ("VG_100K", "VG_100K_2"):
        write_images(tmp_path / folder, "1.jpg", f"{folder}.jpg")
    graphs: list[dict[str, Any]] = [{"image_id": name, "objects": []} for name in (1, "VG_100K", 0)]
    (tmp_path / "graphs.json").write_text(json.dumps(graphs))
    questions = [
        {
            "id": "VG_100K",
            "qas": [
                {"qa_id": 0, "question": "What?", "answer": "A dog.", "rationale": "no list"},
                {"question": "Without id?", "answer": "x"},
                {"qa_id": 0, "question": "Twice?", "answer": "x"},
            ],
        }
    ]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    bad = BadRows(max_fraction=0.95)
    bundles = list(scene_graphs.bundles(tmp_path, bad, graphs="graphs.json", questions="questions.json"))
    assert [bundle.key for bundle in bundles] == ["VG_100K"]
    (question,) = bundles[0].questions
    assert (question.question_id, question.answer, question.rationale) == ("0", "A dog", ())
    assert bad.reasons == {
        "several images with this name": 1,
        "missing image": 1,
        "row without id": 1,
        "duplicate id": 1,
    }


def test_release_rows_with_lists_of_one_image_backslashes_and_two_placeholders(tmp_path: Path) -> None:
    write_images(tmp_path, "000000000009.png", "000000000025.png")

    def row(image: Any, prompt: str = "<image>\ncaption:") -> dict[str, Any]:
        questions = {"from": "human", "value": prompt}
        answers = {"conversations": "A dog.", "rejected_conversations": "A cat."}
        return {"image": image, **{key: [questions, {"from": "gpt", "value": text}] for key, text in answers.items()}}

    rows = [
        row("coco\\train2017\\000000000009.png"),
        row(["train2017/000000000025.png"]),
        row(["a.png", "b.png"]),
        row("000000000009.png", "<image>\n<image>\ncaption:"),
        row([]),
    ]
    (tmp_path / "release.json").write_text(json.dumps(rows))
    bad = BadRows(max_fraction=1.0)
    records = [bundle.images[0] for bundle in scramble_release.bundles(tmp_path / "release.json", bad)]
    assert [record.image_id for record in records] == ["000000000009", "000000000025"]  # COCO's ids on any system
    assert dict(bad.reasons) == {
        "image is of type list, not a path": 1,
        "2 image placeholders for 1 image": 1,
        "row without image": 1,
    }


def test_questions_without_a_scene_graph_are_counted_and_missing_files_named_by_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scramble.sources import scene_graphs

    write_images(tmp_path, "1.jpg")
    (tmp_path / "graphs.json").write_text(json.dumps([{"image_id": 1, "objects": []}]))
    questions = {str(n): {"imageId": n, "question": f"What {n}?", "answer": "x"} for n in (1, 2, 3)}
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    files: dict[str, Any] = {"graphs": "graphs.json", "questions": "questions.json"}
    (bundle,) = scene_graphs.bundles(tmp_path, BadRows(), **files)
    assert [question.question for question in bundle.questions] == ["What 1?"]
    output = " ".join(capsys.readouterr().out.split())
    assert "skipped 2 questions about images without a scene graph in graphs.json" in output
    for key in files:
        with pytest.raises(SourceError, match=rf"gone.json is not a file: set data.{key} to the path of the file"):
            list(scene_graphs.bundles(tmp_path, BadRows(), **{**files, key: "gone.json"}))
