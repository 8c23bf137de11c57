"""Evaluation throughput: whole runs of the runner beside one sequence a forward row, and generation on a shared prefix.

Shapes: a 2x2 set by log P(Yes) (2 captions an image), SugarCrepe (10 captions an image: 7,511 pairs on 1,560 images),
POPE by likelihood (18 questions an image), and 6 short questions an image by generation. "Alone" gives each question a
row of its own with its own image, at the best of several batch sizes; the answers "Yes" and "No" are read off the same
row. Generation alone is transformers' ``generate`` in batches. Rates count items: the slow side runs on fewer images.

The runner's time is all of it: image files, prompts, replies on disk, scores. ``other`` is what the tower, the decoder
and the head did not take; the batching of generation counts as other, too.

    python benchmarks/evaluate.py --json evaluate.json
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from score import OBJECTS, one_sequence_a_row
from shapes import SHAPES, noise_image, read_captions, save_internvl, swap_two_words
from timing import in_turn, stopwatch

# Questions on one image.
QUESTIONS = {"pope": 18, "generation": 6}
PROTOCOLS = {"2x2": "standard", "sugarcrepe": "standard", "pope": "likelihood", "generation": "standard"}


def images(count: int, pixels: int) -> dict[str, Any]:
    """Noise pictures as PNG bytes."""
    from scramble.records import ImageFile

    found = {}
    for n in range(count):
        stream = io.BytesIO()
        noise_image(n, pixels).save(stream, "PNG")
        found[str(n)] = ImageFile(bytes=stream.getvalue())
    return found


def make(shape: str, count: int, pixels: int, data: str | None) -> Any:
    """A benchmark of the given shape on ``count`` images."""
    from scramble.evaluation.items import Benchmark, CaptionChoice, Item
    from scramble.records import Question, TwoByTwoItem

    captions = read_captions(data, count, 5)
    items: list[Item] = []
    if shape == "2x2":
        for n in range(0, count - 1, 2):
            text = captions[n][0]
            items.append(Item(TwoByTwoItem(str(n), (str(n), str(n + 1)), (text, swap_two_words(text, n))), "quad"))
    elif shape == "sugarcrepe":
        for n in range(count):
            for k, text in enumerate(captions[n]):
                items.append(
                    Item(CaptionChoice(f"{n}/{k}", str(n), (text, swap_two_words(text, k)), 0, "swap"), "captions")
                )
    else:
        for n in range(count):
            for k in range(QUESTIONS[shape]):
                text = f"Is there a {OBJECTS[k % 9]} in the {'image' if k < 9 else 'picture'}?"
                items.append(Item(Question(f"{n}/{k}", (str(n),), text, "yes", "random"), "yes_no"))
    scoring = "plain" if shape in ("2x2", "sugarcrepe") else "pope"
    return Benchmark(shape, "made-up", tuple(items), images(count, pixels), scoring)


def measure(vlm: Any, shape: str, args: argparse.Namespace) -> dict[str, Any]:
    """Items a second of the runner, and of one sequence a row at each batch size."""
    from scramble.evaluation.protocols import named_protocol, queries

    protocol = replace(named_protocol(PROTOCOLS[shape]), max_new_tokens=args.new_tokens)
    benchmark = make(shape, args.images, args.pixels, args.data)
    fewer = make(shape, args.alone_images, args.pixels, args.data)
    asked = [query for item in fewer.items for query in queries(item, protocol, fewer)]
    alone = _generate_alone if shape == "generation" else _score_alone
    ways: dict[str, Any] = {"runner": partial(_run, vlm, benchmark, protocol, args.batch_tokens)}
    ways |= {f"alone, batch {rows}": alone(vlm, asked, fewer, rows) for rows in args.rows}
    in_turn({name: way for name, way in ways.items() if name == "runner"}, 1)  # what the first run of all sets up
    seconds, given = in_turn(ways, args.repeats, time.process_time if args.processor_time else time.perf_counter)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rates = {name: len(fewer.items) / median for name, median in medians.items()}
    rates["runner"] = len(benchmark.items) / medians["runner"]
    best = max(rate for name, rate in rates.items() if name != "runner")
    return {
        "items": {"runner": len(benchmark.items), "alone": len(fewer.items)},
        "seconds": {name: [round(value, 3) for value in times] for name, times in seconds.items()},
        "items_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio": round(rates["runner"] / best, 2),
        "other_share": round(given["runner"], 4),
    }


def _run(vlm: Any, benchmark: Any, protocol: Any, batch_tokens: int | None) -> float:
    """One whole run; the share of its time that was not the model's."""
    from scramble.evaluation.runner import ModelId, evaluate
    from scramble.models import generation

    score = importlib.import_module("scramble.trie.score")  # the package exports a function of this name

    with (
        tempfile.TemporaryDirectory() as out,
        stopwatch(score, "encode_images", "logprobs") as scoring,
        stopwatch(generation, "_embed", "_decode") as generating,
        stopwatch(vlm.backbone.head, "forward") as heading,
    ):
        result = evaluate(
            vlm,
            [benchmark],
            protocol,
            out,
            model_id=ModelId("benchmark", "0"),
            test_groups=0,
            batch_tokens=batch_tokens,
        )[0]
    whole = result.times["model_seconds"] + result.times["other_seconds"]
    return 1 - sum(scoring + generating + heading) / whole


