"""Tests text tables: delimiters, quotes and line ends of other programs; rows that cannot be parsed fully are
rejected.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.formats.csv_file import csv_rows
from scramble.sources import BadRows, SourceError

Rows = list[tuple[int, str, str]]


def table(
    tmp_path: Path, text: str | bytes, image: str = "image", caption: str = "caption", name: str = "captions.csv"
) -> tuple[Rows, list[int], BadRows]:
    """Return the rows (number, image, caption), the numbers of rejected rows, and the object that collected the
    rejected rows.
    """
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused: list[int] = []
    bad = BadRows()

    def reject(file: Path, row: int, reason: str, line: str) -> None:
        refused.append(row)
        bad.reject(file, row, reason, line)

    rows = [(number, row[image], row[caption]) for number, row in csv_rows(file, [image, caption], reject)]
    return rows, refused, bad


def test_an_unquoted_comma_is_refused_by_row_number(tmp_path: Path) -> None:
    rows, refused, bad = table(tmp_path, "image,caption\n0.png,A dog, a bench and a tree.\n1.png,A cat.\n")
    assert rows == [(3, "1.png", "A cat.")] and refused == [2]
    assert "3 fields for 2 columns" in bad.first and "row 2" in bad.first and "double quotes" in bad.first


def test_delimiters_at_the_ends_of_rows_are_no_fields(tmp_path: Path) -> None:
    rows, refused, _ = table(tmp_path, 'image,caption\n0.png,A dog.,\n1.png,"A cat, asleep.", ,\n2.png,A dog, a cat,\n')
    assert rows == [(2, "0.png", "A dog."), (3, "1.png", "A cat, asleep.")] and refused == [4]


@pytest.mark.parametrize("space", ["", " ", "   "])
def test_white_space_around_quotes_and_names_is_no_text(tmp_path: Path, space: str) -> None:
    text = f'image{space},{space}caption{space}\n"0.png"{space},{space}"A dog, seen from ""above""."{space}\n'
    rows, refused, _ = table(tmp_path, text)
    assert rows == [(2, "0.png", 'A dog, seen from "above".')] and refused == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "| "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_encodings_and_line_ends_of_other_programs(
    tmp_path: Path, delimiter: str, encoding: str, end: str
) -> None:
    caption = "A café; a dog, too" if delimiter[0] not in ",;" else "A café: a dog|too"
    lines = [delimiter.join(fields) for fields in (["image", "n", "caption"], ["0.png", "0", caption])]
    rows, refused, _ = table(tmp_path, (end.join(lines) + end).encode(encoding))
    assert rows == [(2, "0.png", caption)] and refused == []


def test_excels_first_line_names_the_delimiter(tmp_path: Path) -> None:
    rows, _, _ = table(tmp_path, "sep=;\nimage;caption\n0.png;A dog, a cat\n")
    assert rows == [(3, "0.png", "A dog, a cat")]


def test_flickr30k_columns_are_named_and_can_be_given(tmp_path: Path) -> None:
    text = "image_name| comment_number| comment\n0.png| 0| A dog, on a bench .\n"
    with pytest.raises(SourceError, match=r"no column image or caption, only image_name, comment_number, comment\. "):
        table(tmp_path, text)
    assert table(tmp_path, text, "image_name", "comment")[0] == [(2, "0.png", "A dog, on a bench .")]


@pytest.mark.parametrize(
    ("text", "captions", "refused"),
    [
        ('0.png,"A dog\n1.png,A cat\n2.png,A cow\n', ["A cat", "A cow"], [2]),  # to the end of the file
        ('0.png,"A dog\n1.png,"A cat"\n2.png,A cow\n', ["A cat", "A cow"], [2]),  # to the next quote
        ('0.png,"A dog\n1.png,A cat\n2.png,A cow"\n', ["A cat", 'A cow"'], [2]),  # to a quote that would close it
        ('0.png,"A dog\n1.png,A cat\n2.png,""\n', ["A cat", ""], [2]),
        ('"0.png,A dog\n1.png,A cat\n', ["A cat"], [2]),
        ('0.png,A dog\n1.png,"A cat', ["A dog"], [3]),  # the file ends in a row
        ('0.png,"A dog" and "a cat"\n1.png,A cow\n', ["A cow"], [2]),
        ("0.png,A dog\nand a cat\n1.png,A cow\n", ["A dog", "A cow"], [3]),  # an unquoted line break
    ],
)
def test_an_unclosed_quote_absorbs_no_rows(tmp_path: Path, text: str, captions: list[str], refused: list[int]) -> None:
    rows, rejected, _ = table(tmp_path, "image,caption\n" + text)
    assert [caption for _, _, caption in rows] == captions and rejected == refused


def test_names_without_suffix_are_not_absorbed_either(tmp_path: Path) -> None:
    rows, refused, _ = table(tmp_path, 'image,caption\n17,"A dog\n18,A cat\n19,A cow"\n')
    assert [row[2] for row in rows] == ["A cat", 'A cow"'] and refused == [2]


def test_line_breaks_and_delimiters_within_quotes_are_text(tmp_path: Path) -> None:
    rows, refused, _ = table(tmp_path, 'image,caption\n0.png,"A dog,\non grass,\r\nseen"\n1.png,"5"" ruler"\n')
    assert rows == [(2, "0.png", "A dog,\non grass,\r\nseen"), (5, "1.png", '5" ruler')] and refused == []


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\x0b", "\x1c", "\r"])
def test_what_is_no_line_end_here_stays_in_its_row(tmp_path: Path, inside: str) -> None:
    rows, refused, _ = table(tmp_path, f"image,caption\n0.png,A dog{inside}on grass\n1.png,A cat\n")
    assert [row[2].split() for row in rows] == [["A", "dog", "on", "grass"], ["A", "cat"]] and refused == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"image,caption\n0.png,caf\xe9\n", "not valid UTF-8 in line 2: save the file as UTF-8"),
        (b'"image,caption\n0.png,x\n', "the header has an unclosed quote"),
        (b"image,caption,caption\n0.png,x,y\n", "several columns are named 'caption'"),
        (b"\n\n", "the data set is empty"),
        (b"0.png,A dog\n", "no column image or caption, only 0.png, A dog"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as error:
        table(tmp_path, text)
    assert "\n" not in str(error.value)


def test_rows_of_delimiters_alone_are_blank(tmp_path: Path) -> None:
    text = "image;caption;;\r\n;;;\r\na.jpg;A dog.;;\r\n" + ";;;\r\n" * 50 + 'b.jpg;"A cat; fat.";;\r\n; ;"";\r\n'
    rows, refused, _ = table(tmp_path, "\ufeff" + text)
    assert rows == [(3, "a.jpg", "A dog."), (54, "b.jpg", "A cat; fat.")] and refused == []


def test_a_table_without_a_header_gets_a_hint_how_to_add_one(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"If the first line is a data row, add the line image,caption before it"
    ) as raised:
        table(tmp_path, f"a.jpg,{'A dog. ' * 100}\n")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 700


@pytest.mark.parametrize("caption", ["\ufeffcaption", " caption\u200b", "\u00a0caption"])
def test_invisible_signs_around_names_are_no_part_of_them(tmp_path: Path, caption: str) -> None:
    rows, refused, _ = table(tmp_path, f"\ufeff\ufeffimage,{caption}\na.jpg,A dog.\n")
    assert rows == [(2, "a.jpg", "A dog.")] and refused == []


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match="the header contains null characters, as in UTF-16 without a byte-order mark"
    ):
        table(tmp_path, "image,caption\na.jpg,A dog.\n".encode("utf-16-le"))
