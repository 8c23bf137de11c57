"""Compare the speed and memory use of a preference step in this project's trainer, TRL, ms-swift and LLaMA-Factory.

Each implementation ("side") runs in its own process. All sides use the same pairs and model, and they take steps in
turn, so that all run under the same load. Weights are random and images are noise, because only shapes and lengths
matter. Run the benchmark on an idle machine:

    python benchmarks/preference_step.py --captions 1 --feature-cache --json step1.json
    python benchmarks/preference_step.py --captions 5 --data captions.jsonl
    python benchmarks/preference_step.py --curve --images 1 --steps 2 --json curve.json
    python benchmarks/preference_step.py --shape qwen-40m --captions 5
    python benchmarks/preference_step.py --shape molmo-40m --captions 5

On a CPU, TRL's output head runs at all positions. The side ``trl-answers`` is TRL with an output head that runs only at
answer positions, as on a GPU. ms-swift and LLaMA-Factory run in separate virtual environments; ``--swift-python`` and
``--llamafactory-python`` name the Python interpreters of these environments (see benchmarks/peer_runner.py). A side
without an environment is skipped. TRL cannot train Molmo v1. For this model, a plain loop with one sequence per row
replaces TRL. ``--rows`` adds the plain loop for all other models. ``--data`` names a JSONL file of rows with the keys
"image" and "caption". Without this option, synthetic captions with the lengths of COCO's captions are used. All steps
use the same pairs unless ``--distinct-images`` is larger than ``--images``. The losses of the sides can be compared
only if all steps use the same pairs. For GPUs, see benchmarks/gpu.sh.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from shapes import ALL_SHAPES, MOLMO_SHAPES, Shape, noise_jpeg, read_captions, save_model, step_pairs
from step_clock import MARK, PROMPT
from step_report import common_facts, compare, figures, loss_difference, table

HERE = Path(__file__).parent
# Families whose models ms-swift and LLaMA-Factory can train here. These projects run in separate environments.
PROJECTS = {"swift": ("internvl", "qwen2_5_vl", "qwen3_5"), "llamafactory": ("internvl", "qwen2_5_vl", "qwen3_5")}
CAPTIONS, IMAGE_SIZES = (1, 2, 5, 10), (224, 448, 672, 896)


class SideError(RuntimeError):
    """Raised if the process of a side ends before it has sent the next message."""


class Side:
    """Starts a process that takes one step per request.

    ``command`` consists of a Python interpreter, a script and its options.
    """

    def __init__(self, name: str, command: list[str], threads: int) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
        }
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        while not self.facts.get("ready"):
            self.facts |= self.read()

    def step(self) -> None:
        """Take one step and record its wall-clock and CPU seconds."""
        self.send("step")
        reply = self.read()
        self.seconds.append(reply.pop("seconds"))
        self.cpu_seconds.append(reply.pop("cpu_seconds"))
        self.facts |= reply

    def read_losses(self) -> None:
        """Read messages until the losses of all steps have arrived."""
        while "losses" not in self.facts:
            self.facts |= self.read()

    def send(self, line: str) -> None:
        """Send a line to the process."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """Return the next message of the process. Raise SideError if the process has ended."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self.log.seek(0)
        raise SideError(f"the process of {self.name} ended:\n{self.log.read()[-3000:]}")


