"""Compute the scores of the hallucination benchmarks and of the judged benchmarks.

The scores are functions of sums over clusters. Two runs can therefore be compared on the same clusters, even if the
judge's reply could not be read for some items in only one of the runs. Items for which the judge's reply could not be
read (status ``unread``) are excluded from all scores except the scores with ``official`` in their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.ratio import Array, Ratio, average, divide, of_sums, summed_ratio

Outcomes = Sequence[Outcome]
Mask = list[bool]
"""Whether each outcome belongs to a part, in the order of the outcomes."""

LOWER_IS_BETTER = frozenset(
    (
        "chair",
        "chair_i",
        "chair_s",
        "cog",
        "f_wrong",
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
"""Names of scores for which a lower value is better, because they count errors."""

WITHOUT_DIRECTION = frozenset(
    (
        "f_inconsistent",
        "false_positive_ratio",
        "language_hallucination",
        "mixed_cause",
        "visual_illusion",
        "yes_difference",
        "yes_ratio",
    )
)
"""Names of scores that describe replies or errors, for which neither a higher nor a lower value is better."""


def lower_is_better(score: str) -> bool:
    """Return whether a lower value of a score (``hal``, ``hal/<kind>``) is better."""
    return score.partition("/")[0] in LOWER_IS_BETTER


def has_direction(score: str) -> bool:
    """Return False if neither a higher nor a lower value of a score is better, and True otherwise."""
    return score.partition("/")[0] not in WITHOUT_DIRECTION


def parts(outcomes: Outcomes) -> dict[str, Mask]:
    """Return the parts for which scores are computed, by the suffix of the score's name: all outcomes, the outcomes of
    each kind if there are several kinds, and the outcomes with each tag.
    """
    kinds = list(dict.fromkeys(o.kind for o in outcomes if o.kind))
    tags = dict.fromkeys(tag for o in outcomes for tag in o.tags)
    table = {"": [True] * len(outcomes)}
    if len(kinds) > 1:
        table |= {f"/{kind}": [o.kind == kind for o in outcomes] for kind in kinds}
    return table | {f"/{tag}": [tag in o.tags for o in outcomes] for tag in tags}


def mean_of(outcomes: Outcomes, name: str, part: Mask) -> Ratio:
    """Return the mean of the value ``name`` over the outcomes of a part that have this value."""
    rows = [
        (o.values[name], 1.0) if included and name in o.values else (0.0, 0.0)
        for o, included in zip(outcomes, part, strict=True)
    ]
    return summed_ratio(outcomes, rows)


# --------------------------------------------------------------------------------------------- objects in captions


def _objects(outcomes: Outcomes) -> list[list[float]]:
    """Return five numbers per outcome: mentions, hallucinated mentions, mentioned categories of the image, all
    categories of the image, and the constant 1. For an outcome without objects, all numbers are 0.
    """
    return [[*o.details["objects"], 1.0] if "objects" in o.details else [0.0] * 5 for o in outcomes]


def chair(outcomes: Outcomes) -> dict[str, Ratio]:
    """Compute CHAIRi, the share of hallucinated mentions among all mentions, and recall, the share of the image's
    categories that are mentioned.
    """
    rows = _objects(outcomes)
    return {
        "chair_i": summed_ratio(outcomes, [(row[1], row[0]) for row in rows]),
        "recall": summed_ratio(outcomes, [(row[2], row[3]) for row in rows]),
    }


def object_halbench(outcomes: Outcomes) -> dict[str, Ratio]:
    """Compute Object HalBench's scores. ``response_rate`` is the share of responses with a hallucination among the
    responses that mention a COCO object, and ``chair_s`` is the share of responses with a hallucination among all
    responses. ``mention_rate`` is the share of hallucinated mentions, and ``recall`` is the share of the image's
    categories that are mentioned.
    """
    rows = _objects(outcomes)
    return {
        "response_rate": summed_ratio(outcomes, [(float(row[1] > 0), float(row[0] > 0)) for row in rows]),
        "mention_rate": summed_ratio(outcomes, [(row[1], row[0]) for row in rows]),
        "recall": summed_ratio(outcomes, [(row[2], row[3]) for row in rows]),
        "chair_s": summed_ratio(outcomes, [(float(row[1] > 0), row[4]) for row in rows]),
    }


# ----------------------------------------------------------------------------------------------------------- AMBER


def _quotient(top: Array, bottom: Array) -> Array:
    return top / (bottom + 0.001)  # as in AMBER's script


def amber(outcomes: Outcomes) -> dict[str, Ratio]:
    """Compute AMBER's scores: CHAIR, Cover and Cog of the descriptions; precision, recall and F1 of the answer "no" to
    the questions; and the AMBER score (100 - CHAIR + F1) / 2. An answer that cannot be parsed does not count as "no".
    """
    nouns = [o.details.get("amber", (0,) * 6) for o in outcomes]
    described = any("amber" in o.details for o in outcomes)
    table: dict[str, Ratio] = {}
    columns = {"chair": (1, 0), "cover": (3, 2), "cog": (5, 4)}
    for name, (top, bottom) in columns.items() if described else ():
        quotients = [(row[top], row[bottom]) for row in nouns]
        table[name] = of_sums(outcomes, quotients, lambda sums: _quotient(sums[:, 0], sums[:, 1]))
    asked = [o for o in outcomes if "accuracy" in o.values]
    for suffix, part in parts(outcomes).items() if asked else ():
        rows = [
            _no(o) if included and "accuracy" in o.values else (0.0,) * 4
            for o, included in zip(outcomes, part, strict=True)
        ]
        offset = 0.001 if suffix == "/existence" else 0.0001
        table[f"precision{suffix}"] = of_sums(outcomes, rows, _precision)
        table[f"recall{suffix}"] = of_sums(outcomes, rows, _recall)
        table[f"f1{suffix}"] = of_sums(outcomes, rows, lambda sums, offset=offset: _f1(sums, offset))  # type: ignore[misc]
    kinds = list(dict.fromkeys(o.kind for o in asked))
    if len(kinds) > 1:
        table["accuracy_macro"] = average(
            [mean_of(outcomes, "accuracy", [o.kind == kind for o in outcomes]) for kind in kinds]
        )
    if described and asked:
        rate, f1 = table["chair"], table["f1"]
        table["amber_score"] = Ratio(rate.clusters, lambda w: (1 - rate.value(w) + f1.value(w)) / 2, len(outcomes))
    return table


def _no(o: Outcome) -> tuple[float, float, float, float]:
    """Return four numbers: 1 if the answer is "no" and right, 1 if the answer is "no", 1 if the correct answer is "no",
    and the constant 1.
    """
    answered, truth = o.prediction == "no", o.target == "no"
    return float(answered and truth), float(answered), float(truth), 1.0


def _precision(sums: Array) -> Array:
    return _quotient(sums[:, 0], sums[:, 1])


def _recall(sums: Array) -> Array:
    return _quotient(sums[:, 0], sums[:, 2])


def _f1(sums: Array, offset: float) -> Array:
    """Compute F1 as AMBER's script does: from precision and recall rounded to 0.1 %, with ``offset`` added to the
    denominator.
    """
    precision, recall = np.round(_precision(sums), 3), np.round(_recall(sums), 3)
    return 2 * precision * recall / (precision + recall + offset)


# -------------------------------------------------------------------------------------------------- HallusionBench


def hallusionbench(outcomes: Outcomes) -> dict[str, Ratio]:
    """Compute HallusionBench's scores. aAcc is the accuracy over questions, qAcc is the share of questions that are
    answered correctly for every figure, and fAcc is the share of figures about which all questions are answered
    correctly.

    Item ids are ``category/subcategory/set/figure/question``. Figure 0 of the category VS stands for a question without
    an image and does not count as a figure. Questions and figures with an unread item are excluded from qAcc and fAcc.

    The other scores of the authors are the share of figures with some wrong and some right answers
    (``f_inconsistent``), the share of figures with only wrong answers (``f_wrong``), and two measures of the bias
    towards "yes". If the replies are graded by rule, the share of each cause among the errors is also computed.
    """
    table: dict[str, Ratio] = {}
    for suffix, part in parts(outcomes).items():
        table[f"a_acc{suffix}"] = mean_of(outcomes, "accuracy", part)
        table[f"q_acc{suffix}"] = _share_of_groups(outcomes, _groups(outcomes, part, 3), all)
        table[f"f_acc{suffix}"] = _share_of_groups(outcomes, _groups(outcomes, part, 4), all)
    figures = _groups(outcomes, [True] * len(outcomes), 4)
    table["f_inconsistent"] = _share_of_groups(outcomes, figures, lambda values: 0 < sum(values) < len(values))
    table["f_wrong"] = _share_of_groups(outcomes, figures, lambda values: not any(values))
    return table | _yes_bias(outcomes) | _causes(outcomes)


def _yes_bias(outcomes: Outcomes) -> dict[str, Ratio]:
    """Return two measures of the bias towards "yes". ``yes_difference`` is the share of answers "yes" minus the share
    of questions whose correct answer is "yes". ``false_positive_ratio`` is the share of wrong answers whose correct
    answer is "no" (one half without bias). A wrong answer to a question whose correct answer is "no" counts as "yes".
    """
    rows = []
    for o in outcomes:
        right, yes = o.values.get("accuracy"), o.target == "yes"
        rows.append(
            (0.0,) * 4 if right is None else (float((right == 1) == yes) - yes, 1.0, (1 - right) * (not yes), 1 - right)
        )
    return {
        "yes_difference": of_sums(outcomes, rows, lambda sums: divide(sums[:, 0], sums[:, 1])),
        "false_positive_ratio": of_sums(
            outcomes, [row[2:] for row in rows], lambda sums: divide(sums[:, 0], sums[:, 1])
        ),
    }


CAUSES = ("language_hallucination", "visual_illusion", "mixed_cause")


def _causes(outcomes: Outcomes) -> dict[str, Ratio]:
    """Return the share of each cause among the errors. The authors ask GPT-4 whether the replies for a figure and for
    the original figure agree. Here the two replies agree if both are parsed as the same word ("yes" or "no"). Errors
    without a reply for the original figure do not count. Judged replies do not count either, because they need not
    contain "yes" or "no".
    """
    by_rule = {o.item_id: o for o in outcomes if "accuracy" in o.values and "judged" not in o.details}
    rows = []
    for o in outcomes:
        cause = None
        if o.item_id in by_rule:
            *group, figure, question = o.item_id.split("/")
            if original := by_rule.get("/".join((*group, "0", question))):
                agree = o.prediction == original.prediction
                cause = cause_of_error(group[0], figure == "0", "hard" in o.tags, _label(o), _label(original), agree)
        rows.append([float(cause == name) for name in CAUSES])
    return {
        name: of_sums(outcomes, rows, lambda sums, k=k: divide(sums[:, k], sums.sum(axis=1)))  # type: ignore[misc]
        for k, name in enumerate(CAUSES)
    }


def _label(o: Outcome) -> int:
    """Return the authors' label of an outcome: 0 (wrong), 1 (right) or 2 (unclear)."""
    return 1 if o.values["accuracy"] == 1 else 2 if o.prediction is None else 0


