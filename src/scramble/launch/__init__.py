"""Start jobs elsewhere than in this process: several processes a job, several jobs at a time, or a SLURM cluster.

The configuration is composed once, here, and written beside the job's log; each job is the same script on that file
(``scripts/train.py --resolved <job>/config.yaml``), so that all of its processes read one configuration and share one
run folder. What is known of a job stands in its folder: ``config.yaml``, ``log.txt``, ``status.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.launch.sweep import launch

__all__ = ["launch"]


def __getattr__(name: str) -> Any:
    # Lazy: every script imports this package to ask for one job.
    if name == "launch":
        from scramble.launch.sweep import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
