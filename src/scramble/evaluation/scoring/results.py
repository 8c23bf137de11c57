"""Define the schema of results, and write and read result files.

``result.json`` of one benchmark and one model contains, with ``schema`` = :data:`SCHEMA`:

============== =====================================================================================================
benchmark      ``name``, ``version`` of the data, ``items``, ``limit``, ``scoring``
model          ``path``, ``revision``, ``adapter``, ``dtype``, ``key`` (content key of the model with its adapter),
               ``name`` (shown in tables), ``engine`` (kind of the engine, or null without an engine),
               ``settings`` (loading options that can change scores)
protocol       all settings of the protocol, including name and version; ``grading`` and ``faithfulness`` (who graded
               the answers and the reasoning, for answers that a judge can grade)
scores         by name: ``value``, ``standard_error``, ``low`` and ``high`` (95 % interval), all in percent
               (MMHal-Bench's score: points from 0 to 6), ``n`` (number of units), ``chance`` and ``human`` (null if
               unknown), ``gradings`` and ``grading_interval`` (only for repeated gradings by a judge)
rates          counts: ``n``, ``tied_items``, ``ties``, ``unparsed``, ``refused``, ``judge``, ``unread``, ``unscored``;
               rates in [0, 1]: ``unparsed_rate``, ``refused_rate``
self_test      comparison of batch size 1 with larger batches: ``groups``, ``max_logprob_difference`` (nats),
               ``texts`` (number of generated replies), ``texts_differ``; or null
environment    package versions, git commit, platform, hardware
times          ``model_seconds``, ``other_seconds``, ``queries`` (number of all queries), ``scored_now`` (number of
               queries that the last call answered; all other replies were already stored)
source         ``scramble``, or the harness whose result file was read
============== =====================================================================================================

The folder of ``result.json`` also contains ``items.jsonl`` (one outcome per item, in order) and ``responses*.jsonl``
(one reply per query).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.storage.files import read_json, write_json, write_text
from scramble.storage.jsonl import read_jsonl

SCHEMA = 1
_REPEAT = "repeat the evaluation, which reuses stored replies"


@dataclass
class Result:
    """The scores of one model on one benchmark, with their provenance. The table in the module docstring lists the
    fields.
    """

    benchmark: dict[str, Any]
    model: dict[str, Any]
    protocol: dict[str, Any]
    scores: dict[str, dict[str, Any]]
    rates: dict[str, Any]
    self_test: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    times: dict[str, Any] = field(default_factory=dict)
    source: str = "scramble"
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """The model's name in tables."""
        return str(self.model.get("name") or self.model.get("path"))


def write(folder: str | Path, result: Result, outcomes: Sequence[Outcome]) -> None:
    """Write ``items.jsonl``, then ``result.json``, both atomically."""
    lines = [json.dumps(vars(o), ensure_ascii=False) for o in outcomes]
    write_text(Path(folder) / "items.jsonl", "\n".join(lines) + "\n")
    write_json(Path(folder) / "result.json", dataclasses.asdict(result))


def read(folder: str | Path) -> Result:
    """Return the result in a folder. Raises EvaluationError if the result is incomplete or has a different schema
    version.
    """
    path = Path(folder) / "result.json"
    values = read_json(path)
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        schema = values.get("schema") if isinstance(values, Mapping) else None
        raise EvaluationError(
            f"{path} has schema {schema}, but this version of SCRAMBLe reads schema {SCHEMA}: {_REPEAT}"
        )
    names = {f.name for f in dataclasses.fields(Result)}
    if unknown := sorted(set(values) - names):
        raise EvaluationError(f"{path} has the unknown field {unknown[0]!r}: {_REPEAT}")
    try:
        return Result(**values)
    except TypeError as error:
        raise EvaluationError(f"{path} is not a complete result ({error}): {_REPEAT}") from None


def read_outcomes(folder: str | Path) -> list[Outcome]:
    """Return the outcomes in a result folder in the benchmark's order, or [] if the folder has no outcomes."""
    path = Path(folder) / "items.jsonl"
    return list(_outcomes(path, path.stat().st_mtime_ns)) if path.exists() else []


@lru_cache(maxsize=64)  # the outcomes of a method are read again for each comparison with another method
def _outcomes(path: Path, modified: int) -> tuple[Outcome, ...]:
    return tuple(Outcome(**{**row, "tags": tuple(row["tags"])}) for row in read_jsonl(path))


def find(root: str | Path) -> list[Path]:
    """Return all folders below ``root`` that contain a result."""
    return sorted(path.parent for path in Path(root).rglob("result.json"))
