"""InternVL 2.5, 3 and 3.5 with transformers' native classes (the ``-hf``/``-HF`` checkpoints)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, InternVLConfig, InternVLProcessor
from transformers.utils import is_torchvision_available

from scramble.models.family import Family


class InternVLImageProcessor(InternVLProcessor):
    """The native processor without its video part, which cannot be built without torchvision."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        # Skips the native __init__, which requires a video processor.
        super(InternVLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)
        self.image_seq_length = image_seq_length
        self.start_image_token = tokenizer.start_image_token
        self.end_image_token = tokenizer.end_image_token
        self.start_image_token_id = tokenizer.start_image_token_id
        self.end_image_token_id = tokenizer.end_image_token_id
        self.image_token = tokenizer.context_image_token
        self.image_token_id = tokenizer.context_image_token_id
        self.video_token = tokenizer.video_token
        self.multimodal_pattern = re.compile(
            f"(?P<image>{re.escape(self.image_token)})|(?P<video>{re.escape(self.video_token)})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings of the native processor with its video part, so that the folder also loads with torchvision."""
        values = super().to_dict()
        # Without a class name AutoProcessor uses the model's config: the native class with torchvision, else this one.
        values.pop("processor_class", None)
        image = values["image_processor"]
        shared = {key: image[key] for key in ("size", "image_mean", "image_std", "resample", "do_normalize")}
        values["video_processor"] = {"video_processor_type": "InternVLVideoProcessor", **shared}
        return values

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As in the parent class, but without this class's name in the tokenizer's settings."""
        from scramble.storage.files import read_json, write_json

        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        settings = Path(save_directory) / "tokenizer_config.json"
        values = read_json(settings)
        values.pop("processor_class", None)
        write_json(settings, values)
        return files


if not is_torchvision_available():
    AutoProcessor.register(InternVLConfig, InternVLImageProcessor, exist_ok=True)


class InternVL(Family):
    """InternVL: 256 tokens per tile of 448 px, 1 to 12 tiles and a thumbnail."""

    name = "internvl"
    model_types = ("internvl",)

    def load_processor(self, path: str, revision: str | None = None) -> Any:
        """The native processor, or without torchvision its image-only form."""
        cls = InternVLProcessor if is_torchvision_available() else InternVLImageProcessor
        return cls.from_pretrained(path, revision=revision or "main")

    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        """Limit the number of tiles in addition to the thumbnail; with 1 there is only the thumbnail."""
        processor.image_processor.max_patches = max_tiles
