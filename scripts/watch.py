"""Show the progress of a run on the terminal: steps, time left, loss, margins, likelihood, speed, memory and warnings.

python scripts/watch.py name=quickstart
python scripts/watch.py name=quickstart once=true
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "once", "seconds")


@hydra.main(version_base="1.3", config_path="../configs", config_name="watch")
@stage_main("watch", *SECTIONS, log_file=False)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.watch import watch

    watch(values["run"]["dir"], once=values["once"], seconds=values["seconds"])


if __name__ == "__main__":
    start(main)
