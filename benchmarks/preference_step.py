"""Speed and memory of a preference step: this project's trainer beside TRL's DPOTrainer, on the same pairs and model.

Each side runs in its own process; they take steps in turn, so that all meet the same machine. Random weights and noise
images: only shapes and lengths matter. Run on an idle machine:

    python benchmarks/preference_step.py --captions 1 --feature-cache --json step1.json
    python benchmarks/preference_step.py --captions 5 --data captions.jsonl
    python benchmarks/preference_step.py --curve --images 1 --steps 2 --json curve.json
    python benchmarks/preference_step.py --shape molmo-40m --captions 5

TRL cannot train Molmo v1; there a plain loop with a sequence a row takes its place (``--rows`` adds it elsewhere).
``--data`` takes a JSONL with "image" and "caption"; without it captions of the same length are made up. On a GPU see
benchmarks/gpu.sh.
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

from shapes import MOLMO_SHAPES, SHAPES, Shape, read_captions, save_model

HERE = Path(__file__).parent
MARK = "@@"
CAPTIONS, IMAGE_SIZES = (1, 2, 5, 10), (224, 448, 672, 896)


class SideError(RuntimeError):
    """A side that ended too early."""


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
            self.facts |= self.read()

    def step(self) -> None:
        """Take one step and note its seconds."""
        self.send("step")
        found = self.read()
        self.seconds.append(found.pop("seconds"))
        self.cpu_seconds.append(found.pop("cpu_seconds"))
        self.facts |= found

    def send(self, line: str) -> None:
        """Tell the process something."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """What the process says next. Raises SideError if it ended."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self.log.seek(0)
        raise SideError(f"the process of {self.name} ended:\n{self.log.read()[-3000:]}")


