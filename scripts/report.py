"""Print a summary of a run, and write to <run>/report all scores (report.md, report.json), the main scores next to
published numbers (table.md, table.tex, table.json), and figures.

python scripts/report.py +experiment=quickstart
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "baselines")


@hydra.main(version_base="1.3", config_path="../configs", config_name="report")
@stage_main("report", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.report import report

    report(values["run"]["dir"], values["run"]["data"], baselines=values["baselines"])


if __name__ == "__main__":
    start(main)
