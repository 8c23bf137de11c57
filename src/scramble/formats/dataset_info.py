"""Reads LLaMA-Factory's ``dataset_info.json``, which lists data sets by name, each with its file, column names and
message keys.

Source: the documentation of LLaMA-Factory's data folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import FormatError
from scramble.formats.provenance import PROVENANCE_COLUMN
from scramble.storage.files import StoreError, read_json

INFO = "dataset_info.json"
# ShareGPT's name of the role that each tag renames.
ROLE_TAGS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True)
class DataSetEntry:
    """Describes one data set of a ``dataset_info.json``.

    Attributes:
        file: the data file, or the folder with the data files.
        columns: the file's column name for each of LLaMA-Factory's column names.
        tags: the file's names for the keys of a message (``role_tag``, ``content_tag``) and for the roles.
    """

    name: str
    file: Path
    is_alpaca: bool
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """The file's column name for each column name of the default layout."""
        own = ("images", "videos", "audios", "system", "chosen", "rejected", PROVENANCE_COLUMN)
        keys = dict(zip(own, own, strict=True))
        if self.is_alpaca:
            keys |= {"instruction": "prompt", "input": "query", "history": "history"}
        else:
            keys |= {"conversations": "messages"}
        return {own: self.columns.get(key, own) for own, key in keys.items()}

    def sharegpt(self, row: Any) -> Any:
        """Return the row with the column names and message keys of the default layout."""
        if not isinstance(row, Mapping):
            return row
        values = {own: row[name] for own, name in self.names.items() if name in row}
        if not self.is_alpaca:
            values |= {
                key: self._turns(values[key]) for key in ("conversations", "chosen", "rejected") if key in values
            }
        return values

    def _turns(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._turns(one) for one in value]
        role, content = self.tags.get("role_tag", "from"), self.tags.get("content_tag", "value")
        if not isinstance(value, Mapping) or not {role, content} <= set(value):
            return value  # the reader of the rows reports the error
        roles = {self.tags.get(tag, name): name for tag, name in ROLE_TAGS.items()}
        sender = value[role]
        return {"from": roles.get(sender, sender) if isinstance(sender, str) else sender, "value": value[content]}


def find_info(path: Path) -> Path | None:
    """Return the ``dataset_info.json`` at a path or in a folder, if it has LLaMA-Factory's layout.

    The ``datasets`` library writes other files with the same name.
    """
    file = path / INFO if path.is_dir() else path
    if file.name != INFO or not file.is_file():
        return None
    try:
        content = read_json(file)
    except StoreError as error:
        raise FormatError(str(error)) from error
    entries = content.values() if isinstance(content, dict) else ()
    return file if any(isinstance(entry, dict) and "file_name" in entry for entry in entries) else None


def read_entry(file: Path, name: str | None) -> DataSetEntry:
    """Return the preference data set ``name`` of a ``dataset_info.json``. ``name`` may be None if there is only one.

    Raises:
        FormatError: there is no such preference data set, ``name`` is needed to select one, or the entry is invalid.
    """
    entries = {
        key: entry
        for key, entry in read_json(file).items()
        if isinstance(entry, dict) and entry.get("ranking") and isinstance(entry.get("file_name"), str)
    }
    if not entries:
        raise FormatError(
            f"{file} has no preference data set: add an entry with 'ranking': true and the key 'file_name'"
        )
    if name is None and len(entries) == 1:
        (name,) = entries
    if name is None or name not in entries:
        what = f"no preference data set {name!r}" if name is not None else "several preference data sets"
        raise FormatError(f"{file} has {what}: choose one of {', '.join(entries)} (data.name=...)")
    entry = entries[name]
    columns, tags = (entry.get(key) or {} for key in ("columns", "tags"))
    if not all(isinstance(part, dict) and all(isinstance(v, str) for v in part.values()) for part in (columns, tags)):
        raise FormatError(f"{file}, {name}: 'columns' and 'tags' must be JSON objects that map names to names")
    return DataSetEntry(
        name, file.parent / entry["file_name"], entry.get("formatting", "alpaca") == "alpaca", columns, tags
    )
