"""Measure the rule-based negatives: yield, a sample to read, text-only accuracy with and without refinement, and speed.

    python benchmarks/generate.py yield    --captions captions.jsonl
    python benchmarks/generate.py sample   --captions captions.jsonl --seed 1 --out sample.csv
    python benchmarks/generate.py transfer --captions captions.jsonl --exponents 0 1.5 2 --seeds 0 1 2
    python benchmarks/generate.py speed    --captions captions.jsonl

``--captions`` names COCO's captions_*.json or a JSONL file of ``{"image": file name, "caption": text}`` rows (one row
per caption, sorted by image); ``--pipeline`` names a spaCy pipeline (``en_core_web_sm`` by default). No GPU is used.

``transfer`` divides the images into two halves, differently for each seed. Each half is refined separately, and tested
with text-only classifiers that are fitted on the pairs of the other half before or after refinement. The last lines
report the highest of all accuracies, and the highest accuracy of a classifier on the pairs of all seeds and both
directions, with intervals over images.
"""

from __future__ import annotations

import argparse
import csv
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from scramble.pairs.audit.refine import EXPONENT, TextOnlyOdds, kind_family, refine, select
from scramble.pairs.audit.text_only import CLASSIFIERS, Scorer, group_of, measured
from scramble.pairs.base import CandidateSet, Skip, seeded
from scramble.pairs.captions.assemble import caption_candidates, caption_pairs
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.captions.rules.plausibility import (
    MIN_LIFT,
    MIN_REPLACEMENT_LIFT,
    MIN_REPLACEMENT_ODDS,
    MIN_SWAP_ODDS,
)
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.files import read_json
from scramble.storage.jsonl import read_jsonl


def images_of(path: Path) -> Iterator[ImageRecord]:
    """Yield the images of a caption file with their captions."""
    for name, captions in _captions(path):
        yield ImageRecord(name, ImageFile(path=name), tuple(captions), source=path.stem)


def _captions(path: Path) -> Iterator[tuple[str, list[str]]]:
    if path.suffix == ".json":
        table: dict[int, list[str]] = {}
        content = read_json(path)
        for row in content["annotations"]:
            table.setdefault(row["image_id"], []).append(row["caption"])
        yield from ((image["file_name"], table.get(image["id"], [])) for image in content["images"])
        return
    for name, rows in groupby(read_jsonl(path), key=lambda row: row["image"]):
        yield name, [row["caption"] for row in rows]


def candidates_of(args: argparse.Namespace, images: Sequence[ImageRecord], seed: int) -> list[CandidateSet]:
    """Return the candidates for all captions of the images.

    The plausibility of swaps is learned from these captions.
    """
    args.generator.learn(text for image in images for text in image.captions)
    stream = caption_candidates(images, args.generator, per_caption=args.per_caption, seed=seed)
    return [item for item in stream if isinstance(item, CandidateSet)]


