"""Score the base model and every finished arm of a run; replies that are on disk are not asked for again.

python scripts/evaluate.py +experiment=quickstart
python scripts/evaluate.py name=molmo_dpo model=molmo_7b_d benchmark=[winoground,sugarcrepe,pope]
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
@stage_main
def main(cfg: DictConfig) -> None:
    values = plain(cfg, "run", "model", "benchmark", "arms", "protocol", "limit", "batch_tokens")
    from scramble.stages.evaluate import evaluate

    evaluate(values.pop("run")["dir"], benchmarks=values.pop("benchmark"), **values)


if __name__ == "__main__":
    start(main)
