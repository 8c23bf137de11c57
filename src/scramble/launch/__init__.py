"""Starts jobs in separate processes: one or several processes per job, on the local machine or on a SLURM cluster.

The launching process composes the configuration of each job once and writes it to the job's folder. The job runs the
same script with this file (``scripts/train.py --resolved <job>/config.yaml``), so that all processes of a job use the
same configuration and run folder. A job's folder contains ``config.yaml``, ``log.txt`` and ``status.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.launch.sweep import launch

__all__ = ["launch"]


def __getattr__(name: str) -> Any:
    # The import is lazy, because every script imports this package, and the modules that launch jobs take time to
    # import.
    if name == "launch":
        from scramble.launch.sweep import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
