"""Tests the Python interface: imports, examples in docstrings and docs/python.md, correct values, errors."""

from __future__ import annotations

import doctest
import inspect
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import scramble
from scramble.evaluation.items import EvaluationError
from scramble.formats.bad_rows import SourceError
from scramble.models import VLM, ModelError
from scramble.records import ImageRecord, PreferencePair, RecordError
from scramble.storage.files import StoreError
from scramble.storage.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "data" / "example"
PROMPT = "Describe the image."
CAPTIONS = ["a red circle is left of a blue square", "a blue square is left of a red circle", "a red circle"]
CALLS = ["evaluate", "load_vlm", "make_pairs", "score", "train"]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return scramble.load_vlm("data/tiny_internvl", device="cpu")


@pytest.fixture
def rules(shared: Path) -> dict[str, object]:
    """Return settings of the method ``rules`` with a small spaCy pipeline, with which all captions are kept."""
    pipeline = shared / "models" / "en_core_standin"
    if not pipeline.is_dir():
        pytest.skip(f"needs the spaCy pipeline at {pipeline}")
    return {"options": {"pipeline": str(pipeline)}, "refine": None, "audit": False}


def plain_logps(vlm: VLM, image: Image.Image | None, answer: str) -> list[float]:
    """Return the log-probability of each token of an answer and its end of turn, from transformers' own forward
    pass.
    """
    prompt = vlm.family.encode_prompt(vlm.processor, PROMPT, [] if image is None else [image])
    ids = list(vlm.family.encode_completion(vlm.processor, answer))
    with torch.no_grad():
        logits = vlm.model(input_ids=torch.tensor([prompt.input_ids + ids]), **(prompt.images or {})).logits[0]
    logps = logits.log_softmax(-1)[len(prompt.input_ids) - 1 : -1]
    return [float(logps[place, token]) for place, token in enumerate(ids)]


# ------------------------------------------------------------------------------------------------- import and examples


def test_importing_the_package_loads_no_library() -> None:
    program = "import sys, scramble; print(dir(scramble)); print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    names, loaded = printed.splitlines()
    assert loaded == "set()"
    assert all(name in names for name in scramble.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = scramble.evaluat


@pytest.mark.parametrize("name", CALLS)
def test_the_example_of_a_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("scramble"), "handlers", [])  # as in a program that configures no logging
    call = getattr(scramble, name)
    (example,) = (found for found in doctest.DocTestFinder().find(call, name, globs={}) if found.examples)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted >= 3
    assert result.failed == 0
    assert inspect.get_annotations(call).keys() == {*inspect.signature(call).parameters, "return"}  # typed


