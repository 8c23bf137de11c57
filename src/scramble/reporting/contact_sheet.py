"""Draws a contact sheet of images, each with its chosen answer in green and its rejected answer in red below it.

The sheet is drawn with Pillow, which shapes and measures text, including Arabic and Devanagari. Each row of cells is
therefore only as high as its images and answers require.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scramble.records import ImageFile, PreferencePair
from scramble.storage.files import atomic_path

COLUMNS = 4
"""Number of pairs per row."""
CELL = 300
"""Width of a cell and maximum height of its image, in pixels."""
GAP = 26
FONT_SIZE = 16
LINE = 21
"""Distance between the baselines of two lines, in pixels."""
BETWEEN = 5
"""Distance between the image and the answers, and between the two answers, in pixels."""
MAX_LINES = 9
"""Maximum number of lines per answer. An ellipsis marks omitted text."""
CONTEXT = 6
"""Number of words that are shown before the first difference in an answer that is too long."""
CHOSEN, REJECTED = "#1a7f37", "#b42318"


def contact_sheet(pairs: Sequence[PreferencePair], images: Mapping[str, ImageFile], path: str | Path) -> Path:
    """Draw the first image and the answers of each pair, and write a PNG file to ``path``.

    Images keep their aspect ratio; small images are enlarged. Answers are wrapped. If an answer has more than
    :data:`MAX_LINES` lines, the part around the first difference is shown.
    """
    cells = [_cell(images[pair.image_ids[0]].open(), pair.chosen, pair.rejected) for pair in pairs]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = min(COLUMNS, len(cells)) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), "white")
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for place, cell in enumerate(row):
            sheet.paste(cell, (GAP + place * (CELL + GAP), top))
        top += height + GAP
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


def undrawable(texts: Iterable[str]) -> int:
    """Return the number of texts for which no available font contains all characters."""
    return sum(bool(_missing(text, _font_file(text))) for text in texts)


def _cell(image: Image.Image, chosen: str, rejected: str) -> Image.Image:
    picture = _fit(image.convert("RGB"))
    texts = [
        (_lines(chosen, rejected, _font(chosen)), _font(chosen), CHOSEN),
        (_lines(rejected, chosen, _font(rejected)), _font(rejected), REJECTED),
    ]
    height = picture.height + sum(BETWEEN + LINE * len(lines) for lines, _, _ in texts)
    cell = Image.new("RGB", (CELL, height), "white")
    cell.paste(picture, (0, 0))
    pen = ImageDraw.Draw(cell)
    top = picture.height
    for lines, font, colour in texts:
        top += BETWEEN
        for line in lines:
            # The text is anchored at its baseline, so that the lines are equally spaced for all letters.
            pen.text((0, top + FONT_SIZE), line, colour, font, anchor="ls")
            top += LINE
    return cell


def _fit(image: Image.Image) -> Image.Image:
    """Resize an image to fit the cell. Small drawings are enlarged without interpolation to keep their edges."""
    scale = min(CELL / image.width, CELL / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


# ---------------------------------------------------------------------------------------------------------------- text


def _lines(text: str, other: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Wrap an answer to the cell's width. An answer that is too long starts shortly before its first difference from
    the other answer.
    """
    words = text.split()
    lines = _wrap(words, font)
    if len(lines) <= MAX_LINES:
        return lines
    pairs = zip(words, other.split(), strict=False)
    num_equal = next((place for place, (a, b) in enumerate(pairs) if a != b), 0)
    start = max(0, num_equal - CONTEXT)
    lines = _wrap(["\N{HORIZONTAL ELLIPSIS}", *words[start:]] if start else words, font)
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[: MAX_LINES - 1], _truncate(lines[MAX_LINES - 1], font)]


def _truncate(line: str, font: ImageFont.FreeTypeFont) -> str:
    while line and font.getlength(f"{line} \N{HORIZONTAL ELLIPSIS}") > CELL:
        line = line[:-1]
    return f"{line} \N{HORIZONTAL ELLIPSIS}"


def _wrap(words: Sequence[str], font: ImageFont.FreeTypeFont) -> list[str]:
    """Wrap words into lines. A word wider than the cell is broken between letters, for example in Chinese text."""
    lines = [""]
    for word in words:
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= CELL:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in _letters(word):
            if lines[-1] and font.getlength(lines[-1] + letter) > CELL:
                lines.append("")
            lines[-1] += letter
    return lines


def _letters(word: str) -> list[str]:
    """Return the letters of a word, each with its combining marks."""
    letters: list[str] = []
    for character in word:
        if letters and unicodedata.category(character)[0] == "M":
            letters[-1] += character
        else:
            letters.append(character)
    return letters


# --------------------------------------------------------------------------------------------------------------- fonts


def _font(text: str) -> ImageFont.FreeTypeFont:
    return _open(_font_file(text))


@cache
def _open(file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, FONT_SIZE)


@cache
def _font_file(text: str) -> str:
    """Return the path of the first font that contains all characters of a text, or else of the font that lacks the
    fewest characters.

    The font that is included in matplotlib is tried first, and then the fonts of the system.
    """
    best = _shipped()
    missing = len(_missing(text, best))
    if missing == 0:
        return best
    for file in _installed():
        count = len(_missing(text, file))
        if count < missing:
            best, missing = file, count
        if missing == 0:
            break
    return best


def _missing(text: str, file: str) -> set[str]:
    available = _characters(file)
    return {c for c in text if not c.isspace() and unicodedata.category(c) != "Cf" and ord(c) not in available}


@cache
def _characters(file: str) -> frozenset[int]:
    """Return the characters of a font. Return an empty set for a font that cannot be opened at the sheet's font
    size, such as a bitmap font of emoji.
    """
    from matplotlib.ft2font import FT2Font

    try:
        _open(file)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _shipped() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def _installed() -> tuple[str, ...]:
    """Return the paths of the installed fonts. Regular upright fonts come first."""
    from matplotlib.font_manager import findSystemFonts

    def is_variant(file: str) -> bool:
        name = Path(file).stem.lower()
        return any(word in name for word in ("bold", "italic", "oblique", "light", "thin", "black", "mono"))

    return tuple(sorted(findSystemFonts(), key=lambda file: (is_variant(file), Path(file).name)))
