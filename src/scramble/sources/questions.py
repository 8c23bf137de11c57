"""Reads a file of questions with answers, about one image, several images, or none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import BadRow, BadRows, FormatError, SourceError
from scramble.formats.checks import (
    clean_id,
    clean_text,
    find_image,
    image_fault,
    image_fields,
    load_image,
    parse_list,
    verify_image,
)
from scramble.formats.data_files import log_unused_columns, object_rows
from scramble.formats.layout import LOOK_AHEAD
from scramble.formats.readers import without_placeholders
from scramble.records import ImageFile, ImageRecord, Question, RecordError
from scramble.sources.bundles import Bundle
from scramble.storage.similar_paths import did_you_mean

_COLUMNS = ("id", "image", "images", "question", "answer", "answers", "choices", "kind")


def bundles(
    path: str | Path,
    bad: BadRows,
    *,
    images: str | Path | None = None,
    embed: bool = False,
    verify: bool = True,
) -> Iterator[Bundle]:
    """Stream the questions of a file, each with its images.

    A row has ``question`` and ``answer`` (a text or number; optional for DropoutNTP). Optional fields are ``image`` or
    ``images`` (a path, encoded bytes, or a list of these), ``answers`` (all accepted answers), ``choices`` (options in
    letter order), ``kind`` and ``id``. A ``kind`` is the name of a grading rule or any other label (see
    :func:`scramble.grading.rules.rule_of`). Image placeholders in the question are removed, because prompts contain the
    images before the question.

    Args:
        path: the file, in any format that :func:`scramble.formats.data_files.read_rows` reads. In a CSV file, lists are
            stored as JSON text.
        images: the folder that image paths are relative to; by default the file's folder.

    Raises:
        SourceError: the file cannot be read, or has no column ``question``.
    """
    bad.images_key = "data.images"
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise SourceError(f"{file} {what}: set data.path to a file with questions{did_you_mean(file)}")
    folder = Path(images) if images is not None else file.parent
    source = f"questions:{file.name}"
    seen: set[str] = set()
    rows = object_rows(file, bad, ["question"], named_by="")
    first = list(islice(rows, LOOK_AHEAD))
    log_unused_columns(file, (column for _, row in first for column in row if column not in _COLUMNS))
    for number, row in chain(first, rows):
        try:
            fields = [image_fields(value) for value in _image_values(row)]
            question = _question(row, number, tuple(_image_id(data, name) for data, name in fields))
            if question.question_id in seen:
                raise BadRow("duplicate id", question.question_id)
            files = [_image_file(data, name, folder, embed, verify) for data, name in fields]
        except BadRow as error:
            bad.reject(file, number, error.kind, error.detail)
            continue
        except (RecordError, FormatError) as error:
            bad.reject(file, number, str(error))
            continue
        seen.add(question.question_id)
        bad.use()
        key = question.image_ids[0] if question.image_ids else question.question_id
        records = [
            ImageRecord(name, image, source=source) for name, image in zip(question.image_ids, files, strict=True)
        ]
        yield Bundle(key, tuple(records), questions=(question,))


def _image_values(row: dict[str, Any]) -> list[Any]:
    values: Any = next((row[key] for key in ("image", "images") if not _is_absent(row.get(key))), [])
    if isinstance(values, str) and values.lstrip().startswith("["):
        values = parse_list(values, "image")
    values = values if isinstance(values, list) else [values]
    if not all(isinstance(value, str | bytes | dict) for value in values):
        raise RecordError("image is neither an image nor a list of images")
    return values


def _image_id(data: bytes | None, name: str | None) -> str:
    """Return an image's path, or a hash of its bytes if it is embedded, because embedded images may share a name."""
    return str(name) if data is None else hashlib.sha256(data).hexdigest()[:16]


def _image_file(data: bytes | None, name: str | None, folder: Path, embed: bool, verify: bool) -> ImageFile:
    """Return an image. Raises BadRow if the image cannot be found or decoded."""
    try:
        if data is None:
            return load_image(find_image(folder, str(name)), embed=embed, verify=verify)
        image = ImageFile(data, name)
        if verify:
            verify_image(image)
    except RecordError as error:
        kind = "unreadable image" if data is not None else image_fault(find_image(folder, str(name)))
        raise BadRow(kind, str(error)) from error
    return image


def _question(row: dict[str, Any], number: int, image_ids: tuple[str, ...]) -> Question:
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise RecordError("row without question")
    return Question(
        question_id=f"{number:07d}" if row.get("id") in (None, "") else clean_id(row["id"]),
        image_ids=image_ids,
        question=without_placeholders(clean_text(text.strip(), "question"), len(image_ids)),
        answer=_text(row.get("answer"), "answer"),
        kind=_text(row.get("kind"), "kind"),
        answers=tuple(_text(value, "answers") for value in _list(row, "answers") if not _is_absent(value)),
        choices=_choices(row),
    )


def _choices(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the options of a row in letter order, without empty options at the end."""
    choices = [_text(value, "choices") for value in _list(row, "choices")]
    while choices and not choices[-1].strip():
        choices.pop()
    if not all(choice.strip() for choice in choices):
        raise RecordError("an entry of choices is empty")
    return tuple(choices)


def _is_absent(value: Any) -> bool:
    """Return whether a cell has no value: None, an empty string or NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _list(row: dict[str, Any], key: str) -> list[Any]:
    values = [] if _is_absent(row.get(key)) else row[key]
    values = parse_list(values, key) if isinstance(values, str) else values
    if not isinstance(values, list):
        raise RecordError(f"{key} is not a list")
    return values


def _text(value: Any, key: str) -> str:
    if _is_absent(value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # pandas converts whole numbers to floats if a column has an empty cell
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError(f"{key} is neither a string nor a number")
    return clean_text(str(value), key)
