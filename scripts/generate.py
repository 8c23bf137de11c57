"""Generate a data set: images with captions, questions and 2x2 items by split, and hard-negative preference pairs.

python scripts/generate.py                                          the embedded world
python scripts/generate.py data=coco data.path=/data/coco pairs=rules
python scripts/generate.py -m ... pairs=cot shard=0/4,1/4,2/4,3/4 launcher=slurm    store replies; then omit shard
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "data", "pairs", "data_seed", "shard")


@hydra.main(version_base="1.3", config_path="../configs", config_name="generate")
@stage_main("generate", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline import parse_shard
    from scramble.pipeline.generate import generate, generate_shard

    folder, shard = values["run"]["data"], parse_shard(values["shard"])
    settings = {"data": values["data"], "pairs": values["pairs"], "seed": values["data_seed"]}
    if shard is None:
        new_model = None if cfg.model.new is None else plain_sections(cfg, "model")["model"]
        generate(folder, **settings, new_model=new_model)
    else:
        generate_shard(folder, shard=shard, **settings)


if __name__ == "__main__":
    start(main)
