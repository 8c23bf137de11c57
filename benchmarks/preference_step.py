"""Compare speed and memory of a preference step in this project's trainer and in TRL's DPOTrainer.

Each implementation ("side") runs in its own process, on the same pairs and model. They take steps in turn, so that all
run under the same load. Weights are random and images are noise, because only shapes and lengths matter. Run it on an
idle machine:

    python benchmarks/preference_step.py --captions 1 --feature-cache --json step1.json
    python benchmarks/preference_step.py --captions 5 --data captions.jsonl
    python benchmarks/preference_step.py --curve --images 1 --steps 2 --json curve.json
    python benchmarks/preference_step.py --shape qwen-40m --captions 5
    python benchmarks/preference_step.py --shape molmo-40m --captions 5

On a CPU, TRL's output head runs at all positions; ``trl-answers`` is TRL with an output head that runs only at answer
positions, as it does on a GPU. TRL cannot train Molmo v1; there the comparison is a plain loop with one sequence per
row (``--rows`` adds it for other models). ``--data`` takes a JSONL file with "image" and "caption"; without it,
synthetic captions of the same length are used. For GPUs see benchmarks/gpu.sh.
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

from shapes import ALL_SHAPES, MOLMO_SHAPES, Shape, read_captions, save_model

HERE = Path(__file__).parent
MARK = "@@"
PEERS = ("trl", "trl-answers", "rows")
CAPTIONS, IMAGE_SIZES = (1, 2, 5, 10), (224, 448, 672, 896)


class SideError(RuntimeError):
    """The process of a side ended too early."""


class Side:
    """A process that takes one step per request."""

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
        """Take one step and record its seconds."""
        self.send("step")
        reply = self.read()
        self.seconds.append(reply.pop("seconds"))
        self.cpu_seconds.append(reply.pop("cpu_seconds"))
        self.facts |= reply

    def send(self, line: str) -> None:
        """Send a line to the process."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """Read the next message of the process. Raises SideError if it ended."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self.log.seek(0)
        raise SideError(f"the process of {self.name} ended:\n{self.log.read()[-3000:]}")


def sides_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the options of the sides by name."""
    ours = ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    sides = {"scramble": ["scramble", *ours]}
    if args.feature_cache:
        sides["scramble-features"] = ["scramble", *ours, "--feature-cache"]
    if args.dense_mask:
        sides["scramble-dense-mask"] = ["scramble", *ours, "--attention", "sdpa"]
    if args.reference_in_step:
        sides["scramble-reference-in-step"] = ["scramble", *ours, "--reference-in-step"]
    if not args.only_scramble:
        # On a GPU they are the same: with Triton, TRL's head runs only at answer positions.
        trl = ["trl", "trl-answers"] if args.device == "cpu" else ["trl"]
        peers = [] if args.shape in MOLMO_SHAPES else trl
        peers += ["rows"] if args.rows or not peers else []
        sides |= {name: [name] for peer in peers for name in (peer, f"{peer}-checkpointing")}
    return {name: side for name, side in sides.items() if not args.sides or name in args.sides}


def measure(args: argparse.Namespace, model: Path, captions: int) -> dict[str, Any]:
    """Run the steps of all sides in turn; return medians, rates, memory and ratios."""
    common = ["--model", str(model), "--device", args.device, "--dtype", args.dtype, "--images", str(args.images)]
    common += ["--captions", str(captions), "--distinct-images", str(args.distinct_images)]
    height = args.pixels if ALL_SHAPES[args.shape].keeps_aspect_ratio else args.pixels * 3 // 4
    common += ["--pixels", str(args.pixels), "--height", str(height), "--steps", str(args.warmup + args.steps)]
    common += ["--batch-tokens", str(1024 if args.device == "cpu" else 8192)]
    common += ["--data", args.data] if args.data else []
    options = sides_of(args)
    result: dict[str, Any] = {"captions": captions, "images_per_step": args.images}
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
    """Return the reason why a side ended, such as an out-of-memory error."""
    return str(error).strip().splitlines()[-1]


def finish(args: argparse.Namespace, sides: dict[str, Side]) -> None:
    """Read the summary of each side and let it end; the floor is measured after all other sides have ended."""
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
    """Return the measurements of one side."""
    facts, seconds = side.facts, side.seconds[args.warmup :]
    median = statistics.median(seconds)
    measured: dict[str, Any] = {
        "seconds_per_step": round(median, 4),
        "cpu_seconds_per_step": round(statistics.median(side.cpu_seconds[args.warmup :]), 4),
        "all_seconds": [round(value, 4) for value in seconds],
        "pairs_per_second": round(pairs / median, 4),
        "peak_bytes": facts["device_peak"] or facts["peak"],
        "peak_bytes_above_loaded": facts["device_peak"] or facts["peak"] - facts["loaded"],
    }
    if "reference_seconds" in facts:
        measured["reference_seconds_per_pair"] = round(facts["reference_seconds"] / facts["pairs"], 4)
        measured["features_seconds_per_pair"] = round(facts["features_seconds"] / facts["pairs"], 4)
        measured["features_bytes"] = facts["features_bytes"]
    measured |= {key: facts[key] for key in ("image_tokens", "sequence_tokens_per_step") if key in facts}
    return measured | _floor(facts, median)


def _floor(facts: dict[str, Any], median: float) -> dict[str, Any]:
    """Return the work that a step requires, and the fraction of the machine's rate that the step reaches."""
    work = {key: facts[key] for key in ("flop", "flop_without_tower", "flop_per_second") if key in facts}
    if "flop_per_second" in facts:
        work["utilisation"] = round(facts["flop"] / median / facts["flop_per_second"], 3)
    if "floor_seconds" in facts:
        parts = facts["floor_seconds"]
        work["floor_seconds"] = {name: round(value, 4) for name, value in parts.items()}
        work["floor_total"] = round(sum(parts.values()), 4)
        work["floor_fraction"] = round(sum(parts.values()) / median, 3)
    return work


