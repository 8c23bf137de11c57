"""Check that a refactoring changes no number: record the losses, pairs and scores of two commits, and compare them.

    python scripts/dev/compare_runs.py record before.json [scenario ...]     # in a checkout of the old commit
    python scripts/dev/compare_runs.py record after.json                     # in a checkout of the new commit
    python scripts/dev/compare_runs.py compare before.json after.json       # a Markdown table; status 1 on a difference

A scenario runs some of the project's scripts in a temporary folder. The recorded values are exact: every logged
metric of every step in its shortest decimal form, a digest of the pairs' texts, and every score. The scenario ``rules``
needs ``--captions FILE`` (JSONL rows with the key "caption") and ``--spacy-model PATH``. Recording takes about eight
minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path.cwd()
# Parts of the names of metrics that are not compared, because they depend on the machine.
TIMES = ("second", "tokens_per", "pairs_per", "flop", "mfu", "memory", "utilisation", "data_fraction", "rss", "runtime")


def script(folder: Path, name: str, *overrides: str, wait: bool = True) -> subprocess.Popen[str]:
    """Run a script of the checkout with ``folder`` as its run folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *overrides, f"run.dir={folder}"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if wait:
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{output}")
    return process


def quickstart(folder: Path, args: argparse.Namespace) -> None:
    """Train three arms of the short quickstart, and evaluate them by likelihood on 2x2 items and questions."""
    short = ("+experiment=quickstart", "+debug=short")
    script(folder, "train", "-m", *short, "objective=sft,dpo,mpo")
    script(folder, "evaluate", *short)


def molmo_dpo(folder: Path, args: argparse.Namespace) -> None:
    """Train a tiny Molmo with DPO."""
    script(folder, "train", "+experiment=molmo_dpo", "+debug=tiny")


def llava_mpo_two_processes(folder: Path, args: argparse.Namespace) -> None:
    """Train a tiny LLaVA with MPO in two processes."""
    tiny = ("+experiment=llava_dpo", "+debug=tiny", "objective=mpo")
    script(folder, "train", *tiny, "launcher=accelerate", "launcher.num_processes=2")