def sides_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Names of the sides and their own options."""
    ours = ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    sides = {"scramble": ["scramble", *ours]}
    if args.feature_cache:
        sides["scramble-features"] = ["scramble", *ours, "--feature-cache"]
    if args.dense_mask:
        sides["scramble-dense-mask"] = ["scramble", *ours, "--attention", "sdpa"]
    if args.reference_in_step:
        sides["scramble-reference-in-step"] = ["scramble", *ours, "--reference-in-step"]
    if not args.only_scramble:
        peers = [] if args.shape in MOLMO_SHAPES else ["trl"]
        peers += ["rows"] if args.rows or not peers else []
        sides |= {name: [name] for peer in peers for name in (peer, f"{peer}-checkpointing")}
    return {name: side for name, side in sides.items() if not args.sides or name in args.sides}


def measure(args: argparse.Namespace, model: Path, captions: int) -> dict[str, Any]:
    """Steps of every side in turn; medians, rates, memory and ratios."""
    common = ["--model", str(model), "--device", args.device, "--dtype", args.dtype, "--images", str(args.images)]
    common += ["--captions", str(captions), "--distinct-images", str(args.distinct_images)]
    common += ["--pixels", str(args.pixels), "--steps", str(args.warmup + args.steps)]
    common += ["--batch-tokens", str(1024 if args.device == "cpu" else 8192)]
    common += ["--data", args.data] if args.data else []
    options = sides_of(args)
    result: dict[str, Any] = {"captions": captions, "images_a_step": args.images}
    for names in [[name] for name in options] if args.one_at_a_time else [list(options)]:
        sides: dict[str, Side] = {}
        for name in names:
            try:
                sides[name] = Side(name, [*options[name], *common], args.threads)
            except SideError as error:
                result[name] = {"failed": last_line(error)}
        for _ in range(args.warmup + args.steps):
            for name, side in list(sides.items()):
                try:
                    side.step()
                except SideError as error:
                    result[name] = {"failed": last_line(error)}
                    del sides[name]
        finish(args, sides)
        result |= {name: figures(args, side, args.images * captions) for name, side in sides.items()}
    common_facts(result)
    ratios = compare(result, args.images * captions)
    return result | ({"ratios": ratios} if ratios else {})


def last_line(error: SideError) -> str:
    """Why a side ended (out of memory, say)."""
    return str(error).strip().splitlines()[-1]


def finish(args: argparse.Namespace, sides: dict[str, Side]) -> None:
    """Hear what each side found out, and let it end; the floor is measured once all others have."""
    ours = [side for side in sides.values() if side.name.startswith("scramble")]
    for side in ours:
        side.facts |= side.read()
        if side.name != "scramble":
            side.send("end")
    for side in sides.values():
        if side.name != "scramble":
            side.process.wait()
    if "scramble" in sides:
        side = sides["scramble"]
        side.send("floor")
        side.facts |= side.read()
        side.process.wait()


def figures(args: argparse.Namespace, side: Side, pairs: int) -> dict[str, Any]:
    """What was measured of one side."""
    facts, seconds = side.facts, side.seconds[args.warmup :]
    median = statistics.median(seconds)
    found: dict[str, Any] = {
        "seconds_a_step": round(median, 4),
        "cpu_seconds_a_step": round(statistics.median(side.cpu_seconds[args.warmup :]), 4),
        "all_seconds": [round(value, 4) for value in seconds],
        "pairs_per_second": round(pairs / median, 4),
        "peak_bytes": facts["device_peak"] or facts["peak"],
        "peak_bytes_above_loaded": facts["device_peak"] or facts["peak"] - facts["loaded"],
    }
    if "reference_seconds" in facts:
        found["reference_seconds_a_pair"] = round(facts["reference_seconds"] / facts["pairs"], 4)
        found["features_seconds_a_pair"] = round(facts["features_seconds"] / facts["pairs"], 4)
        found["features_bytes"] = facts["features_bytes"]
    found |= {key: facts[key] for key in ("image_tokens", "sequence_tokens_a_step") if key in facts}
    return found | _floor(facts, median)


def _floor(facts: dict[str, Any], median: float) -> dict[str, Any]:
    """The work that a step must do, and the fraction of the machine's rate that the step reaches."""
    found = {key: facts[key] for key in ("flop", "flop_without_tower", "flop_a_second") if key in facts}
    if "flop_a_second" in facts:
        found["utilisation"] = round(facts["flop"] / median / facts["flop_a_second"], 3)
    if "floor_seconds" in facts:
        parts = facts["floor_seconds"]
        found["floor_seconds"] = {name: round(value, 4) for name, value in parts.items()}
        found["floor_total"] = round(sum(parts.values()), 4)
        found["floor_fraction"] = round(sum(parts.values()) / median, 3)
    return found


def common_facts(result: dict[str, Any]) -> None:
    """Token rates of all sides, and the floor of the side that runs no tower, from what the first side found."""
    first = result["scramble"]
    if "failed" in first:
        raise SystemExit(f"this project's side failed: {first['failed']}")
    tokens = result["sequence_tokens_a_step"] = first.pop("sequence_tokens_a_step")
    result["image_tokens"] = first.pop("image_tokens")
    for side in result.values():
        if isinstance(side, dict) and "seconds_a_step" in side:
            side["sequence_tokens_per_second"] = round(tokens / side["seconds_a_step"], 1)
    with_features = result.get("scramble-features")
    if with_features and "floor_seconds" in first and "seconds_a_step" in with_features:
        total = first["floor_total"] - first["floor_seconds"]["tower"]
        with_features["floor_fraction"] = round(total / with_features["seconds_a_step"], 3)
    elif with_features and "flop_a_second" in first and "seconds_a_step" in with_features:
        rate = first["flop_without_tower"] / with_features["seconds_a_step"]
        with_features["utilisation"] = round(rate / first["flop_a_second"], 3)


