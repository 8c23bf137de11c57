"""The benchmarks that other kits run: the command for lmms-eval or VLMEvalKit, and their result files read back.

A result read back is a :class:`scramble.evaluation.scoring.results.Result` whose ``source`` and protocol name the kit,
so a table shows it beside ours and never subtracts the two.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.protocols import nearest
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.storage.files import read_json, write_json
from scramble.storage.jsonl import read_jsonl

KITS = ("lmms-eval", "vlmevalkit")
# benchmark -> lmms-eval's task; VLMEvalKit's data set and its class. None: the kit has no such task that is known here.
LMMS_EVAL: dict[str, str | None] = {
    "mmbench": "mmbench_en_dev",
    "mmstar": "mmstar",
    "scienceqa": "scienceqa_img",
    "mathvision": "mathvision_test",
    "llava_bench": "llava_in_the_wild",
    "crpe": "crpe_relation",
    "m3cot": None,
    "mmhal": None,
}
VLMEVALKIT: dict[str, tuple[str, str] | None] = {
    "mmbench": ("MMBench_DEV_EN", "ImageMCQDataset"),
    "mmstar": ("MMStar", "ImageMCQDataset"),
    "scienceqa": ("ScienceQA_TEST", "ImageMCQDataset"),
    "mathvision": ("MathVision", "MathVision"),
    "llava_bench": ("LLaVABench", "LLaVABench"),
    "crpe": ("CRPE_RELATION", "CRPE"),
    "m3cot": None,
    "mmhal": None,
}
# Family -> lmms-eval's model that loads transformers' own classes. It has none for Molmo v1.
LMMS_EVAL_MODELS = {"internvl": "internvl_hf", "llava": "llava_hf", "smolvlm": "huggingface", "molmo2": "huggingface"}

COUNTS = {"tot", "hit"}
"""Columns of VLMEvalKit's tables that are no scores."""

Arguments = Mapping[str, Any]

# ------------------------------------------------------------------------------------------------------------ commands


def command(
    kit: str,
    tasks: Sequence[str],
    name: str,
    model: str | Path,
    out: str | Path,
    *,
    kit_model: str | None,
    kit_args: Arguments | None = None,
    batch_size: int = 1,
) -> list[str]:
    """The command line that runs benchmarks in another kit, in the kit's own environment.

    Args:
        tasks: benchmarks by their names here, or the kit's own: a task of lmms-eval, ``<data set>:<class>`` of
            VLMEvalKit.
        name: the model's name in the kit's files.
        model: folder of the exported model (adapter merged).
        out: folder for the kit's results; VLMEvalKit's configuration is written beside it, as ``<out>.json``.
        kit_model: the kit's model class: ``internvl_hf``, ``vllm`` (lmms-eval); ``InternVLChat`` (VLMEvalKit).
        kit_args: further arguments of that class. The folder goes in as ``pretrained`` or ``model_path``, unless an
            argument holds ``{path}``, which stands for it.

    Raises:
        EvaluationError: unknown kit or benchmark, no task name known, no class given.
    """
    if kit not in KITS:
        raise EvaluationError(f"unknown kit {kit!r} {nearest(kit, KITS)}")
    if not kit_model:
        raise EvaluationError(f"{kit}: no class known for this model; name the kit's own with kit_model=...")
    default = "pretrained" if kit == "lmms-eval" else "model_path"
    given = {k: v.replace("{path}", str(model)) if isinstance(v, str) else v for k, v in (kit_args or {}).items()}
    if given == dict(kit_args or {}):
        given = {default: str(model), **given}
    if kit == "lmms-eval":
        if bad := next((value for value in given.values() if isinstance(value, str) and "," in value), None):
            raise EvaluationError(f"lmms-eval reads a comma as the next argument, but one holds it: {bad}")
        joined = ",".join(f"{key}={value}" for key, value in given.items())
        names = ",".join(_known(kit, LMMS_EVAL, task) or task for task in tasks)
        return [
            "python",
            "-m",
            "lmms_eval",
            "--model",
            kit_model,
            "--model_args",
            joined,
            "--tasks",
            names,
            "--batch_size",
            str(batch_size),
            "--output_path",
            str(out),
            "--log_samples",
        ]
    data = dict(_data_set(task) for task in tasks)
    config = Path(f"{out}.json")
    write_json(config, {"model": {name: {"class": kit_model, **given}}, "data": data})
    return ["python", "run.py", "--config", str(config), "--work-dir", str(out), "--mode", "all"]


def _known(kit: str, names: Mapping[str, Any], task: str) -> Any:
    """The kit's name of one of our benchmarks; None for a name that is not ours."""
    if task in names and names[task] is None:
        raise EvaluationError(f"{kit}: no task name known for {task}; give the kit's own in its place")
    return names.get(task)


def _data_set(task: str) -> tuple[str, dict[str, str]]:
    name, _, kind = ":".join(_known("vlmevalkit", VLMEVALKIT, task) or (task,)).partition(":")
    if not kind:
        known = nearest(task, set(VLMEVALKIT))
        raise EvaluationError(
            f"vlmevalkit: {task!r} is none of the benchmarks known here {known}; give its data set as <name>:<class>"
        )
    return name, {"class": kind, "dataset": name}


def benchmark_of(kit: str, task: str) -> str:
    """Our name for a kit's task or data set; the kit's own where we have none."""
    table = LMMS_EVAL if kit == "lmms-eval" else {name: found and found[0] for name, found in VLMEVALKIT.items()}
    return next((ours for ours, theirs in table.items() if theirs == task), task)


# ------------------------------------------------------------------------------------------------------------- results