def sides_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return a dictionary from the names of the sides to their options."""
    ours = ["--gradient-checkpointing"] if args.gradient_checkpointing else []
    sides = {"scramble": ["scramble", *ours]}
    if args.feature_cache:
        sides["scramble-features"] = ["scramble", *ours, "--feature-cache"]
    if args.dense_mask:
        sides["scramble-dense-mask"] = ["scramble", *ours, "--attention", "sdpa"]
    if args.reference_in_step:
        sides["scramble-reference-in-step"] = ["scramble", *ours, "--reference-in-step"]
    if not args.only_scramble:
        # On a GPU, both are the same, because TRL's head runs only at answer positions if Triton is available.
        trl = ["trl", "trl-answers"] if args.device == "cpu" else ["trl"]
        peers = [] if args.shape in MOLMO_SHAPES else trl
        peers += ["rows"] if args.rows or not peers else []
        sides |= {name: [name] for peer in peers for name in (peer, f"{peer}-checkpointing")}
    return {name: side for name, side in sides.items() if not args.sides or name in args.sides}


def projects_of(args: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Return the Python interpreter of each side that runs in its own environment, and the reason for each skipped
    side.
    """
    pythons: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, families in PROJECTS.items():
        python = getattr(args, f"{name}_python")
        if args.only_scramble or (args.sides and name not in args.sides):
            continue
        if python is None:
            skipped[name] = f"--{name}-python is not set; see benchmarks/peer_runner.py"
        elif not Path(python).is_file():
            skipped[name] = f"--{name}-python={python} is not a file: set it to a Python interpreter"
        elif args.device != "cpu" or args.dtype != "float32":
            skipped[name] = "benchmarks/peer_runner.py supports only --device cpu with --dtype float32"
        elif ALL_SHAPES[args.shape].family not in families:
            skipped[name] = (
                f"benchmarks/peer_runner.py cannot train the family {ALL_SHAPES[args.shape].family} with {name}"
            )
        else:
            pythons[name] = python
    return pythons, skipped


def write_pairs(folder: Path, args: argparse.Namespace, captions: int, pairs: int, height: int) -> Path:
    """Write pairs and images as files for the trainers that do not use this package."""
    folder.mkdir(parents=True)
    for n in range(args.distinct_images):
        (folder / f"{n}.jpg").write_bytes(noise_jpeg(n, args.pixels, height))
    rows = step_pairs(args.data, args.distinct_images, captions, pairs)
    lines = [json.dumps(row | {"image": f"{row['image']}.jpg", "prompt": PROMPT}) + "\n" for row in rows]
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def measure(args: argparse.Namespace, model: Path, work: Path, captions: int) -> dict[str, Any]:
    """Run the steps of all sides in turn. Return median times, rates, memory use and ratios."""
    pairs = args.pairs or args.images * captions
    common = ["--model", str(model), "--device", args.device, "--dtype", args.dtype, "--captions", str(captions)]
    common += ["--pairs", str(pairs), "--distinct-images", str(args.distinct_images)]
    height = args.pixels if ALL_SHAPES[args.shape].keeps_aspect_ratio else args.pixels * 3 // 4
    common += ["--pixels", str(args.pixels), "--height", str(height), "--steps", str(args.warmup + args.steps)]
    common += ["--batch-tokens", str(1024 if args.device == "cpu" else 8192)]
    common += ["--data", args.data] if args.data else []
    commands = {
        name: [sys.executable, str(HERE / "preference_sides.py"), *options, *common]
        for name, options in sides_of(args).items()
    }
    result: dict[str, Any] = {"captions": captions, "images_per_step": args.images, "pairs_per_step": pairs}
    pythons, result["skipped"] = projects_of(args)
    for name, reason in result["skipped"].items():
        print(f"{name} is skipped: {reason}", file=sys.stderr)
    if pythons:
        data = write_pairs(work / f"pairs-{model.name}-{captions}", args, captions, pairs, height)
    for name, python in pythons.items():
        commands[name] = [python, str(HERE / "peer_runner.py"), name, "--model", str(model), "--data", str(data)]
        commands[name] += ["--family", ALL_SHAPES[args.shape].family, "--steps", str(args.warmup + args.steps)]
        commands[name] += ["--batch-size", str(pairs)]
    for names in [[name] for name in commands] if args.one_at_a_time else [list(commands)]:
        sides: dict[str, Side] = {}
        for name in names:
            try:
                sides[name] = Side(name, commands[name], args.threads)
            except SideError as error:
                result[name] = {"failed": last_line(error)}
        for action in [*[Side.step] * (args.warmup + args.steps), Side.read_losses]:
            for name, side in list(sides.items()):
                try:
                    action(side)
                except SideError as error:
                    result[name] = {"failed": last_line(error)}
                    del sides[name]
        finish(args, sides)
        result |= {name: figures(args, side, pairs) for name, side in sides.items()}
    common_facts(result)
    if args.distinct_images == args.images:
        result["loss_difference"] = loss_difference(result)
    clock = "cpu_seconds_per_step" if args.device == "cpu" else "seconds_per_step"
    ratios = compare(result, pairs, clock)
    return result | ({"ratios": ratios} if ratios else {})


