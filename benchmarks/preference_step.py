"""Speed and memory of a preference step: this project's trainer beside TRL's DPOTrainer, on the same pairs and model.

Each side runs in its own process; they take steps in turn, so that both meet the same machine. Random weights and
noise images: only shapes and lengths matter. Run on an idle machine:

    python benchmarks/preference_step.py --captions 1 --json step1.json
    python benchmarks/preference_step.py --captions 5 --data captions.jsonl
    python benchmarks/preference_step.py --curve --steps 3

``--data`` takes a JSONL with "image" and "caption"; without it captions of the same length are made up.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from floor import count_products, floating_point_operations, floor_seconds, matrix_rate
from shapes import SHAPES, Shape, image_tokens, make_pairs, read_captions, save_internvl

HERE = Path(__file__).parent
MARK = "@@"
TRL_SIDES = ("trl", "trl-checkpointing")


class Side:
    """A process that takes one step when told to."""

    def __init__(self, name: str, arguments: list[str], threads: int) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONWARNINGS": "ignore",
        }
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "preference_sides.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        while not self.facts.get("ready"):
            self.facts |= self._read()

    def step(self) -> None:
        """Take one step and note its seconds."""
        self._send("step")
        found = self._read()
        self.seconds.append(found["seconds"])
        self.cpu_seconds.append(found["cpu_seconds"])

    def finish(self) -> None:
        """End the process; its memory is in ``facts`` then."""
        self._send("end")
        self.facts |= self._read()
        self.process.wait()

    def _send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self.log.seek(0)
        raise RuntimeError(f"the process of {self.name} ended:\n{self.log.read()[-3000:]}")


def measure(args: argparse.Namespace, model: Path, captions: int) -> dict[str, Any]:
    """Steps of every side in turn; medians, rates, memory and ratios."""
    common = ["--model", str(model), "--device", args.device, "--images", str(args.images)]
    common += ["--captions", str(captions), "--distinct-images", str(args.distinct_images)]
    common += ["--data", args.data] if args.data else []
    ours = ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    options = {"scramble": ours}
    if args.feature_cache:
        options["scramble-features"] = [*ours, "--feature-cache"]
    if args.reference_in_step:
        options["scramble-reference-in-step"] = [*ours, "--reference-in-step"]
    if not args.only_scramble:
        options |= {name: [] for name in TRL_SIDES}
    sides = []
    for name, more in options.items():
        program = "scramble" if name.startswith("scramble") else name
        sides.append(Side(name, [program, *common, *more], args.threads))
    for _ in range(args.warmup + args.steps):
        for side in sides:
            side.step()
    for side in sides:
        side.finish()

    pairs = args.images * captions
    tokens = sequence_tokens(args, model, captions)
    result: dict[str, Any] = {"captions": captions, "pairs_a_step": pairs, "sequence_tokens_a_step": tokens}
    for side in sides:
        seconds = side.seconds[args.warmup :]
        median = statistics.median(seconds)
        result[side.name] = {
            "seconds_a_step": round(median, 4),
            "cpu_seconds_a_step": round(statistics.median(side.cpu_seconds[args.warmup :]), 4),
            "all_seconds": [round(value, 4) for value in seconds],
            "pairs_per_second": round(pairs / median, 4),
            "sequence_tokens_per_second": round(tokens / median, 1),
            "peak_bytes": side.facts["device_peak"] or side.facts["peak"],
            "peak_bytes_above_loaded": side.facts["device_peak"] or side.facts["peak"] - side.facts["loaded"],
            **{key: value for key, value in side.facts.items() if "fill" in key or "feature" in key},
        }
    if not args.only_scramble:
        result["ratios"] = ratios(result, pairs)
    result["floor"] = floor(args, model, captions, result["scramble"]["seconds_a_step"])
    return result


def ratios(result: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Against the faster of TRL's two settings; over 1 and 3 epochs with the time to fill the reference cache."""
    best = min(TRL_SIDES, key=lambda name: result[name]["seconds_a_step"])
    theirs, found = result[best], {"against": best}
    for name in [name for name in result if name.startswith("scramble")]:
        ours = result[name]
        fill = 0.0 if name.endswith("in-step") else ours["fill_seconds_per_pair"] * pairs
        step = ours["seconds_a_step"]
        found[name] = {
            "warm_steps": round(theirs["seconds_a_step"] / step, 2),
            "warm_steps_cpu_time": round(theirs["cpu_seconds_a_step"] / ours["cpu_seconds_a_step"], 2),
            "one_epoch_with_fill": round(theirs["seconds_a_step"] / (step + fill), 2),
            "three_epochs_with_fill": round(3 * theirs["seconds_a_step"] / (3 * step + fill), 2),
            "peak_memory": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
            "peak_memory_above_loaded": round(ours["peak_bytes_above_loaded"] / theirs["peak_bytes_above_loaded"], 3),
        }
    return found


