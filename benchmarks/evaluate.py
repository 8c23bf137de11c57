"""Compare the throughput of complete evaluation runs with the throughput of one sequence per row.

The evaluations are a 2x2 benchmark by log P(Yes) (2 captions per image), SugarCrepe (10 captions per image, as the
7,511 pairs have 1,560 images), POPE by likelihood (18 questions per image), and 6 short questions per image by
generation. In the baseline ("alone"), each question has a separate row with its own image, and the fastest of several
batch sizes is used. The scores of "Yes" and "No" are read from one row. For generation, the baseline is transformers'
``generate`` in batches. Rates are in items per second, because the slow baseline runs on fewer images than this
project's runner.

The runner's time includes the time to read images, make prompts, store replies and compute scores. ``other_share`` is
the share of this time that is spent outside the vision tower, the decoder and the LM head. During generation, this
share includes batching.

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
from score import OBJECTS, one_sequence_per_row
from shapes import SHAPES, noise_image, read_captions, save_internvl, swap_two_words
from timing import in_turn, stopwatch

# Questions per image.
QUESTIONS = {"pope": 18, "generation": 6}
PROTOCOLS = {"2x2": "standard", "sugarcrepe": "standard", "pope": "likelihood", "generation": "standard"}


def images(count: int, pixels: int) -> dict[str, Any]:
    """Return a dictionary from image ids to noise images as PNG bytes."""
    from scramble.records import ImageFile

    files = {}
    for n in range(count):
        stream = io.BytesIO()
        noise_image(n, pixels).save(stream, "PNG")
        files[str(n)] = ImageFile(bytes=stream.getvalue())
    return files


def make(shape: str, count: int, pixels: int, data: str | None) -> Any:
    """Make a benchmark of the given shape on ``count`` images."""
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
                    Item(CaptionChoice(f"{n}/{k}", (str(n),), (text, swap_two_words(text, k)), 0, "swap"), "captions")
                )
    else:
        for n in range(count):
            for k in range(QUESTIONS[shape]):
                text = f"Is there a {OBJECTS[k % 9]} in the {'image' if k < 9 else 'picture'}?"
                items.append(Item(Question(f"{n}/{k}", (str(n),), text, "yes", "random"), "yes_no"))
    scoring = "plain" if shape in ("2x2", "sugarcrepe") else "pope"
    return Benchmark(shape, "synthetic", tuple(items), images(count, pixels), scoring)


def measure(vlm: Any, shape: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the items per second of the runner, and of one sequence per row at each batch size."""
    from scramble.evaluation.protocols import named_protocol, queries

    protocol = replace(named_protocol(PROTOCOLS[shape]), max_new_tokens=args.new_tokens)
    benchmark = make(shape, args.images, args.pixels, args.data)
    fewer = make(shape, args.alone_images, args.pixels, args.data)
    fewer_queries = [query for item in fewer.items for query in queries(item, protocol, fewer)]
    alone = _generate_alone if shape == "generation" else _score_alone
    methods: dict[str, Any] = {"runner": partial(_run, vlm, benchmark, protocol, args.batch_tokens)}
    methods |= {f"alone, batch {rows}": alone(vlm, fewer_queries, fewer, rows) for rows in args.rows}
    in_turn({"runner": methods["runner"]}, 1)  # warm-up
    clock = time.process_time if args.processor_time else time.perf_counter
    seconds, results = in_turn(methods, args.repeats, clock)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rates = {name: len(fewer.items) / median for name, median in medians.items()}
    rates["runner"] = len(benchmark.items) / medians["runner"]
    best = max(rate for name, rate in rates.items() if name != "runner")
    return {
        "items": {"runner": len(benchmark.items), "alone": len(fewer.items)},
        "seconds": {name: [round(value, 3) for value in times] for name, times in seconds.items()},
        "items_per_second": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio": round(rates["runner"] / best, 2),
        "other_share": round(results["runner"], 4),
    }


def _run(vlm: Any, benchmark: Any, protocol: Any, batch_tokens: int | None) -> float:
    """Run the benchmark once and return the share of time that is spent outside the model."""
    from scramble.evaluation.runner import ModelId, evaluate
    from scramble.models import generation

    score = importlib.import_module("scramble.trie.score")  # the package exports a function of this name

    with (
        tempfile.TemporaryDirectory() as out,
        stopwatch(score, "encode_images", "logprobs") as scoring,
        stopwatch(generation, "encode_images", "embed") as embedding,
        # In scoring, the time of logprobs includes the decoder.
        stopwatch(vlm.backbone, *["decode"] if benchmark.name == "generation" else []) as decoding,
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
    return 1 - sum(scoring + embedding + decoding + heading) / whole


def _score_alone(vlm: Any, queries: Iterable[Any], benchmark: Any, rows: int) -> Any:
    """Return a function that scores each query in a separate row."""
    from scramble.evaluation.prompts import QueryEncoder, open_images
    from scramble.evaluation.responses import group_by_images

    encoder = QueryEncoder(vlm.family, vlm.processor)
    # "No" does not need a separate row, because it is read at the position of "Yes". As in the runner, images and
    # prompts are prepared once per image.
    groups = group_by_images(replace(query, candidates=query.candidates[:1]) for query in queries)

    @torch.no_grad()
    def score() -> None:
        tries = [encoder.trie_item(group, open_images(group[0].image_ids, benchmark.images, None)) for group in groups]
        one_sequence_per_row(vlm, tries, rows, share_images=False)

    return score


def _generate_alone(vlm: Any, queries: Iterable[Any], benchmark: Any, rows: int) -> Any:
    """Return a function that generates the answer to each query in a separate row."""
    from scramble.evaluation.prompts import QueryEncoder, open_images
    from scramble.evaluation.responses import group_by_images

    encoder = QueryEncoder(vlm.family, vlm.processor)
    groups = group_by_images(queries)

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
    """Generate answers with transformers' ``generate`` on left-padded batches of ``rows`` prompts."""
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
    """Parse the command line, run the benchmarks and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="40m")
    parser.add_argument("--only", choices=PROTOCOLS, nargs="+", default=list(PROTOCOLS))
    parser.add_argument(
        "--data", help='JSONL file whose rows have the keys "image" and "caption"; captions are synthetic by default'
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--alone-images", type=int, default=2, help="number of images for the baseline")
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument(
        "--batch-tokens", type=int, help="positions per forward pass; the default depends on the device"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8], help="batch sizes of the baseline")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--processor-time", action="store_true", help="measure CPU time (for a busy machine, with --threads 1)"
    )
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    from scramble.models import load_vlm

    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    texts += [f"Is there a {name} in the image? Yes No" for name in OBJECTS]
    with tempfile.TemporaryDirectory() as folder:
        vlm = load_vlm(save_internvl(Path(folder) / "model", SHAPES[args.shape], texts), dtype="float32")
        results = {}
        for shape in args.only:
            results[shape] = measure(vlm, shape, args)
            print(shape, json.dumps(results[shape]), flush=True)
    if args.json:
        settings = {**vars(args), "torch": torch.__version__}
        Path(args.json).write_text(json.dumps({**settings, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
