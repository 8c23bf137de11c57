"""Compute We-Math's scores: dimensions of problems, and accuracies of domains (arXiv 2407.01284)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring import metrics
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.ratio import Ratio, mean_over, summed_ratio


def problems(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return one outcome per problem, with the problem's dimensions, from the outcomes of the problem and its steps.

    The items of a group are a problem (id ``<problem>/multi``) and its steps. Raises EvaluationError if a group is
    incomplete.
    """
    groups: dict[str, list[Outcome]] = {}
    for o in outcomes:
        groups.setdefault(o.group, []).append(o)
    result = []
    for group, members in groups.items():
        right = {o.item_id.rpartition("/")[2]: o.values["accuracy"] == 1 for o in members}
        if "multi" not in right or len(right) < 3:
            raise EvaluationError(
                f"We-Math: problem {group!r} is incomplete, but a problem is scored together with its steps: evaluate "
                "the benchmark again"
            )
        problem = right.pop("multi")
        values = metrics.four_dimensions(tuple(right.values()), problem)
        result.append(replace(members[0], item_id=group, values=values))
    return result


def ratios(outcomes: Sequence[Outcome]) -> dict[str, Ratio]:
    """Return rote memorization as a share of the problems with a right answer, and for each domain the mean accuracy
    over its concepts.
    """
    table: dict[str, Ratio] = {}
    whole = problems(outcomes)
    for form in ("strict", "loose"):
        rote = [o.values[f"rote_memorization_{form}"] for o in whole]
        right = [r + o.values[f"complete_mastery_{form}"] for r, o in zip(rote, whole, strict=True)]
        table[f"rote_memorization_{form}"] = summed_ratio(whole, list(zip(rote, right, strict=True)))
    for domain in dict.fromkeys(tag.partition("/")[0] for o in outcomes for tag in o.tags if "/" in tag):
        members = [o for o in outcomes if any(tag.startswith(f"{domain}/") for tag in o.tags)]
        table[f"accuracy_macro/{domain}"] = mean_over(members, [o.tags[0] for o in members])
    return table
