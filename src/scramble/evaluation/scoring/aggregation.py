"""Compute scores from outcomes, with standard errors and confidence intervals.

Most scores are means over *units* (items, pairs, groups). All other scores (F1, macro averages) are functions of sums
over clusters of items, and their standard errors are computed by resampling the clusters. The ``scoring`` of a
benchmark selects its scores. Paired differences of two runs are computed from the results of :func:`units` and
:func:`ratios`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring import hallucination, metrics, statistics, wemath
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.ratio import Array, Ratio, average, divide, mean_over, of_sums


@dataclass(frozen=True, slots=True)
class Units:
    """The units whose mean is a score: ids, values in [0, 1] and clusters, in the same order."""

    ids: tuple[str, ...]
    values: tuple[float, ...]
    clusters: tuple[str, ...]


UNGRADED = ("judge", "unscored")
"""Statuses of outcomes that are excluded from all scores, because the answer needs a judge, the correct answer is not
public, or the model's chat template does not accept the conversation.
"""


def units(scoring: str, outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the units of each score of a benchmark, overall and by kind (``group/swap-object``) and tag.

    Raises EvaluationError for an unknown scoring or incomplete groups.
    """
    if scoring not in SCORINGS:
        raise EvaluationError(f"unknown scoring {scoring!r}: choose one of {', '.join(SCORINGS)}")
    graded = [o for o in outcomes if o.status not in UNGRADED and not is_unread(o)]
    return SCORINGS[scoring](graded) if graded else {}


def is_unread(o: Outcome) -> bool:
    """Return whether an outcome has no values because the judge's reply could not be read."""
    return o.status == "unread" and not o.values


def ratios(scoring: str, outcomes: Sequence[Outcome]) -> dict[str, Ratio]:
    """Return the scores that are not means over items: precision, recall, F1, macro averages over kinds, rates of
    mentions.

    If some of the judge's replies could not be read, a score without any remaining item is omitted. Its value would be
    0, which is the best possible hallucination rate.
    """
    graded = [o for o in outcomes if o.status not in UNGRADED]
    table = RATIOS[scoring](graded) if graded and scoring in RATIOS else {}
    unread = any(o.status == "unread" for o in graded)
    return {name: ratio for name, ratio in table.items() if ratio.n != 0 or not unread}


