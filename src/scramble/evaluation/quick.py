"""Compute the scores of a benchmark in memory, to monitor a model during training. No replies are stored or reused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from scramble.evaluation.backends.local import LocalBackend
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark, limit_items
from scramble.evaluation.protocols import queries, resolve
from scramble.evaluation.responses import group_by_images
from scramble.evaluation.scoring.aggregation import units
from scramble.evaluation.scoring.outcomes import outcome
from scramble.models import VLM


def quick_scores(
    vlm: VLM,
    benchmark: Benchmark,
    *,
    limit: int | None = None,
    protocol: str = "default",
    batch_tokens: int | None = None,
) -> dict[str, float]:
    """Return, in percent, those scores of a benchmark that are means over items, pairs or groups. Only the first
    ``limit`` items and the other items of their groups are scored.
    """
    items, resolved = limit_items(benchmark.items, limit), resolve(protocol, benchmark)
    queries_of = {item.item_id: queries(item, resolved, benchmark) for item in items}
    groups = group_by_images(chain.from_iterable(queries_of.values()), benchmark.image_hashes)
    backend = LocalBackend(vlm, batch_tokens)
    refusals = backend.check(query for group in groups for query in group)
    items = tuple(item for item in items if not any(query.query_id in refusals for query in queries_of[item.item_id]))
    groups = [left for group in groups if (left := [query for query in group if query.query_id not in refusals])]
    replies = {
        query.query_id: reply
        for group, answered in zip(groups, backend.reply(groups, benchmark.images), strict=True)
        for query, reply in zip(group, answered, strict=True)
    }
    outcomes = [
        outcome(item, {q.query_id: replies[q.query_id] for q in queries_of[item.item_id]}, resolved) for item in items
    ]
    return {name: 100 * sum(u.values) / len(u.values) for name, u in units(benchmark.scoring, outcomes).items()}


def scorer(folder: Path, benchmarks: Sequence[str], limit: int | None = None) -> Callable[[VLM], dict[str, float]]:
    """Return a function that scores benchmarks on one split of a data set, for use during training.

    Args:
        folder: folder of the split. The benchmarks are loaded once, when this function is called.
        benchmarks: names of benchmarks.
        limit: number of items per benchmark. If it is None, all items are scored.

    Returns:
        A function that maps a model to ``{"eval_<benchmark>/<score>": percent}``.
    """
    loaded = [load_benchmark(name, folder) for name in benchmarks]

    def score(vlm: VLM) -> dict[str, float]:
        return {
            f"eval_{benchmark.name}/{name}": value
            for benchmark in loaded
            for name, value in quick_scores(vlm, benchmark, limit=limit).items()
        }

    return score
