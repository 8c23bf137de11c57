"""Run the points of a sweep, or one job: what is finished is skipped, what failed is listed, a table ends it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.interrupt import EXIT_STOPPED
from scramble.launch.command import job_command, strategy_file
from scramble.launch.points import CONFIG_FILE, LOG_FILE, STATUS_FILE, LaunchError, Point, make_points, status
from scramble.launch.pool import Task, run_pool
from scramble.launch.slurm import submit, under_way, wait_for_jobs
from scramble.launch.sweep_table import write_table
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
    """Run composed configurations of a script where ``launcher`` says; those that are finished are not run again.

    Args:
        script: ``scripts/train.py``, say.
        configs: composed and resolved configurations, one a job.
        overrides: for each its command-line overrides.
        folder: where the jobs' folders and the table go.
        launcher: ``kind`` (``local`` or ``slurm``) and its options, see ``configs/launcher``.

    Raises:
        LaunchError: jobs that cannot start, and, at the end, jobs that did not finish.
        Stopped: a signal asked for it; local jobs have saved.
    """
    points = make_points(script.resolve(), configs, overrides, folder)
    strategy_file(launcher.get("strategy") or "ddp")
    open_points = [point for point in points if not _settled(point, folder, launcher)]
    for point in open_points:
        _write_config(point)
    if skipped := len(points) - len(open_points):
        log.info(f"{skipped} of {len(points)} jobs are finished or under way already")
    if open_points and launcher["kind"] == "local":
        _run_here(open_points, launcher, alone=len(points) == 1)
    elif open_points:
        jobs = submit(open_points, launcher, folder / "submitit")
        log.info(f"submitted {', '.join(str(job.job_id) for job in jobs)}; logs in {folder}")
        if launcher["wait"]:
            wait_for_jobs(jobs, lambda n: _settle(open_points[n]), slurm=launcher["cluster"] == "slurm")
    if len(points) > 1:
        write_table(points, folder)
    unfinished = [point for point in points if status(point)["status"] != "finished"]
    if unfinished and (launcher["kind"] == "local" or launcher["wait"]):
        raise LaunchError(_list_unfinished(unfinished, len(points)))
    return points


def _settled(point: Point, folder: Path, launcher: Mapping[str, Any]) -> bool:
    if status(point)["status"] == "finished":
        return True
    return launcher["kind"] == "slurm" and under_way(point, folder / "submitit", launcher["cluster"])


def _write_config(point: Point) -> None:
    from omegaconf import OmegaConf

    config = {**point.config, "launcher": {"kind": "inline"}}  # the job itself starts nothing
    with atomic_path(point.folder / CONFIG_FILE) as temporary:
        OmegaConf.save(OmegaConf.create(config), temporary)


def _run_here(points: Sequence[Point], launcher: Mapping[str, Any], alone: bool) -> None:
    jobs, devices = launcher.get("jobs") or 1, _shares(launcher)
    if devices is not None:
        jobs = min(jobs, len(devices))
    tasks = [Task(job_command(point, launcher), None if alone else point.folder / LOG_FILE, {}) for point in points]
    if not alone:
        log.info(
            f"{len(tasks)} jobs, {min(jobs, len(tasks))} at a time; logs in {points[0].folder.parent}/*/{LOG_FILE}"
        )
    for point in points:  # what an earlier attempt noted is no news of this one
        note = status(point)
        write_json(point.folder / STATUS_FILE, {"status": "new", "attempt": note.get("attempt", 0)})

    def ended(number: int, code: int) -> None:
        _settle(points[number], code)
        if not alone:
            log.info(f"{points[number].label}: {status(points[number])['status']}")

    run_pool(tasks, jobs, devices, ended)


def _shares(launcher: Mapping[str, Any]) -> list[list[str]] | None:
    """The GPUs of each place in the pool: ``launcher.devices`` dealt out, as many to each job as it has processes."""
    devices = launcher.get("devices")
    if devices is None:
        return None
    each = launcher.get("num_processes") or 1
    if len(devices) < each:
        raise LaunchError(f"launcher.devices={list(devices)}: fewer than launcher.num_processes={each}")
    return [[str(d) for d in devices[i : i + each]] for i in range(0, len(devices) - each + 1, each)]


def _settle(point: Point, code: int | None = None) -> None:
    """Note the end of a job that could not do so itself: it was killed, or failed before it began."""
    note = status(point)
    if note["status"] not in ("new", "submitted", "running"):
        return
    if code == EXIT_STOPPED:
        note["status"] = "stopped"
    elif code is not None and code < 0:
        note |= {"status": "killed", "error": f"killed by signal {-code}"}
    else:
        note |= {"status": "killed" if note["status"] == "running" else "failed", "error": f"exit status {code}"}
    write_json(point.folder / STATUS_FILE, note)


def _list_unfinished(points: Sequence[Point], count: int) -> str:
    parts = [f"{len(points)} of {count} jobs did not finish; the same command runs only these again"]
    for point in points:
        note = read_json(point.folder / STATUS_FILE)
        parts.append(f"\n{point.label}: {note['status']}, log {point.folder / LOG_FILE}")
        if count > 1:
            parts += [f"    {line}" for line in tail(point.folder / LOG_FILE)]
    return "\n".join(parts)


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a file, none if there is no such file."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return file.read().decode(errors="replace").splitlines()[-lines:]
