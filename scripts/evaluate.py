"""Score the base model, every finished arm of a run and other adapters, and print the scores side by side.

Stored replies are reused.

python scripts/evaluate.py +experiment=quickstart
python scripts/evaluate.py name=molmo_dpo model=molmo_7b_d benchmark=[winoground,sugarcrepe,pope]
python scripts/evaluate.py model=molmo_7b_d adapter=[runs/a/train/dpo-seed0/adapter] benchmark=[pope]
python scripts/evaluate.py benchmark=[pope] engine=openai engine.model=... engine.base_url=http://localhost:8000/v1
python scripts/evaluate.py benchmark=[mmvet] engine@judge.engine=openai judge.engine.model=... judge.engine.base_url=...
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = (
    "run",
    "model",
    "benchmark",
    "arms",
    "adapter",
    "protocol",
    "limit",
    "batch_tokens",
    "token_logprobs",
    "engine",
    "judge",
    "export_predictions",
    "baselines",
    "folder",
    "shard",
)


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
@stage_main("evaluate", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline import parse_shard
    from scramble.pipeline.evaluate import evaluate

    shard = parse_shard(values.pop("shard"))
    evaluate(values.pop("run")["dir"], benchmarks=values.pop("benchmark"), shard=shard, **values)


if __name__ == "__main__":
    start(main)
