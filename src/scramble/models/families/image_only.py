"""Provides native processors without their video part, which cannot be built without torchvision.

Transformers has Pillow backends for many image processors, but not for video processors. A processor class with a video
part therefore fails without torchvision, even for images. A subclass of :class:`ImageOnly` and the native class has an
``__init__`` without the parameter ``video_processor``. Transformers then neither builds nor saves this part.
Transformers also reads a processor's settings from the parameters of ``__init__``. A subclass with settings other than
the chat template must therefore define its own ``__init__``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.utils import is_torchvision_available


class ImageOnly(ProcessorMixin):
    """Saves a native processor's settings with its video part, so that the folder can also be loaded with torchvision.

    Attributes:
        video_processor_type: transformers' class of the video part.
    """

    video_processor_type: str

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        # Pass the parts by name, because some native classes have other parameters before these two.
        parts: dict[str, Any] = {"image_processor": image_processor, "tokenizer": tokenizer}
        super().__init__(**parts, chat_template=chat_template, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the native processor's settings, with a video part that treats frames as this class treats images."""
        values = super().to_dict()
        # Without a class name, AutoProcessor uses the class registered for the model's config, which is the native
        # class with torchvision and this class without torchvision.
        values.pop("processor_class", None)
        image = values["image_processor"]
        shared = {
            key: image[key] for key in ("size", "image_mean", "image_std", "resample", "do_normalize") if key in image
        }
        values["video_processor"] = {"video_processor_type": self.video_processor_type, **shared}
        return values

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save as the parent class does, but remove this class's name from the tokenizer's settings."""
        from scramble.storage.files import read_json, write_json

        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        settings = Path(save_directory) / "tokenizer_config.json"
        values = read_json(settings)
        values.pop("processor_class", None)
        write_json(settings, values)
        return files


def choose_processor(config: Any, native: Any, image_only: Any) -> Any:
    """Return the native class if torchvision is installed, otherwise its image-only form.

    Without torchvision, AutoProcessor also uses the image-only form for ``config``.
    """
    if is_torchvision_available():
        return native
    AutoProcessor.register(config, image_only, exist_ok=True)
    return image_only
