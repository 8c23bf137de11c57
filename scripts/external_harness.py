"""Evaluate with an external harness: export the arms and write the commands for lmms-eval or VLMEvalKit.

After these commands have finished, run this script again to read the results into the tables of the run.

python scripts/external_harness.py name=molmo2_dpo model=molmo2_8b harness=lmms-eval tasks=[mmbench,mmstar]
python scripts/external_harness.py name=mine model=internvl3_1b harness=vlmevalkit \
    harness_model=InternVLChat "tasks=[crpe]"
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = (
    "run",
    "model",
    "arms",
    "adapter",
    "harness",
    "tasks",
    "harness_model",
    "harness_args",
    "harness_flags",
    "harness_python",
    "batch_size",
)


@hydra.main(version_base="1.3", config_path="../configs", config_name="external_harness")
@stage_main("external_harness", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.external_harness import external_harness

    external_harness(values.pop("run")["dir"], **values)


if __name__ == "__main__":
    start(main)
