"""Evaluation throughput: whole runs of the runner beside one sequence a forward row, and generation on a shared prefix.

Shapes: a 2x2 set by log P(Yes) (2 captions an image), SugarCrepe (10 captions an image: 7,511 pairs on 1,560 images),
POPE by likelihood (18 questions an image), and 6 short questions an image by generation. "Alone" gives each sequence a
row of its own with its own image, at the best of several batch sizes; generation alone is transformers' ``generate``.
The runner's time includes images, prompts, replies on disk and scores; ``other`` is its share outside the model.

    python benchmarks/evaluate.py --json evaluate.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from score import OBJECTS, one_sequence_a_row
from shapes import SHAPES, noise_image, read_captions, save_internvl, swap_two_words


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
    from scramble.records import Quad, Question

    captions = read_captions(data, count, 5)
    items: list[Item] = []
    if shape == "2x2":
        for n in range(0, count - 1, 2):
            text = captions[n][0]
            items.append(Item(Quad(str(n), (str(n), str(n + 1)), (text, swap_two_words(text, n))), "quad"))
    elif shape == "sugarcrepe":
        for n in range(count):
            for k, text in enumerate(captions[n]):
                items.append(
                    Item(CaptionChoice(f"{n}/{k}", str(n), (text, swap_two_words(text, k)), 0, "swap"), "captions")
                )
    else:
        for n in range(count):
            for k in range(18 if shape == "pope" else 6):
                text = f"Is there a {OBJECTS[k % 9]} in the {'image' if k < 9 else 'picture'}?"
                items.append(Item(Question(f"{n}/{k}", (str(n),), text, "yes", "random"), "yes_no"))
    scoring = "plain" if shape in ("2x2", "sugarcrepe") else "pope"
    return Benchmark(shape, "made-up", tuple(items), images(count, pixels), scoring)


def clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scored(loaded: Any, benchmark: Any, protocol: str, args: argparse.Namespace) -> dict[str, Any]:
    """The runner and one sequence a row on the same queries."""
    from scramble.evaluation.prompts import PromptEncoder, open_images
    from scramble.evaluation.protocols import queries, resolve
    from scramble.evaluation.responses import group_by_images
    from scramble.evaluation.runner import ModelId, evaluate

    chosen = resolve(protocol, benchmark)
    groups = group_by_images(query for item in benchmark.items for query in queries(item, chosen, benchmark))
    encoder = PromptEncoder(loaded.family, loaded.processor)
    tries = [encoder.trie_item(group, open_images(group[0].image_ids, benchmark.images, None)) for group in groups]
    alone = {
        rows: clock(lambda rows=rows: one_sequence_a_row(loaded, tries, rows, share_images=False)) for rows in args.rows
    }
    runs = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as out:
            seconds = time.perf_counter()
            result = evaluate(
                loaded, [benchmark], protocol, out, model_id=ModelId("benchmark", "0"), test_groups=0,
                batch_tokens=args.batch_tokens,
            )[0]  # fmt: skip
            runs.append((time.perf_counter() - seconds, result.times))
    best = min(runs, key=lambda run: run[0])
    count = len(benchmark.items)
    return {
        "items": count,
        "runner_items_per_second": round(count / best[0], 3),
        "alone_items_per_second": {rows: round(count / seconds, 3) for rows, seconds in alone.items()},
        "ratio": round(min(alone.values()) / best[0], 2),
        "other_share_of_runner": round(best[1]["other_seconds"] / best[0], 4),
    }


def generated(loaded: Any, benchmark: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Six short answers an image: shared prefix against ``generate`` in batches of several sizes."""
    from scramble.models.generation import generate_ids
    from scramble.evaluation.prompts import PromptEncoder

    encoder = PromptEncoder(loaded.family, loaded.processor)
    texts: dict[str, list[str]] = {}
    for item in benchmark.items:
        texts.setdefault(item.image_ids[0], []).append(item.record.question)
    groups = [encoder.prompts(asked, [benchmark.images[image].open()]) for image, asked in texts.items()]
    limits = [[args.new_tokens] * len(group) for group in groups]
    shared = min(clock(lambda: generate_ids(loaded, groups, limits)) for _ in range(args.repeats))
    flat = [prompt for group in groups for prompt in group]
    alone = {rows: clock(partial(_plain_generate, loaded, flat, rows, args.new_tokens)) for rows in args.rows}
    return {
        "questions": len(flat),
        "new_tokens": args.new_tokens,
        "shared_questions_per_second": round(len(flat) / shared, 3),
        "alone_questions_per_second": {rows: round(len(flat) / seconds, 3) for rows, seconds in alone.items()},
        "ratio": round(min(alone.values()) / shared, 2),
    }


def _plain_generate(loaded: Any, prompts: list[Any], rows: int, new_tokens: int) -> None:
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        length = max(len(prompt.input_ids) for prompt in part)
        ids = torch.tensor([[0] * (length - len(p.input_ids)) + p.input_ids for p in part])
        mask = torch.tensor([[0] * (length - len(p.input_ids)) + [1] * len(p.input_ids) for p in part])
        pixels = torch.cat([p.images["pixel_values"] for p in part])
        loaded.model.generate(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=new_tokens, do_sample=False
        )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="40m")
    parser.add_argument("--data", help="JSONL with image and caption; without it captions are made up")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8], help="batch sizes of one sequence a row")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    from scramble import models

    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    texts += [f"Is there a {name} in the image? Yes No" for name in OBJECTS]
    with tempfile.TemporaryDirectory() as folder:
        loaded = models.load(save_internvl(Path(folder) / "model", SHAPES[args.shape], texts), dtype="float32")
        results = {
            shape: scored(loaded, make(shape, args.images, args.pixels, args.data), protocol, args)
            for shape, protocol in (("2x2", "standard"), ("sugarcrepe", "standard"), ("pope", "likelihood"))
        }
        results["generation"] = generated(loaded, make("short", args.images, args.pixels, args.data), args)
    settings = {"shape": args.shape, "threads": args.threads, "torch": torch.__version__}
    text = json.dumps({**settings, "results": results}, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
