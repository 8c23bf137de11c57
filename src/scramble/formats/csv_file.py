"""Reads text tables with a header and with fields separated by commas, semicolons, tabs or vertical bars.

Rows are parsed strictly, one by one. With Python's reader alone, an unclosed quote would consume all rows up to the
next quote, and an unquoted comma would end a caption. A row that cannot be parsed with certainty is rejected.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.formats.bad_rows import SourceError
from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.storage.files import StoreError, read_text

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", ";", "\t", "|")
COLUMN_KEYS = "data.image_column=..., data.caption_column=..."

_EXCEL = re.compile(r"sep=([,;\t|:])\s*")  # Excel's optional first line, which defines the delimiter
_IMAGE_FILE = re.compile(rf"\S.*({'|'.join(map(re.escape, PHOTO_SUFFIXES))})", re.IGNORECASE)


def csv_rows(
    file: Path, columns: list[str], reject: Callable[[Path, int, str, str], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number (from 1) at which each row starts, and the row's fields by column. The first row is the
    header.

    The delimiter is the first of :data:`DELIMITERS` with which the header has all ``columns``. If ``columns`` is empty,
    it is the delimiter with which the header has the most names. White space around names and fields is removed. A
    quoted field may contain line breaks.

    Args:
        file: the file, in UTF-8 or in the encoding of its byte-order mark. The whole file is loaded into memory.
        columns: the columns that the header must have, if any. The first column contains the image paths.
        reject: a function that is called for each row that cannot be parsed, with the file, the line number, the
            reason, and the beginning of the line.

    Raises:
        SourceError: the file cannot be read, or its header lacks a column.
    """
    lines = _lines(file)
    if not lines:
        return
    start, delimiter, header = _header(file, lines, columns)
    place = header.index(columns[0]) if columns else 0
    number = start
    while number < len(lines):
        if not lines[number].strip():
            number += 1
            continue
        try:
            row, num_lines = _row(lines, number, delimiter, len(header), place)
        except csv.Error as error:
            reject(file, number + 1, str(error), lines[number].strip()[:200])
            number += 1
            continue
        fields = [field.strip() for field in row]
        if any(fields):  # a blank row of a spreadsheet contains only delimiters
            yield number + 1, dict(zip(header, fields, strict=True))
        number += num_lines


def require_columns(
    file: str | Path, columns: list[str], names: list[str], *, table: bool = False, named_by: str = COLUMN_KEYS
) -> None:
    """Raise SourceError if a file lacks one of ``columns``. The message names the columns that the file has.

    Args:
        table: whether ``names`` is the first line of a table, which may be a data row because the header is missing.
        named_by: the configuration keys of the column names; "" if the names are fixed.
    """
    missing = [column for column in columns if column not in names]
    if missing and names:
        fix = f"Set the column names ({named_by})" if named_by else "Rename the matching column"
        header = f" If the first line is a data row, add the line {','.join(columns)} before it." if table else ""
        listed = ", ".join(names) if len(", ".join(names)) <= 300 else f"{', '.join(names):.300}..."
        raise SourceError(f"{file} has no column {' or '.join(missing)}, only {listed}.{header} {fix}")


def _lines(file: Path) -> list[str]:
    try:
        text = read_text(file)
    except StoreError as error:
        raise SourceError(str(error)) from error
    if "\n" in text:  # in this case a carriage return alone is white space and does not end a row
        text = re.sub(r"\r(?!\n)", " ", text)
    return list(io.StringIO(text, newline=""))  # ends lines at \n, \r\n and \r; str.splitlines also ends them at U+2028


