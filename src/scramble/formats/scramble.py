"""Reads and writes SCRAMBLe's release format: ``{id, image, conversations, rejected_conversations}``, one image per
row.

Source: Mishra, Saenko, Saligrama, "SCRAMBLe", arXiv 2504.04740; the data file of its repository
(``data/synthetic_data.json``, images of COCO 2017 train). The human turn of a ``rearrange`` row is
``<image>\\ncaption:``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from scramble.formats.conversations import IMAGE, ChatMessage, answer_of, history_and_prompt, same_conversation
from scramble.records import PreferencePair, RecordError

YES_NO_ANSWERS = {"yes", "no"}


@dataclass(frozen=True)
class ReleaseRow:
    """Contains the image path, the conversation before the answers, and the two answers of a row."""

    image: str
    messages: list[ChatMessage]
    chosen: str
    rejected: str

    @property
    def kind(self) -> str:
        """``yes-no`` or ``rearrange`` for the questions of SCRAMBLe's release, and ``unknown`` for other questions, for
        example those of POVID.
        """
        if {self.chosen.lower().strip("."), self.rejected.lower().strip(".")} == YES_NO_ANSWERS:
            return "yes-no"
        return "rearrange" if self.messages[-1].text == "caption:" else "unknown"


def release_row(row: Any) -> ReleaseRow:
    """Parse one row.

    Raises:
        FormatError, RecordError: the row is incomplete or invalid. The message describes the fault.
    """
    if not isinstance(row, dict):
        raise RecordError("not a JSON object")
    image = row.get("image")
    if isinstance(image, list) and len(image) == 1:
        (image,) = image
    if image is None or image == "" or image == []:
        raise RecordError("row without image")
    if not isinstance(image, str):
        raise RecordError(f"image is of type {type(image).__name__}, not a path")
    messages, chosen = _conversation(row, "conversations")
    others, rejected = _conversation(row, "rejected_conversations")
    if not same_conversation(messages, others):
        raise RecordError("chosen and rejected answer different prompts")
    if (places := sum(message.num_places for message in messages)) > 1:
        raise RecordError(f"{places} image placeholders for 1 image")
    parsed = ReleaseRow(image, messages, chosen, rejected)
    if parsed.kind == "rearrange":  # the answers are captions of COCO, and some contain line breaks
        parsed = replace(parsed, chosen=" ".join(chosen.split()), rejected=" ".join(rejected.split()))
    return parsed


def row_to_pair(row: Any, number: int) -> tuple[str, PreferencePair]:
    """Return the image path and the pair of one row (``number`` counts from 1). For errors, see :func:`release_row`."""
    parsed = release_row(row)
    history, prompt = history_and_prompt(parsed.messages, 1)
    pair = PreferencePair(
        pair_id=f"{'' if row.get('id') is None else row['id']}-{number:07d}",
        image_ids=(_posix(parsed.image).stem,),
        prompt=prompt,
        chosen=parsed.chosen,
        rejected=parsed.rejected,
        kind=str(row.get("kind") or parsed.kind),
        rule=str(row.get("rule") or ("" if parsed.kind == "unknown" else "scramble-release")),
        source="" if parsed.kind == "unknown" else "scramble_release",
        history=history,
    )
    return parsed.image, pair


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """Return the ids of images by path.

    An id is the file's name without suffix. If several files have this name, the id is the path, without suffix if it
    is still unique. File names are unique in all releases of COCO, but not in all data sets (for example,
    ``0/image.png`` and ``1/image.png``).
    """
    paths = list(dict.fromkeys(paths))
    stems = Counter(_posix(path).stem for path in paths)
    longer = Counter(_posix(path).with_suffix("").as_posix() for path in paths)
    ids = {}
    for path in paths:
        stem, long = _posix(path).stem, _posix(path).with_suffix("").as_posix()
        ids[path] = stem if stems[stem] == 1 else long if longer[long] == 1 else path
    return ids


def sharegpt_turns(pair: PreferencePair, placeholder: str) -> list[dict[str, str]]:
    """Return the turns before the answers with ShareGPT's keys and a placeholder for each image."""
    names = {"user": "human", "assistant": "gpt"}
    return [
        {"from": names.get(turn.role, turn.role), "value": placeholder * turn.num_images + turn.text}
        for turn in pair.conversation
    ]


def _posix(path: str) -> PurePosixPath:
    """Parse a path that may have been written on Windows."""
    return PurePosixPath(path.replace("\\", "/"))


def pair_to_row(pair: PreferencePair, image: str) -> dict[str, Any]:
    """Return one row of the release format. ``image`` is the image path to write into the row."""
    turns = sharegpt_turns(pair, f"{IMAGE}\n")
    return {
        "id": pair.image_ids[0],
        "image": image,
        "conversations": [*turns, {"from": "gpt", "value": pair.chosen}],
        "rejected_conversations": [*turns, {"from": "gpt", "value": pair.rejected}],
        "kind": pair.kind,
        "rule": pair.rule,
    }


def _conversation(row: dict[str, Any], key: str) -> tuple[list[ChatMessage], str]:
    if not isinstance(row.get(key), list):
        raise RecordError(f"{key} must be a list of human and gpt turns")
    messages, answer = answer_of(row[key], key)
    if not messages:
        raise RecordError(f"{key} has no human turn before the answer")
    if not answer.strip():
        raise RecordError("empty caption")
    return messages, answer