def cause_of_error(
    category: str, is_original: bool, is_edited: bool, label: int, original: int, agree: bool
) -> str | None:
    """Determine the cause of an error with the authors' decision tree (``get_eval_pair_all``). Return None if there is
    no error.

    Args:
        category: ``VD`` (the original figure is an image) or ``VS`` (the original question has no image).
        is_original: whether this is the question about the original figure.
        is_edited: whether the figure is edited so that it contradicts common knowledge.
        label: label of the reply: 0 (wrong), 1 (right) or 2 (unclear).
        original: label of the reply to the same question about the original figure.
        agree: whether the two replies agree.
    """
    language, vision, mixed = CAUSES
    if label == 1:
        return None
    if category == "VD":
        return mixed if not is_original and (original, label) == (1, 0) and agree else vision
    if is_original:
        return language if label == 0 else None  # without an image, "I do not know" is right
    if original == 0:
        return language if label == 0 and agree else mixed
    return language if (original, label) == (1, 0) and is_edited and agree else vision


def _groups(outcomes: Outcomes, part: Mask, left_out: int) -> list[list[int]]:
    """Return groups of the items of a part, as positions in ``outcomes``. The ids of the items in a group differ only
    in component ``left_out``.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, o in enumerate(outcomes):
        key = o.item_id.split("/")
        if part[place] and not (left_out == 4 and key[0] == "VS" and key[3] == "0"):
            groups.setdefault((*key[:left_out], *key[left_out + 1 :]), []).append(place)
    return list(groups.values())


def _share_of_groups(
    outcomes: Outcomes, groups: Sequence[Sequence[int]], counts: Callable[[list[float]], bool]
) -> Ratio:
    """Return the share of groups whose accuracies satisfy a condition. Groups with an unread item are excluded."""
    rows = [(0.0, 0.0)] * len(outcomes)
    for places in groups:
        values = [outcomes[place].values["accuracy"] for place in places if "accuracy" in outcomes[place].values]
        if len(values) == len(places):
            rows[places[0]] = (float(counts(values)), 1.0)
    return summed_ratio(outcomes, rows)


# ------------------------------------------------------------------------------------------------ CRPE, judged answers


def crpe(outcomes: Outcomes) -> dict[str, Ratio]:
    """Compute the published score ``overall``, the mean of the circular accuracies of the kinds ``subject``,
    ``predicate`` and ``object``.
    """
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
    return {"overall": of_sums(outcomes, rows, lambda sums: divide(sums[:, ::2], sums[:, 1::2]).mean(axis=1))}


def mmhal(outcomes: Outcomes) -> dict[str, Ratio]:
    """Return the mean rating (points from 0 to 6) and the share of ratings below 3, overall and by question type.

    In the scores ``official_*``, a rating that cannot be read counts as 0, as in the authors' script.
    """
    names = ("score", "hallucination_rate", "official_score", "official_hallucination_rate")
    return {
        f"{name}{suffix}": mean_of(outcomes, name, part) for suffix, part in parts(outcomes).items() for name in names
    }


def llava_bench(outcomes: Outcomes) -> dict[str, Ratio]:
    """Compute the mean score of the model (``candidate``) and of the reference answers (``reference``) as percentages
    of 10 points, and ``score``, the quotient of the two.

    In ``official_score``, both scores of a pair count as -1 if the pair cannot be read, and the means are rounded to
    three decimals, as in the authors' script.
    """
    table: dict[str, Ratio] = {}
    for suffix, part in parts(outcomes).items():
        read = [included and "candidate" in o.values for o, included in zip(outcomes, part, strict=True)]
        table[f"score{suffix}"] = of_sums(outcomes, _pairs(outcomes, read), lambda sums: divide(sums[:, 0], sums[:, 1]))
        table[f"candidate{suffix}"] = mean_of(outcomes, "candidate", part)
        table[f"reference{suffix}"] = mean_of(outcomes, "reference", part)
        table[f"official_score{suffix}"] = of_sums(outcomes, _pairs(outcomes, part), _rounded_quotient)
    return table


def _pairs(outcomes: Outcomes, part: Mask) -> list[tuple[float, float, float]]:
    """Return three numbers per outcome: the scores of the model and of the reference (-0.1 if the pair cannot be read),
    and the constant 1. For an outcome outside the part, all numbers are 0.
    """
    return [
        (o.values.get("candidate", -0.1), o.values.get("reference", -0.1), 1.0) if included else (0.0, 0.0, 0.0)
        for o, included in zip(outcomes, part, strict=True)
    ]


def _rounded_quotient(sums: Array) -> Array:
    """Return the mean score of the model divided by the mean score of the references. Both means are in points out of
    10 and rounded to three decimals.
    """
    means = np.round(10 * divide(sums[:, :2], np.repeat(sums[:, 2:], 2, axis=1)), 3)
    return divide(means[:, 0], means[:, 1])
