"""Image features of a frozen tower on disk: after the first pass, no pixels are decoded and no tower runs.

Worth its space where the same images are seen in several epochs or runs; the size is logged before anything is written.
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

from scramble.models import Prompt
from scramble.storage.cache_folder import COMPLETE_FILE, CacheError, barrier, open_cache, rank, world_size
from scramble.storage.files import StoreError, read_json, write_json
from scramble.storage.hashing import content_key, file_key
from scramble.storage.jsonl import JsonLines, read_jsonl
from scramble.training.collator import Encoder
from scramble.training.data import Example, image_size
from scramble.training.dataloader import IN_PROCESS, Workers, data_loader, results
from scramble.training.dataset import PairDataset
from scramble.trie.backbone import Backbone, ImageInputs
from scramble.trie.engine import encode_images

log = logging.getLogger(__name__)

FEATURES = "features"  # key of cached features among a prompt's image inputs
IMAGES_A_PASS = 16

PromptKey = tuple[tuple[str, ...], str]


class FeatureBackbone:
    """A backbone that takes features from image inputs that carry them, and runs the tower for the others."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Features (F_i, D) of each prompt's images in token order."""
        missing = [image for image in images if FEATURES not in image]
        computed = iter(self._backbone.encode_images(missing) if missing else [])
        return [image[FEATURES] if FEATURES in image else next(computed) for image in images]


class CachedPrompts(Mapping[PromptKey, Prompt]):
    """Prompts (by image ids and text) whose images are features, read from a filled cache (memory-mapped)."""

    def __init__(self, folder: Path, dtype: torch.dtype, width: int) -> None:
        self._source = (folder, dtype, width)
        self._ids: dict[PromptKey, list[int]] = {}
        self._places: dict[tuple[str, ...], tuple[np.memmap[Any, Any], int, int]] = {}
        self._dtype, self._width = dtype, width
        for index in sorted(folder.glob("index-*.jsonl")):
            rows = list(read_jsonl(index))
            if not rows:
                continue
            numbers = np.memmap(index.with_name(index.name.replace("index", "features")).with_suffix(".bin"), np.uint8)
            for row in rows:
                images = tuple(row["images"])
                self._places[images] = (numbers, row["offset"], row["count"])
                self._ids.update({(images, text): ids for text, ids in row["prompts"].items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedPrompts, self._source  # the file is mapped anew, not copied

    def __getitem__(self, key: PromptKey) -> Prompt:
        ids = self._ids[key]
        numbers, offset, count = self._places[key[0]]
        size = count * self._width * self._dtype.itemsize
        features = torch.from_numpy(np.array(numbers[offset : offset + size])).view(self._dtype)
        return Prompt(ids, {FEATURES: features.view(count, self._width)})

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
    """The prompts of some examples with their images' features, computed where they are missing.

    Every process of a distributed run must call it; each computes its share.

    Args:
        parent: where caches live; this one takes ``parent/<key of parts>``.
        parts: digests of what the features depend on (weights, processor, precision, images, prompts).
        data: what is trained on; text-only examples have no features.
        backbone: what computes the features.
        workers: how the images are prepared.

    Raises:
        StoreError: the disk has no room for them, or the folder cannot be written.
        CacheError: the folder holds another cache, or files of a finished one were changed.
    """
    wanted: dict[tuple[str, ...], dict[str, Example]] = {}
    for example in data:
        if example.image_ids:
            wanted.setdefault(example.image_ids, {})[example.prompt] = example
    head = backbone.head.weight
    with open_cache(parent, parts) as folder:
        if (folder / COMPLETE_FILE).exists():
            _check_complete(folder)
        else:
            _check_room(folder, wanted, data.encoder, head)
            known = {tuple(row["images"]) for index in folder.glob("index-*.jsonl") for row in read_jsonl(index)}
            missing = [prompts for images, prompts in wanted.items() if images not in known]
            barrier()
            _fill(folder, missing[rank() :: world_size()], data.encoder, backbone, workers)
            barrier()
            if rank() == 0:
                files = {path.name: file_key(path) for path in sorted(folder.glob("*-*.*"))}
                write_json(folder / COMPLETE_FILE, files)
            barrier()
        return CachedPrompts(folder, head.dtype, head.shape[1])


def feature_parts(parts: Mapping[str, str], data: PairDataset) -> dict[str, str]:
    """Digests of all that the features depend on, by name, from those of the reference cache."""
    prompts = content_key(sorted({(e.image_ids, e.prompt) for e in data if e.image_ids}))
    return {**{name: parts[name] for name in ("weights", "processor", "precision", "images")}, "prompts": prompts}


def _check_room(
    folder: Path, wanted: Mapping[tuple[str, ...], Mapping[str, Example]], encoder: Encoder, head: Tensor
) -> None:
    """Log the size beforehand; raise StoreError if the disk has less."""
    tokens = 0
    for images in wanted:
        sizes = [image_size(encoder.images[image_id]) for image_id in images]
        tokens += sum(encoder.family.image_lengths(encoder.processor, sizes))
    size = tokens * head.shape[1] * head.dtype.itemsize
    free = shutil.disk_usage(folder).free
    if rank() == 0:
        log.info("image features of %d prompts: at most %.1f MB in %s", len(wanted), size / 1e6, folder)
    if size > free:
        raise StoreError(f"image features need {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB: go without")


@torch.no_grad()
def _fill(
    folder: Path, missing: list[dict[str, Example]], encoder: Encoder, backbone: Backbone, workers: Workers
) -> None:
    if not missing:
        return
    path, dtype = folder / f"features-{rank()}.bin", backbone.head.weight.dtype
    with JsonLines(folder / f"index-{rank()}.jsonl") as index, path.open("ab") as file:
        prepared = results(data_loader(missing, encoder.prompts, encoder, workers))
        for start in range(0, len(missing), IMAGES_A_PASS):
            chunk = missing[start : start + IMAGES_A_PASS]
            prompts = list(islice(prepared, len(chunk)))
            features = encode_images(backbone, [next(iter(by_text.values())).images for by_text in prompts])
            rows = []
            for examples, by_text, tensor in zip(chunk, prompts, features, strict=True):
                assert tensor is not None
                row = {"images": next(iter(examples.values())).image_ids, "offset": file.tell(), "count": len(tensor)}
                rows.append(row | {"prompts": {text: prompt.input_ids for text, prompt in by_text.items()}})
                file.write(tensor.to(dtype).cpu().contiguous().view(torch.uint8).numpy().tobytes())
            file.flush()  # the bytes first, then the rows that point to them
            for row in rows:
                index.append(row)


def _check_complete(folder: Path) -> None:
    for name, key in read_json(folder / COMPLETE_FILE).items():
        if not (folder / name).exists() or file_key(folder / name) != key:
            raise CacheError(f"the cache {folder} was complete and {name} has changed: remove the folder")
