"""Reference log-probabilities on disk: two numbers a pair, computed once, shared by every run that may use them.

A cache is a folder named by the content of everything that the numbers depend on: weights, adapter, processor and
template, precision, pairs and images. It fills in parts (one file a process, a line every few images), so that a
killed run goes on where it stopped; ``complete.json`` closes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scramble.models import VLM
from scramble.storage.cache_folder import COMPLETE_FILE, CacheError, barrier, open_cache, rank, world_size
from scramble.storage.files import read_json, write_json
from scramble.storage.hashing import content_key
from scramble.storage.jsonl import JsonLines, read_jsonl
from scramble.training.collator import Encoder, TrieCollator
from scramble.training.config import PreferenceConfig
from scramble.training.data import Example, group_by_image
from scramble.training.dataloader import IN_PROCESS, Workers, data_loader, results
from scramble.training.dataset import PairDataset
from scramble.training.weights import adapter_key, processor_key, weights_key
from scramble.trie.backbone import Backbone
from scramble.trie.engine import NonFiniteError
from scramble.trie.pack import TrieItem
from scramble.trie.score import iter_scores

ITEMS_A_LINE = 32

Tries = tuple[list[TrieItem], list[list[int]]]  # as TrieCollator.items returns them


@dataclass(frozen=True)
class StartingModel:
    """What identifies the model that a run starts from, which is its reference.

    Attributes:
        weights, adapter: digests of the base's weights and of the adapter that it comes with.
        processor: digest of processor, tokenizer and chat template.
        precision: in which log-probabilities are computed.
    """

    weights: str
    adapter: str | None
    processor: str
    precision: str

    @classmethod
    def of(cls, vlm: VLM, args: PreferenceConfig) -> StartingModel:
        """Of a model before anything is changed in it."""
        model: Any = vlm.backbone.model
        kernel, device = model.config._attn_implementation, args.device.type
        precision = f"{vlm.backbone.head.weight.dtype}, {kernel}, {device}" + (", autocast" if args.bf16 else "")
        return cls(weights_key(model), adapter_key(model), processor_key(vlm), precision)

    def settings(self, data: PairDataset) -> dict[str, Any]:
        """What a checkpoint of a run on this model and data must have been made with, beside the run's settings."""
        return {"base": self.weights, "adapter": self.adapter, "precision": self.precision, "data": data.texts_key}

    def cache_parts(self, data: PairDataset) -> dict[str, str]:
        """Digests of all that reference log-probabilities of a data set depend on, by name."""
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
    """Log-probabilities (nats) of chosen and rejected under the model as it is now, from the cache or computed into it.

    Every process of a distributed run must call it; each computes its share of what is missing.

    Args:
        folder: where caches are kept; this one takes ``folder/<key of parts>``.
        parts: from :meth:`StartingModel.cache_parts`.
        data: all pairs of the data set.
        backbone: computes the missing ones, in evaluation mode and without gradient.
        batch_tokens: positions per batch.
        workers: how the tries are built.

    Raises:
        CacheError: the folder holds another cache (copied or renamed), or a closed cache was altered.
    """
    wanted = [example.example_id for example in data]
    with open_cache(folder, parts) as cache:
        known = _read(cache)
        missing = [example for example in data if example.example_id not in known]
        if (cache / COMPLETE_FILE).exists():
            _check_complete(cache, known, missing)
        else:
            _fill(cache, missing, data.encoder, backbone, batch_tokens, workers)
            barrier()
            known = _read(cache)
            if rank() == 0:
                _close(cache, known, wanted)
            barrier()
    return {name: known[name] for name in wanted}


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
            while chunk := list(islice(rows, ITEMS_A_LINE)):
                part.append({name: values for row in chunk for name, values in row.items()})
    except NonFiniteError as error:
        raise NonFiniteError(f"the reference model, before the first step: {error}") from error
    finally:
        for module, mode in training.items():
            module.training = mode


def _score_pairs(
    backbone: Backbone, groups: Sequence[list[Example]], tries: Iterable[Tries], batch_tokens: int
) -> Iterator[dict[str, tuple[float, float]]]:
    """Log-probabilities of chosen and rejected by example id, trie by trie."""
    names: list[list[str]] = []

    def items() -> Iterator[Any]:
        for group, (group_items, members) in zip(groups, tries, strict=True):
            names.extend([group[n].example_id for n in numbers] for numbers in members)
            yield from group_items

    for number, scores in enumerate(iter_scores(backbone, items(), batch_tokens=batch_tokens)):
        sums = [score.sum for score in scores]
        yield dict(zip(names[number], zip(sums[::2], sums[1::2], strict=True), strict=True))


def _read(folder: Path) -> dict[str, tuple[float, float]]:
    known: dict[str, tuple[float, float]] = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for row in read_jsonl(path):
            for name, (chosen, rejected) in row.items():
                if not (math.isfinite(chosen) and math.isfinite(rejected)):
                    raise CacheError(f"{path}: the values of pair {name} are not finite; remove {folder}")
                known[name] = (chosen, rejected)
    return known


def _check_complete(folder: Path, known: Mapping[str, tuple[float, float]], missing: list[Example]) -> None:
    record = read_json(folder / COMPLETE_FILE)
    if missing or record["digest"] != _rows_digest(known):
        what = f"{len(missing)} of its pairs are gone" if missing else "its numbers changed"
        raise CacheError(
            f"the reference cache {folder} was complete and no longer is ({what}): a file was cut or edited; remove "
            "the folder, and it will be computed again"
        )


def _close(folder: Path, known: Mapping[str, tuple[float, float]], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise CacheError(f"the reference cache {folder} lacks {len(missing)} pairs, {missing[0]} first: run again")
    write_json(folder / COMPLETE_FILE, {"pairs": len(wanted), "digest": _rows_digest(known)})


def _rows_digest(known: Mapping[str, tuple[float, float]]) -> str:
    return content_key(sorted((name, *values) for name, values in known.items()))