def last_line(error: SideError) -> str:
    """Return the last line of an error, which states why a side ended, such as an out-of-memory error."""
    return str(error).strip().splitlines()[-1]


def finish(args: argparse.Namespace, sides: dict[str, Side]) -> None:
    """Read the summary of each of this project's sides, and wait until all processes have ended.

    The side ``scramble`` measures the lower bound after all other sides have ended.
    """
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


def describe(args: argparse.Namespace, shape: Shape) -> dict[str, Any]:
    """Return a description of the command, the machine and the library versions."""
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
    """Parse the command line, run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=ALL_SHAPES, default="40m")
    parser.add_argument("--data", help='JSONL file of rows with the keys "image" and "caption"')
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="data type; float32 on a CPU and bfloat16 on a GPU by default"
    )
    parser.add_argument("--images", type=int, default=2, help="images per step")
    parser.add_argument(
        "--captions", type=int, nargs="+", default=[1], help="pairs per image; several values are measured in turn"
    )
    parser.add_argument("--pairs", type=int, help="pairs per step; the last image of a step may have fewer pairs")
    parser.add_argument("--steps", type=int, default=6, help="measured steps; 0 only creates the model (--model)")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--distinct-images", type=int, help="number of images in the data; --images by default")
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="use gradient checkpointing in this project's trainer"
    )
    parser.add_argument("--feature-cache", action="store_true", help="also measure with cached tower features")
    parser.add_argument("--reference-in-step", action="store_true", help="also measure without a reference cache")
    parser.add_argument("--rows", action="store_true", help="also measure a plain loop with one sequence per row")
    parser.add_argument("--sides", nargs="+", help="measure only these sides; `scramble` must be one of them")
    parser.add_argument("--only-scramble", action="store_true")
    for name in PROJECTS:
        parser.add_argument(f"--{name}-python", metavar="PATH", help=f"Python interpreter of the environment of {name}")
    parser.add_argument("--one-at-a-time", action="store_true", help="run one side after the other to save memory")
    parser.add_argument(
        "--dense-mask", action="store_true", help="on a GPU, also measure a dense mask instead of FlexAttention"
    )
    parser.add_argument("--model", help="folder of the model, which is created if it is missing")
    parser.add_argument(
        "--curve", action="store_true", help="measure 1, 2, 5 and 10 pairs per image, and 64 to 1024 image tokens"
    )
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    args.distinct_images = args.distinct_images or args.images
    if args.pairs and any(not 0 <= args.images * n - args.pairs < n for n in args.captions):
        parser.error(
            f"--pairs {args.pairs} does not fit --images {args.images} and --captions {args.captions}: a step must use "
            "every image, and only the last image may have fewer pairs"
        )

    shape = ALL_SHAPES[args.shape]
    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    report: dict[str, Any] = describe(args, shape)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = Path(args.model or work / "model")
        if not (model / "config.json").exists():
            save_model(model, shape, texts, args.dtype)
        if args.steps == 0:
            return
        if args.curve:
            report["by_captions"] = [measure(args, model, work, captions) for captions in CAPTIONS]
            report["by_image_tokens"] = []
            for size in IMAGE_SIZES:
                model = save_model(work / str(size), replace(shape, image_size=size), texts, args.dtype)
                report["by_image_tokens"].append(measure(args, model, work, args.captions[0]))
        elif len(args.captions) == 1:
            report["result"] = measure(args, model, work, args.captions[0])
        else:
            report["by_captions"] = [measure(args, model, work, captions) for captions in args.captions]
    text = json.dumps(report, indent=2)
    print(text, table(report), sep="\n")
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
