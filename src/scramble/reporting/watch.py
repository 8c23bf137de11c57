"""Reads the progress of a run from the files in its folder, and displays arms, jobs, warnings and the last log lines.

Nothing is written and no process is contacted, so runs on other machines and finished runs can be shown too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import yaml

from scramble.console import LOG_FILE
from scramble.reporting.arms import arm_markers
from scramble.storage.files import STAGE_FILE, StoreError, read_json
from scramble.storage.jsonl import read_jsonl
from scramble.storage.locks import is_locked

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

RECENT = 20  # maximum number of log rows for the estimate of the remaining time, and of rows in a mean
SILENT = 300.0  # seconds without a log row after which an unfinished arm is reported
ABANDONED = 3600.0  # seconds without a log row after which an arm no longer counts as active
BLOCKS = "▁▂▃▄▅▆▇█"
LOG_LINES = 3
WIDE = 120  # minimum width of a terminal, in characters, for the whole table


@dataclass(frozen=True)
class ArmProgress:
    """The progress of an arm, or of a job that has not started its arm.

    Attributes:
        status: ``running``, ``finished``, ``failed``, ``stopped``, ``killed``, ``submitted``, ``new`` or
            ``unreadable`` (a file of the arm is damaged).
        rows: log rows with metrics of training batches.
        evaluation: last log row with metrics of held-out pairs.
        total: total number of training steps; None if unknown.
        age: seconds since the last change of the arm's files.
        warnings: warnings of the training monitors, one line each.
        error: why the job failed, or why the arm's files cannot be read.
    """

    name: str
    status: str
    rows: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    total: int | None = None
    age: float | None = None
    warnings: Sequence[str] = ()
    error: str = ""

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def is_active(self) -> bool:
        """Whether the arm's files may still change."""
        return self.status in ("running", "submitted", "new") and (self.age or 0) < ABANDONED

    def seconds_left(self) -> float | None:
        """Estimate how many seconds the remaining steps take.

        The estimate assumes the speed of the recent steps and excludes evaluations. It is None if the arm is not
        active, if the total number of steps is unknown, or if there are too few rows.
        """
        recent = [row for row in self.rows if _is_finite(row.get("seconds"))][-RECENT:]
        if not self.is_active or self.total is None or len(recent) < 2:
            return None
        steps = recent[-1]["step"] - recent[0]["step"]
        seconds = sum(row["seconds"] for row in recent[1:])  # "seconds" is the time since the previous row
        return seconds / steps * (self.total - self.step) if steps > 0 else None

    def last(self, key: str) -> float | None:
        """Return the value of a metric in the last log row that contains the metric."""
        return next((row[key] for row in reversed(self.rows) if isinstance(row.get(key), (int, float))), None)

    def values(self, key: str) -> list[float]:
        """Return all values of a metric."""
        return [row[key] for row in self.rows if isinstance(row.get(key), (int, float))]


def read_progress(run: Path) -> list[ArmProgress]:
    """Return the arms of a run, sorted by name, followed by the jobs whose arm has not started."""
    jobs = _jobs(run)
    arms = [_read_arm(marker, jobs.get(marker.parent.name, {})) for marker in arm_markers(run)]
    names = {arm.name for arm in arms}
    arms += [
        ArmProgress(name, str(record["status"]), error=str(record.get("error", "")))
        for name, record in jobs.items()
        if name not in names
    ]
    return arms


