"""Audit a set of pairs: measure how much of the preference can be learned without the image, and count faults in pairs.

The pairs can come from any source (:func:`scramble.formats.read_pairs` reads SugarCrepe's and TRL's files). The result
is plain JSON, which :mod:`scramble.reporting.audit_page` prints and plots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from scramble.language.scripts import word_count
from scramble.pairs.audit.faults import FAULTS, faults
from scramble.pairs.audit.text_features import words
from scramble.pairs.audit.text_only import (
    CLASSIFIERS,
    FOLDS,
    TEXT_ONLY_COLUMN,
    TextOnlyResult,
    accuracies,
    column_scores,
    group_of,
    in_sample_scores,
    judgeable,
    other_images,
    sampled,
    text_only_accuracy,
    transfer_scores,
)
from scramble.records import PreferencePair

RATIO_EDGES = (0.0, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, float("inf"))


def audit_pairs(
    pairs: Sequence[PreferencePair],
    *,
    held_out: Sequence[PreferencePair] = (),
    total: int | None = None,
    seed: int = 0,
    folds: int = FOLDS,
) -> dict[str, Any]:
    """Return the statistics of a set of pairs as plain JSON.

    If there are more than about :data:`~scramble.pairs.audit.text_only.MAX_FITTED` pairs, the statistics are computed
    from the pairs of a random sample of the images.

    Args:
        held_out: pairs that were not used to select ``pairs``, for the transfer accuracy. Pairs that share an image
            with ``pairs`` are ignored.
        total: number of all pairs, if ``pairs`` is a sample of them
            (:func:`~scramble.pairs.audit.text_only.sample_of_pairs`).
        folds: number of folds of the in-sample accuracies.

    Returns:
        A mapping with these keys:

        - ``pairs``: number of pairs
        - ``measured``, ``images``: numbers of pairs and images from which the statistics are computed
        - ``held_out``: number of pairs on which the classifiers of the transfer accuracy are fitted
        - ``seed``, ``folds``: the arguments
        - ``kinds``: the statistics of each kind, and of all pairs (key ``all``): numbers of pairs and images, in-sample
          accuracies (key ``blind``) and transfer accuracies (key ``transfer``) in percent with standard errors and 95 %
          intervals over images, percentage of pairs with the same bag of words, and histogram of length ratios
        - ``rules``: percentage of pairs with each fault, for each rule
        - ``vocabulary``: the words that differ most in frequency between the two sides
    """
    sample = sampled(pairs, seed)
    other_pairs = sampled(other_images(held_out, pairs), seed)
    if not judgeable(other_pairs):
        other_pairs = []
    kinds = sorted({"all", *(pair.kind for pair in sample)})
    text_only = _text_only(sample, other_pairs, kinds, seed, folds)
    return {
        "pairs": len(pairs) if total is None else total,
        "images": len({group_of(p) for p in sample}),
        "measured": len(sample),
        "held_out": len(other_pairs),
        "seed": seed,
        "folds": folds,
        "kinds": {kind: _kind(_of_kind(sample, kind), text_only[kind]) for kind in kinds},
        "rules": _rules(sample),
        "vocabulary": vocabulary_shift(sample),
    }


def sample_note(result: dict[str, Any]) -> str:
    """Return a note that the audit read only a sample of the pairs, or "" if the audit read all pairs."""
    if result["measured"] == result["pairs"]:
        return ""
    numbers = f"{result['measured']:,} of {result['pairs']:,} pairs"
    return f"audit: all figures are computed from {numbers}, which belong to a random sample of the images"


def _of_kind(pairs: Sequence[PreferencePair], kind: str) -> Sequence[PreferencePair]:
    return pairs if kind == "all" else [pair for pair in pairs if pair.kind == kind]


def _text_only(
    pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair], kinds: Sequence[str], seed: int, folds: int
) -> dict[str, dict[str, dict[str, TextOnlyResult]]]:
    """Return the in-sample (``blind``) and transfer accuracies of each classifier, by kind."""
    results: dict[str, dict[str, dict[str, TextOnlyResult]]] = {kind: {"blind": {}, "transfer": {}} for kind in kinds}
    if not judgeable(pairs, folds):
        return results
    groups = [group_of(pair) for pair in pairs]
    in_sample = in_sample_scores(pairs, seed=seed, count=folds)
    transfer = transfer_scores(pairs, held_out) if held_out else {}
    column = column_scores(pairs)
    if column is not None:  # the model was not fitted on the pairs
        in_sample[TEXT_ONLY_COLUMN] = column
        transfer |= {TEXT_ONLY_COLUMN: column} if held_out else {}
    for kind in kinds:
        rows = [i for i, pair in enumerate(pairs) if kind in ("all", pair.kind)]
        members = [pairs[i] for i in rows]
        if not judgeable(members, folds):
            continue
        results[kind]["blind"] = accuracies(in_sample, rows, groups, seed=seed)
        if kind != "all":
            for name, classifier in CLASSIFIERS.items():
                if classifier.per_kind:
                    results[kind]["blind"][name] = text_only_accuracy(members, name, seed=seed, count=folds)
        results[kind]["transfer"] = accuracies(transfer, rows, groups, seed=seed)
    return results


def _kind(pairs: Sequence[PreferencePair], text_only: dict[str, dict[str, TextOnlyResult]]) -> dict[str, Any]:
    same = sum(sorted(words(p.chosen)) == sorted(words(p.rejected)) for p in pairs)
    return {
        "n": len(pairs),
        "images": len({group_of(p) for p in pairs}),
        **{key: {name: _numbers(result) for name, result in by.items()} for key, by in text_only.items()},
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
    """Return the histogram of length ratios with the bin edges :data:`RATIO_EDGES`.

    A length ratio is the word count of the rejected text divided by the word count of the chosen text.
    """
    counts = [0] * (len(RATIO_EDGES) - 1)
    for pair in pairs:
        ratio = word_count(pair.rejected) / max(1, word_count(pair.chosen))
        counts[max(i for i, edge in enumerate(RATIO_EDGES[:-1]) if ratio >= edge)] += 1
    return counts


def vocabulary_shift(pairs: Sequence[PreferencePair], count: int = 20) -> dict[str, Any]:
    """Compare the two sides by the number of texts that contain each word.

    Return the words with the largest differences, and the total variation distance between the sides.
    """
    chosen: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for pair in pairs:
        chosen.update(set(words(pair.chosen)))
        rejected.update(set(words(pair.rejected)))
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
    """Return the names of the classifiers with results in an audit, in the order of :data:`CLASSIFIERS`."""
    present = {name for kind in result["kinds"].values() for name in kind["blind"]}
    return [name for name in (*CLASSIFIERS, TEXT_ONLY_COLUMN) if name in present]
