"""Evaluate with an external harness: export the arms and write the commands for lmms-eval or VLMEvalKit.

After these commands have run, repeat this one to read their results into the run's tables.

python scripts/bridge.py name=molmo2_dpo model=molmo2_8b kit=lmms-eval tasks=[mmbench,mmstar]
python scripts/bridge.py name=mine model=internvl3_1b kit=vlmevalkit kit_model=InternVLChat "tasks=[crpe]"
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start

SECTIONS = ("run", "model", "arms", "adapter", "kit", "tasks", "kit_model", "kit_args", "batch_size")


@hydra.main(version_base="1.3", config_path="../configs", config_name="bridge")
@stage_main("bridge", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain(cfg, *SECTIONS)
    from scramble.pipeline.external_harness import bridge

    bridge(values.pop("run")["dir"], **values)


if __name__ == "__main__":
    start(main)
