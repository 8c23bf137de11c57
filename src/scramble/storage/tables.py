"""Reads and writes record tables: parquet files, each with one type of record from :mod:`scramble.records`.

A data set is a folder of tables (``images``, ``pairs``, ``questions``, ``quads``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from scramble.records import Edit, ImageFile, ImageRecord, PreferencePair, Question, Turn, TwoByTwoItem
from scramble.storage.files import StoreError, atomic_path

Record = TypeVar("Record", ImageRecord, PreferencePair, Question, TwoByTwoItem)

TABLE_NAMES: dict[type, str] = {
    ImageRecord: "images",
    PreferencePair: "pairs",
    Question: "questions",
    TwoByTwoItem: "quads",
}
ROW_GROUP = 100  # rows; small groups limit memory use when rows contain images


def _features(record_type: type) -> Any:
    from datasets import Features, Image, List, Value

    text, texts, span = Value("string"), List(Value("string")), List(Value("int32"))
    if record_type is ImageRecord:
        return Features(image_id=text, image=Image(), captions=texts, source=text, graph=text)
    if record_type is PreferencePair:
        edits = List({"chosen": span, "rejected": span})
        return Features(
            pair_id=text,
            image_ids=texts,
            prompt=text,
            chosen=text,
            rejected=text,
            kind=text,
            rule=text,
            edits=edits,
            seed=Value("int64"),
            source=text,
            scores=text,
            details=text,
            history=List({"role": text, "text": text, "num_images": Value("int32")}),
            other_rejected=texts,
        )
    if record_type is Question:
        return Features(
            question_id=text,
            image_ids=texts,
            question=text,
            answer=text,
            kind=text,
            answers=texts,
            choices=texts,
            rationale=texts,
        )
    return Features(item_id=text, image_ids=texts, captions=texts, kind=text, tags=texts)


def _to_row(record: Any) -> dict[str, Any]:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    if isinstance(record, ImageRecord):
        row["image"] = {"bytes": record.image.bytes, "path": record.image.path}
        row["graph"] = None if record.graph is None else json.dumps(record.graph, ensure_ascii=False)
    if isinstance(record, PreferencePair):
        row["edits"] = [{"chosen": e.chosen, "rejected": e.rejected} for e in record.edits]
        row["scores"] = json.dumps(record.scores)
        row["details"] = json.dumps(record.details, ensure_ascii=False)
        row["history"] = [dataclasses.asdict(turn) for turn in record.history]
    return row


def _from_row(record_type: type, row: dict[str, Any]) -> Any:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    if record_type is ImageRecord:
        values["image"] = ImageFile(**row["image"])
        values["graph"] = None if row["graph"] is None else json.loads(row["graph"])
    if record_type is PreferencePair:
        values["edits"] = tuple(Edit(tuple(e["chosen"]), tuple(e["rejected"])) for e in row["edits"])
        values["scores"] = json.loads(row["scores"])
        values["details"] = json.loads(row.get("details") or "{}")
        values["history"] = tuple(Turn(**turn) for turn in row.get("history") or ())  # older tables have no such column
    return record_type(**values)


class TableWriter:
    """Writes records one by one to a parquet table; see :func:`open_table`.

    ``count`` is the number of records that were written.
    """

    def __init__(self, path: Path, record_type: type) -> None:
        import pyarrow.parquet as pq

        self.count = 0
        self._rows: list[dict[str, Any]] = []
        self._schema = _features(record_type).arrow_schema
        self._parquet = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, record: Any) -> None:
        self._rows.append(_to_row(record))
        self.count += 1
        if len(self._rows) == ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        self._write_group()
        self._parquet.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


@contextmanager
def open_table(folder: str | Path, record_type: type[Record]) -> Iterator[TableWriter]:
    """Yield a writer for ``folder/<table>.parquet``. The file is created when the block ends without an error.

    Incomplete files of killed runs are removed. This is safe because the stage that writes a table has locked the
    folder.
    """
    path = table_path(folder, record_type)
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        writer = TableWriter(temporary, record_type)
        try:
            yield writer
        finally:
            writer.close()


def write_table(folder: str | Path, record_type: type[Record], records: Iterable[Record]) -> int:
    """Write records to ``folder/<table>.parquet`` atomically, and return the number of records."""
    with open_table(folder, record_type) as table:
        for record in records:
            table.write(record)
        return table.count


def read_table(folder: str | Path, record_type: type[Record], *, missing_ok: bool = False) -> Iterator[Record]:
    """Iterate over the records of ``folder/<table>.parquet``. With ``missing_ok``, a missing table counts as empty.

    Raises StoreError if the table is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = table_path(folder, record_type)
    if not path.exists():
        if missing_ok:
            return
        raise StoreError(f"{path} is missing: first run scripts/generate.py, which writes it")
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP):
            for row in batch.to_pylist():
                yield _from_row(record_type, row)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # Arrow's messages can have several lines
        raise StoreError(
            f"{path} cannot be read as a table of {TABLE_NAMES[record_type]} ({reason}): delete it and run "
            "scripts/generate.py again"
        ) from error


def read_column(folder: str | Path, record_type: type[Record], column: str) -> Iterator[Any]:
    """Iterate over one column of ``folder/<table>.parquet``, for example captions without their images."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(table_path(folder, record_type)) as file:
        for batch in file.iter_batches(batch_size=10 * ROW_GROUP, columns=[column]):
            yield from batch.column(0).to_pylist()


def table_path(folder: str | Path, record_type: type) -> Path:
    """Return the path of the table of one record type in a data set folder."""
    return Path(folder) / f"{TABLE_NAMES[record_type]}.parquet"
