"""Use external evaluation harnesses: build the command line of lmms-eval or VLMEvalKit, and read the harness's results.

Each result is read as a :class:`scramble.evaluation.scoring.results.Result` whose ``source`` and protocol name the
harness. Therefore tables show external results next to our results, but never the difference between the two.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError, name_hint
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.storage.files import read_json, write_json
from scramble.storage.jsonl import read_jsonl

HARNESSES = ("lmms-eval", "vlmevalkit")
# Tasks of lmms-eval, and data sets of VLMEvalKit with their classes, by benchmark. None means that no task of the
# harness is known.
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
# Model classes of lmms-eval that load the classes of transformers, by family. lmms-eval's ``huggingface`` loads any
# model of AutoModelForImageTextToText. No model class exists for Molmo v1.
LMMS_EVAL_MODELS: dict[str, str | None] = {
    "internvl": "internvl_hf",
    "llava": "llava_hf",
    "llava_next": "llava_hf",
    "llava_onevision": "llava_hf",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_5": "qwen3_5",
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "glm4v": "glm4v",
    "glm4v_moe": "glm4v",
    "mistral3": "mistral3_vl",
    "molmo": None,
}

COUNT_COLUMNS = {"tot", "hit"}
"""Columns of VLMEvalKit's tables that are not scores."""

Arguments = Mapping[str, Any]

# ------------------------------------------------------------------------------------------------------------ commands


def command(
    harness: str,
    tasks: Sequence[str],
    name: str,
    model: str | Path,
    out: str | Path,
    *,
    harness_model: str | None,
    harness_args: Arguments | None = None,
    harness_flags: Sequence[str | int | float] = (),
    harness_python: str = "python",
    batch_size: int = 1,
) -> list[str]:
    """Return the command line that runs benchmarks with an external harness in the harness's own environment.

    Args:
        tasks: our names of benchmarks, or the harness's own names, which are tasks of lmms-eval or
            ``<data set>:<class>`` for VLMEvalKit.
        name: the model's name in the harness's files.
        model: folder of the exported model (adapter merged).
        out: folder for the harness's results. VLMEvalKit's configuration is written next to it, as ``<out>.json``.
        harness_model: the harness's model class, for example ``internvl_hf`` or ``vllm`` for lmms-eval, or
            ``InternVLChat`` for VLMEvalKit.
        harness_args: further arguments of the model class. The model folder is passed as ``pretrained`` or
            ``model_path``, unless an argument contains ``{path}``, which is then replaced with the folder.
        harness_flags: additional arguments of the command line, as strings or numbers (``["--limit", 100]``).
        harness_python: Python executable of the harness's environment.

    Raises:
        EvaluationError: the harness or benchmark is unknown, or a task name or model class is missing.
    """
    if harness not in HARNESSES:
        raise EvaluationError(f"unknown harness {harness!r} {name_hint(harness, HARNESSES)}")
    if not harness_model:
        raise EvaluationError(
            f"{harness}: no model class is known for this model: set harness_model to the harness's model class"
        )
    flags = [_flag(flag) for flag in harness_flags]
    default = "pretrained" if harness == "lmms-eval" else "model_path"
    arguments = {
        k: v.replace("{path}", str(model)) if isinstance(v, str) else v for k, v in (harness_args or {}).items()
    }
    if arguments == dict(harness_args or {}):
        arguments = {default: str(model), **arguments}
    if harness == "lmms-eval":
        if bad := next((value for value in arguments.values() if isinstance(value, str) and "," in value), None):
            raise EvaluationError(
                f"lmms-eval separates arguments with commas, but the argument {bad!r} contains a comma: rename the "
                "folder, or change harness_args"
            )
        joined = ",".join(f"{key}={value}" for key, value in arguments.items())
        names = ",".join(_known(harness, LMMS_EVAL, task) or task for task in tasks)
        return [
            harness_python,
            "-m",
            "lmms_eval",
            "--model",
            harness_model,
            "--model_args",
            joined,
            "--tasks",
            names,
            "--batch_size",
            str(batch_size),
            "--output_path",
            str(out),
            "--log_samples",
            *flags,
        ]
    data = dict(_data_set(task) for task in tasks)
    config = Path(f"{out}.json")
    write_json(config, {"model": {name: {"class": harness_model, **arguments}}, "data": data})
    return [harness_python, "run.py", "--config", str(config), "--work-dir", str(out), "--mode", "all", *flags]


