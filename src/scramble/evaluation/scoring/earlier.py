"""Keep finished results: new scores replace the scores in a folder only if both were measured in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.paired import not_comparable
from scramble.evaluation.scoring.results import Result
from scramble.storage.hashing import differing_keys

NOT_GRADED_YET = "none yet (the answers need a judge)"
"""Recorded as the grader if only a judge can grade the answers and the evaluation had no judge."""


def check_earlier(folder: Path, new: Result) -> None:
    """Raise EvaluationError if the folder contains scores of other data, of another protocol or of another model than
    ``new``. The scores of ``new`` need not be computed yet.

    Scores of a part of the items (``limit``) may be replaced. Grading by a judge may replace grading by rules, and any
    protocol may replace a result without scores.
    """
    if not (folder / "result.json").is_file():
        return
    try:
        old = results.read(folder)
    except EvaluationError:  # another version of this project wrote the result, and the evaluation must be repeated
        return
    if old.benchmark["limit"] is not None:
        return
    free = _replaceable(old.protocol) if old.scores else {*old.protocol, *new.protocol}
    reason = _other_model(old.model, new.model) or not_comparable(_without(old, free), _without(new, free))
    if reason is not None:
        raise EvaluationError(
            f"{folder} contains scores that the new scores must not replace, because {reason}: choose another results "
            f"folder (folder=..., in Python out=...), or remove {folder / 'result.json'}"
        )


def _other_model(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return how the selection of the model differs. Return None if the new model is not given (``{}``), or if only the
    weights differ, because training has then replaced the old model's weights.
    """
    if not new or old["key"] == new["key"]:
        return None
    names = ("path", "revision", "adapter", "dtype", "engine")
    sides = [dict(side.get("settings", {})) | {name: side.get(name) for name in names} for side in (old, new)]
    shared = sides[0].keys() & sides[1].keys()  # another version of this project may have other settings
    before, after = ({key: side[key] for key in shared} for side in sides)
    differences = differing_keys(before, after, "model.")
    return f"the models differ: {', '.join(differences)}" if differences else None


def _replaceable(protocol: Mapping[str, Any]) -> set[str]:
    """Return the entries of the protocol that may change: ``grading`` unless a judge graded the answers, and
    ``faithfulness`` if it was not measured.
    """
    grading = protocol.get("grading", NOT_GRADED_YET)
    by_rule = grading == NOT_GRADED_YET or grading.endswith("no judge")
    entries = {"grading": by_rule, "faithfulness": "faithfulness" not in protocol}
    return {name for name, is_replaceable in entries.items() if is_replaceable}


def _without(result: Result, entries: set[str]) -> Result:
    protocol = {key: value for key, value in result.protocol.items() if key not in entries}
    return dataclasses.replace(result, protocol=protocol)
