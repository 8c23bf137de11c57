"""Searches for good hyper-parameters with Optuna. Each trial is a training job in a separate process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.launch.points import LaunchError
from scramble.launch.sweep import launch
from scramble.storage.files import STAGE_FILE, read_json

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from optuna.trial import Trial

log = logging.getLogger(__name__)


# This default is not in the YAML file, because Hydra would merge a user's search space with it.
SPACE: Mapping[str, Any] = {
    "trainer.beta": {"low": 0.02, "high": 0.5, "log": True},
    "trainer.learning_rate": {"low": 1e-6, "high": 1e-4, "log": True},
}


def search(
    cfg: DictConfig, *, trials: int, metric: str, direction: str, space: Mapping[str, Any] | None, storage: str
) -> dict[str, Any]:
    """Run trials until ``trials`` of them are finished. An interrupted study resumes.

    Args:
        cfg: a composed configuration of ``scripts/train.py``.
        trials: number of trials that must be finished, including finished trials of an interrupted search.
        metric: name of the metric to optimise. The last value that a trial logs is used.
        direction: ``minimize`` or ``maximize``.
        space: for each configuration key, a list of choices or a mapping with ``low``, ``high`` and optionally ``log``
            and ``int``. None means :data:`SPACE`.
        storage: URL of Optuna's database.

    Returns:
        The best trial: ``value``, ``params``, ``arm``.

    Raises:
        LaunchError: a trial fails, or its run does not log the metric.
    """
    import optuna

    Path(cfg.run.dir).mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a failed trial ends the search with its own message
    study = optuna.create_study(
        study_name="scramble",
        storage=storage,
        direction="minimize" if direction == "minimize" else "maximize",
        load_if_exists=True,
    )
    _requeue_killed(study)

    def run(trial: Trial) -> float:
        values = {key: _suggest(trial, key, choice) for key, choice in (space or SPACE).items()}
        return _run_trial(cfg, trial.number, values, metric)

    def finished() -> int:
        return len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))

    def report(_: Any, trial: Any) -> None:
        if trial.value is not None:
            log.info(
                f"trial {trial.number} ({finished()} of {trials}): {metric} is {trial.value:.4g} with {trial.params}"
            )

    while finished() < trials:
        # Use a new seed for each trial, so that a resumed search suggests the same values as an uninterrupted search.
        study.sampler = optuna.samplers.TPESampler(seed=100_000 * cfg.seed + len(study.trials))
        study.optimize(run, n_trials=1, callbacks=[report])
    best = study.best_trial
    log.info(f"trial {best.number} is the best: {metric} is {best.value:.4g} with {best.params}")
    return {"value": best.value, "params": best.params, "arm": f"trial{best.number:03d}-seed{cfg.seed}"}


def _requeue_killed(study: Any) -> None:
    """Mark unfinished trials of a killed search as failed, and enqueue their values again."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _suggest(trial: Trial, key: str, choice: Any) -> Any:
    if isinstance(choice, list):
        return trial.suggest_categorical(key, choice)
    suggest = trial.suggest_int if choice.get("int") else trial.suggest_float
    return suggest(key, choice["low"], choice["high"], log=choice.get("log", False))


def _run_trial(cfg: DictConfig, trial: int, values: Mapping[str, Any], metric: str) -> float:
    from omegaconf import OmegaConf

    point = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"])
    for key, value in values.items():
        OmegaConf.update(point, key, value, force_add=True)
    arm = f"trial{trial:03d}-seed{cfg.seed}"
    OmegaConf.update(point, "run.arm", arm)
    resolved: Any = OmegaConf.to_container(point, resolve=True)
    launcher = {"kind": "local", "jobs": 1} if resolved["launcher"]["kind"] == "inline" else resolved["launcher"]
    script = Path(sys.argv[0]).with_name("train.py")
    launch(script, [resolved], [[]], Path(cfg.run.dir) / "jobs", launcher)
    last = read_json(Path(cfg.run.dir) / "train" / arm / STAGE_FILE)["summary"]["last"]
    if metric not in last:
        raise LaunchError(f"study.metric={metric} is not logged: choose one of {', '.join(sorted(last))}")
    return float(last[metric])
