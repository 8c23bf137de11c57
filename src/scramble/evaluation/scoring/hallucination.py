"""Scores of the hallucination and judged benchmarks.

The scores are functions of sums, so that runs in which a judge's reply could not be read for different items are
compared on the same clusters. Such items (status ``unread``) are excluded from all scores except those named
``official``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.ratio import Array, Ratio, by_cluster, divide, of_sums, share

Outcomes = Sequence[Outcome]

LOWER_IS_BETTER = frozenset(
    (
        "chair",
        "chair_i",
        "chair_s",
        "cog",
        "hal",
        "hallucination_rate",
        "inadequate_generalization",
        "insufficient_knowledge",
        "mention_rate",
        "official_hallucination_rate",
        "response_rate",
        "rote_memorization_loose",
        "rote_memorization_strict",
    )
)
"""Names of scores that count errors."""


def lower_is_better(score: str) -> bool:
    """Whether a score (``hal``, ``hal/<kind>``) counts errors."""
    return score.partition("/")[0] in LOWER_IS_BETTER


def parts(outcomes: Outcomes) -> dict[str, Callable[[Outcome], bool]]:
    """Suffix of a score's name -> its outcomes: all, those of each kind if there are several, and those of each tag."""
    kinds = list(dict.fromkeys(o.kind for o in outcomes if o.kind))
    tags = dict.fromkeys(tag for o in outcomes for tag in o.tags)
    result: dict[str, Callable[[Outcome], bool]] = {"": lambda _: True}
    if len(kinds) > 1:
        result |= {f"/{kind}": lambda o, kind=kind: o.kind == kind for kind in kinds}  # type: ignore[misc]
    return result | {f"/{tag}": lambda o, tag=tag: tag in o.tags for tag in tags}


def mean_of(outcomes: Outcomes, name: str, where: Callable[[Outcome], bool] = lambda _: True) -> Ratio:
    """The mean of a value over the outcomes that have it."""
    counted = [where(o) and name in o.values for o in outcomes]
    return share(outcomes, [(o.values[name], 1.0) if c else (0.0, 0.0) for o, c in zip(outcomes, counted, strict=True)])


# --------------------------------------------------------------------------------------------- objects in captions


def _objects(outcomes: Outcomes) -> list[list[float]]:
    """Per outcome: mentions, hallucinated mentions, right categories, categories in the image, 1; or zeros."""
    return [[*o.details["objects"], 1.0] if "objects" in o.details else [0.0] * 5 for o in outcomes]


def chair(outcomes: Outcomes) -> dict[str, Ratio]:
    """CHAIRi: share of hallucinated mentions among all mentions; recall: share of the image's categories that are
    mentioned."""
    rows = _objects(outcomes)
    return {
        "chair_i": share(outcomes, [(row[1], row[0]) for row in rows]),
        "recall": share(outcomes, [(row[2], row[3]) for row in rows]),
    }


def object_halbench(outcomes: Outcomes) -> dict[str, Ratio]:
    """Object HalBench's rates: the share of responses with a hallucination among those that mention an object of COCO,
    and the share of hallucinated mentions. ``chair_s`` is the share among all responses."""
    rows = _objects(outcomes)
    return {
        "response_rate": share(outcomes, [(float(row[1] > 0), float(row[0] > 0)) for row in rows]),
        "mention_rate": share(outcomes, [(row[1], row[0]) for row in rows]),
        "recall": share(outcomes, [(row[2], row[3]) for row in rows]),
        "chair_s": share(outcomes, [(float(row[1] > 0), row[4]) for row in rows]),
    }


# ----------------------------------------------------------------------------------------------------------- AMBER

_START = 0.001
"""AMBER's denominators start at this value."""


def _begun(top: Array, bottom: Array) -> Array:
    return top / (bottom + _START)


def amber(outcomes: Outcomes) -> dict[str, Ratio]:
    """CHAIR, Cover and Cog of the descriptions; precision, recall and F1 of the answer "no" to the questions, where an
    unreadable answer does not count as "no"; the AMBER score (100 - CHAIR + F1) / 2."""
    counts = [o.details.get("amber", (0,) * 6) for o in outcomes]
    described = any("amber" in o.details for o in outcomes)
    table: dict[str, Ratio] = {}
    columns = {"chair": (1, 0), "cover": (3, 2), "cog": (5, 4)}
    for name, (top, bottom) in columns.items() if described else ():
        quotients = [(row[top], row[bottom]) for row in counts]
        table[name] = of_sums(outcomes, quotients, lambda sums: _begun(sums[:, 0], sums[:, 1]))
    asked = [o for o in outcomes if "accuracy" in o.values]
    for suffix, where in parts(asked).items() if asked else ():
        rows = [_no(o) if "accuracy" in o.values and where(o) else (0.0,) * 4 for o in outcomes]
        offset = 0.001 if suffix == "/existence" else 0.0001
        table[f"precision{suffix}"] = of_sums(outcomes, rows, _precision)
        table[f"recall{suffix}"] = of_sums(outcomes, rows, _recall)
        table[f"f1{suffix}"] = of_sums(outcomes, rows, lambda sums, offset=offset: _f1(sums, offset))  # type: ignore[misc]
    kinds = list(dict.fromkeys(o.kind for o in asked))
    if len(kinds) > 1:
        means = [mean_of(outcomes, "accuracy", lambda o, kind=kind: o.kind == kind) for kind in kinds]  # type: ignore[misc]
        table["accuracy_macro"] = Ratio(means[0].clusters, lambda w: np.mean([m.value(w) for m in means], axis=0))
    if described and asked:
        first, second = table["chair"], table["f1"]
        table["amber_score"] = Ratio(first.clusters, lambda w: (1 - first.value(w) + second.value(w)) / 2)
    return table


