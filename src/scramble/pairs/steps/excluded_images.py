"""Exclude pairs about images of benchmarks from the pairs of any method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scramble.pairs.base import CandidateSet, Skip
from scramble.pairs.contamination import BenchmarkImages, find_benchmark_images
from scramble.pairs.method import DerivedMethod, PairMethod
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.tables import read_table


@cache
def _benchmark_images(benchmarks: tuple[tuple[str, str | Path | None], ...]) -> BenchmarkImages:
    return find_benchmark_images(dict(benchmarks))


class ExcludedImages(DerivedMethod):
    """A step that excludes pairs about images of benchmarks, which are recognised by COCO id or by image hash.

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
        yield from self._exclude_images(split)
        for pair_or_skip in self._method.pairs(split):  # pairs that come with the data do not pass through share
            if isinstance(pair_or_skip, Skip) or self._excluded.isdisjoint(pair_or_skip.image_ids):
                yield pair_or_skip
        self.num_items = self._method.num_items

    def candidates(self, split: Path) -> Iterator[CandidateSet | Skip]:
        yield from self._exclude_images(split)
        for item in self._method.candidates(split):
            if isinstance(item, Skip) or self._excluded.isdisjoint(item.pairs[0].image_ids):
                yield item

    def expand(self, pair: PreferencePair) -> tuple[PreferencePair, ...]:
        return self._method.expand(pair)

    def store_replies(self, split: Path) -> int:
        self._exclude_images(split)
        return self._method.store_replies(split)

    def totals(self) -> dict[str, Any]:
        """Return the totals of the method, and the number of excluded images for each benchmark."""
        return self._method.totals() | {"excluded_images": dict(self._counts.most_common())}

    def _exclude_images(self, split: Path) -> list[Skip]:
        """Exclude the images of a split that belong to a benchmark, and return a :class:`Skip` for each of them."""
        benchmark_images = _benchmark_images(self._benchmarks)
        names = {image.image_id: benchmark_images.benchmark(image) for image in read_table(split, ImageRecord)}
        names = {image_id: name for image_id, name in names.items() if name}
        self._counts.update(names.values())
        self.exclude(self._excluded | names.keys())
        return [Skip(f"image of {name}", {"image_id": image_id}) for image_id, name in names.items()]
