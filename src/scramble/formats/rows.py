"""Converts a pair and its image paths to a row, as JSON values, in the format of another project.

- TRL: ``prompt`` / ``chosen`` / ``rejected`` as messages, ``images``.
- LLaMA-Factory: sharegpt ranking, ``conversations`` / ``chosen`` / ``rejected`` turns, ``images``.
- ms-swift: ``messages`` with the chosen answer last, ``rejected_response``, ``images``.
- SCRAMBLe: see :mod:`scramble.formats.scramble`.
- MMPR (InternVL's MPO): ``question`` / ``chosen`` / ``rejected``, ``image`` (a path, a list of paths, or missing).

The text follows one ``<image>`` placeholder per image. TRL's messages have typed parts instead. A row of these
formats has only one rejected answer, so the provenance contains the pair's other rejected answers.
:mod:`scramble.formats.readers` contains the inverse functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scramble.formats.bad_rows import FormatError
from scramble.formats.conversations import IMAGE
from scramble.formats.provenance import PROVENANCE_COLUMN, provenance
from scramble.formats.scramble import pair_to_row, sharegpt_turns
from scramble.records import PreferencePair


def to_trl(pair: PreferencePair, images: Sequence[Any]) -> dict[str, Any]:
    """Return a row in the format of TRL's vision preference data."""

    def message(role: str, text: str, num_images: int = 0) -> dict[str, Any]:
        parts: list[dict[str, str]] = [{"type": "image"} for _ in range(num_images)]
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

    return {
        "prompt": [message(turn.role, turn.text, turn.num_images) for turn in pair.conversation],
        "chosen": [message("assistant", pair.chosen)],
        "rejected": [message("assistant", pair.rejected)],
        "images": list(images),
        PROVENANCE_COLUMN: provenance(pair),
    }


def to_llama_factory(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """Return a row in LLaMA-Factory's sharegpt ranking format."""
    return {
        "conversations": sharegpt_turns(pair, IMAGE),
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": list(images),
        PROVENANCE_COLUMN: provenance(pair),
    }


DATASET_INFO = {
    "ranking": True,
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
}


def to_ms_swift(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """Return a row in ms-swift's RLHF format."""
    turns = [{"role": turn.role, "content": IMAGE * turn.num_images + turn.text} for turn in pair.conversation]
    return {
        "messages": [*turns, {"role": "assistant", "content": pair.chosen}],
        "rejected_response": pair.rejected,
        "images": list(images),
        PROVENANCE_COLUMN: provenance(pair),
    }


def to_mmpr(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """Return a row in the format of MMPR.

    ``image`` is a path for one image and a list of paths for several images. Without images, the key is missing.

    Raises FormatError for a pair with earlier turns, which the format cannot represent.
    """
    if pair.history:
        raise FormatError(
            f"pair {pair.pair_id} has turns before the prompt ({len(pair.history)}), which MMPR does not support: "
            "export to another format"
        )
    image = {"image": images[0] if len(images) == 1 else list(images)} if images else {}
    question = f"{IMAGE}\n" * len(images) + pair.prompt
    return {
        **image,
        "question": question,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        PROVENANCE_COLUMN: provenance(pair),
    }


def to_scramble_release(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """Return a row in the format of SCRAMBLe's release. Raises FormatError unless the pair has exactly one image."""
    if len(images) != 1:
        raise FormatError(
            f"pair {pair.pair_id} has {len(images)} images, but a row of SCRAMBLe's format has exactly one: export to "
            "another format"
        )
    return pair_to_row(pair, images[0]) | {PROVENANCE_COLUMN: provenance(pair)}
