"""Caches a frozen vision tower's image features on disk, so that later passes neither decode images nor run the tower.

The cache saves time if the same images are used in several epochs or runs. The size of the cache is logged before the
cache is written.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scramble.console import counted
from scramble.models import Prompt
from scramble.storage.cache_folder import COMPLETE_FILE, CacheError, barrier, open_cache, rank, world_size
from scramble.storage.files import StoreError, read_json, write_json
from scramble.storage.hashing import content_key, file_key
from scramble.storage.jsonl import JsonLines, read_jsonl
from scramble.training.data import Example, image_size
from scramble.training.dataloader import IN_PROCESS, Workers, data_loader, results
from scramble.training.dataset import PairDataset
from scramble.training.encoder import Encoder
from scramble.trie.backbone import Backbone, ImageInputs
from scramble.trie.engine import encode_images

log = logging.getLogger(__name__)

FEATURES = "features"  # key of cached features in a prompt's image inputs
IMAGES_PER_PASS = 16

PromptKey = tuple[tuple[str, ...], str]


class FeatureBackbone:
    """A backbone that uses cached features if the image inputs contain them, and runs the tower otherwise."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Return the features (F_i, S D) of each prompt's images, in the order of the image tokens."""
        missing = [image for image in images if FEATURES not in image]
        computed = iter(self._backbone.encode_images(missing) if missing else [])
        return [image[FEATURES] if FEATURES in image else next(computed) for image in images]

    def num_patches(self, images: ImageInputs) -> int:
        """Return the number of patches that the tower encodes, which is 0 for cached features."""
        return 0 if FEATURES in images else self._backbone.num_patches(images)