def _read_arm(marker: Path, job: Mapping[str, Any]) -> ArmProgress:
    """Read an arm from its ``stage.json`` and from the other files in the same folder. An arm with damaged files has
    the status ``unreadable``, so that the other arms are still shown.
    """
    try:
        return _arm(marker.parent, read_json(marker), job)
    except StoreError as error:
        return ArmProgress(marker.parent.name, "unreadable", error=str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        return ArmProgress(marker.parent.name, "unreadable", error=f"{marker} has unexpected contents ({reason})")


def _arm(folder: Path, stage: Mapping[str, Any], job: Mapping[str, Any]) -> ArmProgress:
    status = str(stage["status"])
    if status in ("running", "stopped") and job:  # the job's record also states whether it was killed or resubmitted
        status = str(job["status"])
    elif status == "running" and is_locked(folder) is False:
        stage = read_json(folder / STAGE_FILE)  # read again, because the arm may have ended since the first reading
        status = "killed" if stage["status"] == "running" else str(stage["status"])
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if _is_finite(row.get("step"))]
    training = [row for row in rows if "loss" in row]
    files = [folder / name for name in ("metrics.jsonl", STAGE_FILE) if (folder / name).exists()]
    return ArmProgress(
        folder.name,
        status,
        training,
        next((row for row in reversed(rows) if "eval_loss" in row), {}),
        _total_steps(stage, training),
        max(0.0, time.time() - max(file.stat().st_mtime for file in files)),
        [
            f"step {row.get('step')}: {row.get('warning')}: {row.get('text')}"
            for row in read_jsonl(folder / "warnings.jsonl")
        ],
        str(job.get("error", "")) if status in ("failed", "killed") else "",
    )


def _total_steps(stage: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int | None:
    if "steps" in (stage.get("summary") or {}):
        return int(stage["summary"]["steps"])
    trainer = stage["config"].get("trainer", {})
    if (trainer.get("max_steps") or -1) > 0:
        return int(trainer["max_steps"])
    epoch = rows[-1].get("epoch") if rows else None
    return round(rows[-1]["step"] / epoch * trainer.get("num_train_epochs", 1)) if epoch else None


def _jobs(run: Path) -> dict[str, dict[str, Any]]:
    """Return the recorded status of each training job of a sweep, keyed by the name of its arm."""
    jobs = {}
    for file in sorted(run.glob("jobs/*/config.yaml")):
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
            status = file.with_name("status.json")
            record = {"status": "new", **(read_json(status) if status.exists() else {})}
            if "show_batch" in config:  # only scripts/train.py has this key
                jobs[str(config["run"]["arm"])] = record
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, StoreError):  # the file is being written
            continue
    return jobs


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------------------- display


def frame(run: Path, arms: Sequence[ArmProgress], width: int) -> RenderableType:
    """Return the display of a run: a table of its arms, the curves of a single arm, warnings, errors and recent log
    lines.

    On a terminal that is narrower than :data:`WIDE`, the tables have fewer columns.
    """
    from rich.console import Group
    from rich.text import Text

    counts = {status: sum(arm.status == status for arm in arms) for status in dict.fromkeys(a.status for a in arms)}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    parts: list[RenderableType] = [Text(f"{run}: {summary or 'nothing has been trained yet'}", style="bold")]
    if arms:
        parts.append(_table(arms, width))
    if len(arms) == 1 and arms[0].rows:
        parts += ["", _curves(arms[0], width)]
    for arm in arms:
        parts += [Text(f"warning, {arm.name}: {text}", style="yellow") for text in arm.warnings]
        if arm.error:
            parts.append(Text(f"error, {arm.name}: {arm.error}", style="red"))
        elif arm.status in ("stopped", "killed"):
            parts.append(Text(f"{arm.name}: {arm.status}; to resume, repeat the training command"))
        elif arm.status == "running" and arm.age is not None and arm.age > SILENT:
            silent = f"nothing has been logged for {duration(arm.age)}"
            text = f"{arm.name}: {silent}; if the job has ended, repeat the training command"
            parts.append(Text(text, style="yellow"))
    lines = log_lines(run)
    parts += ["", *(Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in lines)] if lines else []
    return Group(*parts)


