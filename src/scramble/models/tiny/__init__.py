"""Tiny random models in the real file formats, with a tokenizer made from given texts.

They run every experiment on a CPU in seconds (``+debug=tiny``); the InternVL is also the model of the embedded world.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scramble.models.family import ModelError
from scramble.models.tiny.internvl import save_tiny_internvl

__all__ = ["save_tiny", "save_tiny_internvl"]


def save_tiny(family: str, folder: str | Path, texts: Iterable[str], seed: int = 0, **sizes: Any) -> Path:
    """Write a tiny random model of the named family with a tokenizer made from ``texts``; returns its folder.

    Args:
        family: name of the family.
        folder: where to write; it appears when the model is whole.
        texts: what the tokenizer is made from.
        seed: of the weights.
        sizes: the maker's own options (``width``, ``layers``, ``image_size``, ...).

    Raises:
        ModelError: for a family or size without one, naming what there is; for a folder that is not empty.
    """
    from scramble.models.loading import quiet
    from scramble.models.molmo.tiny import save_tiny_molmo
    from scramble.models.tiny.idefics import save_tiny_idefics
    from scramble.models.tiny.llava import save_tiny_llava
    from scramble.models.tiny.molmo2 import save_tiny_molmo2

    makers: dict[str, Callable[..., Path]] = {
        "internvl": save_tiny_internvl,
        "llava": save_tiny_llava,
        "molmo": save_tiny_molmo,
        "molmo2": save_tiny_molmo2,
        "smolvlm": save_tiny_idefics,
    }
    if family not in makers:
        raise ModelError(f"no tiny model of family {family!r}; there is one of {', '.join(makers)}")
    known = [n for n, p in inspect.signature(makers[family]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(sizes) - set(known)):
        raise ModelError(f"a tiny {family} has no size {', '.join(unknown)}; it has {', '.join(known)}")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} holds something already: name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        with quiet():
            whole = makers[family](Path(name) / "model", texts, seed, **sizes)
        whole.replace(folder)  # a run killed on the way leaves no half model
    return folder