def read_results(kit: str, folder: str | Path, model: Arguments) -> list[tuple[Result, list[Outcome]]]:
    """The newest results of each task below a kit's output folder, with the outcomes of single items where it has any.

    Args:
        model: what a result's ``model`` holds, see :mod:`scramble.evaluation.scoring.results`.

    Raises:
        EvaluationError: a file that is not what the kit writes.
    """
    pattern = "*_results.json" if kit == "lmms-eval" else "*.csv"
    files = sorted(Path(folder).rglob(pattern), key=lambda path: path.stat().st_mtime)
    newest: dict[str, tuple[Result, list[Outcome]]] = {}
    for path in files:
        if kit == "lmms-eval":
            newest |= {found[0].benchmark["name"]: found for found in _lmms_eval(path, model)}
        elif task := _vlmevalkit_task(path, str(model["name"])):
            newest[task] = (_vlmevalkit(path, task, model), [])
    return list(newest.values())


def _lmms_eval(path: Path, model: Arguments) -> list[tuple[Result, list[Outcome]]]:
    """lmms-eval's ``<date>_results.json``: one result a task. Fractions become percent."""
    values = read_json(path)
    if not isinstance(values, dict) or "results" not in values:
        raise EvaluationError(f"{path}: no 'results'; it is not a results file of lmms-eval")
    found = []
    for task, table in values["results"].items():
        count = ((values.get("n-samples") or {}).get(task) or {}).get("effective")
        scores = {}
        for key, value in table.items():
            metric, _, choice = key.partition(",")
            if metric.endswith("_stderr") or not _is_number(value):
                continue
            error = table.get(f"{metric}_stderr,{choice}")
            scores[metric] = _score(value, 100.0 if 0 <= value <= 1 else 1.0, error, count)
        version = str((values.get("versions") or {}).get(task, "unknown"))
        environment = {"git_commit": values.get("git_hash")}
        outcomes = _samples(path, task, scores)
        result = _result("lmms-eval", task, version, len(outcomes) or count, model, scores, environment)
        found.append((result, outcomes))
    return found


def _samples(results: Path, task: str, scores: Arguments) -> list[Outcome]:
    """Single items from the samples file beside a results file: the scores that are means of numbers in it."""
    path = results.with_name(results.name.replace("_results.json", f"_samples_{task}.jsonl"))
    rows = list(read_jsonl(path))
    means = [
        metric
        for metric, score in scores.items()
        if rows
        and all(_is_number(row.get(metric)) for row in rows)
        and math.isclose(sum(row[metric] for row in rows) / len(rows), score["raw"], abs_tol=1e-3)
        and 0 <= score["raw"] <= 1
    ]
    if not means:
        return []
    return [
        Outcome(
            str(row["doc_id"]),
            "",
            "",
            (),
            str(row["doc_id"]),
            {metric: float(row[metric]) for metric in means},
            None,
            str(row.get("target", "")),
        )
        for row in sorted(rows, key=lambda row: row["doc_id"])
    ]


def _vlmevalkit_task(path: Path, name: str) -> str | None:
    """The data set of ``<model>_<data set>[_<judge>]_acc.csv`` or ``..._score.csv``; None for other files."""
    stem = path.stem.removeprefix(f"{name}_")
    if stem == path.stem or not stem.endswith(("_acc", "_score")):
        return None
    stem = stem.rpartition("_")[0]
    known = [found[0] for found in VLMEVALKIT.values() if found and f"{stem}_".startswith(f"{found[0]}_")]
    return max(known, key=len) if known else stem


def _vlmevalkit(path: Path, task: str, model: Arguments) -> Result:
    """VLMEvalKit's table: a score a number, under the words of its row (``acc/algebra``); ``Overall`` has none."""
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    if not table:
        raise EvaluationError(f"{path}: no rows; the evaluation in VLMEvalKit has not finished")
    numbers = [{key: float(value) for key, value in row.items() if _is_number(value)} for row in table]
    if not any(numbers):
        raise EvaluationError(f"{path}: no numbers in columns {', '.join(table[0])}")
    every = [value for row in numbers for key, value in row.items() if key not in COUNTS]
    scale = 100.0 if all(0 <= value <= 1 for value in every) else 1.0  # a table holds fractions or percent, not both
    scores = {}
    for row, values in zip(table, numbers, strict=True):
        words = [str(value) for key, value in row.items() if key and key not in values and value]
        label = "/".join(word for word in words if word.lower() not in ("none", "overall")) if len(table) > 1 else ""
        count = int(values["tot"]) if "tot" in values else None
        for key in [key for key in values if key not in COUNTS]:
            scores[f"{key}/{label}" if label else key] = _score(values[key], scale, None, count)
    return _result("vlmevalkit", task, "as in the kit", None, model, scores, {})


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _score(value: float, scale: float, error: object, n: int | None) -> dict[str, Any]:
    """In percent, with what the kit wrote as ``raw``."""
    return {
        "value": scale * value,
        "standard_error": scale * float(error) if _is_number(error) else None,  # type: ignore[arg-type]
        "low": None,
        "high": None,
        "n": n,
        "raw": value,
    }


def _result(
    kit: str,
    task: str,
    version: str,
    count: int | None,
    model: Arguments,
    scores: dict[str, dict[str, Any]],
    environment: dict[str, Any],
) -> Result:
    data = {
        "name": benchmark_of(kit, task),
        "version": f"{task} {version}",
        "items": count,
        "limit": None,
        "scoring": "plain",
    }
    protocol = {"name": kit, "version": 1}
    return Result(data, dict(model), protocol, scores, {"n": count}, environment=environment, source=kit)
