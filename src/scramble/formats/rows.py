"""One row in each format, both ways: pure functions from a pair and its image paths to JSON and back.

- TRL: ``prompt`` / ``chosen`` / ``rejected`` as messages, ``images``.
- LLaMA-Factory: sharegpt ranking, ``conversations`` / ``chosen`` / ``rejected`` turns, ``images``.
- ms-swift: ``messages`` with the chosen answer last, ``rejected_response``, ``images``.
- SCRAMBLe: see :mod:`scramble.formats.scramble`.
- MMPR (InternVL's MPO): ``question`` / ``chosen`` / ``rejected``, ``image`` a path, a list or absent.

Image placeholders are ``<image>``, one an image, before the text; TRL's messages have typed parts instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scramble.formats.provenance import COLUMN, FormatError, pair_from, provenance
from scramble.formats.scramble import IMAGE
from scramble.formats.scramble import pair_to_row as to_scramble
from scramble.records import PreferencePair

Parsed = tuple[tuple[str, str, str], list[Any], Any]  # texts, images, provenance


def to_trl(pair: PreferencePair, images: Sequence[Any]) -> dict[str, Any]:
    """A row that TRL's DPOTrainer takes for vision data."""
    parts: list[dict[str, str]] = [{"type": "image"} for _ in images]
    return {
        "prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": pair.prompt}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": pair.chosen}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": pair.rejected}]}],
        "images": list(images),
        COLUMN: provenance(pair),
    }


def from_trl(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of a TRL row: messages with plain or typed content, or plain strings."""
    images = row.get("images")
    if images is None and row.get("image") is not None:
        images = [row["image"]]
    texts = (_text(row["prompt"]), _text(row["chosen"]), _text(row["rejected"]))
    return texts, list(images or ()), row.get(COLUMN)


def to_llama_factory(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of LLaMA-Factory's sharegpt ranking format."""
    return {
        "conversations": [{"from": "human", "value": IMAGE * len(images) + pair.prompt}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": list(images),
        COLUMN: provenance(pair),
    }


def from_llama_factory(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of a LLaMA-Factory row with one human turn."""
    turns = row["conversations"]
    if len(turns) != 1 or turns[0]["from"] != "human":
        raise FormatError("only one human turn before the two answers can be read")
    prompt = turns[0]["value"].replace(IMAGE, "").strip()
    return (prompt, row["chosen"]["value"], row["rejected"]["value"]), list(row.get("images") or ()), row.get(COLUMN)


DATASET_INFO = {
    "ranking": True,
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
}


def to_ms_swift(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of ms-swift's RLHF format."""
    return {
        "messages": [
            {"role": "user", "content": IMAGE * len(images) + pair.prompt},
            {"role": "assistant", "content": pair.chosen},
        ],
        "rejected_response": pair.rejected,
        "images": list(images),
        COLUMN: provenance(pair),
    }


def from_ms_swift(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of an ms-swift row with one user and one assistant turn."""
    turns = row["messages"]
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        raise FormatError("only one user and one assistant turn can be read")
    prompt = turns[0]["content"].replace(IMAGE, "").strip()
    return (prompt, turns[1]["content"], row["rejected_response"]), list(row.get("images") or ()), row.get(COLUMN)


def to_mmpr(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of MMPR. One image is a path, several are a list, none leaves the key out."""
    image = {"image": images[0] if len(images) == 1 else list(images)} if images else {}
    question = f"{IMAGE}\n" * len(images) + pair.prompt
    return {**image, "question": question, "chosen": pair.chosen, "rejected": pair.rejected, COLUMN: provenance(pair)}


def from_mmpr(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of a row of MMPR. Placeholders among the text are dropped: images come before it."""
    if row.get("video"):
        raise FormatError("video rows cannot be used")
    images = row.get("image")
    if images is None or images == "":  # text alone
        images = []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list):
        raise FormatError("image is neither a path nor a list of paths")
    texts = []
    for key in ("question", "chosen", "rejected"):
        if not isinstance(row.get(key), str):
            raise FormatError(f"{key} is not text")
        if not row[key].strip():
            raise FormatError(f"empty {key}")
        texts.append(row[key])
    places = texts[0].count(IMAGE)
    if places and places != len(images):
        raise FormatError(f"{places} image placeholders for {len(images)} images")
    opening = f"{IMAGE}\n" * places
    prompt = texts[0].removeprefix(opening) if texts[0].startswith(opening) else texts[0].replace(IMAGE, "").strip()
    return (prompt, texts[1], texts[2]), images, row.get(COLUMN)


def to_scramble_release(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of SCRAMBLe's release. Raises FormatError unless the pair has one image: the format has place for one."""
    if len(images) != 1:
        raise FormatError(f"pair {pair.pair_id} has {len(images)} images: SCRAMBLe's format holds one a row")
    return to_scramble(pair, images[0]) | {COLUMN: provenance(pair)}


def from_scramble_release(row: Mapping[str, Any]) -> Parsed:
    """Texts and image of a row of SCRAMBLe's release."""
    from scramble.formats.scramble import row_to_pair

    image, pair = row_to_pair(dict(row), 0)
    return (pair.prompt, pair.chosen, pair.rejected), [image], row.get(COLUMN)


def parsed_pair(parsed: Parsed, image_ids: tuple[str, ...]) -> PreferencePair:
    """The pair of a parsed row; its images by id."""
    (prompt, chosen, rejected), _, known = parsed
    return pair_from(prompt, chosen, rejected, known, image_ids)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.replace(IMAGE, "").strip()
    if not isinstance(value, list) or len(value) != 1:
        raise FormatError("only one message in each of prompt, chosen and rejected can be read")
    content = value[0]["content"]
    if isinstance(content, str):
        return content.replace(IMAGE, "").strip()
    return "".join(part.get("text") or "" for part in content if part["type"] == "text")