def compare(result: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Against the faster setting of the peer; over 1 and 3 epochs with the time to fill the caches."""
    found: dict[str, Any] = {}
    for peer in ("trl", "rows"):
        names = [n for n in (peer, f"{peer}-checkpointing") if "seconds_a_step" in result.get(n, {})]
        if not names:
            continue
        best = min(names, key=lambda name: result[name]["seconds_a_step"])
        theirs = result[best]
        for name, ours in [(n, r) for n, r in result.items() if n.startswith("scramble") and "seconds_a_step" in r]:
            fill = (ours["reference_seconds_a_pair"] + ours["features_seconds_a_pair"]) * pairs
            step = ours["seconds_a_step"]
            found[f"{name} to {best}"] = {
                "warm_steps": round(theirs["seconds_a_step"] / step, 2),
                "warm_steps_cpu_time": round(theirs["cpu_seconds_a_step"] / ours["cpu_seconds_a_step"], 2),
                "one_epoch_with_fill": round(theirs["seconds_a_step"] / (step + fill), 2),
                "three_epochs_with_fill": round(3 * theirs["seconds_a_step"] / (3 * step + fill), 2),
                "peak_memory": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
                "peak_memory_above_loaded": round(
                    ours["peak_bytes_above_loaded"] / theirs["peak_bytes_above_loaded"], 3
                ),
            }
    return found


def describe(args: argparse.Namespace, shape: Shape) -> dict[str, Any]:
    """What was run, where, with which versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    versions = ("torch", "transformers", "trl", "peft")
    found = {
        "command": " ".join(["python", *sys.argv]),
        "shape": {"name": args.shape, **shape.__dict__},
        "dtype": args.dtype,
        "threads": args.threads,
        "cores": os.cpu_count(),
        "cpu": cpu,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "captions_from": args.data or "made up, COCO's lengths",
    }
    if args.device == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES | MOLMO_SHAPES, default="40m")
    parser.add_argument("--data", help="JSONL with image and caption")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--images", type=int, default=2, help="images a step")
    parser.add_argument(
        "--captions", type=int, nargs="+", default=[1], help="pairs per image; several are measured in turn"
    )
    parser.add_argument("--steps", type=int, default=6, help="0: only make the model (--model)")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--distinct-images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in this project's trainer")
    parser.add_argument("--feature-cache", action="store_true", help="also with the tower's features on disk")
    parser.add_argument("--reference-in-step", action="store_true", help="also without a reference cache")
    parser.add_argument("--rows", action="store_true", help="also a plain loop with a sequence a row")
    parser.add_argument("--sides", nargs="+", help="only these of the chosen sides; `scramble` must be among them")
    parser.add_argument("--only-scramble", action="store_true")
    parser.add_argument("--one-at-a-time", action="store_true", help="sides one after the other, to save memory")
    parser.add_argument(
        "--dense-mask", action="store_true", help="on a GPU, also with a dense mask instead of FlexAttention"
    )
    parser.add_argument("--model", help="keep the model in this folder, and use the one that is there")
    parser.add_argument("--curve", action="store_true", help="over 1, 2, 5, 10 captions and 64 to 1024 image tokens")
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")

    shape = (SHAPES | MOLMO_SHAPES)[args.shape]
    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    report: dict[str, Any] = describe(args, shape)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(args.model or Path(folder) / "model")
        if not (model / "config.json").exists():
            save_model(model, shape, texts, args.dtype)
        if args.steps == 0:
            return
        if args.curve:
            report["by_captions"] = [measure(args, model, captions) for captions in CAPTIONS]
            report["by_image_tokens"] = []
            for size in IMAGE_SIZES:
                model = save_model(Path(folder) / str(size), replace(shape, image_size=size), texts, args.dtype)
                report["by_image_tokens"].append(measure(args, model, args.captions[0]))
        elif len(args.captions) == 1:
            report["result"] = measure(args, model, args.captions[0])
        else:
            report["by_captions"] = [measure(args, model, captions) for captions in args.captions]
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