def test_the_quickstart_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the page's code with fewer steps, images and items; the printed scores equal the stored ones."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line]) < 40
    code, count = re.subn(r"^STEPS, .* = .*$", "STEPS, IMAGES, TEST_IMAGES, ITEMS = 4, 24, 20, 4", code, flags=re.M)
    assert count == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/python.md", "exec"), {})
    printed = capsys.readouterr().out
    run = tmp_path / "runs" / "python"
    for arm in ("base", "sft", "mpo"):
        result = json.loads((run / "evaluation" / arm / "world_winoground" / "result.json").read_text())
        swaps = result["scores"]["group/swap-object"]
        assert swaps["n"] == 12  # seen combinations, unseen combinations and new wordings
        assert f"{arm}: {swaps['value']:.1f} +- {swaps['standard_error']:.1f} % of 12 object swaps" in printed
    assert json.loads((run / "train" / "mpo" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert "world_vqa: percent, differences in points" in printed


# ---------------------------------------------------------------------------------------------------------- make_pairs


def test_settings_are_those_of_the_configuration_files(tmp_path: Path) -> None:
    scenes = {"n_train": 12, "n_val": 2, "n_test": 2, "quads_val": 0, "quads_test": 1}
    scramble.make_pairs(tmp_path, "world_quickstart", "world_swaps", seed=3, data_settings=scenes)
    config = json.loads((tmp_path / "stage.json").read_text())["config"]
    assert config["seed"] == 3
    assert config["data"]["kind"] == "world"
    assert config["data"]["n_train"] == 12
    assert config["data"]["captions_per_image"] == 4  # from world_quickstart.yaml; world.yaml has 3
    assert config["pairs"]["kinds"] == ["swap-object", "replace-relation"]  # from world_swaps.yaml
    assert {pair.kind for pair in read_table(tmp_path / "train", PreferencePair)} == {"swap-object", "replace-relation"}


def test_given_pairs_are_used_unchanged(tmp_path: Path) -> None:
    """The source ``pairs`` with the method ``given`` reads a file whose columns have other names."""
    rows = [
        {"prompt": "What is this?", "preferred": f"It is object {n}.", "rejected": "A dog.", "image": f"{n:02}.png"}
        for n in range(1, 9)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "path": tmp_path / "pairs.jsonl",
        "images": EXAMPLE,
        "columns": {"chosen": "preferred"},
        "val_fraction": 0,
        "test_fraction": 0,
    }
    scramble.make_pairs(tmp_path / "data", "pairs", "given", data_settings=settings)
    pairs = list(read_table(tmp_path / "data" / "train", PreferencePair))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(row["preferred"], "A dog.") for row in rows]


def test_rows_and_their_folder_give_the_same_pairs(tmp_path: Path, rules: dict[str, object]) -> None:
    """Paths, images in memory and a folder of the same images and captions give the same texts."""
    captions = (
        "A small dog sits on a red couch.",
        "A woman in a blue shirt holds a white cup.",
        "A man in a black jacket walks behind a young girl.",
        "A brown horse stands in front of a white fence.",
        "A large cat sleeps under a wooden table.",
    )
    rows = [{"image": f"{n % 8 + 1:02}.png", "caption": caption} for n, caption in enumerate(captions * 2)]
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = {"val_fraction": 0, "test_fraction": 0}
    paths = [{**row, "image": EXAMPLE / row["image"]} for row in rows]
    images = [{**row, "image": Image.open(EXAMPLE / row["image"])} for row in rows]
    texts = []
    for name, data in (("folder", folder), ("text", str(folder)), ("paths", paths), ("images", images)):
        out = tmp_path / name
        scramble.make_pairs(out, data, method_settings=rules, data_settings=whole)
        records = list(read_table(out / "train", ImageRecord))
        assert len(records) == 8  # rows with the same image become one image
        texts.append(sorted((pair.chosen, pair.kind) for pair in read_table(out / "train", PreferencePair)))
        assert [record.image.open().tobytes() for record in records] == [
            Image.open(EXAMPLE / f"{number:02}.png").convert("RGB").tobytes() for number in range(1, 9)
        ]
    assert len(texts[0]) >= 2
    assert {chosen for chosen, _ in texts[0]} <= {row["caption"] for row in rows}
    assert all([chosen for chosen, _ in each] == [chosen for chosen, _ in texts[0]] for each in texts)


def test_an_image_whose_writing_was_interrupted_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, object]
) -> None:
    rows = [{"image": Image.open(EXAMPLE / "03.png"), "caption": "A big purple square is beside a small black circle."}]

    def interrupted(self: Image.Image, path: Path, *args: object) -> None:
        path.write_bytes(b"part")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", interrupted)
        scramble.make_pairs(tmp_path, rows, method_settings=rules)
    scramble.make_pairs(tmp_path, rows, method_settings=rules, data_settings={"val_fraction": 0, "test_fraction": 0})
    (record,) = read_table(tmp_path / "train", ImageRecord)
    record.image.open()


def test_a_finished_folder_is_reused_for_the_same_rows_alone(tmp_path: Path, rules: dict[str, object]) -> None:
    rows = [{"image": Image.open(EXAMPLE / "03.png"), "caption": "A big purple square is beside a small black circle."}]
    whole = {"val_fraction": 0, "test_fraction": 0}
    first = scramble.make_pairs(tmp_path, rows, method_settings=rules, data_settings=whole)
    assert scramble.make_pairs(tmp_path, rows, method_settings=rules, data_settings=whole) == first
    rows[0]["caption"] = "A small black circle is beside a big purple square."
    with pytest.raises(StoreError, match=r"created with different settings: data\.path"):
        scramble.make_pairs(tmp_path, rows, method_settings=rules, data_settings=whole)


