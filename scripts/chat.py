"""Ask a model about your image, with or without an adapter.

python scripts/chat.py model=internvl3_1b image=photo.jpg text="Describe the image."
python scripts/chat.py name=mine image=photo.jpg                            a run's trained arm
python scripts/chat.py name=mine run.arm=dpo-seed0 image=photo.jpg          one of several arms; run.arm=base: the base
python scripts/chat.py model=molmo_7b_d adapter=runs/molmo_dpo/train/dpo-seed0/adapter image=photo.jpg
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import hydra
from omegaconf import DictConfig

from scramble.app import plain_sections, stage_main, start

SECTIONS = ("run", "model", "image", "text", "adapter", "max_new_tokens", "temperature", "seed")

log = logging.getLogger("scramble.chat")


@hydra.main(version_base="1.3", config_path="../configs", config_name="chat")
@stage_main("chat", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain_sections(cfg, *SECTIONS)
    from scramble.models import load_vlm
    from scramble.models.chat import answer
    from scramble.models.loading import device_or_gpu
    from scramble.records import ImageFile

    files = values["image"] if isinstance(values["image"], list) else [values["image"]]
    files = [str(file) for file in files if file is not None]  # image=null asks without an image
    images = [ImageFile(path=file).open() for file in files]
    options = {k: v for k, v in values["model"].items() if k not in ("name", "new")}
    options |= _selected_model(values["run"], options, values["adapter"])
    log.info(f"model: {options['path']}" + (f" with {options['adapter']}" if options["adapter"] else ""))
    vlm = load_vlm(**{**options, "device": device_or_gpu(options["device"])})

    def ask(text: str) -> None:
        print(
            answer(
                vlm,
                text,
                images,
                max_new_tokens=values["max_new_tokens"],
                temperature=values["temperature"],
                seed=values["seed"],
            )
        )

    if values["text"] is not None:
        ask(str(values["text"]))
        return
    try:
        while text := input("> ").strip():
            ask(text)
    except (EOFError, KeyboardInterrupt):
        pass


def _selected_model(run: Mapping[str, Any], model: Mapping[str, Any], adapter: str | None) -> dict[str, Any]:
    """Return the model options that must change.

    If the command line names an adapter, only the adapter changes. If the command line names only a model, nothing
    changes. Otherwise, the options load the selected arm of the run.
    """
    from hydra.core.hydra_config import HydraConfig

    from scramble.config.record import names_model
    from scramble.pipeline import BASE, arm_model, choose_arm
    from scramble.reporting.arms import incomplete_notes

    if adapter is not None:
        return {"adapter": adapter}
    if run["arm"] is None and HydraConfig.initialized() and names_model(HydraConfig.get().overrides.task):
        return {}
    arm = choose_arm(run["dir"], run["arm"])
    if run["arm"] is None:
        for note in incomplete_notes(run["dir"]):
            log.info(note)
    return {} if arm == BASE else {"adapter": None, **arm_model(run["dir"], arm, model["path"])}


if __name__ == "__main__":
    start(main)
