"""The steps of docs/extending.md work for a new family, pair method, generator, benchmark, source and loss."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from scramble import world
from scramble.config.data_sections import MethodSection
from scramble.config.source_sections import Real
from scramble.evaluation import benchmarks
from scramble.field_checks import check
from scramble.models import load_vlm
from scramble.models.families import registry
from scramble.models.families.llava import Llava
from scramble.models.tiny import save_tiny
from scramble.pairs.base import Caption, Negative, Skip
from scramble.pairs.captions.assemble import caption_pairs
from scramble.pairs.method import PairMethod, collect
from scramble.pairs.registry import METHODS, make_method
from scramble.pipeline.images import make_images
from scramble.project import CONFIGS
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.sources import SOURCES, BadRows
from scramble.storage.tables import read_table
from scramble.training import losses

BENCHMARK = '''
"""Is the sky blue? Paper: none. Data version: 1. Counts: 2. Chance: 50. Human: 100. Compared: no."""

from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, Item
from scramble.records import Question


def load(root, *, colour="blue"):
    asked = [Question(f"q{n}", (), f"Is the sky {colour}?", answer) for n, answer in enumerate(("yes", "no"))]
    items = [Item(question, "yes_no") for question in asked]
    return Benchmark("sky", "1", check_items("sky", items), {}, "plain", chance={"accuracy": 50.0})
'''


class Shout:
    """A generator whose negative is the caption with its first word in capitals."""

    name = "shout"

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative] | Skip]]:
        for caption in captions:
            first, _, rest = caption.text.partition(" ")
            yield caption, [Negative(f"{first.upper()}! {rest}", "shout", "shout.first")]


@dataclass(frozen=True)
class ShoutSection(MethodSection):
    """The settings of :class:`ShoutMethod`."""

    mark: str = "!"


@dataclass(frozen=True)
class NamesSection(Real):
    """The settings of a source that makes captions of file names."""

    prefix: str


class ShoutMethod(PairMethod):
    """A pair method whose rejected text is the first caption with a mark."""

    def __init__(self, mark: str, **options: Any) -> None:
        super().__init__(**options)
        self.mark = mark

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        for image in self.share(read_table(split, ImageRecord), lambda image: image.image_id):
            text = image.captions[0]
            yield PreferencePair(image.image_id, (image.image_id,), "Describe it.", text, text + self.mark, "shout")


class Mine(Llava):
    name = "mine"


def test_a_pair_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build_world(tmp_path, seed=0, n_train=3, n_val=1, n_test=1, quads_val=1, quads_test=1)
    monkeypatch.setitem(METHODS, "shout", ShoutMethod)
    # The section of a file in configs/pairs with "defaults: [_steps, _self_]".
    steps: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "pairs" / "_steps.yaml"))
    settings = {key: value for key, value in steps.items() if key != "defaults"} | {"mark": "?!"}
    assert check(settings, ShoutSection, "pairs") == []
    [fault] = check(settings | {"mrak": "?"}, ShoutSection, "pairs")
    assert "did you mean pairs.mark?" in fault
    with make_method(settings | {"method": "shout"}, seed=0) as method:
        pairs, _ = collect(method.pairs(tmp_path / "train"))
    assert len(pairs) == 3 and all(pair.rejected == f"{pair.chosen}?!" for pair in pairs)


def test_a_generator(tmp_path: Path) -> None:
    world.build_world(tmp_path, seed=0, n_train=3, n_val=1, n_test=1, quads_val=1, quads_test=1)
    images = list(read_table(tmp_path / "train", ImageRecord))
    pairs, _ = collect(caption_pairs(images, Shout(), surface=False))
    assert len(pairs) == sum(len(image.captions) for image in images)
    assert {pair.kind for pair in pairs} == {"shout"} and all("!" in pair.rejected for pair in pairs)


def test_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, bad: BadRows, *, embed: bool, verify: bool, prefix: str) -> Iterator[ImageRecord]:
        for number, file in enumerate(sorted(Path(path).iterdir()), 1):
            if file.suffix == ".png":
                bad.use()
                yield ImageRecord(file.stem, ImageFile(file.read_bytes(), file.name), (prefix + file.stem,))
            else:
                bad.reject(file.name, number, "not a PNG file")

    monkeypatch.setitem(SOURCES, "png_names", read)
    # The section of a file in configs/data with "defaults: [_real, _self_]".
    shared: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / "_real.yaml"))
    settings = shared | {"path": str(tmp_path / "in"), "prefix": "a ", "max_rejected": 0.5}
    assert check(settings, NamesSection, "data") == []
    (tmp_path / "in").mkdir()
    for name, colour in (("cat", "red"), ("dog", "blue"), ("sheep", "green")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    counts = make_images(tmp_path / "out", settings | {"kind": "png_names"}, seed=0)
    splits = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    images = [image for split in splits for image in read_table(split, ImageRecord)]
    assert {image.captions for image in images} == {("a cat",), ("a dog",), ("a sheep",)}
    assert counts["rejected_rows"] == 1


def test_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sky_benchmark.py").write_text(BENCHMARK)
    module = "scramble.evaluation.benchmarks.sky_benchmark"
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    monkeypatch.setitem(benchmarks.BENCHMARKS, "sky", ("sky_benchmark", "load"))
    vlm = benchmarks.load_benchmark("sky", tmp_path, colour="green")
    sys.modules.pop(module, None)
    assert [item.record.question for item in vlm.items] == ["Is the sky green?"] * 2
    with pytest.raises(ValueError, match=r"sky has no option 'color'.*colour"):
        benchmarks.load_benchmark("sky", tmp_path, color="green")


def test_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("llava", tmp_path / "model", ["a red circle", "a blue square"], seed=0)
    assert load_vlm(folder).family.name == "llava"
    monkeypatch.setattr(registry, "FAMILIES", (Mine, *registry.FAMILIES))
    assert load_vlm(folder).family.name == "mine"
    assert load_vlm(folder, family="mine").family.name == "mine"


def test_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def squared(logps: losses.PairLogps, beta: float) -> torch.Tensor:
        return (beta * logps.margin - 1) ** 2

    monkeypatch.setitem(losses.LOSSES, "squared", losses.LossFunction(squared, frozenset({"beta"})))
    weights = losses.resolve_loss_weights(["squared"], [2.0])
    assert losses.needs_pairs(weights) and not losses.depend_on_micro_batch(weights, {})
    zeros, ones = torch.zeros(3), torch.ones(3)
    logps = losses.PairLogps(ones, zeros, zeros, zeros, ones, ones)
    means = losses.combine(weights, logps, {"beta": 0.5})
    # By hand: margin 1, beta 0.5: (0.5 - 1)^2 = 0.25, weight 2.
    assert losses.weighted_sum(weights, means).item() == pytest.approx(0.5)
