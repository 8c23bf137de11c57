"""Tests the reference cache: values are correct, computed once, resumed and shared; damaged caches are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scramble.models import VLM, load_vlm
from scramble.models.images import ImageOptions
from scramble.records import PreferencePair
from scramble.storage.cache_folder import CacheError
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import read_table
from scramble.training.data import Example, pair_examples
from scramble.training.dataset import PairDataset
from scramble.training.encoder import Encoder
from scramble.training.reference import StartingModel, reference_logps
from scramble.training.weights import adapter_key, weights_key
from scramble.trie.pack import TrieItem
from scramble.trie.score import score
from tests.training.settings import LORA, config


class Setting:
    """A model, its pairs and the cache's key; counts tower passes."""

    def __init__(self, base: Path, data: Path) -> None:
        self.vlm: VLM = load_vlm(base)
        self.backbone = self.vlm.backbone
        self.images = ImageTable(data)
        self.examples: list[Example] = list(pair_examples(read_table(data, PreferencePair)))
        self.passes = 0
        encode = self.backbone.encode_images

        def counted(images: Any) -> Any:
            self.passes += len(images)
            return encode(images)

        self.backbone.encode_images = counted  # type: ignore[method-assign]

    def data(self, examples: list[Example] | None = None, images: Any = None) -> PairDataset:
        encoder = Encoder(self.vlm, self.images if images is None else images)
        return PairDataset(self.examples if examples is None else examples, [], encoder)

    def parts(self, **changes: Any) -> dict[str, str]:
        return StartingModel.of(self.vlm, config()).cache_parts(self.data(**changes))

    def logps(self, folder: Path, parts: dict[str, str] | None = None) -> dict[str, tuple[float, float]]:
        return reference_logps(folder, parts or self.parts(), self.data(), self.backbone, batch_tokens=256)


@pytest.fixture
def setting(base: Path, data: Path) -> Setting:
    return Setting(base, data)


def test_numbers_are_those_of_one_sequence_at_a_time(setting: Setting, tmp_path: Path) -> None:
    known = setting.logps(tmp_path)
    encoder = Encoder(setting.vlm, setting.images)
    assert len(known) == len(setting.examples) == 32
    for example in setting.examples[::5]:
        prompt = encoder.prompt(example)
        for value, text in zip(known[example.example_id], (example.chosen, example.rejected), strict=True):
            completion = encoder.completion(text or "")
            ids = prompt.input_ids + completion
            mask = [False] * len(prompt.input_ids) + [True] * len(completion)
            [[alone]] = score(setting.backbone, [TrieItem([ids], [mask], prompt.images)])
            assert value == pytest.approx(alone.sum, abs=1e-4)


def test_computed_once_each_image_once(setting: Setting, tmp_path: Path) -> None:
    first = setting.logps(tmp_path)
    assert setting.passes == 16  # images, with two pairs each
    assert setting.logps(tmp_path) == first
    assert setting.passes == 16


def test_a_killed_fill_goes_on(setting: Setting, tmp_path: Path) -> None:
    """With an incomplete part file only the missing values are computed, and all values are the same."""
    whole = setting.logps(tmp_path / "whole")
    folder = next((tmp_path / "whole").iterdir())
    rows = json.loads((folder / "part-0.jsonl").read_text())
    half = tmp_path / "half" / folder.name
    half.mkdir(parents=True)
    (half / "key.json").write_text((folder / "key.json").read_text())
    remaining = dict(list(rows.items())[:20])
    (half / "part-0.jsonl").write_text(json.dumps(remaining) + "\n" + json.dumps(rows)[:50])
    setting.passes = 0
    resumed = setting.logps(tmp_path / "half")
    assert setting.passes == 6
    assert list(resumed) == list(whole)
    for name, values in whole.items():
        assert resumed[name] == pytest.approx(values, abs=1e-5)


def test_everything_it_depends_on_is_in_the_key(setting: Setting, base: Path, tmp_path: Path) -> None:
    import torch

    key = setting.parts()
    fewer = setting.parts(examples=setting.examples[:-1])
    assert fewer["pairs"] != key["pairs"] and fewer["images"] == key["images"]
    other = [replace(setting.examples[0], rejected="red"), *setting.examples[1:]]
    assert setting.parts(examples=other)["pairs"] != key["pairs"]
    recoloured = dict.fromkeys(setting.images, setting.images["i1"])
    assert setting.parts(images=recoloured)["images"] != key["images"]
    with torch.no_grad():
        setting.backbone.head.weight[0, 0] += 1e-3
    assert setting.parts()["weights"] != key["weights"]
    setting.vlm.processor.chat_template += " "
    assert setting.parts()["processor"] != key["processor"]
    setting.vlm.processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    seen = {key["processor"], setting.parts()["processor"]}
    setting.vlm.family.image_options = ImageOptions(resize=32)
    assert len(seen | {setting.parts()["processor"]}) == 3


def test_the_weights_key_does_not_see_adapters(base: Path) -> None:
    from scramble.training.trainable import add_lora

    vlm = load_vlm(base)
    bare = weights_key(vlm.backbone.model)
    assert adapter_key(vlm.backbone.model) is None
    add_lora(vlm, LORA)
    assert weights_key(vlm.backbone.model) == bare and adapter_key(vlm.backbone.model) is not None


def test_a_copied_cache_is_refused(setting: Setting, tmp_path: Path) -> None:
    """A cache of other weights, copied to the folder of this cache, is refused."""
    from scramble.storage.hashing import content_key

    setting.logps(tmp_path)
    parts = setting.parts() | {"weights": "0" * 16}
    next(tmp_path.iterdir()).rename(tmp_path / content_key(parts))
    with pytest.raises(CacheError, match=r"does not match the current weights, because .*: remove the folder"):
        setting.logps(tmp_path, parts)


@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_a_damaged_cache_is_refused(setting: Setting, tmp_path: Path, damage: str) -> None:
    setting.logps(tmp_path)
    part = next(tmp_path.rglob("part-0.jsonl"))
    text = part.read_text()
    if damage == "cut":
        part.write_text(text[: len(text) // 2])
    else:
        rows = json.loads(text)
        rows["p0-0"][0] -= 1e-3
        part.write_text(json.dumps(rows) + "\n")
    what = "number of missing pairs" if damage == "cut" else "the values have changed"
    with pytest.raises(CacheError, match=what):
        setting.logps(tmp_path)


def test_a_cache_that_cannot_be_written_says_so(setting: Setting, tmp_path: Path) -> None:
    from scramble.storage.files import StoreError

    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        setting.logps(tmp_path / "file")
