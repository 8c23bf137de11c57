"""Try a model out on an image of yours, with or without an adapter.

python scripts/chat.py model=internvl3_1b image=photo.jpg text="Describe the image."
python scripts/chat.py model=molmo_7b_d adapter=runs/molmo_dpo/train/dpo-seed0/adapter image=photo.jpg
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from scramble.app import plain, stage_main, start

SECTIONS = ("model", "image", "text", "adapter", "max_new_tokens", "temperature", "seed")


@hydra.main(version_base="1.3", config_path="../configs", config_name="chat")
@stage_main("chat", *SECTIONS)
def main(cfg: DictConfig) -> None:
    values = plain(cfg, *SECTIONS)
    from scramble.models import load
    from scramble.models.chat import answer
    from scramble.records import ImageFile

    files = values["image"] if isinstance(values["image"], list) else [values["image"]]
    files = [str(file) for file in files if file is not None]  # image=null asks without an image
    images = [ImageFile(path=file).open() for file in files]
    options = {k: v for k, v in values["model"].items() if k not in ("name", "new")}
    loaded = load(**options | {"adapter": values["adapter"] or options["adapter"]})

    def ask(text: str) -> None:
        print(
            answer(
                loaded,
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


if __name__ == "__main__":
    start(main)
