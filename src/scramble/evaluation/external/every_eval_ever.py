"""Export results and items to the schema of Every Eval Ever 0.3.0 (https://github.com/evaleval/every_eval_ever).

Each result is written to ``data/<benchmark>/<developer>/<model>/<uuid>.json``, with one entry per score, and to
``<uuid>_samples.jsonl``, with one row per item and metric. The folder ``data`` can be uploaded to Every Eval Ever's
data store, or merged with the ``data`` folders of other runs.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scramble.evaluation.items import CaptionChoice, Item
from scramble.evaluation.scoring.hallucination import lower_is_better
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.models.hub import is_hub_id
from scramble.records import Question, conversation_text
from scramble.storage.files import write_json, write_text

SCHEMA_VERSION = "0.3.0"
LIBRARY = "scramble"
SCORE_NAMES = {("hallusionbench", "accuracy"): "a_acc"}
"""Name of the score that is the mean of an item value, by benchmark and item value. Only scores whose name differs from
the name of the item value are listed.
"""
POINTS = 6.0
"""The highest rating of MMHal-Bench."""
RANGES: dict[tuple[str, str], tuple[float | str, float | str]] = {
    ("hallusionbench", "yes_difference"): (-100.0, 100.0),
    ("llava_bench", "score"): (0.0, "Infinity"),
    ("llava_bench", "official_score"): ("-Infinity", "Infinity"),
    ("mmhal", "score"): (0.0, POINTS),
    ("mmhal", "official_score"): (0.0, POINTS),
}
"""Lowest and highest values of the scores whose range is not 0 to 100. LLaVA-Bench's score is relative to the scores of
reference answers, and in its official variant, scores that cannot be read count as -1.
"""


def write(
    root: str | Path, result: Result, items: Sequence[Item], outcomes: Sequence[Outcome], *, timestamp: float
) -> Path:
    """Write one result with its items below ``root``.

    A later result of the same model, data and protocol overwrites the files of the earlier result, so that a
    repeated evaluation does not count twice in an upload.

    Args:
        timestamp: time at which the result was written, in seconds since the epoch.

    Returns:
        The path of the aggregate file.
    """
    benchmark, model_id = result.benchmark["name"], _model_id(result)
    evaluation_id = f"{benchmark}/{model_id}/{timestamp:.0f}"
    data = [benchmark, result.benchmark["version"], result.benchmark.get("limit")]
    described = [model_id, result.name, result.model.get("key"), *data, result.protocol["name"]]
    digest = hashlib.sha256(json.dumps(described).encode()).digest()
    folder = Path("data", benchmark, *model_id.split("/"))
    name = str(uuid.UUID(bytes=digest[:16], version=4))
    rows = [
        {"schema_version": SCHEMA_VERSION, "evaluation_id": evaluation_id, "model_id": model_id, **row}
        for row in _rows(benchmark, result, items, outcomes)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    log: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation_id,
        "retrieved_timestamp": f"{timestamp:.0f}",
        "source_metadata": {
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {
            "name": LIBRARY,
            "version": version(LIBRARY),
            "additional_details": _texts(result.environment),
        },
        "model_info": {
            "name": result.name,
            "id": model_id,
            "additional_details": _texts(result.model)
            | {"deployment_type": "self_deployed", "model_availability": "open_weights"},
        },
        "evaluation_results": [_score(benchmark, name, score, result) for name, score in result.scores.items()],
    }
    if rows:
        samples = folder / f"{name}_samples.jsonl"
        write_text(Path(root) / samples, text)
        log["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": samples.as_posix(),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(rows),
        }
    path = Path(root) / folder / f"{name}.json"
    write_json(path, log)
    return path


def _model_id(result: Result) -> str:
    """Return ``<developer>/<model>``: the hub id of an unchanged hub model, or ``local/<arm>`` for any other model."""
    path = str(result.model.get("path"))
    on_hub = is_hub_id(path) and not Path(path).exists()
    return path if on_hub and not result.model.get("adapter") else f"local/{result.name.replace('/', '_')}"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values as strings, because the schema allows no other type in additional details."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
        if value is not None
    }


def _score(benchmark: str, name: str, score: Mapping[str, Any], result: Result) -> dict[str, Any]:
    uncertainty: dict[str, Any] = {}
    if score.get("standard_error") is not None:
        uncertainty["standard_error"] = {"value": score["standard_error"]}
    if score.get("low") is not None:
        interval = {"lower": score["low"], "upper": score["high"], "confidence_level": 0.95}
        uncertainty["confidence_interval"] = interval
    if score.get("n") is not None:
        uncertainty["num_samples"] = score["n"]
    low, high = RANGES.get((benchmark, name.partition("/")[0]), (0.0, 100.0))
    return {
        "evaluation_result_id": f"{benchmark}/{name}",
        "evaluation_name": f"{benchmark}/{name}",
        "source_data": {
            "dataset_name": benchmark,
            "source_type": "other",
            "additional_details": _texts(result.benchmark),
        },
        "metric_config": {
            "metric_id": f"{benchmark}.{name}",
            "metric_unit": "points" if high == POINTS else "percent",
            "lower_is_better": lower_is_better(name),
            "score_type": "continuous",
            "min_score": low,
            "max_score": high,
            "additional_details": _texts({key: score.get(key) for key in ("chance", "human")}),
        },
        "score_details": {"score": score["value"], "uncertainty": uncertainty},
        "generation_config": {"additional_details": _texts(result.protocol)},
    }


def _rows(
    benchmark: str, result: Result, items: Sequence[Item], outcomes: Sequence[Outcome]
) -> Iterator[dict[str, Any]]:
    """Yield one row per item and metric. Metrics for which the result has no score are omitted.

    If the model generated no answer to an item, the reply is the matrix of scores (images x captions). The references
    of a 2x2 item are its captions, in the order of its images.
    """
    for item, outcome in zip(items, outcomes, strict=True):
        question, choices = _input(item)
        reference = [outcome.target] if outcome.target else choices or []
        scores = outcome.details.get("scores")
        written = outcome.details.get("response", outcome.prediction)
        reply = json.dumps(scores) if written is None else str(written)
        for measured, value in outcome.values.items():
            metric = SCORE_NAMES.get((benchmark, measured), measured)
            if metric not in result.scores:
                continue
            yield {
                "evaluation_name": f"{benchmark}/{metric}",
                "evaluation_result_id": f"{benchmark}/{metric}",
                "sample_id": item.item_id,
                "sample_hash": hashlib.sha256((question + "".join(reference)).encode()).hexdigest(),
                "interaction_type": "single_turn",
                "input": {"raw": question, "reference": reference, "choices": choices},
                "output": {"raw": [reply]},
                "answer_attribution": [] if outcome.prediction is None else [_extracted(outcome.prediction, result)],
                "evaluation": {"score": value, "is_correct": value == 1},
                "metadata": {"kind": item.kind, "group": item.group, "images": ",".join(item.image_ids)},
            }


def _extracted(prediction: str, result: Result) -> dict[str, Any]:
    return {
        "turn_idx": 0,
        "source": "output.raw",
        "extracted_value": prediction,
        "extraction_method": str(result.protocol["name"]),
        "is_terminal": True,
    }


def _input(item: Item) -> tuple[str, list[str] | None]:
    """Return the question and the choices of an item. Items about captions have no question."""
    record = item.record
    if isinstance(record, Question):
        return record.question, list(record.choices) or None
    prompt = ""
    if isinstance(record, CaptionChoice):
        prompt = conversation_text(record.prompt or "", record.history)
    return prompt or "Which caption describes the image?", list(record.captions)