def _flag(value: Any) -> str:
    """Return an argument of the command line as text. Hydra parses ``100`` as a number and ``true`` as a boolean."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)) or value == "":
        raise EvaluationError(
            f"harness_flags contains {value!r}, but must be a list of strings and numbers, for example [--limit,100]"
        )
    return str(value)


def _known(harness: str, names: Mapping[str, Any], task: str) -> Any:
    """Return the harness's name for one of our benchmarks, or None if ``task`` is not one of our benchmarks."""
    if task in names and names[task] is None:
        raise EvaluationError(f"{harness}: no task name is known for {task}: use the harness's own task name instead")
    return names.get(task)


def _data_set(task: str) -> tuple[str, dict[str, str]]:
    name, _, kind = ":".join(_known("vlmevalkit", VLMEVALKIT, task) or (task,)).partition(":")
    if not kind:
        hint = name_hint(task, VLMEVALKIT)
        raise EvaluationError(
            f"vlmevalkit: {task!r} is not a known benchmark {hint}: for any other data set, write <name>:<class>"
        )
    return name, {"class": kind, "dataset": name}


def benchmark_of(harness: str, task: str) -> str:
    """Return our benchmark's name for a harness's task or data set, or the harness's name if we have no name for it."""
    table = LMMS_EVAL if harness == "lmms-eval" else {name: entry and entry[0] for name, entry in VLMEVALKIT.items()}
    return next((ours for ours, theirs in table.items() if theirs == task), task)


# ------------------------------------------------------------------------------------------------------------- results


def read_results(harness: str, folder: str | Path, model: Arguments) -> list[tuple[Result, list[Outcome]]]:
    """Return the newest result of each task below a harness's output folder, with its outcomes per item where
    available. Results of all items take precedence over results of a part of the items.

    Args:
        model: the field ``model`` of the results (:mod:`scramble.evaluation.scoring.results`).

    Raises:
        EvaluationError: a file does not have the harness's format.
    """
    pattern = "*_results.json" if harness == "lmms-eval" else "*.csv"
    files = sorted(Path(folder).rglob(pattern), key=lambda path: path.stat().st_mtime)
    newest: dict[str, tuple[Result, list[Outcome]]] = {}
    for path in files:
        if harness == "lmms-eval":
            for pair in _lmms_eval(path, model):
                earlier = newest.get(pair[0].benchmark["name"])
                # A trial with --limit does not replace the result of all items.
                if _is_whole(pair[0]) or earlier is None or not _is_whole(earlier[0]):
                    newest[pair[0].benchmark["name"]] = pair
        elif task := _vlmevalkit_task(path, str(model["name"])):
            newest[task] = (_vlmevalkit(path, task, model), [])
    return list(newest.values())


def _is_whole(result: Result) -> bool:
    return result.benchmark["limit"] is None


