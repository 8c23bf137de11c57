"""Write a tuned model or a data set as a folder with its card; push it to the hub only if a repository is named.

python scripts/share.py +experiment=quickstart                            the arm's adapter
python scripts/share.py +experiment=quickstart what=model                 the adapter merged into its base
python scripts/share.py +experiment=quickstart what=data                  the training pairs with their images
python scripts/share.py +experiment=quickstart push_to_hub=me/mine        private unless private=false
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = (
    "run",
    "model",
    "what",
    "out",
    "card_name",
    "license",
    "data_license",
    "base_license",
    "dtype",
    "notes",
    "push_to_hub",
    "private",
)


@hydra.main(version_base="1.3", config_path="../configs", config_name="share")
@stage_main("share", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.share import share

    run = values.pop("run")
    share(run["dir"], run["arm"], run["data"], values.pop("out"), name=values.pop("card_name"), **values)


if __name__ == "__main__":
    start(main)