def sequence_tokens(args: argparse.Namespace, model: Path, captions: int) -> int:
    """Tokens a step, each sequence counted whole: the same for every side."""
    return sum(len(ids) for item in step_items(args, model, captions) for ids in item.sequences)


def step_items(args: argparse.Namespace, model: Path, captions: int) -> list[Any]:
    """The tries of one step, without pixels."""
    from preference_sides import PROMPT

    from scramble import models
    from scramble.trie import TrieItem

    processor_of = models.load(model)
    family, processor = processor_of.family, processor_of.processor
    size = (args.pixels * 3 // 4, args.pixels)
    rendered = family.render_prompt(processor, PROMPT, 1)
    ids = processor.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    image_id = next(iter(family.feature_tokens(processor_of.model.config)))
    place = ids.index(image_id)
    prompt = ids[:place] + [image_id] * (family.image_lengths(processor, [size])[0]) + ids[place + 1 :]
    items: dict[int, tuple[list[list[int]], list[list[bool]]]] = {}
    for row in make_pairs(read_captions(args.data, args.images, captions)):
        sequences, scored = items.setdefault(row["image"], ([], []))
        for kind in ("chosen", "rejected"):
            completion = family.encode_completion(processor, row[kind])
            sequences.append(prompt + completion)
            scored.append([False] * len(prompt) + [True] * len(completion))
    return [TrieItem(sequences, scored, None, str(image)) for image, (sequences, scored) in items.items()]


def floor(args: argparse.Namespace, model: Path, captions: int, step_seconds: float) -> dict[str, Any]:
    """What a step must do at least, and the fraction of the machine's rate that the step reaches.

    On a CPU the products are timed alone; on a GPU their operations are divided by the rate of a large bf16 product
    (model FLOP utilisation).
    """
    parts = count_products(model, step_items(args, model, captions))
    operations = floating_point_operations(parts)
    if args.device == "cuda":
        rate = matrix_rate()
        return {"flop": operations, "flop_a_second": rate, "utilisation": round(operations / step_seconds / rate, 3)}
    seconds = floor_seconds(parts, args.threads)
    total = sum(seconds.values())
    return {
        "flop": operations,
        "seconds": {name: round(value, 4) for name, value in seconds.items()} | {"total": round(total, 4)},
        "fraction_reached": round(total / step_seconds, 3),
    }


def describe(args: argparse.Namespace, shape: Shape) -> dict[str, Any]:
    """What was run, where, with which versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {
        "command": " ".join(["python", *sys.argv]),
        "shape": {"name": args.shape, **shape.__dict__, "image_tokens": image_tokens(shape)},
        "threads": args.threads,
        "cores": os.cpu_count(),
        "cpu": cpu,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "peft")},
        "captions_from": args.data or "made up, COCO's lengths",
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="40m")
    parser.add_argument("--data", help="JSONL with image and caption")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=2, help="images a step")
    parser.add_argument("--captions", type=int, default=1, help="pairs an image")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--distinct-images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in this project's trainer")
    parser.add_argument("--feature-cache", action="store_true", help="also with the tower's features on disk")
    parser.add_argument("--reference-in-step", action="store_true", help="also without a reference cache")
    parser.add_argument("--only-scramble", action="store_true")
    parser.add_argument("--curve", action="store_true", help="over 1, 2, 5, 10 captions and 64 to 1024 image tokens")
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()

    shape = SHAPES[args.shape]
    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    report: dict[str, Any] = describe(args, shape)
    with tempfile.TemporaryDirectory() as folder:
        dtype = "float32" if args.device == "cpu" else "bfloat16"
        if args.curve:
            model = save_internvl(Path(folder) / "model", shape, texts, dtype)
            report["by_captions"] = [measure(args, model, captions) for captions in (1, 2, 5, 10)]
            report["by_image_tokens"] = []
            for size in (224, 448, 672, 896):
                sized = replace(shape, image_size=size)
                model = save_internvl(Path(folder) / str(size), sized, texts, dtype)
                row = {"image_tokens": image_tokens(sized), **measure(args, model, args.captions)}
                report["by_image_tokens"].append(row)
        else:
            model = save_internvl(Path(folder) / "model", shape, texts, dtype)
            report["result"] = measure(args, model, args.captions)
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
