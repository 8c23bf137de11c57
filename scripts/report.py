"""Tables and figures of a run: on the terminal, and below <run>/report in report.md and report.json (all scores),
table.md, table.tex and table.json (headline scores beside published numbers) and PNG files.

python scripts/report.py +experiment=quickstart
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start


@hydra.main(version_base="1.3", config_path="../configs", config_name="report")
@stage_main
def main(cfg: DictConfig) -> None:
    values = plain(cfg, "run", "baselines")
    from scramble.stages.report import report

    report(values["run"]["dir"], values["run"]["data"], baselines=values["baselines"])


if __name__ == "__main__":
    start(main)
