"""Search the settings of a training run with Optuna. Each trial is a job of scripts/train.py and an arm of the run.

python scripts/study.py +experiment=quickstart objective=dpo study.trials=10
python scripts/study.py +experiment=quickstart 'study.space={trainer.learning_rate: {low: 1e-4, high: 1e-3}}'
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "data", "data_seed", "pairs", "model", "objective", "trainer", "peft", "seed", "study")


@hydra.main(version_base="1.3", config_path="../configs", config_name="study")
@stage_main("study", *SECTIONS)
def main(cfg: DictConfig) -> None:
    from scramble.launch.study import search

    search(cfg, **plain_sections(cfg, "study")["study"])


if __name__ == "__main__":
    start(main)