def _lmms_eval(path: Path, model: Arguments) -> list[tuple[Result, list[Outcome]]]:
    """Return one result per task from lmms-eval's ``<date>_results.json``. Fractions are converted to percent. A score
    is named after its metric (``exact_match``). If the task applies several filters to the replies for this metric, the
    name of the filter is appended (``exact_match,strict``).
    """
    values = read_json(path)
    if not isinstance(values, dict) or "results" not in values:
        raise EvaluationError(f"{path} has no key 'results', so it is not a results file of lmms-eval: remove the file")
    pairs = []
    for task, table in values["results"].items():
        samples = (values.get("n-samples") or {}).get(task) or {}
        count, total = samples.get("effective"), samples.get("original")
        limit = count if count is not None and total is not None and count < total else None
        filters = Counter(key.partition(",")[0] for key in table)
        scores = {}
        for key, value in table.items():
            metric, _, choice = key.partition(",")
            # In addition to `<metric>_stderr`, lmms-eval writes `_stderr_clt` and `_stderr_clustered`.
            if "_stderr" in metric or not _is_number(value):
                continue
            error = table.get(f"{metric}_stderr,{choice}")
            name = metric if filters[metric] == 1 else key
            scores[name] = _score(value, 100.0 if 0 <= value <= 1 else 1.0, error, count)
        version = str((values.get("versions") or {}).get(task, "unknown"))
        environment = {"git_commit": values.get("git_hash")}
        outcomes = _samples(path, task, scores)
        result = _result("lmms-eval", task, version, len(outcomes) or count, model, scores, environment, limit)
        pairs.append((result, outcomes))
    return pairs


def _samples(results: Path, task: str, scores: Arguments) -> list[Outcome]:
    """Return the outcomes per item from the samples file that belongs to a results file. The list is empty if no score
    is the mean of numbers in the samples file.
    """
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
    """Return the data set in the name ``<model>_<data set>[_<judge>]_acc.csv`` or ``..._score.csv``, or None for any
    other file.
    """
    stem = path.stem.removeprefix(f"{name}_")
    if stem == path.stem or not stem.endswith(("_acc", "_score")):
        return None
    stem = stem.rpartition("_")[0]
    data_sets = [entry[0] for entry in VLMEVALKIT.values() if entry and f"{stem}_".startswith(f"{entry[0]}_")]
    return max(data_sets, key=len) if data_sets else stem


def _vlmevalkit(path: Path, task: str, model: Arguments) -> Result:
    """Read VLMEvalKit's table. Each number is a score, which is named after its column and the words in its row
    (``acc/algebra``).
    """
    with path.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    if not table:
        raise EvaluationError(
            f"{path} has no rows, because the evaluation in VLMEvalKit has not finished: finish the evaluation and "
            "repeat the command"
        )
    numbers = [{key: float(value) for key, value in row.items() if _is_number(value)} for row in table]
    if not any(numbers):
        raise EvaluationError(
            f"{path} has no numbers in its columns {', '.join(table[0])}: remove the file and repeat the evaluation"
        )
    every = [value for row in numbers for key, value in row.items() if key not in COUNT_COLUMNS]
    scale = 100.0 if all(0 <= value <= 1 for value in every) else 1.0  # a table holds fractions or percent, not both
    scores = {}
    for row, values in zip(table, numbers, strict=True):
        words = [str(value) for key, value in row.items() if key and key not in values and value]
        label = "/".join(word for word in words if word.lower() not in ("none", "overall")) if len(table) > 1 else ""
        count = int(values["tot"]) if "tot" in values else None
        for key in [key for key in values if key not in COUNT_COLUMNS]:
            scores[f"{key}/{label}" if label else key] = _score(values[key], scale, None, count)
    return _result("vlmevalkit", task, "as in the harness", None, model, scores, {})


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _score(value: float, scale: float, error: object, n: int | None) -> dict[str, Any]:
    """Return the score in percent, with the harness's own number as ``raw``."""
    return {
        "value": scale * value,
        "standard_error": scale * float(error) if _is_number(error) else None,  # type: ignore[arg-type]
        "low": None,
        "high": None,
        "n": n,
        "raw": value,
    }


def _result(
    harness: str,
    task: str,
    version: str,
    count: int | None,
    model: Arguments,
    scores: dict[str, dict[str, Any]],
    environment: dict[str, Any],
    limit: int | None = None,
) -> Result:
    data = {
        "name": benchmark_of(harness, task),
        "version": f"{task} {version}",
        "items": count,
        "limit": limit,
        "scoring": "plain",
    }
    protocol = {"name": harness, "version": 1}
    return Result(data, dict(model), protocol, scores, {"n": count}, environment=environment, source=harness)