def measure_yield(args: argparse.Namespace) -> None:
    """Print the share of captions with a swap negative and with any negative, and count the candidates by kind and
    rule.
    """
    captions = sum(len(image.captions) for image in images_of(args.captions))
    args.generator.learn(text for image in images_of(args.captions) for text in image.captions)
    skipped: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    swapped, any_ = set(), set()
    pairs = caption_pairs(
        images_of(args.captions),
        args.generator,
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
    print(f"{captions} captions: {100 * len(swapped) / captions:.1f} % have a swap negative and", end=" ")
    print(f"{100 * len(any_) / captions:.1f} % have at least one negative")
    print("candidates by kind:", dict(kinds.most_common()))
    print("candidates by rule:", dict(rules.most_common()))
    print("captions without a pair:", dict(skipped.most_common()))


def draw_sample(args: argparse.Namespace) -> None:
    """Draw random refined pairs of each family for manual labelling, and write one row per pair with an empty label."""
    seen: set[tuple[str, str]] = set()
    for path in args.exclude:
        with path.open(newline="", encoding="utf-8") as file:
            seen |= {(row["chosen"], row["rejected"]) for row in csv.DictReader(file)}
    candidates = candidates_of(args, list(images_of(args.captions)), args.seed)
    pairs = refine(candidates, seed=args.seed, exponent=args.exponent)
    pairs = [pair for pair in pairs if (pair.chosen, pair.rejected) not in seen]
    drawn: list[PreferencePair] = []
    for family in ("swap", "replace"):
        members = [pair for pair in pairs if kind_family(pair.kind) == family]
        drawn += seeded(args.seed, "sample", family).sample(members, args.size)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pair_id", "kind", "rule", "chosen", "rejected", "label"])
        writer.writerows([p.pair_id, p.kind, p.rule, p.chosen, p.rejected, ""] for p in drawn)
    print(f"wrote {len(drawn)} of {len(pairs)} refined pairs to {args.out}")


class Half:
    """Draws and refines candidates of the images with one seed, and stores the features of all selected candidates."""

    def __init__(self, args: argparse.Namespace, images: Sequence[ImageRecord], seed: int) -> None:
        items = candidates_of(args, images, seed)
        pairs = [pair for item in items for pair in item.pairs]
        odds = TextOnlyOdds(pairs, [draw for item in items for draw in item.draws], seed=seed).fitted.tolist()
        place, start = {id(pair): i for i, pair in enumerate(pairs)}, 0
        selections: dict[str, list[PreferencePair]] = {
            "drawn": [pair for item in items for pair in item.pairs[: item.count]],
            **{f"exponent {exponent:g}": [] for exponent in args.exponents},
        }
        for item in items:
            values, start = odds[start : start + len(item.pairs)], start + len(item.pairs)
            for exponent in args.exponents:
                selections[f"exponent {exponent:g}"] += select(item, values, seed=seed, exponent=exponent)
        used = sorted({place[id(pair)] for members in selections.values() for pair in members})
        row = {index: i for i, index in enumerate(used)}
        self.rows: dict[tuple[str, str], list[int]] = {}  # by selection and family
        for name, members in selections.items():
            for family in ("swap", "replace"):
                self.rows[name, family] = [row[place[id(p)]] for p in members if kind_family(p.kind) == family]
        selected = [pairs[index] for index in used]
        self.images = [group_of(pair) for pair in selected]
        self.features = {name: classifier.features(selected) for name, classifier in CLASSIFIERS.items()}
        self._scorers: dict[tuple[str, str, str], Scorer] = {}

    def scorer(self, classifier: str, selection: str, family: str) -> Scorer:
        """Return a classifier that is fitted on the pairs of a family and selection."""
        key = (classifier, selection, family)
        if key not in self._scorers:
            rows = self.rows[selection, family]
            self._scorers[key] = CLASSIFIERS[classifier].fit(self.features[classifier][rows], None)
        return self._scorers[key]


@dataclass(frozen=True)
class Transfer:
    """Stores the scores of one classifier on the pairs of a family and selection in one half of the images.

    Attributes:
        share: percentage of the drawn pairs that the selection contains.
        fitted: the selection of the other half on which the classifier was fitted.
        scores: score per pair (n,), positive if the classifier picks the chosen text.
        images: image of each pair.
    """

    family: str
    selection: str
    share: float
    classifier: str
    fitted: str
    scores: list[float]
    images: list[str]

    @property
    def group(self) -> tuple[str, str, str]:
        """The family, the selection, and whether the classifier is the language model, which is reported separately."""
        return self.family, self.selection, "language model" if self.classifier == "language model" else "classifier"

    def accuracy(self, seed: int) -> tuple[float, str]:
        """Return the accuracy in percent, and its text with the 95 % interval over images."""
        result = measured(self.classifier, np.array(self.scores), self.images, seed=seed)
        low, high = result.interval
        text = f"{result.accuracy:.1f} [{low:.1f}, {high:.1f}] {self.classifier} fitted on {self.fitted}"
        return result.accuracy, text


def transfers(judged: Half, other: Half) -> Iterator[Transfer]:
    """Score the pairs of one half with classifiers that were fitted on drawn or selected pairs of the other half."""
    for (selection, family), rows in judged.rows.items():
        share = 100 * len(rows) / len(judged.rows["drawn", family])
        images = [judged.images[i] for i in rows]
        for name in CLASSIFIERS:
            for fitted in dict.fromkeys(("drawn", selection)):
                scores = other.scorer(name, fitted, family)(judged.features[name][rows])
                yield Transfer(family, selection, share, name, fitted, scores.tolist(), images)


def pooled(members: Sequence[Transfer]) -> Iterator[Transfer]:
    """Concatenate the scores of all seeds and directions, for each classifier and each selection used to fit it."""
    for name, fitted in dict.fromkeys((each.classifier, each.fitted) for each in members):
        same = [each for each in members if (each.classifier, each.fitted) == (name, fitted)]
        scores = [score for each in same for score in each.scores]
        yield replace(same[0], scores=scores, images=[image for each in same for image in each.images])


def measure_transfer(args: argparse.Namespace) -> None:
    """Print the transfer accuracy of each family and classifier by exponent, seed and direction."""
    images = list(images_of(args.captions))
    groups: dict[tuple[str, str, str], list[Transfer]] = {}
    accuracies: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for seed in args.seeds:
        order = seeded(seed, "halves").sample(images, len(images))
        halves = [Half(args, half, seed) for half in (order[::2], order[1::2])]
        for each in chain(transfers(*halves), transfers(*halves[::-1])):
            accuracy = each.accuracy(seed)
            print(f"seed {seed}, {each.family}, {each.selection}, {len(each.scores)} pairs: {accuracy[1]}", flush=True)
            groups.setdefault(each.group, []).append(each)
            accuracies.setdefault(each.group, []).append(accuracy)
    for (family, selection, kind), members in groups.items():
        shares = [each.share for each in members]
        print(f"{family}, {selection}: kept {min(shares):.0f} to {max(shares):.0f} %; {kind}: ", end="")
        print(max(accuracies[family, selection, kind])[1], end="; ")
        print(f"all seeds and directions together: {max(each.accuracy(0) for each in pooled(members))[1]}")


def measure_speed(args: argparse.Namespace) -> None:
    """Print the captions per second of the parser alone and of the whole generator, and the memory at two data sizes.

    The parser and the generator run alternately three times, and the fastest run of each is used. The times are CPU
    seconds, so that other work on the machine hardly affects their ratio.
    """
    from scramble.language.spacy_pipeline import load_pipeline
    from scramble.pairs.captions.rules.generator import CHUNK
    from scramble.pairs.captions.surface import normalise

    nlp, generator = load_pipeline(args.pipeline, "tagger", "parser"), args.generator
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
    """Yield the images repeatedly, with new ids, until there are at least ``captions`` captions."""
    total, round_number = 0, 0
    while True:
        for image in images:
            if total >= captions:
                return
            total += len(image.captions)
            yield ImageRecord(f"{round_number}-{image.image_id}", image.image, image.captions)
        round_number += 1


COMMANDS = {"yield": measure_yield, "sample": draw_sample, "transfer": measure_transfer, "speed": measure_speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--pipeline", default="en_core_web_sm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-lift", type=float, default=MIN_LIFT, help="minimum plausibility of swaps")
    parser.add_argument(
        "--min-replacement-lift", type=float, default=MIN_REPLACEMENT_LIFT, help="minimum plausibility of replacements"
    )
    parser.add_argument(
        "--min-replacement-odds",
        type=float,
        default=MIN_REPLACEMENT_ODDS,
        help="minimum log-odds of new words relative to old words",
    )
    parser.add_argument(
        "--min-swap-odds", type=float, default=MIN_SWAP_ODDS, help="minimum log-odds of moved numbers and attributes"
    )
    parser.add_argument("--size", type=int, default=100, help="sample: pairs per family")
    parser.add_argument("--exponent", type=float, default=EXPONENT, help="sample: exponent of the refinement")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="sample: CSV files of pairs to exclude")
    parser.add_argument("--per-caption", type=int, default=2, help="sample, transfer: negatives per caption")
    parser.add_argument(
        "--exponents", type=float, nargs="+", default=[0.0, 2.0], help="transfer: exponents of the refinement"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="transfer: seeds of the halves, the sampling and the refinement",
    )
    parser.add_argument(
        "--captions-max", type=int, default=20_000, help="speed: number of captions in the larger run for peak memory"
    )
    parser.add_argument("--out", type=Path, default=Path("sample.csv"))
    args = parser.parse_args()
    args.generator = RuleGenerator(
        args.pipeline,
        min_lift=args.min_lift,
        min_replacement_lift=args.min_replacement_lift,
        min_replacement_odds=args.min_replacement_odds,
        min_swap_odds=args.min_swap_odds,
    )
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
