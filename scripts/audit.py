"""Audit any preference pairs: measure how often text-only classifiers, which do not see the image, pick the chosen
answer.

python scripts/audit.py path=sugarcrepe/data                      # -> runs/audits/<name>/audit.html
python scripts/audit.py path=runs/quickstart/data out=runs/quickstart/audit
python scripts/audit.py path=HuggingFaceH4/rlaif-v_formatted      # a hub id; a pattern of files or folders works too
python scripts/audit.py path=mine.csv columns='{chosen: good, rejected: bad}' images=photos    # your column names
python scripts/audit.py path=mine/train.jsonl held_out=mine/test.jsonl   # with the transfer accuracy
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("path", "split", "name", "revision", "held_out", "format", "columns", "images", "out", "seed")


@hydra.main(version_base="1.3", config_path="../configs", config_name="audit")
@stage_main("audit", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.audit import audit

    audit(values.pop("path"), values.pop("out"), **values)


if __name__ == "__main__":
    start(main)