def common_facts(result: dict[str, Any]) -> None:
    """Add the token rates of all sides and the floor without the tower, computed from the results of the first side."""
    first = result["scramble"]
    if "failed" in first:
        raise SystemExit(f"this project's side failed: {first['failed']}")
    tokens = result["sequence_tokens_per_step"] = first.pop("sequence_tokens_per_step")
    result["image_tokens"] = first.pop("image_tokens")
    for side in result.values():
        if isinstance(side, dict) and "seconds_per_step" in side:
            side["sequence_tokens_per_second"] = round(tokens / side["seconds_per_step"], 1)
    with_features = result.get("scramble-features")
    if with_features and "floor_seconds" in first and "seconds_per_step" in with_features:
        total = first["floor_total"] - first["floor_seconds"]["tower"]
        with_features["floor_fraction"] = round(total / with_features["seconds_per_step"], 3)
    elif with_features and "flop_per_second" in first and "seconds_per_step" in with_features:
        rate = first["flop_without_tower"] / with_features["seconds_per_step"]
        with_features["utilisation"] = round(rate / first["flop_per_second"], 3)


def compare(result: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Return ratios to the faster setting of each peer and to the fastest peer measured here.

    They are ratios of warm steps, and of 1 and 3 epochs with the time to build the caches.
    """
    measured = {name: side for name, side in result.items() if isinstance(side, dict) and "seconds_per_step" in side}
    ours = {name: side for name, side in measured.items() if name.startswith("scramble")}
    ratios: dict[str, Any] = {}
    fastest: list[str] = []
    for peer in PEERS:
        names = [name for name in (peer, f"{peer}-checkpointing") if name in measured]
        if names:
            best = min(names, key=lambda name: measured[name]["seconds_per_step"])
            fastest.append(best)
            ratios |= {f"{name} to {best}": _ratios(side, measured[best], pairs) for name, side in ours.items()}
    if fastest:
        best = min(fastest, key=lambda name: measured[name]["seconds_per_step"])
        for name, side in ours.items():
            ratios[f"{name} to the fastest peer measured here"] = {"peer": best, **_ratios(side, measured[best], pairs)}
    return ratios


def _ratios(ours: dict[str, Any], theirs: dict[str, Any], pairs: int) -> dict[str, float]:
    fill = (ours["reference_seconds_per_pair"] + ours["features_seconds_per_pair"]) * pairs
    step = ours["seconds_per_step"]
    return {
        "warm_steps": round(theirs["seconds_per_step"] / step, 2),
        "warm_steps_cpu_time": round(theirs["cpu_seconds_per_step"] / ours["cpu_seconds_per_step"], 2),
        "one_epoch_with_fill": round(theirs["seconds_per_step"] / (step + fill), 2),
        "three_epochs_with_fill": round(3 * theirs["seconds_per_step"] / (3 * step + fill), 2),
        "peak_memory": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
        "peak_memory_above_loaded": round(ours["peak_bytes_above_loaded"] / theirs["peak_bytes_above_loaded"], 3),
    }


def table(report: dict[str, Any]) -> str:
    """Return a report as text: a line per side and a line per ratio."""
    lines = []
    results = [report["result"]] if "result" in report else report["by_captions"] + report.get("by_image_tokens", [])
    for result in results:
        lines.append(
            f"{report['shape']['name']}, pairs per image: {result['captions']}, image tokens: {result['image_tokens']}"
        )
        for name, side in result.items():
            if isinstance(side, dict) and "failed" in side:
                lines.append(f"  {name:26} failed: {side['failed'][:80]}")
            elif isinstance(side, dict) and "seconds_per_step" in side:
                rate = f", MFU {side['utilisation']:.3f}" if "utilisation" in side else ""
                lines.append(
                    f"  {name:26} {side['seconds_per_step']:8.3f} s/step {side['pairs_per_second']:8.2f} pairs/s "
                    f"{side['peak_bytes'] / 1e9:6.2f} GB{rate}"
                )
        for name, ratio in result.get("ratios", {}).items():
            peer = f" ({ratio['peer']})" if "peer" in ratio else ""
            lines.append(
                f"  {name}{peer}: {ratio['warm_steps']}x, with cache build {ratio['one_epoch_with_fill']}x over one "
                f"epoch and {ratio['three_epochs_with_fill']}x over three, peak memory {ratio['peak_memory']}"
            )
    return "\n".join(lines)


def describe(args: argparse.Namespace, shape: Shape) -> dict[str, Any]:
    """Describe the command, the machine and the versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    versions = ("torch", "transformers", "trl", "peft")
    description = {
        "command": " ".join(["python", *sys.argv]),
        "shape": {"name": args.shape, **shape.__dict__},
        "dtype": args.dtype,
        "threads": args.threads,
        "cores": os.cpu_count(),
        "cpu": cpu,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "captions_from": args.data or "synthetic, COCO's lengths",
    }
    if args.device == "cuda":
        import torch

        description["gpu"] = torch.cuda.get_device_name()
    return description


def main() -> None:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=ALL_SHAPES, default="40m")
    parser.add_argument("--data", help="JSONL with image and caption")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--images", type=int, default=2, help="images per step")
    parser.add_argument(
        "--captions", type=int, nargs="+", default=[1], help="pairs per image; several values are measured in turn"
    )
    parser.add_argument("--steps", type=int, default=6, help="0: only create the model (--model)")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--distinct-images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in this project's trainer")
    parser.add_argument("--feature-cache", action="store_true", help="also with cached tower features")
    parser.add_argument("--reference-in-step", action="store_true", help="also without a reference cache")
    parser.add_argument("--rows", action="store_true", help="also a plain loop with one sequence per row")
    parser.add_argument("--sides", nargs="+", help="only these of the selected sides; `scramble` must be among them")
    parser.add_argument("--only-scramble", action="store_true")
    parser.add_argument("--one-at-a-time", action="store_true", help="sides one after the other, to save memory")
    parser.add_argument(
        "--dense-mask", action="store_true", help="on a GPU, also with a dense mask instead of FlexAttention"
    )
    parser.add_argument("--model", help="folder of the model, which is created if it is missing")
    parser.add_argument("--curve", action="store_true", help="over 1, 2, 5, 10 captions and 64 to 1024 image tokens")
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")

    shape = ALL_SHAPES[args.shape]
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
    print(text, table(report), sep="\n")
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
