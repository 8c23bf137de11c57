"""The audit of a set of pairs: how much of the preference can be learnt without the image, and what is wrong with it.

Works on any pairs, made here or not (:func:`scramble.formats.read_pairs` reads SugarCrepe's files and
TRL's). The result is plain JSON; :mod:`scramble.reporting.audit_page` prints and draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from scramble.pairs.audit.faults import FAULTS, faults
from scramble.pairs.audit.text_only import (
    CLASSIFIERS,
    FRESH,
    Blind,
    blind_accuracy,
    blind_by_score,
    group_of,
    judgeable,
    plain,
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
    """Numbers on a set of pairs, as plain JSON.

    Args:
        likelihood: if given, log-likelihoods in nats of texts under a small language model
            (:func:`scramble.pairs.filters.load_likelihood`); the blind rule "the likelier text is chosen".

    Returns:
        ``pairs``, ``images``; ``kinds``: for each kind and ``all``, counts, blind accuracies with standard errors and
        95 % intervals (percent), same-bag share, length-ratio histogram; ``rules``: shares of faults (percent);
        ``vocabulary``: the words that one side has most in excess.
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
    blind: dict[str, Any] = {}
    if judgeable(pairs, folds):
        for name in (*CLASSIFIERS, FRESH):
            blind[name] = _numbers(blind_accuracy(pairs, name, seed=seed, count=folds))
    if likelihood is not None:
        chosen, rejected = likelihood([p.chosen for p in pairs]), likelihood([p.rejected for p in pairs])
        scores = [a - b for a, b in zip(chosen, rejected, strict=True)]
        blind["language model"] = _numbers(blind_by_score(pairs, scores, "language model"))
    same = sum(sorted(plain(p.chosen).split()) == sorted(plain(p.rejected).split()) for p in pairs)
    return {
        "n": len(pairs),
        "images": len({group_of(p) for p in pairs}),
        "blind": blind,
        "same_bag": _percent(same, len(pairs)),
        "length_ratio": length_ratios(pairs),
    }


def _numbers(blind: Blind) -> dict[str, float]:
    low, high = blind.interval
    return {
        name: round(x, 2)
        for name, x in (("accuracy", blind.accuracy), ("error", blind.error), ("low", low), ("high", high))
    }


def length_ratios(pairs: Sequence[PreferencePair]) -> list[int]:
    """Histogram over :data:`RATIO_EDGES` of words in the rejected over words in the chosen text."""
    counts = [0] * (len(RATIO_EDGES) - 1)
    for pair in pairs:
        ratio = len(pair.rejected.split()) / max(1, len(pair.chosen.split()))
        counts[max(i for i, edge in enumerate(RATIO_EDGES[:-1]) if ratio >= edge)] += 1
    return counts


def vocabulary_shift(pairs: Sequence[PreferencePair], count: int = 20) -> dict[str, Any]:
    """Words (in how many texts of each side) most in excess on one side; and the total variation of the two sides."""
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
    seen: Counter[str] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        rule = pair.rule or "(none)"
        seen[rule] += 1
        found.update((rule, fault) for fault in faults(pair))
    return {
        rule: {"n": n, **{fault: _percent(found[rule, fault], n) for fault in FAULTS}}
        for rule, n in sorted(seen.items())
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def classifiers(result: dict[str, Any]) -> list[str]:
    """The classifiers that an audit holds numbers of, in their usual order."""
    present = {name for kind in result["kinds"].values() for name in kind["blind"]}
    return [name for name in (*CLASSIFIERS, FRESH, "language model") if name in present]
