"""Tests preference data in the layouts of other projects: recognised, read as the same pairs, mixed, refused in one
line.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from scramble.config.validation import validate
from scramble.formats import FORMATS, read_pairs, write
from scramble.formats.layout import Layout
from scramble.pipeline.generate import generate
from scramble.project import CONFIGS
from scramble.records import SPLITS, ImageFile, ImageRecord, PreferencePair, Turn
from scramble.sources import BadRows, SourceError, read_bundles
from scramble.storage.tables import read_table
from tests.sources.preference_layouts import COLORS, LAYOUTS, QUESTION, answers, encoded, write_images, write_lines

Output = pytest.CaptureFixture[str]


def pairs_of(path: Path | str | None, bad: BadRows | None = None, **options: Any) -> list[PreferencePair]:
    bundles = read_bundles("pairs", path, bad or BadRows(None, 0.0), **options)
    return [pair for bundle in bundles for pair in bundle.pairs]


def settings(*overrides: str) -> dict[str, Any]:
    """Return the checked configuration of scripts/train.py with ``data=pairs``."""
    from scramble.app import plain_sections

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=["data=pairs", *overrides])
    validate(cfg, "train", ())
    return plain_sections(cfg, "data", "pairs", "data_seed")


def records(folder: Path) -> tuple[list[ImageRecord], list[PreferencePair]]:
    images = [image for split in SPLITS for image in read_table(folder / split, ImageRecord)]
    return images, [pair for split in SPLITS for pair in read_table(folder / split, PreferencePair)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pairs_also_after_a_round_trip(layout: str, tmp_path: Path, capsys: Output) -> None:
    make, name = LAYOUTS[layout]
    values = settings(f"data.path='{make(tmp_path / 'in')}'", "data.max_rejected=0")
    folder = tmp_path / "out"
    generate(folder, data=values["data"], pairs=values["pairs"], seed=values["data_seed"])
    assert f"format {name}" in capsys.readouterr().out or layout == "own tables"
    images, pairs = records(folder)
    prompt = "caption:" if layout == "SCRAMBLe" else QUESTION
    assert {(p.prompt, p.chosen, p.rejected) for p in pairs} == {(prompt, *answers(n)) for n in range(len(COLORS))}
    contents = {image.image_id: image.image.read() for image in images}
    assert all(contents[p.image_ids[0]] == encoded(p.chosen.split()[1]) for p in pairs)
    assert all((folder / split / "pairs.parquet").exists() for split in SPLITS)
    if layout in ("share.py", "own tables"):
        assert {p.pair_id for p in pairs} == {f"p{n}" for n in range(6)} and {p.seed for p in pairs} == set(range(6))
        assert {p.image_ids for p in pairs} == {(f"no {color}",) for color in COLORS}
    for export in FORMATS:
        write(export, images, pairs, tmp_path / export)
        again = pairs_of(tmp_path / export if export == "mmpr" else tmp_path / export / FORMATS[export][0])
        if export == "mmpr":  # the ids of a meta.json's rows have the name of their set
            assert [(p.prompt, p.chosen, p.rejected, p.kind) for p in sorted(again, key=lambda p: p.pair_id)] == [
                (p.prompt, p.chosen, p.rejected, p.kind) for p in sorted(pairs, key=lambda p: p.pair_id)
            ]
        else:
            assert again == pairs, export


def test_corrected_spans_of_rlhf_v_are_edits(tmp_path: Path) -> None:
    for pair in pairs_of(LAYOUTS["RLHF-V"][0](tmp_path)):
        (edit,) = pair.edits
        assert pair.chosen[slice(*edit.chosen)] == "square" and pair.rejected[slice(*edit.rejected)] == "circle"
        assert pair.kind == "vqav2"


def test_rated_lists_give_the_best_and_the_worst_or_all_pairs(tmp_path: Path) -> None:
    path = LAYOUTS["VLFeedback"][0](tmp_path)
    first = pairs_of(path)[0]
    assert (first.chosen, first.rejected, first.other_rejected) == (*answers(0), ())
    assert first.details == {"ratings": [5.0, 1.0]}
    best, middle = pairs_of(path, ratings="all")[:2]
    assert (best.chosen, best.rejected, best.other_rejected) == (answers(0)[0], "something", (answers(0)[1],))
    assert (middle.chosen, middle.rejected, middle.details) == ("something", answers(0)[1], {"ratings": [3.0, 1.0]})
    assert [(p.pair_id.removeprefix(best.pair_id), p.rejected) for p in best.singles()] == [
        ("", "something"),
        ("/rejected2", answers(0)[1]),
    ]


def test_outputs_of_llava_rlhf_are_ordered_by_preference(tmp_path: Path) -> None:
    pairs = pairs_of(LAYOUTS["LLaVA-RLHF"][0](tmp_path))
    assert [pair.details for pair in pairs[:2]] == [{"hallucination": True}, {"hallucination": False}]
    row = {
        "conversations": [{"from": "human", "value": "What?"}],  # without the answer of LLaVA-Instruct
        "output_1": "a",
        "output_2": {"from": "gpt", "value": "b"},
    }
    bad = BadRows(None, 1.0)
    rows = [{**row, "preference": value} for value in (2, "1", 2.0, 0, None, True)]
    pairs = pairs_of(write_lines(tmp_path / "x.jsonl", [*rows, row]), bad)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [
        ("What?", "b", "a"),
        ("What?", "a", "b"),
        ("What?", "b", "a"),
    ]
    assert bad.reasons == {
        "preference is 0, but it must be 1 or 2": 1,
        "preference is None, but it must be 1 or 2": 1,
        "preference is True, but it must be 1 or 2": 1,
        "no preference": 1,
    }


def test_messages_of_openai_contain_the_images(tmp_path: Path) -> None:
    """The first question of the guide to vision fine-tuning is a text alone, and the second is an image alone."""
    names = write_images(tmp_path)

    def row(url: str, **more: Any) -> dict[str, Any]:
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "What colour is this?"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
        ]
        outputs = {"preferred_output": said("Red."), "non_preferred_output": said("Blue.")}
        return {"input": {"messages": messages}, **outputs, **more}

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    bad = BadRows(None, 1.0)
    rows = [
        row(names[0]),
        row("https://example.org/a.png"),
        row("data:image/png;base64,###"),
        row(names[0], preferred_output=said("a") + said("b")),
        row(names[0], preferred_output=[{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]),
    ]
    (pair,) = pairs_of(write_lines(tmp_path / "x.jsonl", rows), bad)
    assert pair.history == (Turn("system", "Be brief."), Turn("user", "What colour is this?"))
    assert (pair.prompt, pair.image_ids, pair.chosen, pair.rejected) == ("", ("red",), "Red.", "Blue.")
    assert bad.reasons == {
        "image is a URL, not a path (download the images first)": 1,
        "the data URL of an image is not valid Base64": 1,
        "preferred_output and non_preferred_output must contain one message each": 1,
        "tool calls are not supported: remove rows with tool_calls": 1,
    }


# ------------------------------------------------------------------------------------------------------- conversations


def test_conversations_and_several_answers_survive_a_round_trip(tmp_path: Path) -> None:
    names = write_images(tmp_path)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>What colour?"},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "<image>And this?"},
    ]
    row = {"images": names[:2], "prompt": turns, "chosen": "Green.", "rejected": ["Blue.", "Black."]}
    (pair,) = pairs_of(write_lines(tmp_path / "x.jsonl", [row]))
    assert pair.history == (Turn("system", "Be brief."), Turn("user", "What colour?", 1), Turn("assistant", "Red."))
    assert (pair.prompt, pair.rejected, pair.other_rejected) == ("And this?", "Blue.", ("Black.",))
    images = [ImageRecord(color, ImageFile(encoded(color))) for color in COLORS[:2]]
    for export in ("trl", "trl-parquet", "llama-factory", "ms-swift"):
        write(export, images, [pair], tmp_path / export)
        assert pairs_of(tmp_path / export / FORMATS[export][0]) == [pair], export
    from scramble.storage.tables import write_table

    write_table(tmp_path / "table", PreferencePair, [pair])
    assert list(read_table(tmp_path / "table", PreferencePair)) == [pair]


def test_columns_of_alpaca_are_turns(tmp_path: Path) -> None:
    row = {
        "instruction": "Compare.",
        "input": "Use one word.",
        "system": "Be brief.",
        "history": [["Hello?", "Hi."]],
        "chosen": "Larger.",
        "rejected": "Smaller.",
    }
    (pair,) = pairs_of(write_lines(tmp_path / "x.jsonl", [row]))
    assert pair.prompt == "Compare.\nUse one word."
    assert pair.history == (Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Hi."))


def test_images_without_placeholders_belong_to_the_first_question(tmp_path: Path) -> None:
    names = write_images(tmp_path)
    turns = [{"role": r, "content": t} for r, t in (("user", "One?"), ("assistant", "Yes."), ("user", "Two?"))]
    row = {"images": names[:2], "prompt": turns, "chosen": "a", "rejected": "b"}
    (pair,) = pairs_of(write_lines(tmp_path / "x.jsonl", [row]))
    assert [turn.num_images for turn in pair.conversation] == [2, 0, 0]


# ------------------------------------------------------------------------------------------------- inputs and columns


def test_columns_are_renamed_and_formats_forced(tmp_path: Path) -> None:
    names = write_images(tmp_path)
    rows = [{"pic": name, "q": QUESTION, "good": answers(n)[0], "bad": answers(n)[1]} for n, name in enumerate(names)]
    path = write_lines(tmp_path / "x.jsonl", rows)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad", "image": "pic"}
    table = tmp_path / "x.tsv"
    table.write_text("".join("\t".join(row) + "\n" for row in (rows[0], *(row.values() for row in rows))))
    for file in (path, table):
        assert [p.chosen for p in pairs_of(file, columns=columns)] == [answers(n)[0] for n in range(6)]
    with pytest.raises(
        SourceError, match=r"columns \(pic, q, good, bad\) match no .* data.columns.chosen=<your column>"
    ):
        pairs_of(table)
    with pytest.raises(SourceError, match=r"columns \(pic, q, good, bad\) match no known format; the nearest"):
        pairs_of(path)
    with pytest.raises(
        SourceError, match=r"data.columns.chosen=best: .* has no column best: choose one of pic, q, good, bad"
    ):
        pairs_of(path, columns={"chosen": "best"})
    with pytest.raises(SourceError, match=r"ms-swift needs either the columns messages and rejected_response, or"):
        pairs_of(path, format="ms-swift")


def test_folders_patterns_and_saved_data_sets_are_inputs(tmp_path: Path) -> None:
    from datasets import Dataset

    source = LAYOUTS["TRL, strings"][0](tmp_path / "a")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    write_lines(tmp_path / "a" / "test.jsonl", [{**rows[0], "chosen": "of the test split"}])
    assert len(pairs_of(tmp_path / "a")) == 6  # its training split
    assert [p.chosen for p in pairs_of(tmp_path / "a", split="test")] == ["of the test split"]
    assert len(pairs_of(tmp_path / "a" / "t*.jsonl")) == 7
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert len(pairs_of(tmp_path / "saved", images=str(tmp_path / "a"))) == 6
    for path, message in (
        ("nowhere.jsonl", "data.path=nowhere.jsonl does not exist"),
        (f"{tmp_path}/x*.jsonl", r"x\*.jsonl matches no data file"),
        ("nobody/nothing", r"data.path=nobody/nothing cannot be opened as a data set .* hub id that this machine can"),
    ):
        with pytest.raises(SourceError, match=message) as error:
            pairs_of(path)
        assert "\n" not in str(error.value)


def test_settings_that_do_not_apply_to_own_tables_are_refused(tmp_path: Path) -> None:
    folder = LAYOUTS["own tables"][0](tmp_path)
    settings: dict[str, Any] = {"columns": {"chosen": "good"}, "format": "trl", "images": "x", "name": "x"}
    for key, value in settings.items():
        with pytest.raises(SourceError, match=rf"contains pair tables of this project: remove data\.{key}$"):
            pairs_of(folder, **{key: value})
    meta = LAYOUTS["MMPR"][0](tmp_path / "mmpr")
    with pytest.raises(SourceError, match=r"contains sets of MMPR: remove data\.columns$"):
        pairs_of(meta, columns={"chosen": "good"})


def test_lists_of_images_on_the_hub_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = {
        "images": [[{"bytes": encoded(color), "path": None}] for color in COLORS],
        "prompt": [QUESTION] * 6,
        "chosen": [answers(n)[0] for n in range(6)],
        "rejected": [answers(n)[1] for n in range(6)],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("images", datasets.List(datasets.Image()))
    for opened in (data, data.to_iterable_dataset()):
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, opened=opened, **options: opened)
        bundles = list(read_bundles("pairs", "nobody/pairs", BadRows(None, 0.0)))
        assert [bundle.images[0].image.read() for bundle in bundles] == [encoded(color) for color in COLORS]


@pytest.mark.parametrize("layout", ["TRL, strings", "SCRAMBLe"])
def test_equal_paths_in_two_folders_are_two_images(tmp_path: Path, layout: str) -> None:
    for folder in ("one", "two"):
        path = LAYOUTS[layout][0](tmp_path / folder)
        if folder == "two":
            for n, color in enumerate(COLORS):
                (path.parent / "images" / f"{color}.png").write_bytes(encoded(COLORS[n - 1]))
    bundles = list(read_bundles("pairs", f"{tmp_path}/*/{path.name}", BadRows(None, 0.0)))
    contents = {image.image_id: image.image.read() for bundle in bundles for image in bundle.images}
    expected = [*map(encoded, COLORS), *(encoded(COLORS[n - 1]) for n in range(6))]
    assert [contents[pair.image_ids[0]] for bundle in bundles for pair in bundle.pairs] == expected
    assert len({pair.pair_id for bundle in bundles for pair in bundle.pairs}) == 12


def test_entries_of_a_dataset_info_are_chosen_by_name(tmp_path: Path) -> None:
    folder = LAYOUTS["LLaMA-Factory"][0](tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["other"] = info["mine"] | {"file_name": "gone.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert len(pairs_of(folder, name="mine")) == len(pairs_of(folder / "dataset_info.json", name="mine")) == 6
    with pytest.raises(SourceError, match=r"several preference data sets: choose one of mine, other \(data.name=...\)"):
        pairs_of(folder)
    with pytest.raises(SourceError, match=r"gone.json, which does not exist"):
        pairs_of(folder, name="other")


# ----------------------------------------------------------------------------------------------------------------- mix


def test_a_mix_has_the_shares_of_its_weights(tmp_path: Path, capsys: Output) -> None:
    def source(name: str, count: int) -> str:
        write_images(tmp_path / name)
        rows = [
            {"images": [f"images/{COLORS[n % 6]}.png"], "prompt": f"{name} {n}", "chosen": "a", "rejected": "b"}
            for n in range(count)
        ]
        return str(write_lines(tmp_path / name / "rows.jsonl", rows))

    mix = [{"path": source("one", 40), "weight": 3}, {"path": source("two", 5), "weight": 1}]
    pairs = pairs_of(None, mix=[*mix, {"path": "unused", "weight": 0}])
    assert Counter(p.prompt.split()[0] for p in pairs) == {"one": 17, "two": 5}
    assert [Counter(p.prompt[:3] for p in pairs[:n])["one"] for n in (4, 8, 12)] == [3, 6, 9]
    assert len({p.pair_id for p in pairs}) == len(pairs)
    assert {name for p in pairs for name in p.image_ids} == set(COLORS)  # the same pictures in both are one image
    assert "17 of" in capsys.readouterr().out


def test_messages_name_the_entry_of_the_mix(tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "data.name.jsonl", [{"q": QUESTION, "good": "a", "bad": "b"}])
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    for entry, message in (
        (
            {"columns": {**columns, "chosen": "best"}},
            r"^data\.mix\[1\]\.columns\.chosen=best: \S*/data\.name\.jsonl has no",
        ),
        ({}, r"set the names of your columns \(data\.mix\[1\]\.columns\."),
        ({"columns": columns, "root": "x"}, r"remove data\.mix\[1\]\.root and data\.mix\[1\]\.resample"),
        ({"columns": columns, "path": "nowhere.jsonl"}, r"data\.mix\[1\]\.path=nowhere\.jsonl does not exist"),
        ({"columns": columns, "path": str(tmp_path), "split": "test"}, r"\(data\.mix\[1\]\.split=\.\.\.\)"),
    ):
        mix = [{"path": str(rows), "weight": 1.0, "columns": columns}, {"path": str(rows), "weight": 1.0, **entry}]
        with pytest.raises(SourceError, match=message):
            pairs_of(None, mix=mix)


def test_images_of_one_name_in_two_inputs_are_two_images(tmp_path: Path) -> None:
    mix = []
    for name, color in (("one", "red"), ("two", "blue")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encoded(color))
        row = {"images": ["1.png"], "prompt": name, "chosen": "a", "rejected": "b"}
        mix.append({"path": str(write_lines(tmp_path / name / "rows.jsonl", [row])), "weight": 1.0})
    bundles = list(read_bundles("pairs", None, BadRows(), mix=mix))
    assert [b.images[0].image.read() for b in bundles] == [encoded("red"), encoded("blue")]
    assert bundles[0].images[0].image_id != bundles[1].images[0].image_id == bundles[1].pairs[0].image_ids[0]


# ------------------------------------------------------------------------------------------------------------ bad rows


def bad_rows() -> Iterator[tuple[str, Any]]:
    good = {"images": ["images/red.png"], "prompt": QUESTION, "chosen": "a", "rejected": "b"}
    user, reply = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    yield "missing image", {**good, "images": ["images/gone.png"]}
    yield "unreadable image", {**good, "images": ["images/broken.png"]}
    yield "image is a URL, not a path (download the images first)", {**good, "images": ["https://example.org/a.png"]}
    yield "chosen and rejected are the same text", {**good, "rejected": " a"}
    yield "chosen is not a string", {**good, "chosen": None}
    yield "chosen is not a string", {**good, "chosen": ["a", "b"]}
    yield "rejected is not a string", {**good, "rejected": []}
    yield "prompt is not a string", {**good, "prompt": 3}
    yield "no rejected", {key: value for key, value in good.items() if key != "rejected"}
    yield "empty chosen", {**good, "chosen": " "}
    yield "no prompt", {**good, "prompt": " "}
    yield "chosen ends with a turn by user, not by the assistant", {**good, "chosen": [user, reply, user]}
    yield "the prompt ends with a turn by assistant, not by the user", {**good, "prompt": [user, reply]}
    yield "1 image placeholder for 2 images", {**good, "images": ["images/red.png"] * 2, "prompt": "<image>q"}
    yield (
        "the role of a turn must be one of 'system', 'user', 'assistant', not 'tool'",
        {**good, "prompt": [{"role": "tool", "content": "x"}, user]},
    )
    yield "an image is neither a path nor bytes", {**good, "images": ["images/red.png", ""]}
    yield "video is not supported", {**good, "videos": ["a.mp4"]}
    yield "not a JSON object", ["a", "b"]


def test_rows_that_cannot_be_used_are_listed_with_their_reason(tmp_path: Path) -> None:
    names = write_images(tmp_path)
    (tmp_path / "images" / "broken.png").write_bytes(encoded("red")[:60])
    good = [{"images": [name], "prompt": QUESTION, "chosen": "a", "rejected": "b"} for name in names]
    path = write_lines(tmp_path / "x.jsonl", [*good, *(row for _, row in bad_rows())])
    with BadRows(tmp_path / "rejected.jsonl", max_fraction=0.9) as bad:
        assert len(pairs_of(path, bad)) == 6
    listed = [json.loads(line)["reason"] for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert len(listed) == len(list(bad_rows()))
    for reason, (expected, _) in zip(listed, bad_rows(), strict=True):
        assert reason.startswith(expected), (reason, expected)
    with pytest.raises(
        SourceError, match=r"18 of 24 rows cannot be used .* The first error is: .* raise data.max_rejected"
    ):
        pairs_of(path)
    audited: list[str] = []
    list(read_pairs(path, lambda file, row, reason, detail: audited.append(reason), layout=Layout("trl")))
    only_training = ("missing image", "unreadable image", "image is a URL", "no prompt")  # the audit reads texts only
    assert audited == [reason for reason in listed if not reason.startswith(only_training)]


def test_columns_that_are_not_used_are_named_once_per_file(tmp_path: Path, capsys: Output) -> None:
    names = write_images(tmp_path)
    row = {"images": names[:1], "prompt": QUESTION, "chosen": "a", "rejected": "b", "ds_name": "x"}
    path = write_lines(tmp_path / "used.jsonl", [row])
    pairs_of(path)
    assert "not used" not in capsys.readouterr().out
    path = write_lines(tmp_path / "more.jsonl", [row, {**row, "margin": 0.5}, {**row, "score": 1, "objects": {}}])
    pairs_of(path)
    assert capsys.readouterr().out.count(f"data: {path}: these columns are not used: margin, score, objects\n") == 1
    columns = {"chosen": "good", "rejected": "bad"}  # the columns of the file with the format's names are not used
    path = write_lines(tmp_path / "renamed.jsonl", [{**row, "good": "c", "bad": "d"}])
    assert pairs_of(path, columns=columns)[0].chosen == "c"
    assert f"data: {path}: these columns are not used: chosen, rejected\n" in capsys.readouterr().out
    folder = LAYOUTS["LLaMA-Factory"][0](tmp_path / "factory")
    rows = [{**row, "margin": 1} for row in json.loads((folder / "mine.json").read_text())]
    (folder / "mine.json").write_text(json.dumps(rows))
    pairs_of(folder)
    assert "mine.json: these columns are not used: margin\n" in capsys.readouterr().out


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("MMPR", "own tables")])
def test_layouts_have_only_columns_without_use_for_training(layout: str, tmp_path: Path, capsys: Output) -> None:
    pairs_of(LAYOUTS[layout][0](tmp_path))
    line = next((line for line in capsys.readouterr().out.splitlines() if "these columns are not used: " in line), "")
    expected = {
        "RLAIF-V": "origin_split, idx",
        "RLHF-V": "origin_split, idx",
        "POVID": "id",
        "VLFeedback": "id, models",
        "LLaVA-RLHF": "id",
    }
    assert line.rpartition(": ")[2] == expected.get(layout, "")


def test_the_audit_and_training_read_the_same_rows_of_a_mixed_file(tmp_path: Path) -> None:
    images = {"images": write_images(tmp_path)[:1]}
    user, reply = {"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "c"}
    rows = [
        {**images, "prompt": "q", "chosen": "c", "rejected": "r"},
        {**images, "messages": [user, reply], "rejected_response": "r"},
        {**images, "question": "q", "chosen": "c", "rejected": "r", "ds_name": "x"},
        {**images, "conversations": [user], "output_1": "r", "output_2": "c", "preference": 2},
        {**images, "prompt": "q", "chosen": "c"},
        {"text": "not a pair"},
    ]
    path = write_lines(tmp_path / "x.jsonl", rows)
    trained, audited = BadRows(None, 1.0), BadRows(None, 1.0)
    pairs = pairs_of(path, trained)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [("q", "c", "r")] * 4
    assert [pair.source for pair in pairs] == ["trl:x", "ms-swift:x", "rlaif-v:x", "llava-rlhf:x"]
    again = list(read_pairs(path, audited.reject))
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in again] == [("q", "c", "r")] * 4
    assert trained.reasons == audited.reasons == {"no rejected": 1, "no chosen": 1}


def test_one_row_in_a_json_file_and_lines_that_are_not_json(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "x.json").write_text(json.dumps(row, indent=2))
    assert [pair.chosen for pair in pairs_of(tmp_path / "x.json")] == ["a"]
    (tmp_path / "x.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(SourceError, match=r"none of the 2 rows can be used.*x\.jsonl, row 1: not JSON"):
        pairs_of(tmp_path / "x.jsonl")


def test_objects_of_ms_swift_are_refused(tmp_path: Path) -> None:
    names = write_images(tmp_path)
    question = {"role": "user", "content": "<image>Find <ref-object>."}
    turns = [[question, {"role": "assistant", "content": text}] for text in ("<bbox>", "Here.")]
    row = {"messages": turns[0], "rejected_response": "No.", "images": names[:1], "margin": 0.5}
    objects = {"ref": ["dog"], "bbox": [[1, 2, 3, 4]]}
    bad = BadRows(None, 1.0)
    rows = [row, *({**row, "objects": objects, "messages": messages} for messages in turns)]
    (pair,) = pairs_of(write_lines(tmp_path / "x.jsonl", rows), bad)
    assert pair.chosen == "<bbox>" and bad.rejected == 2  # without objects, ms-swift keeps the text
    assert next(iter(bad.reasons)).startswith("<ref-object> and <bbox> are not supported")


@pytest.mark.parametrize(
    "columns", [("instruction", "chosen", "rejected"), ("question", "response", "rejected_response")]
)
def test_a_later_row_without_an_answer_is_listed(tmp_path: Path, columns: tuple[str, ...]) -> None:
    row = dict(zip(columns, ("q", "a", "b"), strict=True))
    bad = BadRows(None, 1.0)
    path = write_lines(tmp_path / "x.jsonl", [row, {key: row[key] for key in columns[:2]}, {"other": 1}])
    assert len(pairs_of(path, bad)) == 1
    assert bad.reasons == {f"no {columns[2]}": 1, "no chosen": 1}


def test_images_of_the_rejected_answer_must_be_the_same(tmp_path: Path) -> None:
    names = write_images(tmp_path)
    row = {"messages": [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "a"}]}
    row |= {"images": names[:1], "rejected_response": "b", "rejected_images": names[1:2]}  # type: ignore[dict-item]
    with pytest.raises(SourceError, match="rejected_images differ from images"):
        pairs_of(write_lines(tmp_path / "x.jsonl", [row]))


def test_all_images_missing_names_the_key_of_their_folder(tmp_path: Path) -> None:
    path = LAYOUTS["TRL, strings"][0](tmp_path / "a").rename(tmp_path / "train.jsonl")
    with pytest.raises(SourceError, match=r"none of the 6 rows can be used.* Set data.images to"):
        pairs_of(path)
    assert len(pairs_of(path, images=str(tmp_path / "a"))) == 6
    assert len(pairs_of(path, images=str(tmp_path / "a" / "images"))) == 6  # found by their names


def test_images_may_be_data_urls(tmp_path: Path) -> None:
    urls = [f"data:image/png;base64,{base64.b64encode(encoded(color)).decode()}" for color in COLORS]
    texts = {"prompt": "What?", "chosen": "a", "rejected": "b"}
    rows = [{"image": urls[0], **texts}, {"images": urls[1:3], **texts}, {"image": "data:image/png,x", **texts}]
    bad = BadRows(None, 1.0)
    bundles = list(read_bundles("pairs", write_lines(tmp_path / "x.jsonl", rows), bad))
    contents = [[image.image.read() for image in bundle.images] for bundle in bundles]
    assert contents == [[encoded("red")], [encoded("green"), encoded("blue")]]
    assert bad.rejected == 1


def test_two_paths_do_not_share_the_file_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("red"))
    rows = [{"images": [f"{n}/a.png"], "prompt": "p", "chosen": f"c{n}", "rejected": "r"} for n in range(2)]
    with pytest.raises(SourceError, match=r"1/a\.png is not in .*, and a\.png is already used for 0/a\.png"):
        pairs_of(write_lines(tmp_path / "x.jsonl", rows))
