"""The results schema: what a score file holds, how it is written and read back.

``result.json`` of one benchmark and one model holds, with ``schema`` = :data:`SCHEMA`:

============== =====================================================================================================
benchmark      ``name``, ``version`` of the data, ``items``, ``limit``, ``scoring``
model          ``path``, ``revision``, ``adapter``, ``key`` (content of all of them), ``name`` shown in tables,
               ``engine`` (its kind, where the model was served)
protocol       every setting of the protocol, name and version among them; ``grading`` (who read the answers) and
               ``faithfulness`` where a judge, or a rule in its place, takes part
scores         name -> ``value``, ``standard_error``, ``low``, ``high`` (95 %), all in percent, ``n`` units, ``chance``
               and ``human`` where known; ``gradings`` and ``grading_interval`` of a judge's repeated gradings
rates          ``n``, ``tied_items``, ``ties``, ``unparsed``, ``refused``, ``judge``, ``unscored``, and rates in [0, 1]
self_test      batch 1 against batch n: ``groups``, ``max_logprob_difference`` (nats), ``texts_differ``; null if not run
environment    package versions, git commit, platform, hardware
times          ``model_seconds``, ``other_seconds``, ``queries``, ``scored_now`` (of this call, the rest was on disk)
source         ``scramble``, or the kit whose result file was read
============== =====================================================================================================

Beside it lie ``items.jsonl`` (one outcome an item, in order) and ``responses*.jsonl`` (one reply a query).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.storage.files import read_json, write_json, write_text
from scramble.storage.jsonl import read_jsonl

SCHEMA = 1


@dataclass
class Result:
    """One benchmark's scores for one model with all it takes to trust them. See the module's table."""

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
    """Write ``items.jsonl`` and ``result.json`` (atomically, the result last)."""
    lines = [json.dumps(dataclasses.asdict(o), ensure_ascii=False) for o in outcomes]
    write_text(Path(folder) / "items.jsonl", "\n".join(lines) + "\n")
    write_json(Path(folder) / "result.json", dataclasses.asdict(result))


def read(folder: str | Path) -> Result:
    """The result in a folder. Raises EvaluationError for another schema version."""
    path = Path(folder) / "result.json"
    values = read_json(path)
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, Mapping) else None
        raise EvaluationError(
            f"{path}: results of schema {found}, this version reads {SCHEMA}; score again (replies on disk are reused)"
        )
    known = {f.name for f in dataclasses.fields(Result)}
    if unknown := sorted(set(values) - known):
        raise EvaluationError(f"{path}: unknown field {unknown[0]!r}")
    try:
        return Result(**values)
    except TypeError as error:
        raise EvaluationError(f"{path}: {error}") from None


def read_outcomes(folder: str | Path) -> list[Outcome]:
    """The outcomes beside a result, in the benchmark's order."""
    rows = read_jsonl(Path(folder) / "items.jsonl")
    return [Outcome(**{**row, "tags": tuple(row["tags"])}) for row in rows]


def find(root: str | Path) -> list[Path]:
    """Folders below ``root`` that hold a result."""
    return sorted(path.parent for path in Path(root).rglob("result.json"))