def _no(o: Outcome) -> tuple[float, float, float, float]:
    """Right answers "no", answers "no", items whose answer is "no", 1."""
    answered, truth = o.prediction == "no", o.target == "no"
    return float(answered and truth), float(answered), float(truth), 1.0


def _precision(sums: Array) -> Array:
    return _begun(sums[:, 0], sums[:, 1])


def _recall(sums: Array) -> Array:
    return _begun(sums[:, 0], sums[:, 2])


def _f1(sums: Array, offset: float) -> Array:
    """F1 as in the original: of precision and recall in percent with one decimal, and with an offset."""
    precision, recall = np.round(_precision(sums), 3), np.round(_recall(sums), 3)
    return 2 * precision * recall / (precision + recall + offset)


# -------------------------------------------------------------------------------------------------- HallusionBench


def hallusionbench(outcomes: Outcomes) -> dict[str, Ratio]:
    """aAcc: share of correct answers; qAcc: share of questions answered correctly for every figure; fAcc: share of
    figures with all answers correct.

    Item ids are ``category/subcategory/set/figure/question``. Figure 0 of the category VS is the question without an
    image and does not count as a figure. A question or figure with an unread item counts in neither qAcc nor fAcc.
    """
    table: dict[str, Ratio] = {}
    for suffix, where in parts(outcomes).items():
        table[f"a_acc{suffix}"] = mean_of(outcomes, "accuracy", where)
        table[f"q_acc{suffix}"] = _all_right(outcomes, where, 3)
        table[f"f_acc{suffix}"] = _all_right(outcomes, where, 4)
    return table


def _all_right(outcomes: Outcomes, where: Callable[[Outcome], bool], left_out: int) -> Ratio:
    """The share of groups in which all items are right. The ids of a group are equal except for the part
    ``left_out``."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, o in enumerate(outcomes):
        key = o.item_id.split("/")
        if where(o) and not (left_out == 4 and key[0] == "VS" and key[3] == "0"):
            groups.setdefault((*key[:left_out], *key[left_out + 1 :]), []).append(place)
    rows = [(0.0, 0.0)] * len(outcomes)
    for places in groups.values():
        values = [outcomes[place].values.get("accuracy") for place in places]
        if None not in values:
            rows[places[0]] = (float(all(values)), 1.0)
    return share(outcomes, rows)


# ------------------------------------------------------------------------------------------------ CRPE, judged answers


def crpe(outcomes: Outcomes) -> dict[str, Ratio]:
    """``overall``: the mean of the circular accuracies of subject, predicate and object, as published."""
    kinds = [kind for kind in ("subject", "predicate", "object") if any(o.kind == kind for o in outcomes)]
    if not kinds:
        return {}
    first = {o.group: place for place, o in reversed(list(enumerate(outcomes)))}
    right = dict.fromkeys(first, True)
    for o in outcomes:
        right[o.group] &= o.values["accuracy"] == 1
    rows = [[0.0] * (2 * len(kinds)) for _ in outcomes]
    for group, place in first.items():
        if outcomes[place].kind in kinds:
            column = 2 * kinds.index(outcomes[place].kind)
            rows[place][column : column + 2] = [float(right[group]), 1.0]
    names, sums_CK = by_cluster(outcomes, np.array(rows))
    n = int(np.array(rows)[:, 1::2].sum())
    return {"overall": Ratio(names, lambda w: divide((w @ sums_CK)[:, ::2], (w @ sums_CK)[:, 1::2]).mean(axis=1), n)}


def mmhal(outcomes: Outcomes) -> dict[str, Ratio]:
    """Mean rating (points from 0 to 6) and the share of ratings below 3; by question type too.

    ``official_*`` count an unread rating as 0, as the authors' script does.
    """
    names = ("score", "hallucination_rate", "official_score", "official_hallucination_rate")
    return {
        f"{name}{suffix}": mean_of(outcomes, name, where) for suffix, where in parts(outcomes).items() for name in names
    }


def llava_bench(outcomes: Outcomes) -> dict[str, Ratio]:
    """``score``: the model's scores relative to the reference answers'; both means, of 10 points, in percent.

    ``official_score`` counts an unread pair as -1 and -1 and rounds the means to three digits, as the authors' script
    does.
    """
    table: dict[str, Ratio] = {}
    for suffix, where in parts(outcomes).items():
        rows = [
            (o.values["candidate"], o.values["reference"], 1.0) if where(o) and "candidate" in o.values else (0.0,) * 3
            for o in outcomes
        ]
        table[f"score{suffix}"] = of_sums(outcomes, rows, lambda sums: divide(sums[:, 0], sums[:, 1]))
        table[f"candidate{suffix}"] = mean_of(outcomes, "candidate", where)
        table[f"reference{suffix}"] = mean_of(outcomes, "reference", where)
        official = [
            (o.values.get("candidate", -0.1), o.values.get("reference", -0.1), 1.0) if where(o) else (0.0,) * 3
            for o in outcomes
        ]
        table[f"official_score{suffix}"] = of_sums(outcomes, official, _rounded_quotient)
    return table


def _rounded_quotient(sums: Array) -> Array:
    """Mean of the model's scores divided by the mean of the references', both out of 10 points with three digits."""
    means = np.round(10 * divide(sums[:, :2], np.repeat(sums[:, 2:], 2, axis=1)), 3)
    return divide(means[:, 0], means[:, 1])