def _score_alone(vlm: Any, asked: Iterable[Any], benchmark: Any, rows: int) -> Any:
    from scramble.evaluation.prompts import QueryEncoder, open_images
    from scramble.evaluation.responses import group_by_images

    encoder = QueryEncoder(vlm.family, vlm.processor)
    # "No" needs no row: it is read where "Yes" is. Images and prompts are prepared once an image on this side, too.
    groups = group_by_images(replace(query, candidates=query.candidates[:1]) for query in asked)

    @torch.no_grad()
    def score() -> None:
        tries = [encoder.trie_item(group, open_images(group[0].image_ids, benchmark.images, None)) for group in groups]
        one_sequence_a_row(vlm, tries, rows, share_images=False)

    return score


def _generate_alone(vlm: Any, asked: Iterable[Any], benchmark: Any, rows: int) -> Any:
    from scramble.evaluation.prompts import QueryEncoder, open_images
    from scramble.evaluation.responses import group_by_images

    encoder = QueryEncoder(vlm.family, vlm.processor)
    groups = group_by_images(asked)

    def generate() -> None:
        prompts = [
            prompt
            for group in groups
            for prompt in encoder.prompts(
                [query.prompt for query in group], open_images(group[0].image_ids, benchmark.images, None)
            )
        ]
        _plain_generate(vlm, prompts, rows, groups[0][0].max_new_tokens)

    return generate


def _plain_generate(vlm: Any, prompts: list[Any], rows: int, new_tokens: int) -> None:
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        length = max(len(prompt.input_ids) for prompt in part)
        ids = torch.tensor([[0] * (length - len(p.input_ids)) + p.input_ids for p in part])
        mask = torch.tensor([[0] * (length - len(p.input_ids)) + [1] * len(p.input_ids) for p in part])
        pixels = torch.cat([p.images["pixel_values"] for p in part])
        vlm.model.generate(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=new_tokens, do_sample=False
        )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="40m")
    parser.add_argument("--only", choices=PROTOCOLS, nargs="+", default=list(PROTOCOLS))
    parser.add_argument("--data", help="JSONL with image and caption; without it captions are made up")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--alone-images", type=int, default=2, help="images of the slow side")
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--batch-tokens", type=int, help="positions in one forward; default by device")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8], help="batch sizes of one sequence a row")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--processor-time", action="store_true", help="on a busy machine, with --threads 1")
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    from scramble import models

    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    texts += [f"Is there a {name} in the image? Yes No" for name in OBJECTS]
    with tempfile.TemporaryDirectory() as folder:
        vlm = models.load(save_internvl(Path(folder) / "model", SHAPES[args.shape], texts), dtype="float32")
        results = {}
        for shape in args.only:
            results[shape] = measure(vlm, shape, args)
            print(shape, json.dumps(results[shape]), flush=True)
    if args.json:
        settings = {**vars(args), "torch": torch.__version__}
        Path(args.json).write_text(json.dumps({**settings, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
