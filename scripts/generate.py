"""Make a data set: images with captions, questions and 2x2 items by split, and hard-negative preference pairs.

python scripts/generate.py                                          the embedded world
python scripts/generate.py data=coco data.path=/data/coco negatives=rules
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start


@hydra.main(version_base="1.3", config_path="../configs", config_name="generate")
@stage_main
def main(cfg: DictConfig) -> None:
    values = plain(cfg, "run", "data", "negatives", "data_seed")
    from scramble.stages.generate import generate

    generate(values["run"]["data"], data=values["data"], negatives=values["negatives"], seed=values["data_seed"])


if __name__ == "__main__":
    start(main)
