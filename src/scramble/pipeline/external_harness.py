"""Exports arms for an external harness, writes the commands that run the harness, and imports its results once they
exist.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.pipeline import BASE
from scramble.pipeline.evaluate import arms_of
from scramble.pipeline.stage import run_stage
from scramble.storage.files import write_text

log = logging.getLogger(__name__)


def external_harness(
    run: str | Path,
    *,
    model: Mapping[str, Any],
    harness: str,
    tasks: Sequence[str] | str,
    arms: Sequence[str] | str = "all",
    adapter: Sequence[str] | str | None = None,
    harness_model: str | None = None,
    harness_args: Mapping[str, Any] | None = None,
    harness_flags: Sequence[str | int | float] = (),
    harness_python: str = "python",
    batch_size: int = 1,
) -> dict[str, list[Path]]:
    """Export each arm if necessary, write the command that runs the harness, and import the results that exist.

    The command for an arm is written to ``<run>/external_harness/<arm>/<harness>.sh``. Imported results are written to
    ``<run>/evaluation/<arm>/<benchmark>.<harness>/``, where reports find them.

    Args:
        run, model, arms, adapter: as in :func:`scramble.pipeline.evaluate.evaluate`.
        harness, tasks, harness_model, harness_args, harness_flags, harness_python, batch_size: see
            :func:`scramble.evaluation.external.external_harness.command`. With lmms-eval, ``harness_model=None``
            selects the harness's class for the model's family.

    Returns:
        The folders of the imported results by arm.
    """
    from scramble.evaluation import runner
    from scramble.evaluation.external import external_harness as harnesses
    from scramble.evaluation.scoring import results

    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if harness == "lmms-eval" and harness_model is None:
        harness_model = harnesses.LMMS_EVAL_MODELS.get(model.get("family") or "", "huggingface")
    imported: dict[str, list[Path]] = {}
    for arm, paths in arms_of(Path(run), model, arms, adapter).items():
        folder = Path(run) / "external_harness" / arm
        identity = runner.identify(
            paths["path"],
            adapter=paths.get("adapter"),
            revision=model.get("revision"),
            name=arm,
            dtype=model.get("dtype", "auto"),
        )
        exported = paths["path"] if arm == BASE else str(_export(folder, model, paths, identity.key))
        out = (folder / harness).resolve()
        words = harnesses.command(
            harness,
            tasks,
            arm,
            Path(exported).resolve() if Path(exported).exists() else exported,
            out,
            harness_model=harness_model,
            harness_args=harness_args,
            harness_flags=harness_flags,
            harness_python=harness_python,
            batch_size=batch_size,
        )
        script = folder / f"{harness}.sh"
        write_text(script, f"#!/bin/sh\n{shlex.join(words)}\n")
        described = {
            "name": arm,
            "path": exported,
            "key": identity.key,
            "revision": identity.revision,
            "adapter": paths.get("adapter"),
        }
        imported[arm] = []
        for result, outcomes in harnesses.read_results(harness, out, described):
            imported[arm].append(Path(run) / "evaluation" / arm / f"{result.benchmark['name']}.{harness}")
            results.write(imported[arm][-1], result, outcomes)
            log.info(f"{arm}: imported {result.benchmark['name']} from {harness}: {_first(result.scores)}")
        if not imported[arm]:
            where = f" in {harness}'s environment" if harness_python == "python" else ""
            log.info(f"{arm}: run `sh {shlex.quote(str(script))}`{where}, then run this command again")
    return imported


def _export(folder: Path, model: Mapping[str, Any], paths: Mapping[str, str], key: str) -> Path:
    """Export the arm as a model folder with the adapter merged, or reuse an existing export. If the arm was retrained,
    its key differs, and the existing export is refused.
    """
    from scramble.models.export import export_model

    def work(folder: Path) -> dict[str, Any]:
        path, adapter = paths["path"], paths.get("adapter")
        return {"path": str(export_model(path, folder / "model", adapter=adapter, revision=model.get("revision")))}

    return Path(run_stage(folder, {"model": key}, work)[0]["path"])


def _first(scores: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [f"{name} {score['value']:.1f}" for name, score in scores.items() if "/" not in name]
    return ", ".join(shown or [f"{len(scores)} scores"])