def _header(file: Path, lines: list[str], columns: list[str]) -> tuple[int, str, list[str]]:
    """Return the index of the first line after the header, the delimiter, and the header's names."""
    start = 0
    choices: tuple[str, ...] = DELIMITERS
    if named := _EXCEL.fullmatch(lines[0]):
        start, choices = 1, (named[1],)
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines):
        raise SourceError(f"{file}: the data set is empty: choose a file with rows")
    if "\0" in lines[start]:
        raise SourceError(
            f"{file}: the header contains null characters, as in UTF-16 without a byte-order mark: save the file as "
            "UTF-8"
        )
    headers = {}
    for delimiter in choices:
        try:
            names = [_bare(name) for name in _parsed(lines[start : start + 1], delimiter)]
        except csv.Error:
            continue
        headers[delimiter] = names
        if columns and set(columns) <= set(names):
            if twice := [name for name in columns if names.count(name) > 1]:
                raise SourceError(f"{file}: several columns are named {twice[0]!r}: rename all but one of them")
            return start + 1, delimiter, names
    if not headers:
        raise SourceError(f"{file}, row {start + 1}: the header has an unclosed quote: close the quote")
    delimiter = max(headers, key=lambda one: len(headers[one]))
    if not columns:
        return start + 1, delimiter, headers[delimiter]
    require_columns(file, columns, headers[delimiter], table=True)
    raise AssertionError("one of the columns is missing with every delimiter")


def _bare(name: str) -> str:
    """Return a column's name without white space around it, including a second byte-order mark or zero-width spaces."""
    return name.strip().strip("\ufeff\u200b").strip()


def _row(lines: list[str], number: int, delimiter: str, width: int, place: int) -> tuple[list[str], int]:
    """Return the fields of the row that starts on a line, and the row's number of lines.

    Raises csv.Error, with the reason as message, if the row cannot be parsed.
    """
    try:
        reader = _reader(lines, number, delimiter)
        row = next(reader)
        num_lines = reader.line_num
    except csv.Error as error:
        row, num_lines = _strip_after_quotes(lines[number], delimiter), 1
        if row is None:
            raise csv.Error(_reason(error)) from error
    for line in lines[number + 1 : number + num_lines]:  # the quoted field must not contain other rows
        fields = [field.strip(' "\t\r\n') for field in line.split(delimiter)]
        if len(fields) >= width and _names_an_image(fields[place], like=row[place] if place < len(row) else ""):
            raise csv.Error("a quote is not closed")
    if len(row) > width and not any(field.strip() for field in row[width:]):
        row = row[:width]  # some programs write a delimiter at the end of each row except the header
    if len(row) > width:
        fault = f"{len(row)} fields for {counted(width, 'columns')}"
        raise csv.Error(f"{fault} (put a text with {delimiter!r} in double quotes)")
    if len(row) < width:
        raise csv.Error(f"{counted(len(row), 'fields')} for {width} columns")
    return row, num_lines


def _names_an_image(field: str, like: str) -> bool:
    """Return whether a field is the name of an image file, or has the same form as the row's image name ``like``."""
    if _IMAGE_FILE.fullmatch(field):
        return True
    return not _IMAGE_FILE.fullmatch(like.strip()) and len(field.split()) == 1 == len(like.split())


def _parsed(lines: list[str], delimiter: str) -> list[str]:
    return next(_reader(lines, 0, delimiter))


def _reader(lines: list[str], number: int, delimiter: str) -> Any:
    rest = (lines[place] for place in range(number, len(lines)))
    return csv.reader(rest, delimiter=delimiter, strict=True, skipinitialspace=True)


def _strip_after_quotes(line: str, delimiter: str) -> list[str] | None:
    """Remove white space after closing quotes, because Python's reader rejects it, and return the fields of the line.

    The result is None if there is no such white space, or if the line cannot be parsed without it.
    """
    tight = re.sub(rf'"[ \t]+(?={re.escape(delimiter)}|\r?\n?$)', '"', line)
    try:
        return None if tight == line else _parsed([tight], delimiter)
    except csv.Error:
        return None


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text or "field larger" in text:
        return "a quote is not closed"
    if "expected after" in text:
        return "text after a closing quote (double the quotes within a quoted text)"
    return text


def csv_names(file: Path) -> set[str]:
    """Return the column names that any of :data:`DELIMITERS` finds in the header.

    Raises SourceError if the file cannot be read.
    """
    lines = [line for line in _lines(file) if line.strip()]
    if lines and _EXCEL.fullmatch(lines[0]):
        del lines[0]
    names: set[str] = set()
    for delimiter in DELIMITERS if lines else ():
        with suppress(csv.Error):
            names |= {_bare(name) for name in _parsed(lines[:1], delimiter)}
    return names
