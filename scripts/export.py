"""Merge an adapter into its base and write a plain Hugging Face folder, under the base's own tensor names.

python scripts/export.py +experiment=molmo_dpo out=my_molmo
python scripts/export.py model=molmo_7b_d adapter=runs/molmo_dpo/train/dpo-seed0/adapter out=my_molmo
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start


@hydra.main(version_base="1.3", config_path="../configs", config_name="export")
@stage_main
def main(cfg: DictConfig) -> None:
    values = plain(cfg, "model", "adapter", "out", "dtype")
    from scramble.console import say
    from scramble.models.export import export

    model = values["model"]
    folder = export(
        model["path"], values["out"], adapter=values["adapter"], revision=model["revision"], dtype=values["dtype"]
    )
    say(f"{model['path']} with {values['adapter']} merged in: {folder}")


if __name__ == "__main__":
    start(main)
