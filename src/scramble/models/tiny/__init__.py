"""Creates tiny random models in the released file formats, with a tokenizer trained on given texts.

These models are for quick runs on a CPU (``+debug=tiny``). The tiny InternVL can also be trained on data of the
embedded world.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from scramble.models.family import ModelError
from scramble.models.tiny.internvl import save_tiny_internvl
from scramble.storage.files import atomic_folder

__all__ = ["save_tiny", "save_tiny_internvl"]


def save_tiny(family: str, folder: str | Path, texts: Iterable[str], seed: int = 0, **sizes: Any) -> Path:
    """Write a tiny random model of a family, with a tokenizer trained on ``texts``, and return its folder.

    Args:
        family: name of the family.
        folder: output folder, which is created after all files have been written.
        texts: training texts of the tokenizer.
        seed: seed of the weights.
        sizes: options of the family's function (``width``, ``layers``, ``image_size``, ...).

    Raises:
        ModelError: there is no tiny model of the family, its processor needs torchvision, which is not installed, an
            option does not exist, or the folder is not empty.
    """
    from transformers.utils import is_torchvision_available

    from scramble.models.families.registry import family_named
    from scramble.models.loading import quiet
    from scramble.models.molmo.tiny import save_tiny_molmo
    from scramble.models.tiny.cohere_vision import save_tiny_aya_vision, save_tiny_cohere2_vision
    from scramble.models.tiny.gemma3 import save_tiny_gemma3
    from scramble.models.tiny.gemma4 import save_tiny_gemma4
    from scramble.models.tiny.glm4v import save_tiny_glm4v
    from scramble.models.tiny.idefics import save_tiny_idefics
    from scramble.models.tiny.llava import save_tiny_llava
    from scramble.models.tiny.llava_next import save_tiny_llava_next
    from scramble.models.tiny.llava_onevision import save_tiny_llava_onevision
    from scramble.models.tiny.mistral3 import save_tiny_mistral3
    from scramble.models.tiny.molmo2 import save_tiny_molmo2
    from scramble.models.tiny.ovis2 import save_tiny_ovis2
    from scramble.models.tiny.qwen_vl import (
        save_tiny_qwen2_5_vl,
        save_tiny_qwen2_vl,
        save_tiny_qwen3_5,
        save_tiny_qwen3_vl,
    )

    makers: dict[str, Callable[..., Path]] = {
        "aya_vision": save_tiny_aya_vision,
        "cohere2_vision": save_tiny_cohere2_vision,
        "gemma3": save_tiny_gemma3,
        "gemma4": save_tiny_gemma4,
        "glm4v": save_tiny_glm4v,
        "glm4v_moe": partial(save_tiny_glm4v, experts=4),
        "internvl": save_tiny_internvl,
        "llava": save_tiny_llava,
        "llava_next": save_tiny_llava_next,
        "llava_onevision": save_tiny_llava_onevision,
        "mistral3": save_tiny_mistral3,
        "molmo": save_tiny_molmo,
        "molmo2": save_tiny_molmo2,
        "ovis2": save_tiny_ovis2,
        "qwen2_vl": save_tiny_qwen2_vl,
        "qwen2_5_vl": save_tiny_qwen2_5_vl,
        "qwen3_vl": save_tiny_qwen3_vl,
        "qwen3_5": save_tiny_qwen3_5,
        "smolvlm": save_tiny_idefics,
    }
    if family not in makers:
        raise ModelError(f"there is no tiny model of family {family!r}: choose one of {', '.join(makers)}")
    if family_named(family).needs_torchvision and not is_torchvision_available():
        raise ModelError(f"the image processor of {family} needs torchvision: run `pip install torchvision`")
    options = [n for n, p in inspect.signature(makers[family]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(sizes) - set(options)):
        raise ModelError(f"a tiny {family} has no option {' or '.join(unknown)}: choose from {', '.join(options)}")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty: choose another folder, or remove this folder")
    with atomic_folder(folder) as temporary, quiet():
        makers[family](temporary, texts, seed, **sizes)
    return folder
