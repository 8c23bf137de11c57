"""Runs the points of a sweep, or one job: skips finished points, lists failed points, and writes a table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.interrupt import EXIT_STOPPED
from scramble.launch.command import job_command
from scramble.launch.points import CONFIG_FILE, LOG_FILE, STATUS_FILE, LaunchError, Point, make_points, status
from scramble.launch.pool import Task, run_pool
from scramble.launch.slurm import is_queued_or_running, submit, wait_for_jobs
from scramble.launch.sweep_table import write_sweep_table
from scramble.storage.files import atomic_path, read_json, write_json

log = logging.getLogger(__name__)

TAIL_LINES = 15


def launch(
    script: Path,
    configs: Sequence[Mapping[str, Any]],
    overrides: Sequence[Sequence[str]],
    folder: Path,
    launcher: Mapping[str, Any],
) -> list[Point]:
    """Run composed configurations of a script with a launcher. Finished jobs are not run again.

    Args:
        script: path of the script, such as ``scripts/train.py``.
        configs: composed and resolved configurations, one per job.
        overrides: the command-line overrides of each job.
        folder: folder for the jobs' folders and the table.
        launcher: ``kind`` (``local`` or ``slurm``) and the options of this kind (see ``configs/launcher``).

    Raises:
        LaunchError: jobs cannot be started, or some jobs did not finish.
        Stopped: a signal requested a stop.
    """
    points = make_points(script.resolve(), configs, overrides, folder)
    pending = [point for point in points if not _is_done_or_running(point, folder, launcher)]
    for point in pending:
        _write_config(point)
    if skipped := len(points) - len(pending):
        log.info(f"skipped jobs that are already finished or running: {skipped} of {len(points)}")
    if pending and launcher["kind"] == "local":
        _run_here(pending, launcher, alone=len(points) == 1)
    elif pending:
        jobs = submit(pending, launcher, folder / "submitit")
        ids = ", ".join(str(job.job_id) for job in jobs)
        log.info(f"submitted {counted(len(jobs), 'jobs')} ({ids}); the logs are in {folder}")
        if launcher["wait"]:
            wait_for_jobs(jobs, lambda n: _record_end(pending[n]), slurm=launcher["cluster"] == "slurm")
    if len(points) > 1:
        write_sweep_table(points, folder)
    unfinished = [point for point in points if status(point)["status"] != "finished"]
    if unfinished and (launcher["kind"] == "local" or launcher["wait"]):
        raise LaunchError(_list_unfinished(unfinished, len(points)))
    return points


def _is_done_or_running(point: Point, folder: Path, launcher: Mapping[str, Any]) -> bool:
    if status(point)["status"] == "finished":
        return True
    return launcher["kind"] == "slurm" and is_queued_or_running(point, folder / "submitit", launcher["cluster"])


def _write_config(point: Point) -> None:
    from omegaconf import OmegaConf

    config = {**point.config, "launcher": {"kind": "inline"}}  # the job itself runs the script
    with atomic_path(point.folder / CONFIG_FILE) as temporary:
        OmegaConf.save(OmegaConf.create(config), temporary)


def _run_here(points: Sequence[Point], launcher: Mapping[str, Any], alone: bool) -> None:
    jobs, devices = launcher.get("jobs") or 1, _shares(launcher)
    if devices is not None:
        jobs = min(jobs, len(devices))
    tasks = [Task(job_command(point, launcher), None if alone else point.folder / LOG_FILE) for point in points]
    if not alone:
        log.info(
            f"running {counted(len(tasks), 'jobs')}, {min(jobs, len(tasks))} at a time; "
            f"the logs are {points[0].folder.parent}/*/{LOG_FILE}"
        )
    for point in points:  # discard the status of an earlier attempt
        record = status(point)
        write_json(point.folder / STATUS_FILE, {"status": "new", "attempt": record.get("attempt", 0)})

    def ended(number: int, code: int) -> None:
        _record_end(points[number], code)
        if not alone:
            log.info(f"{points[number].label}: {status(points[number])['status']}")

    run_pool(tasks, jobs, devices, ended)


def _shares(launcher: Mapping[str, Any]) -> list[list[str]] | None:
    """Divide ``launcher.devices`` into groups. A group serves one job at a time, with one GPU per process.

    The result is None if ``launcher.devices`` is not set.
    """
    devices = launcher.get("devices")
    if devices is None:
        return None
    size = launcher.get("num_processes") or 1
    return [[str(d) for d in devices[i : i + size]] for i in range(0, len(devices) - size + 1, size)]


def _record_end(point: Point, code: int | None = None) -> None:
    """Record the end of a job that could not record it, for example because the job was killed."""
    record = status(point)
    if record["status"] not in ("new", "submitted", "running"):
        return
    if code == EXIT_STOPPED:
        record["status"] = "stopped"
    elif code is not None and code < 0:
        record |= {"status": "killed", "error": f"killed by signal {-code}"}
    else:
        record |= {"status": "killed" if record["status"] == "running" else "failed", "error": f"exit status {code}"}
    write_json(point.folder / STATUS_FILE, record)


def _list_unfinished(points: Sequence[Point], count: int) -> str:
    parts = [f"{len(points)} of {count} jobs did not finish; the same command runs only the unfinished jobs again"]
    for point in points:
        record, file = read_json(point.folder / STATUS_FILE), point.folder / LOG_FILE
        # A single local job, which prints to this terminal, and a job that never started have no log file.
        parts.append(f"\n{point.label}: {record['status']}" + (f", log {file}" if file.exists() else ""))
        if count > 1:
            parts += [f"    {line}" for line in tail(file)]
    return "\n".join(parts)


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a file, or an empty list if the file does not exist."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return file.read().decode(errors="replace").splitlines()[-lines:]
