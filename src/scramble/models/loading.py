"""Load a released or local model with its processor and, where wanted, an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scramble.models.backbone import FamilyBackbone
from scramble.models.family import Family, ModelError
from scramble.models.images import ImageOptions
from scramble.models.registry import family_of


@dataclass
class Loaded:
    """A model ready for use: the transformers model (PEFT-wrapped if it has an adapter), processor and family."""

    model: Any
    processor: Any
    family: Family
    path: str
    revision: str | None = None

    @property
    def backbone(self) -> FamilyBackbone:
        """The unwrapped model as the trie engine sees it; adapters live in its layers."""
        return self.family.backbone(self.model)


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    device: str | None = None,
    adapter: str | Path | None = None,
    max_tiles: int | None = None,
    square_padding: bool = False,
    resize: int | None = None,
) -> Loaded:
    """Load a model by hub id or folder, in evaluation mode.

    Args:
        path: hub id or local folder.
        revision: branch, tag or commit of the hub id.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        attn_implementation: ``sdpa``, ``eager``, ``flex_attention`` or ``flash_attention_2``.
        device: ``None`` or ``cpu``; ``cuda`` or ``cuda:N``; ``auto`` spreads the layers over what is there.
        adapter: folder or hub id of a LoRA adapter to put on.
        max_tiles: most tiles an image is cut into, for families that tile.
        square_padding, resize: see :class:`scramble.models.images.ImageOptions`.

    Raises:
        ModelError: with the name of what is wrong and the way out.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    path = str(path)
    config = AutoConfig.from_pretrained(path, revision=revision)
    family = family_of(config.model_type)
    family.image_options = ImageOptions(resize=resize, square_padding=square_padding)
    processor = family.load_processor(path, revision)
    if max_tiles is not None:
        family.set_max_tiles(processor, max_tiles)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        path,
        revision=revision,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        attn_implementation=attn_implementation,
        device_map="auto" if device == "auto" else None,
    )
    if device not in (None, "auto"):
        model = model.to(device)
    if adapter is not None:
        model = put_on_adapter(model, str(adapter))
    model.eval()
    return Loaded(model, processor, family, path, revision)


def put_on_adapter(model: Any, adapter: str) -> Any:
    """The model wrapped with a saved LoRA adapter. Raises ModelError if it was made for another base."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"adapter {adapter} does not fit {model.config.name_or_path}: {error}") from error
