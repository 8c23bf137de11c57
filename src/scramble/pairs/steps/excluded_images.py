"""Excludes the images of benchmarks from the pairs of any method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scramble.pairs.base import Skip
from scramble.pairs.contamination import BenchmarkImages, check, find_benchmark_images
from scramble.pairs.method import PairMethod
from scramble.pairs.steps.pair_step import PairStep
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.tables import read_table


@cache
def _benchmark_images(benchmarks: tuple[tuple[str, str | Path | None], ...]) -> BenchmarkImages:
    return find_benchmark_images(dict(benchmarks))


class ExcludedImages(PairStep):
    """A step that excludes pairs about images of benchmarks, which are recognised by COCO id and by image hash.

    The method does not create pairs about these images, so no requests about them are sent to a model. Each excluded
    image is yielded as a :class:`Skip`.

    Args:
        method: the method that creates the pairs.
        benchmarks: mapping from the name of a benchmark to its file or folder, or to None to read it from the hub
            (:func:`scramble.pairs.contamination.find_benchmark_images`). The benchmarks are read once per process.
    """

    def __init__(self, method: PairMethod, benchmarks: Mapping[str, str | Path | None]) -> None:
        super().__init__(method)
        self._benchmarks = tuple(benchmarks.items())
        self._counts: Counter[str] = Counter()

    def prepare(self) -> None:
        _benchmark_images(self._benchmarks)
        super().prepare()

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        names: dict[str, str] = {}

        def note(image: ImageRecord, benchmark: str) -> None:
            names[image.image_id] = benchmark

        for _ in check(read_table(split, ImageRecord), _benchmark_images(self._benchmarks), on_found=note):
            pass
        self._counts.update(names.values())
        yield from (Skip(f"image of {name}", {"image_id": image_id}) for image_id, name in names.items())
        self.exclude(self._excluded | names.keys())
        yield from super().pairs(split)

    def process(self, stream: Iterator[PreferencePair | Skip], split: Path) -> Iterator[PreferencePair | Skip]:
        for pair_or_skip in stream:  # pairs that are part of the data do not pass through PairMethod.share
            if isinstance(pair_or_skip, Skip) or self._excluded.isdisjoint(pair_or_skip.image_ids):
                yield pair_or_skip

    def totals(self) -> dict[str, Any]:
        """Return the totals of the method, and the number of excluded images for each benchmark."""
        return self._method.totals() | {"excluded_images": dict(self._counts.most_common())}
