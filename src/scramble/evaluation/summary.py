"""From outcomes to scores: every score is a mean over *units* (items, pairs, groups), so it has an error and a test.

A benchmark names its ``scoring``; :func:`units` gives each score's unit values, which later runs are paired with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scramble.evaluation import metrics, statistics
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Units:
    """What a score is the mean of: ids, values in [0, 1] and clusters, in one order."""

    ids: tuple[str, ...]
    values: tuple[float, ...]
    clusters: tuple[str, ...]


def units(scoring: str, outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """The units of each score of a benchmark, overall and by kind (``group/swap-object``) and tag.

    Raises EvaluationError for an unknown scoring or incomplete groups.
    """
    if scoring not in SCORINGS:
        raise EvaluationError(f"unknown scoring {scoring!r} (known: {', '.join(SCORINGS)})")
    graded = [o for o in outcomes if o.status != "judge"]
    return SCORINGS[scoring](graded) if graded else {}


def scores(
    scoring: str, outcomes: Sequence[Outcome], *, bootstrap: int = 0, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Scores in percent with standard error, interval and n; F1-like scores by bootstrap over images."""
    table = {
        name: _percent(statistics.estimate(u.values, u.clusters, bootstrap=bootstrap, seed=seed))
        for name, u in units(scoring, outcomes).items()
    }
    if scoring == "pope":
        table |= _pope_scores(outcomes, resamples=bootstrap or 1000, seed=seed)
    if scoring == "macro" and outcomes:
        table["accuracy_macro"] = _macro([o for o in outcomes if o.status != "judge"])
    return table


def rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many items tied, and how many replies could not be read, refused, or wait for a judge."""
    n = len(outcomes)
    count = {status: sum(o.status == status for o in outcomes) for status in ("unparsed", "refused", "judge")}
    return {
        "n": n,
        "tied_items": sum(o.ties > 0 for o in outcomes),
        "ties": sum(o.ties for o in outcomes),
        **{f"{status}": number for status, number in count.items()},
        "unparsed_rate": count["unparsed"] / n if n else 0.0,
        "refused_rate": count["refused"] / n if n else 0.0,
    }


# ----------------------------------------------------------------------------------------------------------- scorings


def _plain(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Each metric over all items, over each kind and over each tag."""
    table: dict[str, Units] = {}
    for metric in outcomes[0].values:
        table[metric] = _items(outcomes, metric)
        kinds = list(dict.fromkeys(o.kind for o in outcomes if o.kind))
        for kind in kinds if len(kinds) > 1 else ():
            table[f"{metric}/{kind}"] = _items([o for o in outcomes if o.kind == kind], metric)
        for tag in dict.fromkeys(tag for o in outcomes for tag in o.tags):
            table[f"{metric}/{tag}"] = _items([o for o in outcomes if tag in o.tags], metric)
    return table