def scores(scoring: str, outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the scores in percent with standard error, confidence interval and n. For the scores of :func:`ratios`,
    the error and interval are computed by bootstrap over clusters.
    """
    table = {name: _percent(statistics.estimate(u.values, u.clusters)) for name, u in units(scoring, outcomes).items()}
    for name, ratio in ratios(scoring, outcomes).items():
        table[name] = _percent(statistics.bootstrap_ratio(ratio.value, len(ratio.clusters))) | {"n": ratio.n}
    return table


def rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the numbers of outcomes, of tied items, of tied comparisons and of outcomes with each status except
    ``ok``, and the rates of unparsed replies and refusals.
    """
    n = len(outcomes)
    count = {
        status: sum(o.status == status for o in outcomes) for status in ("unparsed", "refused", "unread", *UNGRADED)
    }
    return {
        "n": n,
        "tied_items": sum(o.ties > 0 for o in outcomes),
        "ties": sum(o.ties for o in outcomes),
        **count,
        "unparsed_rate": count["unparsed"] / n if n else 0.0,
        "refused_rate": count["refused"] / n if n else 0.0,
    }


# ----------------------------------------------------------------------------------------------------------- scorings


def _plain(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return each metric over all items, over the items of each kind and over the items with each tag."""
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
    """Return the text, image and group scores. ``cola_official`` is the image score, which COLA's paper calls
    accuracy.
    """
    return {**_plain(outcomes), "cola_official": _items(outcomes, "image")}


def _pairs(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the accuracy per question and per pair (both questions right)."""
    return {**_plain(outcomes), "pair_accuracy": _grouped(outcomes)}


def _circular(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the accuracy over all rows, and the share of questions that are answered correctly under every rotation of
    the options (MMBench).
    """
    right = _grouped(outcomes)
    first = {o.group: o for o in reversed(outcomes)}
    questions = [
        replace(first[group], item_id=group, values={"circular_accuracy": value})
        for group, value in zip(right.ids, right.values, strict=True)
    ]
    return {**_plain(questions), **_plain(outcomes)}


def _bivlc(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the 2x2 scores and, if the outcomes have caption scores, BiVLC's four one-way comparisons."""
    if not all("scores" in o.details for o in outcomes):
        return _plain(outcomes)
    return _plain([replace(o, values={**o.values, **metrics.one_way(o.details["scores"])}) for o in outcomes])


_PREPOSITION_PAIRS = ("left_of", "right_of")


def _whatsup(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the accuracy of items and, if the items form groups, of pairs of opposite prepositions and of sets of
    four. Pairs and sets with missing members are skipped.
    """
    table = _plain(outcomes)
    pairs: dict[str, list[Outcome]] = {}
    sets: dict[str, list[Outcome]] = {}
    for o in outcomes:
        if o.group:
            preposition = o.tags[0].rpartition("/")[2]
            axis = "left-right" if preposition in _PREPOSITION_PAIRS else "other"
            pairs.setdefault(f"{o.group}/{axis}", []).append(o)
            sets.setdefault(o.group, []).append(o)
    for name, size, groups in (("pair_accuracy", 2, pairs), ("set_accuracy", 4, sets)):
        whole = [
            replace(members[0], item_id=key, tags=(), values={name: min(o.values["accuracy"] for o in members)})
            for key, members in groups.items()
            if len(members) == size
        ]
        table |= _plain(whole) if whole else {}
    return table


def _natural_bench(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return Acc, Q_Acc, I_Acc and G_Acc. Item ids must end in ``q<question>_i<image>``."""
    groups: dict[str, dict[str, float]] = {}
    for o in outcomes:
        groups.setdefault(o.group, {})[o.item_id.rpartition("/")[2]] = o.values["accuracy"]
    cells = [(q, i) for q in (0, 1) for i in (0, 1)]
    if bad := [g for g, answers in groups.items() if set(answers) != {f"q{q}_i{i}" for q, i in cells}]:
        raise EvaluationError(
            f"NaturalBench: group {bad[0]!r} is incomplete, but the four answers of a group are scored together: "
            "evaluate the benchmark again"
        )
    correct = np.array([[[answers[f"q{q}_i{i}"] for i in (0, 1)] for q in (0, 1)] for answers in groups.values()])
    table = {}
    for name, values in metrics.natural_bench(correct).items():
        per = len(values) // len(groups)
        labels = [g for g in groups for _ in range(per)]
        ids = tuple(f"{g}/{k % per}" for k, g in enumerate(labels))
        table[name] = Units(ids, tuple(values.tolist()), tuple(labels))
    return table


def _wemath(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the share of problems in each dimension, and the accuracy by number of steps and by concept."""
    problems = wemath.problems(outcomes)
    shares = [name for name in problems[0].values if not name.startswith("rote_memorization")]
    return {name: _items(problems, name) for name in shares} | _plain(outcomes)


def _amber(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    """Return the share of descriptions that contain a hallucination, and the accuracy of the answers to questions."""
    described = [o for o in outcomes if "hal" in o.values]
    asked = [o for o in outcomes if "accuracy" in o.values]
    return {name: u for part in (described, asked) if part for name, u in _plain(part).items()}


def _only_ratios(outcomes: Sequence[Outcome]) -> dict[str, Units]:
    return {}


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
    "circular": _circular,
    "bivlc": _bivlc,
    "whatsup": _whatsup,
    "natural_bench": _natural_bench,
    "pope": _plain,
    "macro": _plain,
    "crpe": _circular,
    "chair": _plain,
    "amber": _amber,
    "object_halbench": _only_ratios,
    "hallusionbench": _only_ratios,
    "mmhal": _only_ratios,
    "llava_bench": _only_ratios,
    "wemath": _wemath,
}


# ------------------------------------------------------------------------------------------ scores that are not means


# Functions of the sums (R, 4) of true positives, false positives, false negatives and items.
_CONFUSION: dict[str, Callable[[Array], Array]] = {
    "precision": lambda sums: divide(sums[:, 0], sums[:, 0] + sums[:, 1]),
    "recall": lambda sums: divide(sums[:, 0], sums[:, 0] + sums[:, 2]),
    "f1": lambda sums: divide(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]),
    "yes_ratio": lambda sums: divide(sums[:, 0] + sums[:, 1], sums[:, 3]),
}


def _confusion_ratios(outcomes: Sequence[Outcome]) -> dict[str, Ratio]:
    """Return the scores in ``_CONFUSION`` for the answer "yes", overall and by category, and the mean F1 over
    categories.
    """
    table: dict[str, Ratio] = {}
    kinds = list(dict.fromkeys(o.kind for o in outcomes if o.kind))
    for kind in ("", *(kinds if len(kinds) > 1 else ())):
        rows = [_confusion(o) if kind in ("", o.kind) else (0.0,) * 4 for o in outcomes]
        for name, formula in _CONFUSION.items():
            table[f"{name}/{kind}" if kind else name] = of_sums(outcomes, rows, formula)
    if len(kinds) > 1:
        table["f1_mean"] = average([table[f"f1/{kind}"] for kind in kinds])
    return table


def _confusion(o: Outcome) -> tuple[float, float, float, float]:
    """Return four numbers: 1 if an outcome is a true positive, 1 if it is a false positive, 1 if it is a false
    negative, and the constant 1.
    """
    said, true = o.status == "ok" and o.prediction == "yes", o.target == "yes"
    return float(said and true), float(said and not true), float(true and not said), 1.0


RATIOS: dict[str, Callable[[Sequence[Outcome]], dict[str, Ratio]]] = {
    "pope": _confusion_ratios,
    "macro": lambda outcomes: {"accuracy_macro": mean_over(outcomes, [o.kind for o in outcomes])},
    "crpe": hallucination.crpe,
    "chair": hallucination.chair,
    "amber": hallucination.amber,
    "object_halbench": hallucination.object_halbench,
    "hallusionbench": hallucination.hallusionbench,
    "mmhal": hallucination.mmhal,
    "llava_bench": hallucination.llava_bench,
    "wemath": wemath.ratios,
}


def _percent(e: statistics.Estimate) -> dict[str, Any]:
    def scaled(value: float) -> float | None:
        return 100 * value if math.isfinite(value) else None

    return {
        "value": 100 * e.mean,
        "standard_error": scaled(e.standard_error),
        "low": scaled(e.low),
        "high": scaled(e.high),
        "n": e.n,
    }
