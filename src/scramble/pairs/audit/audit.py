"""Audit a set of pairs: how much of the preference can be learned without the image, and which faults the pairs have.

The audit works on pairs from any source (:func:`scramble.formats.read_pairs` reads SugarCrepe's and TRL's files).
The result is plain JSON; :mod:`scramble.reporting.audit_page` prints and plots it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from scramble.pairs.audit.faults import FAULTS, faults
from scramble.pairs.audit.text_only import (
    CLASSIFIERS,
    FRESH,
    TextOnlyResult,
    group_of,
    judgeable,
    plain,
    text_only_accuracy,
    text_only_accuracy_by_score,
)
from scramble.records import PreferencePair

RATIO_EDGES = (0.0, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, float("inf"))


def audit(
    pairs: Sequence[PreferencePair],
    *,
    seed: int = 0,
    folds: int = 5,
    likelihood: Callable[[Sequence[str]], Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Compute the statistics of a set of pairs, as plain JSON.

    Args:
        likelihood: if given, log-likelihoods in nats of texts under a small language model
            (:func:`scramble.pairs.filters.load_likelihood`), for the text-only rule "choose the more likely text".

    Returns:
        ``pairs`` and ``images``, the numbers of each; ``kinds``: for each kind and ``all``, counts, text-only
        accuracies with standard errors and 95 % intervals (percent, key ``blind``), share of pairs with the same bag
        of words, and length-ratio histogram; ``rules``: shares of faults (percent); ``vocabulary``: the words that
        differ most in frequency between the two sides.
    """
    kinds: dict[str, list[PreferencePair]] = {"all": list(pairs)}
    for pair in pairs:
        kinds.setdefault(pair.kind, []).append(pair)
    return {
        "pairs": len(pairs),
        "images": len({group_of(p) for p in pairs}),
        "seed": seed,
        "folds": folds,
        "kinds": {kind: _kind(members, seed, folds, likelihood) for kind, members in sorted(kinds.items())},
        "rules": _rules(pairs),
        "vocabulary": vocabulary_shift(pairs),
    }


def _kind(
    pairs: Sequence[PreferencePair],
    seed: int,
    folds: int,
    likelihood: Callable[[Sequence[str]], Sequence[float]] | None,
) -> dict[str, Any]:
    accuracies: dict[str, Any] = {}
    if judgeable(pairs, folds):
        for name in (*CLASSIFIERS, FRESH):
            accuracies[name] = _numbers(text_only_accuracy(pairs, name, seed=seed, count=folds))
    if likelihood is not None:
        chosen, rejected = likelihood([p.chosen for p in pairs]), likelihood([p.rejected for p in pairs])
        scores = [a - b for a, b in zip(chosen, rejected, strict=True)]
        accuracies["language model"] = _numbers(text_only_accuracy_by_score(pairs, scores, "language model"))
    same = sum(sorted(plain(p.chosen).split()) == sorted(plain(p.rejected).split()) for p in pairs)
    return {
        "n": len(pairs),
        "images": len({group_of(p) for p in pairs}),
        "blind": accuracies,
        "same_bag": _percent(same, len(pairs)),
        "length_ratio": length_ratios(pairs),
    }


def _numbers(result: TextOnlyResult) -> dict[str, float]:
    low, high = result.interval
    return {
        name: round(x, 2)
        for name, x in (("accuracy", result.accuracy), ("error", result.error), ("low", low), ("high", high))
    }


def length_ratios(pairs: Sequence[PreferencePair]) -> list[int]:
    """Histogram over :data:`RATIO_EDGES` of the ratio of word counts, rejected text to chosen text."""
    counts = [0] * (len(RATIO_EDGES) - 1)
    for pair in pairs:
        ratio = len(pair.rejected.split()) / max(1, len(pair.chosen.split()))
        counts[max(i for i, edge in enumerate(RATIO_EDGES[:-1]) if ratio >= edge)] += 1
    return counts


def vocabulary_shift(pairs: Sequence[PreferencePair], count: int = 20) -> dict[str, Any]:
    """The words whose counts of texts differ most between the sides, and the total variation distance of the sides."""
    chosen: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for pair in pairs:
        chosen.update(set(plain(pair.chosen).split()))
        rejected.update(set(plain(pair.rejected).split()))
    gap = {word: rejected[word] - chosen[word] for word in chosen.keys() | rejected.keys()}
    order = sorted(gap, key=lambda word: (gap[word], word))
    total = sum(chosen.values()) + sum(rejected.values())

    def rows(words: Sequence[str]) -> list[dict[str, Any]]:
        return [{"word": w, "chosen": chosen[w], "rejected": rejected[w]} for w in words]

    return {
        "total_variation": round(sum(abs(g) for g in gap.values()) / total, 4) if total else 0.0,
        "more_in_chosen": rows([w for w in order[:count] if gap[w] < 0]),
        "more_in_rejected": rows([w for w in order[::-1][:count] if gap[w] > 0]),
    }


def _rules(pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        rule = pair.rule or "(none)"
        totals[rule] += 1
        counts.update((rule, fault) for fault in faults(pair))
    return {
        rule: {"n": n, **{fault: _percent(counts[rule, fault], n) for fault in FAULTS}}
        for rule, n in sorted(totals.items())
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def classifiers(result: dict[str, Any]) -> list[str]:
    """The classifiers with results in an audit, in their usual order."""
    present = {name for kind in result["kinds"].values() for name in kind["blind"]}
    return [name for name in (*CLASSIFIERS, FRESH, "language model") if name in present]
