"""Builds the command lines that start the processes of a job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.launch.points import CONFIG_FILE, Point
from scramble.project import CONFIGS

PORT = 29500


def job_command(
    point: Point, launcher: Mapping[str, Any], *, machine: int = 0, address: str | None = None
) -> list[str]:
    """Return the command that runs a point on one machine.

    Args:
        point: the job, whose configuration must be on disk.
        launcher: ``num_processes`` (of the whole job), ``num_machines``, ``strategy`` (see :func:`strategy_file`), and
            ``port`` (of machine 0, if there are several machines).
        machine: index of this machine, from 0.
        address: host name or address of machine 0, if there are several machines.
    """
    script = [str(point.script), "--resolved", str(point.folder / CONFIG_FILE)]
    processes, machines = launcher.get("num_processes") or 1, launcher.get("num_machines") or 1
    strategy = launcher.get("strategy") or "ddp"
    if processes == 1 and strategy == "ddp":
        return [sys.executable, *script]
    place = ["--num_processes", str(processes), "--num_machines", str(machines), "--machine_rank", str(machine)]
    if machines > 1:
        place += ["--main_process_ip", str(address), "--main_process_port", str(launcher.get("port") or PORT)]
    else:
        place += ["--main_process_port", "0"]  # any free port, because several jobs may share the machine
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(strategy_file(strategy)),
        *place,
        *script,
    ]


def strategy_file(strategy: str) -> Path:
    """Return the path of an accelerate configuration file.

    ``strategy`` is the name of a file in ``configs/accelerate`` or a path that ends in ``.yaml`` or ``.yml``.
    """
    return Path(strategy) if strategy.endswith((".yaml", ".yml")) else CONFIGS / "accelerate" / f"{strategy}.yaml"
