"""Write a static website that shows scores, items, pairs, training curves and settings of one run or several runs.

python scripts/browse.py +experiment=quickstart
python scripts/browse.py 'runs=[runs/quickstart,runs/mine]' publish=both
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "runs", "publish", "benchmark", "baselines", "items", "pairs_per_split", "pixels")


@hydra.main(version_base="1.3", config_path="../configs", config_name="browse")
@stage_main("browse", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.browse import browse

    run = values.pop("run")
    browse(
        values.pop("runs"),
        values.pop("publish"),
        run=run["dir"],
        data=run["data"],
        benchmarks=values.pop("benchmark"),
        **values,
    )


if __name__ == "__main__":
    start(main)
