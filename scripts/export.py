"""Merge an adapter into its base model, and write a Hugging Face model folder with the base model's tensor names.

python scripts/export.py +experiment=molmo_dpo out=my_molmo
python scripts/export.py model=molmo_7b_d adapter=runs/molmo_dpo/train/dpo-seed0/adapter out=my_molmo
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "model", "adapter", "out", "dtype")


@hydra.main(version_base="1.3", config_path="../configs", config_name="export")
@stage_main("export", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.models.export import export_model
    from scramble.pipeline import StageError, check_arm

    model, run = values["model"], values["run"]
    if values["adapter"] == f"{run['dir']}/train/{run['arm']}/adapter":
        trained = check_arm(run["dir"], run["arm"])
        if (trained / "model").is_dir():
            raise StageError(
                f"the arm {run['arm']} has no adapter, because all weights were trained: use the model in "
                f"{trained / 'model'}"
            )
    folder = export_model(
        model["path"], values["out"], adapter=values["adapter"], revision=model["revision"], dtype=values["dtype"]
    )
    what = "without an adapter" if values["adapter"] is None else f"with {values['adapter']} merged in"
    print(f"{model['path']} {what} was written to {folder}")


if __name__ == "__main__":
    start(main)
