"""Computes the training curves of the browser: one chart per metric with one line per arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.reporting import charts
from scramble.reporting.figures import PANELS
from scramble.storage.arm_names import method_of
from scramble.storage.jsonl import read_jsonl

CURVES = (
    *PANELS,
    ("rewards/accuracies", "reward accuracy"),
    ("kl", "KL to the reference"),
    ("grad_norm", "gradient norm"),
)


def curves(arms: Mapping[str, Path], colours: Mapping[str, int]) -> list[charts.Chart]:
    """Return one chart for each metric of :data:`CURVES` and each overall benchmark score in ``metrics.jsonl``."""
    rows = {arm: list(read_jsonl(folder / "metrics.jsonl")) for arm, folder in arms.items()}
    watched = sorted({key for log in rows.values() for row in log for key in row if charts.is_benchmark_score(key)})
    panels = [(key, f"{title}, training batches") for key, title in CURVES]
    panels += [(key, f"{charts.score_title(key)}, validation") for key in watched if key.count("/") == 1]
    by_arm = {arm: colours[method_of(arm)] for arm in arms}
    all_charts = (
        charts.line_chart(
            title,
            {arm: [(r["step"], r[key]) for r in log if _is_point(r, key)] for arm, log in rows.items()},
            by_arm,
        )
        for key, title in panels
    )
    return [chart for chart in all_charts if chart is not None]


def _is_point(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), (int, float)) and isinstance(row.get("step"), int)
