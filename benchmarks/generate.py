"""Measure the rule-based negatives: yield, a sample to read, text-only accuracy before and after refinement, speed.

    python benchmarks/generate.py yield  --captions captions.jsonl
    python benchmarks/generate.py sample --captions captions.jsonl --seed 1 --out sample.csv
    python benchmarks/generate.py leaks  --captions captions.jsonl
    python benchmarks/generate.py speed  --captions captions.jsonl

``--captions`` is a JSONL file of ``{"image": file name, "caption": text}`` rows (one row per caption); ``--pipeline``
is a spaCy pipeline (``en_core_web_sm`` by default). No GPU is used.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scramble.pairs.base import Skip, seeded
from scramble.pairs.captions.assemble import caption_pairs
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.method import collect
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.jsonl import read_jsonl


def images_of(path: Path) -> Iterator[ImageRecord]:
    """Yield images with their captions from a JSONL file sorted by image."""
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
    """Make all pairs of a captions file."""
    generator = RuleGenerator(args.pipeline)
    images = images_of(args.captions)
    pairs, _ = collect(caption_pairs(images, generator, per_caption=per_caption, seed=args.seed, kinds=kinds))
    return pairs


def measure_yield(args: argparse.Namespace) -> None:
    """Print the share of captions with a swap negative, and with any negative."""
    captions = sum(len(image.captions) for image in images_of(args.captions))
    skipped: Counter[str] = Counter()
    swapped, any_, kinds, rules = set(), set(), Counter(), Counter()
    pairs = caption_pairs(
        images_of(args.captions),
        RuleGenerator(args.pipeline),
        per_caption=1000,
        seed=args.seed,
    )
    for pair in pairs:
        if isinstance(pair, Skip):
            skipped[pair.reason] += 1
            continue
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
    """Draw random pairs for readers and write one row per pair with empty labels."""
    pairs = pairs_of(args, per_caption=1)
    drawn = seeded(args.seed, "sample").sample(pairs, args.size)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pair_id", "kind", "rule", "chosen", "rejected", "first", "second"])
        writer.writerows([p.pair_id, p.kind, p.rule, p.chosen, p.rejected, "", ""] for p in drawn)
    print(f"{len(drawn)} of {len(pairs)} pairs -> {args.out}")


def measure_leaks(args: argparse.Namespace) -> None:
    """Print the text-only accuracy before and after refinement, also of a classifier that refinement does not use."""
    from rich.console import Console

    from scramble.pairs.audit.audit import audit
    from scramble.pairs.audit.refine import refine_text_only
    from scramble.pairs.audit.text_only import FRESH, text_only_accuracy
    from scramble.reporting.audit_page import audit_tables

    console = Console(width=160)
    pairs = pairs_of(args, args.per_caption)
    console.print("Before refinement", audit_tables(audit(pairs, seed=args.seed))[0].rich())
    kept = refine_text_only(pairs, seed=args.seed)
    console.print("After refinement", *(t.rich() for t in audit_tables(audit(kept, seed=args.seed))[:2]))
    print(f"kept {len(kept)} of {len(pairs)} pairs ({100 * len(kept) / len(pairs):.1f} %)")
    for family in ("swap", "replace"):
        before = [p for p in pairs if p.kind.startswith(family)]
        after = [p for p in kept if p.kind.startswith(family)]
        print(f"{family}: kept {len(after)} of {len(before)} ({100 * len(after) / len(before):.1f} %)", end="; ")
        for seed in (7, 8, 9):
            result = text_only_accuracy(after, FRESH, seed=args.seed + seed)
            low, high = result.interval
            print(f"{FRESH} n-grams, folds {seed}: {result.accuracy:.1f} % ({low:.1f} to {high:.1f})", end="; ")
        print()
        for kind in sorted({p.kind for p in after}):
            members = [p for p in after if p.kind == kind]
            result = text_only_accuracy(members, FRESH, seed=args.seed + 7)
            print(f"    {kind}: {result.accuracy:.1f} % (+- {1.96 * result.error:.1f}), n = {result.n}")


def measure_speed(args: argparse.Namespace) -> None:
    """Print captions per second of the parse alone and of the whole generator, and the memory at two data sizes.

    Parse and generator alternate three times, and the fastest run of each counts. The times are CPU seconds, so that
    other work on the machine hardly affects their ratio.
    """
    from scramble.language.spacy_pipeline import load_pipeline
    from scramble.pairs.captions.rules.generator import CHUNK
    from scramble.pairs.captions.surface import normalise

    nlp, generator = load_pipeline(args.pipeline, "tagger", "parser"), RuleGenerator(args.pipeline)
    images = list(images_of(args.captions))
    texts = [normalise(text) for image in images for text in image.captions]
    parse, whole = [], []
    for _ in range(3):
        start = time.process_time()
        for _ in nlp.pipe(texts, batch_size=CHUNK):
            pass
        parse.append(time.process_time() - start)
        start = time.process_time()
        pairs = sum(isinstance(p, PreferencePair) for p in caption_pairs(images, generator, seed=args.seed))
        whole.append(time.process_time() - start)
    share = 100 * (min(whole) / min(parse) - 1)
    print(f"{len(texts)} captions, {pairs} pairs, one process")
    print(f"parse alone: {len(texts) / min(parse):.0f} captions per CPU second; parse, rules and validation: ", end="")
    print(f"{len(texts) / min(whole):.0f}; rules and validation add {share:.1f} % to the parse time")
    for size in (2_000, args.captions_max):
        stream = caption_pairs(_repeated(images, size), generator, seed=args.seed)
        count = sum(isinstance(p, PreferencePair) for p in stream)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"after {size} captions ({count} pairs): peak memory {peak:.0f} MiB", flush=True)


def _repeated(images: list[ImageRecord], captions: int) -> Iterator[ImageRecord]:
    """Yield the images repeatedly, with new ids, until there are ``captions`` captions."""
    total, round_number = 0, 0
    while True:
        for image in images:
            if total >= captions:
                return
            total += len(image.captions)
            yield ImageRecord(f"{round_number}-{image.image_id}", image.image, image.captions)
        round_number += 1


COMMANDS = {"yield": measure_yield, "sample": draw_sample, "leaks": measure_leaks, "speed": measure_speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--pipeline", default="en_core_web_sm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--per-caption", type=int, default=2, help="leaks: negatives per caption")
    parser.add_argument("--captions-max", type=int, default=20_000, help="speed: captions of the larger memory run")
    parser.add_argument("--out", type=Path, default=Path("sample.csv"))
    args = parser.parse_args()
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