class CachedPrompts(Mapping[PromptKey, Prompt]):
    """Prompts by image ids and text, with image features from a finished, memory-mapped cache.

    Args:
        folder: the cache.
        dtype: dtype of the features.
        width: values per feature, S D (see :class:`scramble.trie.backbone.Backbone`).
    """

    def __init__(self, folder: Path, dtype: torch.dtype, width: int) -> None:
        self._source = (folder, dtype, width)
        self._ids: dict[PromptKey, list[int]] = {}
        self._places: dict[tuple[str, ...], tuple[np.memmap[Any, Any], int, int, dict[str, Any]]] = {}
        self._dtype, self._width = dtype, width
        for index in sorted(folder.glob("index-*.jsonl")):
            rows = list(read_jsonl(index))
            if not rows:
                continue
            numbers = np.memmap(index.with_name(index.name.replace("index", "features")).with_suffix(".bin"), np.uint8)
            for row in rows:
                images = tuple(row["images"])
                self._places[images] = (numbers, row["offset"], row["count"], row["inputs"])
                self._ids.update({(images, text): ids for text, ids in row["prompts"].items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedPrompts, self._source  # a worker maps the file again, because pickling would copy the features

    def __getitem__(self, key: PromptKey) -> Prompt:
        ids = self._ids[key]
        numbers, offset, count, inputs = self._places[key[0]]
        size = count * self._width * self._dtype.itemsize
        features = torch.from_numpy(np.array(numbers[offset : offset + size])).view(self._dtype)
        small = {name: torch.tensor(values) for name, values in inputs.items()}
        return Prompt(ids, {FEATURES: features.view(count, self._width), **small})

    def __iter__(self) -> Iterator[PromptKey]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def cached_prompts(
    parent: str | Path,
    parts: Mapping[str, str],
    data: PairDataset,
    backbone: Backbone,
    workers: Workers = IN_PROCESS,
) -> CachedPrompts:
    """Return the prompts of a data set with the features of their images. Missing features are computed.

    Every process of a distributed run must call this function, and computes its share of the features.

    Args:
        parent: folder of all caches; this cache is stored in ``parent/<key of parts>``.
        parts: digests of everything that the features depend on (weights, processor, precision, images, prompts).
        data: the examples; text-only examples have no features.
        backbone: computes the features.
        workers: options of the workers that prepare the images.

    Raises:
        StoreError: the disk has too little space, or the folder cannot be written.
        CacheError: the folder contains another cache, or files of a finished cache were changed.
    """
    by_images: dict[tuple[str, ...], dict[str, Example]] = {}
    for example in data:
        if example.image_ids:
            by_images.setdefault(example.image_ids, {})[example.prompt_key] = example
    head = backbone.head.weight
    width = backbone.vectors_per_feature * head.shape[1]
    with open_cache(parent, parts) as folder:
        if (folder / COMPLETE_FILE).exists():
            _check_complete(folder)
        else:
            _check_space(folder, by_images, data.encoder, width * head.dtype.itemsize)
            cached = {tuple(row["images"]) for index in folder.glob("index-*.jsonl") for row in read_jsonl(index)}
            missing = [prompts for images, prompts in by_images.items() if images not in cached]
            barrier()
            _fill(folder, missing[rank() :: world_size()], data.encoder, backbone, workers)
            barrier()
            if rank() == 0:
                files = {path.name: file_key(path) for path in sorted(folder.glob("*-*.*"))}
                write_json(folder / COMPLETE_FILE, files)
            barrier()
        return CachedPrompts(folder, head.dtype, width)


def feature_parts(parts: Mapping[str, str], data: PairDataset) -> dict[str, str]:
    """Return the digests of everything that the features depend on.

    ``parts`` are the digests that identify the reference cache.
    """
    prompts = content_key(sorted({(e.image_ids, e.prompt_key) for e in data if e.image_ids}))
    return {**{name: parts[name] for name in ("weights", "processor", "precision", "images")}, "prompts": prompts}


def _check_space(
    folder: Path, by_images: Mapping[tuple[str, ...], Mapping[str, Example]], encoder: Encoder, feature_bytes: int
) -> None:
    """Log the size of the cache, and raise StoreError if this size exceeds the free space on the disk."""
    tokens = 0
    for images in by_images:
        sizes = [image_size(encoder.images[image_id]) for image_id in images]
        tokens += sum(encoder.family.image_lengths(encoder.processor, sizes))
    size = tokens * feature_bytes
    free = shutil.disk_usage(folder).free
    if rank() == 0:
        sets = counted(len(by_images), "sets")
        log.info("the image features of %s of images need at most %.1f MB in %s", sets, size / 1e6, folder)
    if size > free:
        raise StoreError(
            f"the image features need {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in {folder}: set "
            "trainer.feature_cache_dir to null or to a folder on a larger disk"
        )


@torch.no_grad()
def _fill(
    folder: Path, missing: list[dict[str, Example]], encoder: Encoder, backbone: Backbone, workers: Workers
) -> None:
    if not missing:
        return
    path, dtype = folder / f"features-{rank()}.bin", backbone.head.weight.dtype
    with JsonLines(folder / f"index-{rank()}.jsonl") as index, path.open("ab") as file:
        prepared = results(data_loader(missing, encoder.prompts, encoder, workers))
        for start in range(0, len(missing), IMAGES_PER_PASS):
            chunk = missing[start : start + IMAGES_PER_PASS]
            prompts = list(islice(prepared, len(chunk)))
            features = encode_images(backbone, [next(iter(by_text.values())).images for by_text in prompts])
            rows = []
            for examples, by_text, tensor in zip(chunk, prompts, features, strict=True):
                assert tensor is not None
                images = next(iter(by_text.values())).images or {}
                row = {
                    "images": next(iter(examples.values())).image_ids,
                    "offset": file.tell(),
                    "count": len(tensor),
                    "inputs": {name: images[name].tolist() for name in encoder.family.position_inputs},
                    "prompts": {text: prompt.input_ids for text, prompt in by_text.items()},
                }
                rows.append(row)
                file.write(tensor.to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes())
            # Write the features before the index rows that point to them, in case the run is killed in between.
            file.flush()
            index.extend(rows)


def _check_complete(folder: Path) -> None:
    for name, key in read_json(folder / COMPLETE_FILE).items():
        if not (folder / name).exists() or file_key(folder / name) != key:
            raise CacheError(
                f"the finished cache {folder} is damaged ({name} has changed or is missing): remove "
                "the folder to compute the cache again"
            )
