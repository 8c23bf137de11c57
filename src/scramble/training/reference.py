"""Caches reference log-probabilities on disk: two numbers per pair, which are computed once and shared by runs.

The cache is a folder named by a digest of everything that the numbers depend on: weights, adapter, processor and
template, precision, pairs and images. Every process appends to a separate file, one line per 32 tries, so that an
interrupted run resumes where it stopped. ``complete.json`` marks the cache as finished.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.models import VLM
from scramble.storage.cache_folder import COMPLETE_FILE, CacheError, barrier, open_cache, rank, world_size
from scramble.storage.files import read_json, write_json
from scramble.storage.hashing import content_key
from scramble.storage.jsonl import JsonLines, read_jsonl
from scramble.training.collator import TrieCollator
from scramble.training.config import PreferenceConfig
from scramble.training.data import Example, group_by_image
from scramble.training.dataloader import IN_PROCESS, Workers, data_loader, results
from scramble.training.dataset import PairDataset
from scramble.training.encoder import Encoder
from scramble.training.weights import adapter_key, processor_key, weights_key
from scramble.trie.backbone import Backbone
from scramble.trie.engine import NonFiniteError
from scramble.trie.pack import TrieItem
from scramble.trie.score import iter_scores

ITEMS_PER_LINE = 32

GroupedItems = tuple[list[TrieItem], list[list[int]]]  # as TrieCollator.items returns them


@dataclass(frozen=True)
class StartingModel:
    """Identifies the model that a run starts from, which is also the reference model.

    Attributes:
        weights, adapter: digests of the base model's weights and of the adapter that it was loaded with.
        processor: digest of processor, tokenizer and chat template.
        precision: dtype, attention implementation and device; log-probabilities depend on all three.
    """

    weights: str
    adapter: str | None
    processor: str
    precision: str

    @classmethod
    def of(cls, vlm: VLM, args: PreferenceConfig) -> StartingModel:
        """Return the identity of a model. Call this method before disabling dropout or adding an adapter."""
        model: Any = vlm.backbone.model
        kernel, device = model.config._attn_implementation, args.device.type
        precision = f"{vlm.backbone.head.weight.dtype}, {kernel}, {device}" + (", autocast" if args.bf16 else "")
        return cls(weights_key(model), adapter_key(model), processor_key(vlm), precision)

    def settings(self, data: PairDataset) -> dict[str, Any]:
        """Return the digests of model and data that a checkpoint must match, in addition to the run's settings."""
        return {"base": self.weights, "adapter": self.adapter, "precision": self.precision, "data": data.texts_key}

    def cache_parts(self, data: PairDataset) -> dict[str, str]:
        """Return the digests of model, data and precision that identify a reference cache, by name.

        The versions of torch and transformers are not among them: another version changes only the rounding.
        """
        return {
            "weights": self.weights,
            "adapter": self.adapter or "none",
            "processor": self.processor,
            "precision": self.precision,
            "pairs": data.texts_key,
            "images": data.images_key,
        }


def reference_logps(
    folder: str | Path,
    parts: Mapping[str, str],
    data: PairDataset,
    backbone: Backbone,
    *,
    batch_tokens: int = 4096,
    workers: Workers = IN_PROCESS,
) -> dict[str, tuple[float, float]]:
    """Return the log-probabilities (nats) of chosen and rejected answers by pair id. Missing values are computed.

    Every process of a distributed run must call this function, and computes its share of the missing values.

    Args:
        folder: folder of all caches; this cache is stored in ``folder/<key of parts>``.
        parts: the digests from :meth:`StartingModel.cache_parts`.
        data: all pairs of the data set.
        backbone: the starting model, which runs in evaluation mode and without gradients.
        batch_tokens: positions per batch.
        workers: options of the workers that build the tries.

    Raises:
        CacheError: the folder contains another cache (copied or renamed), or a finished cache was changed.
    """
    names = [example.example_id for example in data]
    with open_cache(folder, parts) as cache:
        cached = _read(cache)
        missing = [example for example in data if example.example_id not in cached]
        if (cache / COMPLETE_FILE).exists():
            _check_complete(cache, cached, missing)
        else:
            _fill(cache, missing, data.encoder, backbone, batch_tokens, workers)
            barrier()
            cached = _read(cache)
            if rank() == 0:
                _finish(cache, cached, names)
            barrier()
    return {name: cached[name] for name in names}


def _fill(
    folder: Path,
    missing: list[Example],
    encoder: Encoder,
    backbone: Backbone,
    batch_tokens: int,
    workers: Workers,
) -> None:
    groups = group_by_image(missing)[rank() :: world_size()]
    if not groups:
        return
    collator = TrieCollator(encoder, with_rejected=True)
    examples = [[missing[n] for n in group] for group in groups]
    tries = results(data_loader(examples, collator.items, encoder, workers))
    training = {module: module.training for module in backbone.model.modules()}
    backbone.model.eval()
    try:
        with JsonLines(folder / f"part-{rank()}.jsonl") as part:
            rows = _score_pairs(backbone, examples, tries, batch_tokens)
            while chunk := list(islice(rows, ITEMS_PER_LINE)):
                part.append({name: values for row in chunk for name, values in row.items()})
    except NonFiniteError as error:
        raise NonFiniteError(f"the reference model failed before the first step: {error}") from error
    finally:
        for module, mode in training.items():
            module.training = mode


def _score_pairs(
    backbone: Backbone, groups: Sequence[list[Example]], tries: Iterable[GroupedItems], batch_tokens: int
) -> Iterator[dict[str, tuple[float, float]]]:
    """Yield, for each trie, the log-probabilities of chosen and rejected answers by example id."""
    names: list[list[str]] = []

    def items() -> Iterator[Any]:
        for group, (group_items, members) in zip(groups, tries, strict=True):
            names.extend([group[n].example_id for n in numbers] for numbers in members)
            yield from group_items

    for number, scores in enumerate(iter_scores(backbone, items(), batch_tokens=batch_tokens)):
        sums = [score.sum for score in scores]
        yield dict(zip(names[number], zip(sums[::2], sums[1::2], strict=True), strict=True))


def _read(folder: Path) -> dict[str, tuple[float, float]]:
    cached: dict[str, tuple[float, float]] = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for row in read_jsonl(path):
            for name, (chosen, rejected) in row.items():
                if not (math.isfinite(chosen) and math.isfinite(rejected)):
                    raise CacheError(
                        f"{path}: the values of pair {name} are not finite: remove the folder {folder} to compute the "
                        "cache again"
                    )
                cached[name] = (chosen, rejected)
    return cached


def _check_complete(folder: Path, cached: Mapping[str, tuple[float, float]], missing: list[Example]) -> None:
    record = read_json(folder / COMPLETE_FILE)
    if missing or record["digest"] != _rows_digest(cached):
        what = f"number of missing pairs: {len(missing)}" if missing else "the values have changed"
        raise CacheError(
            f"the finished reference cache {folder} is damaged ({what}), because a file was truncated or edited: "
            "remove the folder to compute the cache again"
        )


def _finish(folder: Path, cached: Mapping[str, tuple[float, float]], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in cached]
    if missing:
        raise CacheError(
            f"the reference cache {folder} lacks {counted(len(missing), 'pairs')}, for example {missing[0]}: run the "
            "command again"
        )
    write_json(folder / COMPLETE_FILE, {"pairs": len(names), "digest": _rows_digest(cached)})


def _rows_digest(cached: Mapping[str, tuple[float, float]]) -> str:
    return content_key(sorted((name, *values) for name, values in cached.items()))
