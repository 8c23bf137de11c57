"""Pairs alone, without their images, from any pair file: for the audit of a data set somebody else made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from scramble.formats import mmpr, rows
from scramble.formats.files import read_rows
from scramble.formats.provenance import FormatError
from scramble.records import PreferencePair, RecordError
from scramble.store import read_json, read_table, table_path

# a key that only rows of this format have -> how they are read
READERS = {
    "conversations+rejected_conversations": rows.from_scramble_release,
    "messages+rejected_response": rows.from_ms_swift,
    "conversations+chosen+rejected": rows.from_llama_factory,
    "prompt+chosen+rejected": rows.from_trl,
    "question+chosen+rejected": rows.from_mmpr,
}
SUGARCREPE_KINDS = {"obj": "object", "att": "attribute", "rel": "relation"}


def read_pairs(path: str | Path) -> Iterator[PreferencePair]:
    """The pairs of a data set folder or file, its format told from its content.

    Reads this project's data sets (a folder with ``pairs.parquet``), the formats of
    :data:`scramble.formats.files.FORMATS`, an MMPR ``meta.json`` (every row of every set once), and SugarCrepe's JSON
    (a file, or a folder with one file a kind).

    Raises:
        FormatError: naming the file, and the row where there is one.
    """
    path = Path(path)
    if path.is_dir() and table_path(path, PreferencePair).exists():
        path = table_path(path, PreferencePair)
    if path.is_dir() and (path / mmpr.META).exists():
        path = path / mmpr.META
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise FormatError(f"{path} holds neither pairs.parquet nor JSON files: give the pair file itself")
        for file in files:
            yield from read_pairs(file)
        return
    if path.suffix == ".json" and path.is_file() and isinstance(content := read_json(path), dict):
        if mmpr.is_meta(content):
            yield from mmpr_pairs(path)
            return
        yield from sugarcrepe_pairs(content, path)
        return
    if path.name == table_path("", PreferencePair).name and _is_own_table(path):
        yield from read_table(path.parent, PreferencePair)
        return
    for number, row in enumerate(read_rows(path), 1):
        yield _pair(path, number, row, lambda row: _reader(row)(row))


def mmpr_pairs(path: str | Path) -> Iterator[PreferencePair]:
    """The pairs of all sets of an MMPR ``meta.json``, every row once; a pair's kind is its set's name."""
    for one in mmpr.read_meta(path):
        file = mmpr.resolve(one.annotation, path)
        for number, row in enumerate(read_rows(file), 1):
            yield _pair(file, number, row, rows.from_mmpr, one.name)


def _pair(path: Path, number: int, row: Any, reader: Any, set_name: str = "") -> PreferencePair:
    try:
        parsed = reader(row)
        pair = rows.parsed_pair(parsed, tuple(_image_id(image) for image in parsed[1]))
    except (FormatError, RecordError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(f"{path}, row {number}: {error}") from error
    if set_name and not parsed[2]:
        return replace(pair, pair_id=f"{set_name}/{number:07d}", kind=set_name, source="mmpr")
    return pair


def sugarcrepe_pairs(content: Mapping[str, Any], path: str | Path) -> Iterator[PreferencePair]:
    """The pairs of a SugarCrepe file: ``{key: {filename, caption, negative_caption}}``, keys with gaps.

    The kind is the file's name (``swap_obj.json`` is ``swap-object``), the pair's id that and the key. Source:
    Hsieh et al., SugarCrepe, arXiv 2306.14610.
    """
    operation, _, what = Path(path).stem.partition("_")
    kind = f"{operation}-{SUGARCREPE_KINDS.get(what, what)}".strip("-")
    for key, row in content.items():
        try:
            yield PreferencePair(
                pair_id=f"{Path(path).stem}-{key}",
                image_ids=(PurePosixPath(row["filename"]).stem,),
                prompt="caption:",
                chosen=row["caption"],
                rejected=row["negative_caption"],
                kind=kind,
                rule="sugarcrepe",
                source="sugarcrepe",
            )
        except (KeyError, TypeError, AttributeError, RecordError) as error:
            raise FormatError(
                f"{path}, key {key}: not a SugarCrepe row (filename, caption, negative_caption): {error}"
            ) from error


def _reader(row: Any) -> Any:
    if not isinstance(row, Mapping):
        raise FormatError("not a JSON object")
    for keys, reader in READERS.items():
        if all(key in row for key in keys.split("+")):
            return reader
    raise FormatError(f"its keys ({', '.join(row)}) are those of no known format: {'; '.join(READERS)}")


def _is_own_table(path: Path) -> bool:
    import pyarrow.parquet as pq

    return path.is_file() and "pair_id" in pq.read_schema(path).names


def _image_id(image: Any) -> str:
    name = image.get("path") if isinstance(image, Mapping) else image
    return PurePosixPath(str(name or "")).stem
