"""Measure the rule-based negatives: yield, a sample to read, blind accuracy before and after refinement, speed.

    python benchmarks/generate.py yield  --captions captions.jsonl
    python benchmarks/generate.py sample --captions captions.jsonl --seed 1 --out sample.csv
    python benchmarks/generate.py leaks  --captions captions.jsonl
    python benchmarks/generate.py speed  --captions captions.jsonl

``--captions`` is a JSONL file of ``{"image": file name, "caption": text}`` rows (one row per caption); ``--pipeline``
a spaCy pipeline (``en_core_web_sm`` by default). Captions are CPU work: no GPU is used.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scramble.negatives.base import seeded
from scramble.negatives.pairs import build_pairs
from scramble.negatives.rules import RuleGenerator
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.store import read_jsonl


def images_of(path: Path) -> Iterator[ImageRecord]:
    """Images with their captions from a JSONL file sorted by image."""
    name, captions = None, []
    for row in read_jsonl(path):
        if row["image"] != name and name is not None:
            yield ImageRecord(name, ImageFile(path=name), tuple(captions), source=path.stem)
            captions = []
        name = row["image"]
        captions.append(row["caption"])
    if name is not None:
        yield ImageRecord(name, ImageFile(path=name), tuple(captions), source=path.stem)


def pairs_of(args: argparse.Namespace, per_caption: int, kinds: list[str] | None = None) -> list[PreferencePair]:
    """All pairs of a captions file."""
    generator = RuleGenerator(args.pipeline)
    return list(build_pairs(images_of(args.captions), generator, per_caption=per_caption, seed=args.seed, kinds=kinds))


def measure_yield(args: argparse.Namespace) -> None:
    """Share of captions with a swap negative, and with any."""
    captions = sum(len(image.captions) for image in images_of(args.captions))
    skipped: Counter[str] = Counter()
    swapped, any_, kinds, rules = set(), set(), Counter(), Counter()
    pairs = build_pairs(
        images_of(args.captions), RuleGenerator(args.pipeline), per_caption=1000, seed=args.seed,
        on_skip=lambda row: skipped.update([row["reason"]]),
    )  # fmt: skip
    for pair in pairs:
        key = pair.pair_id.rsplit("-", 1)[0]
        any_.add(key)
        kinds[pair.kind] += 1
        rules[pair.rule] += 1
        if pair.kind.startswith("swap"):
            swapped.add(key)
    print(f"{captions} captions; a swap negative for {100 * len(swapped) / captions:.1f} %,", end=" ")
    print(f"any negative for {100 * len(any_) / captions:.1f} %")
    print("candidates by kind:", dict(kinds.most_common()))
    print("candidates by rule:", dict(rules.most_common()))
    print("captions without a pair:", dict(skipped.most_common()))


def draw_sample(args: argparse.Namespace) -> None:
    """Draw pairs at random, to be read: one row each, labels empty."""
    pairs = pairs_of(args, per_caption=1)
    drawn = seeded(args.seed, "sample").sample(pairs, args.size)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pair_id", "kind", "rule", "chosen", "rejected", "first", "second"])
        writer.writerows([p.pair_id, p.kind, p.rule, p.chosen, p.rejected, "", ""] for p in drawn)
    print(f"{len(drawn)} of {len(pairs)} pairs -> {args.out}")


COMMANDS = {"yield": measure_yield, "sample": draw_sample}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--pipeline", default="en_core_web_sm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("sample.csv"))
    args = parser.parse_args()
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
