"""Make pair sets of the embedded world with a planted text-only cue, and remove the cue with two refinement methods.

    python scripts/generate.py +experiment=quickstart name=refinement_effect
    python benchmarks/refinement_effect.py --data runs/refinement_effect/data --out runs/refinement_effect/sets

The set ``biased`` contains every pair that the cue predicts and a share (``--share``) of the remaining pairs. The cue
of a swapped pair is that the chosen caption first names the colour that comes first in the alphabet. The cue of a
replaced relation is that the chosen caption says "left of" or "above". The images are divided into two halves, which
are refined separately. ``refined`` uses :func:`~scramble.pairs.audit.refine.refine`. ``balanced`` uses
:func:`~scramble.pairs.steps.balanced_pairs.balance_gaps` on the probability with which the same classifiers recognise
the chosen caption. ``unbiased`` is a random sample of all pairs that is as large as ``biased``. Text-only classifiers
that are fitted on one half are tested on the other half. docs/results/negatives.md describes the training on these
sets.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from scramble.pairs.audit.refine import EXPONENT, TextOnlyOdds, refine
from scramble.pairs.audit.text_only import group_of, position_of, transfer_accuracies
from scramble.pairs.base import CandidateSet, seeded
from scramble.pairs.steps.balanced_pairs import balance_gaps
from scramble.records import PreferencePair
from scramble.storage.tables import read_table, write_table
from scramble.world.grammar import noun_spans, relation_of, relation_spans

SETS = ("biased", "refined", "balanced", "unbiased")


def predicted(pair: PreferencePair) -> bool | None:
    """Return whether the cue predicts the chosen caption, or None if the pair lacks the cue because both objects have
    the same colour.
    """
    if pair.kind == "replace-relation":
        (span,) = relation_spans(pair.chosen)
        return relation_of(str(span.value)) in ("left of", "above")
    first, second = (span.value.colour for span in noun_spans(pair.chosen))  # type: ignore[union-attr]
    return None if first == second else first < second


def biased(pairs: list[PreferencePair], share: float, seed: int) -> list[PreferencePair]:
    """Return the pairs that the cue predicts, and a share of the remaining pairs."""
    return [p for p in pairs if predicted(p) or seeded(seed, "cue", p.pair_id).random() < share]


def balanced(pairs: list[PreferencePair], seed: int) -> list[PreferencePair]:
    """Return pairs that are balanced on the gap between the probabilities that out-of-fold classifiers assign to the
    chosen and to the rejected caption.
    """
    gaps = np.tanh(TextOnlyOdds(pairs, [1.0] * len(pairs), seed=seed).fitted / 2).tolist()
    return balance_gaps(pairs, gaps, gaps, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--exponent", type=float, default=EXPONENT)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = list(read_table(args.data / "train", PreferencePair))
    halves: list[dict[str, list[PreferencePair]]] = []
    for half in (False, True):
        members = [p for p in drawn if (position_of(group_of(p), args.seed + 1) < 0.5) == half]
        pairs = biased(members, args.share, args.seed)
        items = [CandidateSet((p,), (1.0,), 1) for p in pairs]
        halves.append(
            {
                "biased": pairs,
                "refined": refine(items, seed=args.seed, exponent=args.exponent),
                "balanced": balanced(pairs, args.seed),
                "unbiased": seeded(args.seed, "unbiased", half).sample(members, len(pairs)),
            }
        )
    for name in SETS:
        selected = [pair for half in halves for pair in half[name]]
        folder = args.out / name / "train"
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder, PreferencePair, selected)
        shutil.copy(args.data / "train" / "images.parquet", folder)
        cued = [value for pair in selected if (value := predicted(pair)) is not None]
        print(
            f"{name}: {len(selected)} pairs; the cue predicts the chosen caption of {100 * np.mean(cued):.1f} % of the "
            f"{len(cued)} pairs with the cue"
        )
        for fitted in dict.fromkeys(("biased", name)):
            for judged, other in (halves, halves[::-1]):
                results = transfer_accuracies(judged[name], other[fitted]).values()
                texts = [f"{r.classifier} {r.accuracy:.1f} ± {r.error:.1f}" for r in results]
                print(f"  fitted on {fitted}: {', '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