def _cola(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Text, image and group, and COLA's own accuracy (the image score) under its name."""
    return {**_plain(outcomes), "cola_official": _items(outcomes, "image")}


def _pairs(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Accuracy a question, and a pair (both questions right)."""
    return {**_plain(outcomes), "pair_accuracy": _grouped(outcomes)}


def _natural_bench(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Acc, Q_Acc, I_Acc and G_Acc; ``details`` of the item id end in ``q<question>_i<image>``."""
    groups: dict[str, dict[str, float]] = {}
    for o in outcomes:
        groups.setdefault(o.group, {})[o.item_id.rpartition("/")[2]] = o.values["accuracy"]
    cells = [(q, i) for q in (0, 1) for i in (0, 1)]
    if bad := [g for g, found in groups.items() if set(found) != {f"q{q}_i{i}" for q, i in cells}]:
        raise EvaluationError(f"NaturalBench: group {bad[0]!r} is not complete; its four answers are scored together")
    correct = np.array([[[found[f"q{q}_i{i}"] for i in (0, 1)] for q in (0, 1)] for found in groups.values()])
    table = {}
    for name, values in metrics.natural_bench(correct).items():
        per = len(values) // len(groups)
        labels = [g for g in groups for _ in range(per)]
        ids = tuple(f"{g}/{k % per}" for k, g in enumerate(labels))
        table[name] = Units(ids, tuple(values.tolist()), tuple(labels))
    return table


def _pope(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    return _plain(outcomes)


def _items(outcomes: Sequence[Outcome], metric: str) -> Units:
    return Units(
        tuple(o.item_id for o in outcomes),
        tuple(o.values[metric] for o in outcomes),
        tuple(o.cluster for o in outcomes),
    )


def _grouped(outcomes: Sequence[Outcome]) -> Units:
    groups = [o.group for o in outcomes]
    values = metrics.all_right([o.values["accuracy"] for o in outcomes], groups)
    names = tuple(dict.fromkeys(groups))
    return Units(names, tuple(values.tolist()), names)


SCORINGS: dict[str, Callable[[Sequence[Outcome]], dict[str, Units]]] = {
    "plain": _plain,
    "cola": _cola,
    "pairs": _pairs,
    "natural_bench": _natural_bench,
    "pope": _pope,
    "macro": _plain,
}


# ------------------------------------------------------------------------------------------ scores that are not means


def _pope_scores(outcomes: Sequence[Outcome], *, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1 and yes-ratio overall and by category, and the mean of the categories' F1."""
    kinds = list(dict.fromkeys(o.kind for o in outcomes if o.kind))
    parts = {
        "": list(outcomes),
        **({f"/{k}": [o for o in outcomes if o.kind == k] for k in kinds} if len(kinds) > 1 else {}),
    }
    table: dict[str, dict[str, Any]] = {}
    for suffix, part in parts.items():
        result = _confusion(part)
        for name in ("precision", "recall", "f1", "yes_ratio"):
            table[name + suffix] = _point(100 * result[name], len(part))
    if len(kinds) > 1:
        table["f1_mean"] = _point(float(np.mean([table[f"f1/{k}"]["value"] for k in kinds])), len(outcomes))
    headline = "f1_mean" if len(kinds) > 1 else "f1"
    draws = _bootstrap_f1(outcomes, kinds if len(kinds) > 1 else [], resamples, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    table[headline] |= {"standard_error": float(draws.std(ddof=1)), "low": float(low), "high": float(high)}
    return table


def _confusion(outcomes: Sequence[Outcome]) -> dict[str, float]:
    predictions = [o.prediction if o.status == "ok" else None for o in outcomes]
    return metrics.yes_no(predictions, [o.target for o in outcomes])


def _bootstrap_f1(outcomes: Sequence[Outcome], kinds: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """F1 (or the mean of the kinds' F1) in percent of resamples of whole images (R,)."""
    clusters = list(dict.fromkeys(o.cluster for o in outcomes))
    index = {c: k for k, c in enumerate(clusters)}
    labels = list(kinds) or [""]
    counts = np.zeros((len(clusters), len(labels), 3))  # tp, fp, fn
    for o in outcomes:
        said = o.prediction if o.status == "ok" else None
        column = 0 if (said, o.target) == ("yes", "yes") else 1 if said == "yes" else 2 if o.target == "yes" else None
        if column is not None:
            counts[index[o.cluster], labels.index(o.kind) if kinds else 0, column] += 1
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for r in range(resamples):
        weights = np.bincount(generator.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
        tp, fp, fn = np.tensordot(weights, counts, axes=1).T
        bottom = 2 * tp + fp + fn
        draws[r] = 100 * np.mean(np.divide(2 * tp, bottom, out=np.zeros_like(tp), where=bottom > 0))
    return draws


def _macro(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    macro = metrics.macro_micro([o.values["accuracy"] for o in outcomes], [o.kind for o in outcomes])[0]
    by_kind = metrics.by_group([o.values["accuracy"] for o in outcomes], [o.kind for o in outcomes])
    errors = [statistics.standard_error(v) if len(v) > 1 else math.nan for v in by_kind.values()]
    error = float(np.sqrt(np.sum(np.square(errors)))) / len(errors)  # kinds hold different items: errors add up
    score = _point(100 * macro, len(outcomes))
    if math.isfinite(error):
        score |= {
            "standard_error": 100 * error,
            "low": 100 * (macro - 1.96 * error),
            "high": 100 * (macro + 1.96 * error),
        }
    return score


def _point(value: float, n: int) -> dict[str, Any]:
    return {"value": value, "standard_error": None, "low": None, "high": None, "n": n}


def _percent(e: statistics.Estimate) -> dict[str, Any]:
    def scaled(value: float) -> float | None:
        return 100 * value if math.isfinite(value) else None

    return {
        "value": 100 * e.mean, "standard_error": scaled(e.standard_error), "low": scaled(e.low),
        "high": scaled(e.high), "n": e.n,
    }  # fmt: skip
