"""Write one self-contained HTML file for one or several runs: scores, training curves, items whose outcome changed.

python scripts/browse.py +experiment=quickstart
python scripts/browse.py 'runs=[runs/quickstart,runs/mine]' out=both.html
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start

SECTIONS = ("run", "runs", "out", "benchmark", "baselines", "items", "pixels")


@hydra.main(version_base="1.3", config_path="../configs", config_name="browse")
@stage_main("browse", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain(cfg, *SECTIONS)
    from scramble.pipeline.browse import browse

    run = values.pop("run")
    browse(
        values.pop("runs"),
        values.pop("out"),
        run=run["dir"],
        data=run["data"],
        benchmarks=values.pop("benchmark"),
        **values,
    )


if __name__ == "__main__":
    start(main)
