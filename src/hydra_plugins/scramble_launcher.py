"""Hydra launcher plugin for ``-m``: runs the points of a sweep with the launcher that ``launcher=...`` selects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

ConfigStore.instance().store(
    group="hydra/launcher",
    name="scramble",
    node={"_target_": "hydra_plugins.scramble_launcher.ScrambleLauncher"},
    provider="scramble",
)


class ScrambleLauncher(Launcher):
    """Composes all points. ``inline`` then runs them one by one in the calling process. All other launchers start a
    separate job for each point.
    """

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from scramble.app import start_sweep

        loader = self.hydra_context.config_loader
        configs = [loader.load_sweep_config(self.config, list(overrides)) for overrides in job_overrides]
        overrides = [list(overrides) for overrides in job_overrides]
        start_sweep(self.task_function, configs, overrides, Path(self.config.hydra.sweep.dir))
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]
