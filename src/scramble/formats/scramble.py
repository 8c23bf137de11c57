"""SCRAMBLe's release format: ``{id, image, conversations, rejected_conversations}``, one image per row.

Source: Mishra, Saenko, Saligrama, "SCRAMBLe", arXiv 2504.04740; the data file of its repository
(``data/synthetic_data.json``, images of COCO 2017 train). A human turn is ``<image>\\ncaption:``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from scramble.records import PreferencePair, RecordError

IMAGE = "<image>"
YES_NO = {"yes", "no"}


def row_to_pair(row: Any, number: int) -> tuple[str, PreferencePair]:
    """The image path and the pair of one row (``number`` counts from 1).

    The RecordError of an incomplete row names the missing part.
    """
    if not isinstance(row, dict):
        raise RecordError("not a JSON object")
    image = row.get("image")
    if isinstance(image, list) and len(image) == 1:
        (image,) = image
    if image is None or image == "" or image == []:
        raise RecordError("row without image")
    if not isinstance(image, str):
        raise RecordError(f"image is {type(image).__name__}, not a path")
    prompt, chosen = _turns(row, "conversations")
    rejected_prompt, rejected = _turns(row, "rejected_conversations")
    if prompt != rejected_prompt:
        raise RecordError("chosen and rejected answer different prompts")
    kind = "yes-no" if {chosen.lower().strip("."), rejected.lower().strip(".")} == YES_NO else "rearrange"
    pair = PreferencePair(
        pair_id=f"{'' if row.get('id') is None else row['id']}-{number:07d}",
        image_ids=(_posix(image).stem,),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        kind=str(row.get("kind") or kind),
        rule=str(row.get("rule") or "scramble-release"),
        source="scramble_release",
    )
    return image, pair


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """Ids of images by path: the file's name without suffix, or the path if files share that name.

    COCO's names are unique in all of its releases; ``0/image.png`` and ``1/image.png`` are examples of shared names.
    """
    paths = list(dict.fromkeys(paths))
    stems = Counter(_posix(path).stem for path in paths)
    longer = Counter(_posix(path).with_suffix("").as_posix() for path in paths)
    ids = {}
    for path in paths:
        stem, long = _posix(path).stem, _posix(path).with_suffix("").as_posix()
        ids[path] = stem if stems[stem] == 1 else long if longer[long] == 1 else path
    return ids


def _posix(path: str) -> PurePosixPath:
    """Parse a path that may have been written on Windows."""
    return PurePosixPath(path.replace("\\", "/"))


def pair_to_row(pair: PreferencePair, image: str) -> dict[str, Any]:
    """One row of the release format. ``image`` is the file's path to write into the row."""
    prompt = {"from": "human", "value": f"{IMAGE}\n{pair.prompt}"}
    return {
        "id": pair.image_ids[0],
        "image": image,
        "conversations": [prompt, {"from": "gpt", "value": pair.chosen}],
        "rejected_conversations": [prompt, {"from": "gpt", "value": pair.rejected}],
        "kind": pair.kind,
        "rule": pair.rule,
    }


def _turns(row: dict[str, Any], key: str) -> tuple[str, str]:
    turns = row.get(key)
    if not isinstance(turns, list) or len(turns) != 2:
        raise RecordError(f"{key} must be one human and one gpt turn")
    try:
        (asker, question), (answerer, answer) = ((turn["from"], turn["value"]) for turn in turns)
    except (TypeError, KeyError) as error:
        raise RecordError(f"{key}: a turn lacks from or value") from error
    if asker != "human" or answerer != "gpt":
        raise RecordError(f"{key}: the turns are by {asker} and {answerer}, not by human and gpt")
    if not isinstance(question, str) or not isinstance(answer, str):
        raise RecordError(f"{key}: a turn's value is not a string")
    answer = " ".join(answer.split())
    if not answer:
        raise RecordError("empty caption")
    if (places := question.count(IMAGE)) > 1:
        raise RecordError(f"{places} image placeholders for 1 image")
    return question.replace(IMAGE, "").strip(), answer