def resumed(folder: Path, args: argparse.Namespace) -> None:
    """Train a tiny InternVL with DPO, stop it with SIGTERM after its first checkpoint, and resume it."""
    words = ("+experiment=internvl_dpo", "+debug=tiny", *MORE_STEPS)
    process = script(folder, "train", *words, wait=False)
    while process.poll() is None and not list((folder / "train").glob("*/checkpoints/*/trainer_state.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    script(folder, "train", *words)


def sft_captions(folder: Path, args: argparse.Namespace) -> None:
    """Run supervised fine-tuning on captions."""
    script(folder, "train", "+debug=tiny", "objective=sft", *CAPTIONS)


def rules(folder: Path, args: argparse.Namespace) -> None:
    """Make rule-based pairs from the first 400 captions of a file, with single-coloured images."""
    if not (args.captions and args.spacy_model):
        raise SystemExit("the scenario `rules` needs --captions and --spacy-model: set both options")
    from PIL import Image

    images = folder / "images"
    images.mkdir(parents=True)
    rows = [json.loads(line)["caption"] for line in Path(args.captions).read_text(encoding="utf-8").splitlines()[:400]]
    with (images / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number, caption in enumerate(rows):
            Image.new("RGB", (32, 32), (number % 256, number // 256, 99)).save(images / f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", "caption": caption}) + "\n")
    model = f"{RULES_MODEL}={args.spacy_model}"
    script(folder, "generate", "data=image_folder", f"data.path={images}", f"{PAIRS}=rules", model)


def evaluation(folder: Path, args: argparse.Namespace) -> None:
    """Evaluate the shipped base model by likelihood: on 2x2 items with two protocols, on held-out pairs and on
    questions.
    """
    words = ("+experiment=quickstart", "+debug=short", "arms=base")
    script(folder, "generate", "+experiment=quickstart", "+debug=short")
    for protocol in ("default", "yes_minus_no"):
        benchmarks = "[world_winoground,heldout_pairs,world_vqa]" if protocol == "default" else "[world_winoground]"
        script(
            folder,
            "evaluate",
            *words,
            f"benchmark={benchmarks}",
            f"protocol={protocol}",
            f"folder=evaluation_{protocol}",
        )


SCENARIOS = (quickstart, molmo_dpo, llava_mpo_two_processes, resumed, sft_captions, rules, evaluation)

# Configuration keys of the checkout in which this script runs. The keys of the compared commit may differ.
PAIRS = "negatives" if (ROOT / "configs" / "negatives").is_dir() else "pairs"
RULES_MODEL = f"{PAIRS}.options.pipeline"
if "max_steps" in (ROOT / "configs" / "trainer" / "default.yaml").read_text(encoding="utf-8"):
    MORE_STEPS: tuple[str, ...] = ("trainer.max_steps=12",)
    CAPTIONS: tuple[str, ...] = ("trainer.tables=[captions]",)
else:
    MORE_STEPS, CAPTIONS = ("trainer.steps=12",), ("+trainer.use=[captions]",)


def numbers(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of every number and every digest that must not change."""
    for file in sorted(folder.rglob("metrics.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            for key, value in row.items():
                if not any(word in key.lower() for word in TIMES):
                    yield f"{file.parent.relative_to(folder)}: step {row.get('step')}: {key}", repr(value)
    for file in sorted(folder.rglob("pairs.parquet")):
        import pyarrow.parquet as parquet

        rows = parquet.read_table(file).to_pylist()
        yield f"{file.relative_to(folder)}: rows", len(rows)
        yield f"{file.relative_to(folder)}: digest", digest([[r["prompt"], r["chosen"], r["rejected"]] for r in rows])
    for file in sorted(folder.rglob("result.json")):
        result = json.loads(file.read_text())
        for name, score in result["scores"].items():
            yield (
                f"{file.parent.relative_to(folder)}: {name}",
                repr(score["value"] if isinstance(score, dict) else score),
            )


def renamed(old: dict[str, Any]) -> dict[str, Any]:
    """Rename the metrics of an old commit to their current names, and make its token counts cumulative."""
    values, tokens = {}, dict[str, float]()
    for key, value in old.items():
        start, _, name = key.rpartition(": ")
        for before, after in (("val/", "eval_"), ("eval/", "eval_")):
            name = after + name.removeprefix(before) if name.startswith(before) else name
        name = {"delta": "reward_shift", "eval_delta": "eval_reward_shift"}.get(name, name)
        name = name.replace("data/blind_accuracy", "data/text_only_accuracy")
        if name == "tokens":
            run = start.partition(": step")[0]
            tokens[run] = tokens.get(run, 0.0) + float(value)
            name, value = "num_tokens", repr(tokens[run])
        values[f"{start}: {name}"] = value
    return values


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def record(args: argparse.Namespace) -> None:
    """Run the scenarios and write the recorded numbers to a file."""
    recorded: dict[str, Any] = {}
    for scenario in SCENARIOS:
        if args.scenarios and scenario.__name__ not in args.scenarios:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            scenario(Path(folder) / "run", args)
            recorded[scenario.__name__] = dict(numbers(Path(folder) / "run"))
        print(f"{scenario.__name__}: {len(recorded[scenario.__name__])} numbers, {time.perf_counter() - start:.0f} s")
    Path(args.file).write_text(json.dumps(recorded, indent=1) + "\n")


def compare(args: argparse.Namespace) -> None:
    """Print the number of equal values in each scenario as a table, followed by at most 50 differences."""
    before, after = (json.loads(Path(name).read_text()) for name in (args.before, args.after))
    differences = []
    print("| scenario | numbers before | in both | equal |\n|---|---|---|---|")
    for name, old in before.items():
        old = renamed(old)
        new = after.get(name, {})
        both = [key for key in old if key in new]
        different = [key for key in both if old[key] != new[key]]
        print(f"| {name} | {len(old)} | {len(both)} | {len(both) - len(different)} |")
        differences += [f"{name}: {key}: {old[key]} -> {new[key]}" for key in different]
        differences += [f"{name}: {key} is missing" for key in old if key not in new]
    print("\n".join(differences[:50]))
    sys.exit(bool(differences))


def main() -> None:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record")
    recording.add_argument("file")
    recording.add_argument("scenarios", nargs="*", choices=[s.__name__ for s in SCENARIOS] + [[]])  # [] is the default
    recording.add_argument("--captions")
    recording.add_argument("--spacy-model")
    recording.set_defaults(run=record)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before")
    comparing.add_argument("after")
    comparing.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
