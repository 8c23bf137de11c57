"""Reads training examples and their images from the tables of a data set folder, and reports rejected rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path

from scramble.grading import rationales
from scramble.records import ImageFile, ImageRecord, PreferencePair, Question, Turn
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import JsonLines
from scramble.storage.tables import read_table

log = logging.getLogger(__name__)

Data = str | Path | tuple[Sequence["Example"], Mapping[str, ImageFile]]
"""A data set folder, or examples with their images by id."""

EXIF_ORIENTATION = 0x0112


class DataError(ValueError):
    """Raised if training data cannot be used. The message says how to fix the data or the settings."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its images, an answer and, for preference objectives, a rejected answer.

    ``history`` contains the turns before the prompt.
    """

    example_id: str
    image_ids: tuple[str, ...]
    prompt: str
    chosen: str
    rejected: str | None = None
    history: tuple[Turn, ...] = ()

    @property
    def prompt_key(self) -> str:
        """The prompt and the turns before it as one text, used as a lookup key."""
        return json.dumps([*map(astuple, self.history), self.prompt]) if self.history else self.prompt


def pair_examples(pairs: Iterable[PreferencePair]) -> Iterator[Example]:
    """Yield one example per rejected answer of each pair."""
    for pair in pairs:
        for one in pair.singles():
            yield Example(one.pair_id, one.image_ids, one.prompt, one.chosen, one.rejected, one.history)


def caption_examples(images: Iterable[ImageRecord], prompt: str) -> Iterator[Example]:
    """Yield one example per caption, without a rejected answer."""
    for image in images:
        for index, caption in enumerate(image.captions):
            yield Example(f"{image.image_id}:{index}", (image.image_id,), prompt, caption)


def question_examples(questions: Iterable[Question]) -> Iterator[Example]:
    """Yield one example per question, without a rejected answer."""
    for question in questions:
        yield Example(question.question_id, question.image_ids, question.question, question.answer)


def rationale_examples(questions: Iterable[Question]) -> Iterator[Example]:
    """Yield one example per question with a rationale. The chosen text contains the rationale and the answer."""
    for question in questions:
        if question.rationale:
            text = rationales.write(question.rationale, question.answer)
            name = f"{question.question_id}:rationale"
            yield Example(name, question.image_ids, rationales.ask(question.question), text)


def image_size(image: ImageFile) -> tuple[int, int]:
    """Return the (height, width) of the upright image, read from the file's header.

    Raises RecordError for an unreadable file.
    """
    with image.opened() as opened:
        width, height = opened.size
        is_transposed = opened.getexif().get(EXIF_ORIENTATION, 1) >= 5  # 5 to 8 swap the axes
    return (width, height) if is_transposed else (height, width)


def load_examples(
    data: Data, tables: Sequence[str], caption_prompt: str
) -> tuple[Iterator[Example], Mapping[str, ImageFile]]:
    """Return the examples in the named tables of a data set (see ``PreferenceConfig.tables``), and its images by id.

    Raises StoreError if a table is missing or damaged.
    """
    if isinstance(data, tuple):
        return iter(data[0]), data[1]
    return chain.from_iterable(_table_examples(data, table, caption_prompt) for table in tables), ImageTable(data)


def _table_examples(folder: str | Path, table: str, caption_prompt: str) -> Iterator[Example]:
    if table == "pairs":
        return pair_examples(read_table(folder, PreferencePair))
    if table == "rationales":
        return rationale_examples(read_table(folder, Question))
    if table == "captions":
        return caption_examples(read_table(folder, ImageRecord), caption_prompt)
    return question_examples(read_table(folder, Question))


def report_rejected(
    path: Path, rejected_rows: Sequence[Mapping[str, str]], usable: int, max_rejected: float, write: bool = True
) -> None:
    """List rejected rows in a JSONL file (if ``write``) and warn.

    Raises DataError if no row is usable, or if more than one row and more than the fraction ``max_rejected`` of all
    rows were rejected. A single bad row in a small data set does not stop a run.
    """
    if write:
        path.unlink(missing_ok=True)
    if not rejected_rows and not usable:
        raise DataError("the data set has no rows to train on: check trainer.tables, which names the tables")
    if not rejected_rows:
        return
    if write:
        with JsonLines(path) as file:
            file.extend(rejected_rows)
    count, total, first = len(rejected_rows), usable + len(rejected_rows), rejected_rows[0]
    message = f"rejected {count} of {total} rows (listed in {path}). The first is {first['id']}: {first['reason']}"
    if (count > 1 and count / total > max_rejected) or not usable:
        raise DataError(
            f"{message}. At most {max_rejected:.0%} of the rows may be rejected: fix the data or raise "
            "trainer.max_rejected_fraction"
        )
    log.warning(message)


def group_by_image(examples: Sequence[Example]) -> list[list[int]]:
    """Group the indices of examples by their images, in order of first appearance. Each text-only example is a separate
    group.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    alone: list[list[int]] = []
    for number, example in enumerate(examples):
        if example.image_ids:
            groups.setdefault(example.image_ids, []).append(number)
        else:
            alone.append([number])
    return [*groups.values(), *alone]
