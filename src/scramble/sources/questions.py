"""Reads a JSONL file of questions with answers, about one image, several images, or none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import BadRows, FormatError, SourceError
from scramble.formats.checks import clean_id, clean_text, find_image, image_fault, image_name, load_image
from scramble.formats.readers import without_placeholders
from scramble.records import ImageRecord, Question, RecordError
from scramble.sources.bundles import Bundle
from scramble.sources.image_folder import jsonl_rows


def bundles(
    path: str | Path,
    bad: BadRows,
    *,
    images: str | Path | None = None,
    embed: bool = False,
    verify: bool = True,
) -> Iterator[Bundle]:
    """Stream the questions of a file, each with its images.

    A row has ``question`` and ``answer`` (a text or number, not needed for DropoutNTP). Optional fields are ``image``
    or ``images`` (a path or a list of paths), ``answers`` (all accepted answers), ``choices`` (options in letter
    order), ``kind`` and ``id``. A ``kind`` is the name of a grading rule, or a free label, which the default rule
    grades. Image placeholders in the question are removed, because the images precede the question.

    Args:
        path: the ``.jsonl`` file.
        images: the folder that image paths are relative to; by default the file's folder.

    Raises:
        SourceError: the file is missing or not JSONL.
    """
    bad.images_key = "data.images"
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise SourceError(f"{file} {what}: set data.path to a JSONL file with questions")
    folder = Path(images) if images is not None else file.parent
    seen: set[str] = set()
    for number, row in jsonl_rows(file, ["question"], bad, named_by=""):
        try:
            question = _question(row, number)
        except (RecordError, FormatError) as error:
            bad.reject(file, number, str(error))
            continue
        if question.question_id in seen:
            bad.reject(file, number, "duplicate id", question.question_id)
            continue
        records = []
        for name in question.image_ids:
            image_file = find_image(folder, name)
            try:
                image = load_image(image_file, embed=embed, verify=verify)
            except RecordError as error:
                bad.reject(file, number, image_fault(image_file), str(error))
                break
            records.append(ImageRecord(name, image, source=f"questions:{file.name}"))
        if len(records) < len(question.image_ids):
            continue
        seen.add(question.question_id)
        bad.use()
        key = question.image_ids[0] if question.image_ids else question.question_id
        yield Bundle(key, tuple(records), questions=(question,))


def _question(row: dict[str, Any], number: int) -> Question:
    names: Any = next((row[key] for key in ("image", "images") if not _absent(row.get(key))), [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecordError("image is neither a path nor a list of paths")
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise RecordError("row without question")
    return Question(
        question_id=f"{number:07d}" if row.get("id") in (None, "") else clean_id(row["id"]),
        image_ids=tuple(image_name(name) for name in names),
        question=without_placeholders(clean_text(text.strip(), "question"), len(names)),
        answer=_text(row.get("answer"), "answer"),
        kind="" if row.get("kind") is None else _text(row["kind"], "kind"),
        answers=tuple(_text(value, "answers") for value in _list(row, "answers") if not _absent(value)),
        choices=_choices(row),
    )


def _choices(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the options of a row in letter order, without missing options at the end."""
    choices = [_text(value, "choices") for value in _list(row, "choices")]
    while choices and not choices[-1].strip():
        choices.pop()
    if not all(choice.strip() for choice in choices):
        raise RecordError("an option among choices is empty")
    return tuple(choices)


def _absent(value: Any) -> bool:
    """Return whether a cell is empty, or contains a table's notation for a missing value."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _list(row: dict[str, Any], key: str) -> list[Any]:
    values = [] if _absent(row.get(key)) else row[key]
    if not isinstance(values, list):
        raise RecordError(f"{key} is not a list")
    return values


def _text(value: Any, key: str) -> str:
    if _absent(value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # pandas converts whole numbers to floats if a column has an empty cell
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(f"{key} is neither a string nor a number")
    return clean_text(str(value), key)