def test_photographs_from_elsewhere(tmp_path: Path, shared: Path, rules: dict[str, object], vlm: VLM) -> None:
    photos = shared / "field" / "photos"
    if not photos.is_dir():
        pytest.skip(f"needs the photographs at {photos}")
    rows = [json.loads(line) for line in (photos / "captions.jsonl").read_text().splitlines()]
    data = [{"image": Image.open(photos / row["image"]), "caption": row["caption"]} for row in rows]
    summary = scramble.make_pairs(tmp_path / "data", data, method_settings=rules, data_settings={"test_fraction": 0.3})
    assert sum(split["images"] for split in summary["splits"].values()) == len({row["image"] for row in rows}) == 40
    assert summary["rejected_rows"] == 0
    scores = scramble.evaluate(vlm, {"heldout_pairs": tmp_path / "data" / "test"}, tmp_path / "base")
    assert scores["heldout_pairs"]["accuracy"]["n"] == summary["splits"]["test"]["pairs"] > 10
    assert scores["heldout_pairs"]["accuracy"]["standard_error"] > 0


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (("world", "rule"), {}, ValueError, "there is no pair method 'rule'; did you mean rules"),
        (("coc",), {}, ValueError, "there is no source or path 'coc'; did you mean coco"),
        (("coco",), {}, ValueError, r"data=coco needs data_settings=\{'path': ...\}"),
        (("world", "world"), {"data_settings": {"n_trian": 2}}, ValueError, "did you mean data.n_train"),
        (("world", "world"), {"method_settings": {"kinds": ["swap"]}}, ValueError, "pairs.kinds=swap must be one of"),
        (([],), {}, ValueError, "data has no rows"),
        (([{"image": "01.png"}],), {}, ValueError, r"data\[0\] must be a mapping with the keys 'image' and 'caption'"),
        (([{"image": 1, "caption": "A dog."}],), {}, ValueError, "image must be a PIL image or a path, not int"),
    ],
)
def test_bad_input_is_named_before_any_work(
    arguments: tuple, settings: dict, error: type, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        scramble.make_pairs(tmp_path / "out", *arguments, **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "train").exists()


def test_a_missing_image_of_a_row_is_named(tmp_path: Path, rules: dict[str, object]) -> None:
    with pytest.raises(SourceError, match=r"missing image: image .*nowhere\.jpg"):
        scramble.make_pairs(tmp_path, [{"image": "nowhere.jpg", "caption": "A dog runs."}], method_settings=rules)


# --------------------------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize("with_image", [True, False])
def test_scores_are_those_of_the_plain_forward_pass(vlm: VLM, with_image: bool) -> None:
    """Scores agree within 1e-4 nats (float32, sums over about ten tokens)."""
    image = Image.open(EXAMPLE / "01.png").convert("RGB") if with_image else None
    tokens = [plain_logps(vlm, image, caption) for caption in CAPTIONS]
    assert scramble.score(vlm, image, PROMPT, CAPTIONS) == pytest.approx([sum(t) for t in tokens], abs=1e-4)
    means = scramble.score(vlm, image, PROMPT, CAPTIONS, per_token=True)
    assert means == pytest.approx([sum(t) / len(t) for t in tokens], abs=1e-5)
    # This model's end of turn is one token.
    ends = scramble.score(vlm, image, PROMPT, CAPTIONS, score_end=False)
    assert ends == pytest.approx([sum(t[:-1]) for t in tokens], abs=1e-4)


def test_scores_are_in_the_order_of_the_answers(vlm: VLM) -> None:
    path = EXAMPLE / "01.png"
    first, second, third = scramble.score(vlm, path, PROMPT, CAPTIONS)
    assert scramble.score(vlm, str(path), PROMPT, [CAPTIONS[2], CAPTIONS[0], CAPTIONS[0], CAPTIONS[1]]) == (
        pytest.approx([third, first, first, second], abs=1e-5)
    )
    assert scramble.score(vlm, path, PROMPT, []) == []


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK", "P"])
def test_images_of_every_mode_are_scored(vlm: VLM, mode: str) -> None:
    """A grey image has the same scores in every mode; a palette of 256 colours is not exact."""
    grey = Image.open(EXAMPLE / "01.png").convert("L")
    expected = scramble.score(vlm, grey.convert("RGB"), PROMPT, CAPTIONS)
    converted = grey.convert("RGB").convert(mode) if mode != "L" else grey
    assert scramble.score(vlm, converted, PROMPT, CAPTIONS) == pytest.approx(expected, abs=0.5 if mode == "P" else 1e-5)


@pytest.mark.parametrize(
    ("image", "answers", "error", "message"),
    [
        ("nowhere.jpg", ["yes"], RecordError, r"image nowhere.jpg cannot be read \(No such file"),
        (3, ["yes"], ValueError, "image must be a PIL image or a path, not int"),
        (None, ["yes", " "], ValueError, r"answers\[1\]=' ' is empty"),
        (None, "yes", ValueError, "answers='yes' is a single string"),
        (None, ["<|im_end|>"], ModelError, "control token"),
        (None, ["yes " * 5000], EvaluationError, r"tokens, but the model has \d+ positions"),
    ],
)
def test_what_cannot_be_scored_is_named(vlm: VLM, image: Any, answers: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        scramble.score(vlm, image, PROMPT, answers)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- train and evaluate


def test_evaluation_is_of_the_weights_in_memory(tmp_path: Path) -> None:
    """A model trained in place does not reuse the base's stored replies, and cannot be trained again."""
    scenes = {"n_train": 12, "n_val": 2, "n_test": 2, "quads_val": 0, "quads_test": 2}
    scramble.make_pairs(tmp_path / "data", "world", "world", data_settings=scenes)
    vlm = scramble.load_vlm("data/tiny_internvl", device="cpu")
    tests = {"world_winoground": {"root": tmp_path / "data" / "test"}}
    args = scramble.PreferenceConfig(
        max_steps=2, global_batch_size=4, learning_rate=0.05, warmup_steps=1, peft={"r": 4}, use_cpu=True
    )

    def replies() -> list[list[float]]:
        scramble.evaluate(vlm, tests, tmp_path / "scores")
        file = tmp_path / "scores" / "world_winoground" / "responses.jsonl"
        return [json.loads(line)["logprobs"] for line in file.read_text().splitlines()]

    before = replies()
    assert replies() == before  # reused
    scramble.train(vlm, tmp_path / "data" / "train", tmp_path / "tuned", args)
    tuned_in_place = replies()
    assert len(tuned_in_place) == 2 * len(before)
    with pytest.raises(ValueError, match="trained before and has an adapter in its layers: load the model again"):
        scramble.train(vlm, tmp_path / "data" / "train", tmp_path / "again", args)

    vlm = scramble.load_vlm("data/tiny_internvl", device="cpu", adapter=tmp_path / "tuned" / "adapter")
    assert replies() == tuned_in_place  # the same weights: stored replies are reused


def test_unknown_benchmarks_and_protocols_are_named(vlm: VLM, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"unknown benchmark 'winogrond'.*did you mean winoground"):
        scramble.evaluate(vlm, "winogrond", tmp_path)
    with pytest.raises(EvaluationError, match="world_vqa needs local files"):
        scramble.evaluate(vlm, ["world_vqa"], tmp_path)


def test_scores_of_few_items_have_no_interval(tmp_path: Path, vlm: VLM) -> None:
    """18 2x2 items; each kind of swap has fewer than 10 of them."""
    scenes = {"n_train": 2, "n_val": 2, "n_test": 2, "quads_val": 0, "quads_test": 2}
    scramble.make_pairs(tmp_path / "data", "world", "world", data_settings=scenes)
    scores = scramble.evaluate(vlm, {"world_winoground": tmp_path / "data" / "test"}, tmp_path)["world_winoground"]
    few = {name: score for name, score in scores.items() if score["n"] < 10}
    assert "group/swap-object" in few and "group" not in few
    assert all(score["low"] is score["high"] is score["standard_error"] is None for score in few.values())
    many = [score for name, score in scores.items() if name not in few]
    assert all(0 <= score["low"] <= score["value"] <= score["high"] <= 100 for score in many)
    assert all(score["standard_error"] is not None for score in many)
