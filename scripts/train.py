"""Train one arm: a preference-tuned model or its supervised control. If the run has no data, generate the data first.

python scripts/train.py +experiment=quickstart                           MPO on the embedded world
python scripts/train.py +experiment=molmo_dpo data=coco data.path=...    DPO of Molmo on COCO captions
python scripts/train.py -m +experiment=quickstart objective=sft,dpo,mpo  several arms, one after the other
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "data", "data_seed", "pairs", "model", "objective", "trainer", "peft", "seed", "show_batch")


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
@stage_main("train", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.pipeline.generate import generate
    from scramble.pipeline.show import show_batch
    from scramble.pipeline.train import check_model_files, train_arm

    run, show = values.pop("run"), values.pop("show_batch")
    del values["seed"]  # trainer.seed and run.arm refer to it
    data, pairs, data_seed = values.pop("data"), values.pop("pairs"), values.pop("data_seed")
    model = values["model"]
    check_model_files(run["dir"], run["arm"], model)
    new_model = None if model["new"] is None else model
    generate(run["data"], data=data, pairs=pairs, seed=data_seed, new_model=new_model)
    if show:
        show_batch(run["dir"], run["data"], model=values["model"], trainer=values["trainer"])
    else:
        train_arm(run["dir"], run["arm"], run["data"], **values)


if __name__ == "__main__":
    start(main)
