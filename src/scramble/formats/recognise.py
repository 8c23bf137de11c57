"""Recognises the format of preference data from the columns of a row, and renames columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from scramble.formats import readers
from scramble.formats.bad_rows import FormatError
from scramble.formats.provenance import PROVENANCE_COLUMN
from scramble.formats.readers import ParsedRow, Row
from scramble.formats.scramble import release_row
from scramble.records import RecordError

# Columns that rows of every format may have.
SHARED = ("images", "image", *readers.IMAGE_NAMES, *readers.OTHER_MEDIA, *readers.ORIGIN, PROVENANCE_COLUMN)
_TEXTS = (*chain(*readers.ANSWERS), *readers.PROMPTS, *readers.CONTEXT)


@dataclass(frozen=True)
class RowFormat:
    """Describes how to recognise and parse the rows of a format.

    Attributes:
        needs: sets of columns; a row must have all columns of one set.
        read: parses a row.
        fits: decides whether a row with these columns has this format, if several formats have the same columns.
        uses: further columns that the reader uses, except :data:`SHARED`.
    """

    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Row], ParsedRow | list[ParsedRow]]
    fits: Callable[[Row], bool] = lambda row: True
    uses: tuple[str, ...] = ()

    def has_columns(self, row: Collection[str]) -> bool:
        """Return whether a row has all columns of one of the sets in ``needs``."""
        return any(set(needed) <= set(row) for needed in self.needs)

    @property
    def columns(self) -> set[str]:
        """All columns that the reader uses."""
        return {*SHARED, *self.uses, *chain(*self.needs)}


def _is_release(row: Row) -> bool:
    """Return whether a row has a question of SCRAMBLe's release. POVID's rows have the same layout."""
    with suppress(FormatError, RecordError):
        return release_row(dict(row)).kind != "unknown"
    return False


def _is_rlhf_v(row: Row) -> bool:
    content = row["text"]
    if isinstance(content, str):
        with suppress(ValueError, RecursionError):
            content = json.loads(content, strict=False)
    return isinstance(content, Mapping) and {"chosen", "rejected"} <= set(content)


def _has_prompt(row: Row) -> bool:
    """Return whether a row with two answers has a prompt, in the column ``prompt`` or, as in TRL, in both answers."""
    return "prompt" in row or not all(isinstance(row[name], str) for name in ("chosen", "rejected"))


# The order matters: the first format that fits a row is used.
READABLE: dict[str, RowFormat] = {
    "scramble": RowFormat(
        (("conversations", "rejected_conversations"),),
        readers.from_scramble_release,
        _is_release,
        uses=("id", "kind", "rule"),
    ),
    "povid": RowFormat((("conversations", "rejected_conversations"),), readers.from_scramble_release),
    "ms-swift": RowFormat(
        tuple(("messages", name) for name in ("rejected_response", "rejected_messages")),
        readers.from_ms_swift,
        uses=("rejected_images", *readers.CONTEXT),
    ),
    "llava-rlhf": RowFormat(
        (("conversations", "output_1", "output_2", "preference"),),
        readers.from_llava_rlhf,
        uses=("hallucination", *readers.CONTEXT),
    ),
    "llama-factory": RowFormat(
        (("conversations", "chosen", "rejected"), ("instruction", "chosen", "rejected")),
        readers.from_llama_factory,
        uses=_TEXTS,
    ),
    "openai": RowFormat((("input", "preferred_output", "non_preferred_output"),), readers.from_openai),
    "vlfeedback": RowFormat((("prompt", "completions"),), readers.from_vlfeedback),
    "rlhf-v": RowFormat((("text",),), readers.from_rlhf_v, _is_rlhf_v),
    "rlaif-v": RowFormat(
        (("question", "chosen", "rejected", "ds_name"), ("question", "chosen", "rejected", "origin_dataset")),
        readers.from_answers,
        uses=_TEXTS,
    ),
    "mmpr": RowFormat(
        (("question", "chosen", "rejected"),), readers.from_mmpr, lambda row: isinstance(row["chosen"], str)
    ),
    "trl": RowFormat(
        (("prompt", "chosen", "rejected"), ("chosen", "rejected")), readers.from_trl, _has_prompt, uses=_TEXTS
    ),
    "answers": RowFormat(readers.ANSWERS, readers.from_answers, uses=_TEXTS),
}


def recognise(row: Row) -> str:
    """Return the name of a row's format, which is a key of :data:`READABLE`.

    Raises FormatError if no format matches. The message names the nearest format.
    """
    if not isinstance(row, Mapping):
        raise FormatError("not a JSON object")
    for name, row_format in READABLE.items():
        if row_format.has_columns(row) and row_format.fits(row):
            return name
    raise FormatError(f"the row's keys ({', '.join(row)}) match no known format: {nearest_format(row)[1]}")


def parse_row(name: str, row: Row, *, all_pairs: bool = False) -> list[ParsedRow]:
    """Parse a row of the format ``name``. ``all_pairs`` is an option of :func:`readers.from_vlfeedback`.

    Raises:
        FormatError, RecordError, KeyError: the row cannot be used, or lacks a column.
    """
    if not isinstance(row, Mapping):
        raise FormatError("not a JSON object")
    parsed = readers.from_vlfeedback(row, all_pairs) if name == "vlfeedback" else READABLE[name].read(row)
    return parsed if isinstance(parsed, list) else [parsed]


_ONE_ANSWER = {"id", "image", "images", "conversations", "messages", "system", "source", "model"}


def nearest_format(columns: Collection[str]) -> tuple[tuple[str, ...], str]:
    """Return the columns of the format with the smallest fraction of missing columns, and a text that says what the row
    lacks.

    If no format has any of the columns, the format is TRL's. For a conversation without a second answer, no columns are
    returned, and the text describes this fault.
    """
    sets = [(name, needed) for name, row_format in READABLE.items() for needed in row_format.needs]
    name, needed = min(sets, key=lambda one: (len(set(one[1]) - set(columns)) / len(one[1]), one[0] != "trl"))
    missing = [column for column in needed if column not in columns]
    if set(columns) <= _ONE_ANSWER and {"conversations", "messages"} & set(columns):
        return (), "a row has only one answer, and a pair needs two: add a column with the rejected answer, or " + (
            "write rows with image, question and answer, and create pairs from them with data=questions"
        )
    listed = " and ".join(filter(None, (", ".join(missing[:-1]), *missing[-1:])))
    verb = f"also needs {listed}" if missing else "needs other values in these columns"
    return needed, f"the nearest is {name} ({', '.join(needed)}), which {verb}"


def renamed(row: Any, columns: Mapping[str, str]) -> Any:
    """Rename the columns of a row; ``columns`` maps the names that the format expects to the names in the file."""
    if not columns or not isinstance(row, Mapping):
        return row
    rest = {name: value for name, value in row.items() if name not in columns.values()}
    return rest | {name: row[own] for name, own in columns.items() if own in row}