def _table(arms: Iterable[ArmProgress], width: int) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def memory(arm: ArmProgress) -> str:
        used = arm.last("memory/gpu_gib") or arm.last("memory/resident_gib")
        return "" if used is None else f"{used:.1f} GiB"

    # A column has a title, an alignment, the minimum width of the terminal at which it is shown, and a function that
    # returns the content of a cell.
    columns: list[tuple[str, Literal["left", "right"], int, Callable[[ArmProgress], RenderableType]]] = [
        ("arm", "left", 0, lambda arm: arm.name),
        ("status", "left", 0, lambda arm: arm.status),
        ("", "left", WIDE, lambda arm: ProgressBar(arm.total or 1, arm.step, width=12)),
        ("step", "right", 0, lambda arm: f"{arm.step:,}" + (f"/{arm.total:,}" if arm.total is not None else "")),
        ("left", "right", 60, lambda arm: duration(arm.seconds_left())),
        ("loss", "right", 50, lambda arm: _decimal(arm.last("loss"), 3)),
        ("", "left", WIDE, lambda arm: sparkline(arm.values("loss"), 12)),
        ("margin", "right", 70, lambda arm: _decimal(arm.last("rewards/margins"), 2)),
        ("mean logp chosen", "right", 100, lambda arm: _with_change(arm.values("logps/chosen"))),
        ("pairs/s", "right", 80, lambda arm: _decimal(arm.last("pairs_per_second"), 1)),
        ("memory", "right", WIDE, memory),
    ]
    columns = [column for column in columns if width >= column[2]]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify, *_ in columns:
        is_name = title == "arm"  # long names are wrapped, because truncated names could be equal
        table.add_column(
            title,
            justify=justify,
            no_wrap=not is_name,
            overflow="fold" if is_name else "ellipsis",
            max_width=max(12, width // 3) if is_name else None,
        )
    for arm in arms:
        table.add_row(*(cell(arm) for *_, cell in columns))
    return table


def _curves(arm: ArmProgress, width: int) -> Table:
    """Return a table with one line per metric of an arm: the history of the metric, its mean over recent rows, and its
    last value on held-out pairs.

    On a narrow terminal, the history is shorter, or only the means are shown.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    blocks = min(40, width - 60)  # the other columns need 60 characters
    is_wide = blocks >= 12
    table.add_column("", no_wrap=True)
    if is_wide:
        table.add_column("start to now", no_wrap=True)
    table.add_column("mean now", justify="right", no_wrap=True)
    if is_wide:
        table.add_column("held-out pairs", justify="right", no_wrap=True)
    for key, title in (
        ("loss", "loss"),
        ("rewards/margins", "reward margin"),
        ("rewards/accuracies", "reward accuracy"),
        ("logps/chosen", "log-probability of chosen"),
        ("logps/rejected", "log-probability of rejected"),
        ("pairs_per_second", "pairs per second"),
        ("data_fraction", "share of time spent waiting for data"),
    ):
        if values := arm.values(key):
            now = _decimal(fmean(values[-_num_averaged(values) :]), 3)
            held_out = _decimal(arm.evaluation.get(f"eval_{key}"), 3)
            table.add_row(*((title, sparkline(values, blocks), now, held_out) if is_wide else (title, now)))
    return table


def log_lines(run: Path) -> list[str]:
    """Return the last :data:`LOG_LINES` INFO messages of ``log.txt`` without time, logger and control characters."""
    file = run / LOG_FILE
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 20_000))  # only the end of a long log is read
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    messages = [line.partition(" INFO ")[2].partition(": ")[2] for line in lines if " INFO " in line][-LOG_LINES:]
    return ["".join(c if c.isprintable() else " " for c in message) for message in messages]


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the values as at most ``width`` block characters. Each character shows the mean of a section of the
    values.
    """
    finite = [value for value in values if _is_finite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    parts = [finite[len(finite) * n // count : len(finite) * (n + 1) // count] for n in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)


def duration(seconds: float | None) -> str:
    """Return a duration as text: ``45 s``, ``12 min`` or ``3 h 05 min``. Return "" for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _decimal(value: Any, digits: int) -> str:
    """Return a number with ``digits`` decimal places as text. Return "" for a value that is not a number."""
    return f"{value:,.{digits}f}" if isinstance(value, (int, float)) else ""


def _with_change(values: Sequence[float]) -> str:
    """Return the mean of the last values, and the difference from the mean of the first values.

    Single rows show no trend, because each row is measured on different pairs and log-probabilities depend on the
    lengths of the texts.
    """
    count = _num_averaged(values)
    if not count:
        return ""
    last = fmean(values[-count:])
    return f"{last:.2f}" + (f" ({last - fmean(values[:count]):+.2f})" if len(values) > 1 else "")


def _num_averaged(values: Sequence[float]) -> int:
    """Return how many of the last rows are averaged.

    The number is at most half of all rows, so that the means of the first and of the last rows have no row in common.
    For a single row, it is 1.
    """
    return min(RECENT, max(1, len(values) // 2)) if values else 0
