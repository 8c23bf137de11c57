"""The benchmarks that other kits run: the command for lmms-eval or VLMEvalKit, and their result files read back.

A result read back is a :class:`scramble.evaluation.results.Result` whose ``source`` and protocol name the kit, so a
table shows it beside ours and never subtracts the two.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.protocols import nearest
from scramble.evaluation.results import Result
from scramble.store import read_json

KITS = ("lmms-eval", "vlmevalkit")
# benchmark -> the kit's own name; None where none is known: pass ``task``.
TASKS: dict[str, dict[str, str | None]] = {
    "mmbench": {"lmms-eval": "mmbench_en_dev", "vlmevalkit": "MMBench_DEV_EN"},
    "mmstar": {"lmms-eval": "mmstar", "vlmevalkit": "MMStar"},
    "scienceqa": {"lmms-eval": "scienceqa_img", "vlmevalkit": "ScienceQA_TEST"},
    "m3cot": {"lmms-eval": None, "vlmevalkit": None},
    "mathvision": {"lmms-eval": None, "vlmevalkit": None},
    "crpe": {"lmms-eval": None, "vlmevalkit": None},
    "llava_bench": {"lmms-eval": None, "vlmevalkit": None},
    "mmhal": {"lmms-eval": None, "vlmevalkit": None},
}


def command(
    kit: str,
    benchmark: str,
    model: str | Path,
    out: str | Path,
    *,
    kit_model: str,
    task: str | None = None,
    batch_size: int = 1,
) -> list[str]:
    """The command line that runs a benchmark in another kit.

    Args:
        model: folder of the exported model (adapter merged).
        kit_model: the kit's model class: ``internvl_hf``, ``qwen2_5_vl`` and so on for lmms-eval (``--model``), the
            name registered in VLMEvalKit's config.
        task: the kit's task or data set where this project knows none.

    Raises:
        EvaluationError: unknown kit or benchmark, or no task name known.
    """
    name = _task(kit, benchmark, task)
    if kit == "lmms-eval":
        return [
            "python", "-m", "lmms_eval", "--model", kit_model, "--model_args", f"pretrained={model}", "--tasks", name,
            "--batch_size", str(batch_size), "--output_path", str(out), "--log_samples",
        ]  # fmt: skip
    return ["python", "run.py", "--data", name, "--model", kit_model, "--work-dir", str(out), "--mode", "all"]


def _task(kit: str, benchmark: str, task: str | None) -> str:
    if kit not in KITS:
        raise EvaluationError(f"unknown kit {kit!r} {nearest(kit, KITS)}")
    if task:
        return task
    if benchmark not in TASKS:
        raise EvaluationError(f"unknown benchmark {benchmark!r} for {kit} {nearest(benchmark, TASKS)}")
    name = TASKS[benchmark][kit]
    if name is None:
        raise EvaluationError(f"{kit}: no task name known for {benchmark}; give the kit's own with task=")
    return name


def read_lmms_eval(path: str | Path, name: str = "") -> list[Result]:
    """Results in lmms-eval's ``<date>_results.json``, one a task. Fractions become percent."""
    values = read_json(path)
    if not isinstance(values, dict) or "results" not in values:
        raise EvaluationError(f"{path}: no 'results'; it is not a results file of lmms-eval")
    found = []
    for task, table in values["results"].items():
        count = ((values.get("n-samples") or {}).get(task) or {}).get("effective")
        scores = {}
        for key, value in table.items():
            metric, _, choice = key.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = table.get(f"{metric}_stderr,{choice}")
            scores[metric] = _score(value, error if isinstance(error, (int, float)) else None, count)
        version = str((values.get("versions") or {}).get(task, "unknown"))
        model = {"name": name or values.get("model_name") or "", "path": str(values.get("model_name_or_path") or ""),
                 "key": "", "revision": None, "adapter": None}  # fmt: skip
        found.append(_result(task, version, count, model, "lmms-eval", scores, {"git_commit": values.get("git_hash")}))
    return found


def read_vlmevalkit(path: str | Path, benchmark: str, name: str) -> Result:
    """A result in VLMEvalKit's ``<model>_<dataset>_acc.csv`` or ``_score.csv``: the first row's numbers."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    if not table:
        raise EvaluationError(f"{path}: no rows; the evaluation in VLMEvalKit has not finished")
    scores = {}
    for row in table:
        prefix = f"{row['split']}/" if row.get("split") not in (None, "none", "") and len(table) > 1 else ""
        for key, value in row.items():
            try:
                scores[prefix + key] = _score(float(value), None, None)
            except (TypeError, ValueError):
                continue
    if not scores:
        raise EvaluationError(f"{path}: no numbers in columns {', '.join(table[0])}")
    model = {"name": name, "path": "", "key": "", "revision": None, "adapter": None}
    return _result(benchmark, "as in the kit", None, model, "vlmevalkit", scores, {})


def _score(value: float, error: float | None, n: int | None) -> dict[str, Any]:
    """In percent; the kits write fractions for most scores and percent for some, so a value above 1 stays."""
    scale = 100.0 if 0 <= value <= 1 else 1.0
    return {
        "value": scale * value, "standard_error": None if error is None else scale * error, "low": None, "high": None,
        "n": n, "raw": value,
    }  # fmt: skip


def _result(
    benchmark: str,
    version: str,
    count: int | None,
    model: dict[str, Any],
    kit: str,
    scores: dict[str, dict[str, Any]],
    environment: dict[str, Any],
) -> Result:
    data = {"name": benchmark, "version": version, "items": count, "limit": None, "scoring": "kit"}
    return Result(data, model, {"name": kit, "version": 1}, scores, {"n": count}, environment=environment, source=kit)
