"""Reads and writes the ``meta.json`` of MMPR, the preference data of InternVL's MPO. The file lists sets, which are
JSONL files.

A ``meta.json`` is ``{name: {root, annotation, data_augment, repeat_time, length, max_dynamic_patch}}``. A row is
``{image, question, chosen, rejected}``, where ``image`` is a path below ``root``, a list of paths, or missing. Source:
InternVL's documentation and trainer (MPO, arXiv 2411.10442).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.formats.bad_rows import FormatError
from scramble.storage.files import StoreError, read_json, read_text, write_json
from scramble.storage.hashing import file_key

if TYPE_CHECKING:
    import numpy as np

META = "meta.json"
REQUIRED = ("root", "annotation")


@dataclass(frozen=True)
class MmprSet:
    """Contains the standard fields of a set of a ``meta.json``, and ``other`` fields, which are written back unchanged.

    A ``repeat_time`` below 1 is the fraction of the rows that is used. Otherwise each row is used
    ``int(repeat_time)`` times.
    """

    name: str
    root: str
    annotation: str
    repeat_time: float = 1
    length: int | None = None
    data_augment: bool = False
    max_dynamic_patch: int | None = None
    other: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the set's entry in ``meta.json``."""
        entry: dict[str, Any] = {
            "root": self.root,
            "annotation": self.annotation,
            "data_augment": self.data_augment,
            "repeat_time": self.repeat_time,
        }
        if self.length is not None:
            entry["length"] = self.length
        if self.max_dynamic_patch is not None:
            entry["max_dynamic_patch"] = self.max_dynamic_patch
        return entry | dict(self.other)


FIELDS = tuple(name for name in MmprSet.__annotations__ if name not in ("name", "other"))


def write_meta(path: str | Path, sets: Iterable[MmprSet]) -> None:
    """Write a ``meta.json``."""
    write_json(path, {one.name: one.to_json() for one in sets})


def read_meta(path: str | Path) -> list[MmprSet]:
    """Return the sets of a ``meta.json``, in the order of the file.

    Raises:
        FormatError: the file is not a valid ``meta.json``. The message names the file and, if possible, the set.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path), object_pairs_hook=_refuse_duplicates, strict=False)
    except StoreError as error:
        raise FormatError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {path} ({error}): correct the file") from error
    if not isinstance(content, dict) or not content:
        raise FormatError(
            f"{path} is not a meta.json of MMPR, which is a JSON object that maps names to sets: correct the file"
        )
    return [_set(path, name, entry) for name, entry in content.items()]


def is_meta(content: Any) -> bool:
    """Return whether a JSON value looks like the content of a ``meta.json``."""
    return isinstance(content, dict) and any(isinstance(v, dict) and "annotation" in v for v in content.values())


def find_meta(path: str | Path) -> Path | None:
    """Return the ``meta.json`` at a path or in a folder, or None.

    If the path is a file, its name must end in ``.json``, but does not have to be ``meta.json``.
    """
    meta = Path(path) / META if Path(path).is_dir() else Path(path)
    if meta.suffix.lower() != ".json" or not meta.is_file():
        return None
    try:
        return meta if is_meta(read_json(meta)) else None
    except StoreError:
        return None  # the code that reads the rows reports the error


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name!r} occurs more than once in a JSON object")
    return content


def _set(path: Path, name: str, entry: Any) -> MmprSet:
    where = f"{path}, set {name!r}"
    if not isinstance(entry, dict):
        optional = ", ".join(field for field in FIELDS if field not in REQUIRED)
        raise FormatError(
            f"{where}: the set must be a JSON object with the fields {' and '.join(REQUIRED)} and, optionally, "
            f"{optional}"
        )
    if missing := [key for key in REQUIRED if not isinstance(entry.get(key), str)]:
        raise FormatError(
            f"{where}: the set needs a string in the field {' and in the field '.join(missing)}; the fields of a set "
            f"are {', '.join(FIELDS)}"
        )
    fields = {key: entry[key] for key in entry if key in FIELDS}
    checks = {
        "repeat_time": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v > 0,
        "length": lambda v: _is_whole_number(v) and v >= 0,
        "data_augment": lambda v: isinstance(v, bool),
        "max_dynamic_patch": lambda v: _is_whole_number(v) and v >= 1,
    }
    for key, good in checks.items():
        if key in fields and not good(fields[key]):
            raise FormatError(
                f"{where}: {key} has the invalid value {fields[key]!r}: repeat_time must be above 0, length at least "
                "0, max_dynamic_patch at least 1, and data_augment true or false"
            )
    return MmprSet(name, **fields, other={key: value for key, value in entry.items() if key not in fields})


def _is_whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def content_keys(path: str | Path, root: str | Path | None = None) -> dict[str, str]:
    """Return the content keys of a ``meta.json`` and of the files of its sets.

    The result is empty if there is no ``meta.json``. It contains only the key of the ``meta.json`` if this file is
    invalid or one of the other files is missing.
    """
    meta = find_meta(path)
    if meta is None:
        return {}
    keys = {META: file_key(meta)}
    with suppress(FormatError):
        keys |= {one.annotation: file_key(resolve(one.annotation, meta, root)) for one in read_meta(meta)}
    return keys


# ------------------------------------------------------------------------------------------------------------- mixing


def used_rows(length: int, repeat_time: float, index: int) -> np.ndarray:
    """Return the indices of the used rows of a set in random order. The seed is the index of the set.

    If ``repeat_time`` is below 1, this fraction of the rows is drawn, rounded down. Otherwise each row occurs
    ``int(repeat_time)`` times.
    """
    import numpy as np

    rng = np.random.default_rng(index)
    if repeat_time < 1:
        return rng.choice(length, int(length * repeat_time + 1e-9), replace=False)
    rows = np.tile(np.arange(length), int(repeat_time))
    rng.shuffle(rows)
    return rows


def mixture(used: Sequence[np.ndarray], *, resample: bool = False, seed: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the indices (set, row) of every example in the mix. ``used`` contains the indices of each set's used rows.

    Without ``resample``, the sets follow one another. With ``resample``, the total number of examples is the same, but
    the set of each example is drawn with a probability proportional to the square root of the set's number of used
    rows. The rows of a set keep their order, and a set restarts after its last row.
    """
    if not resample:
        for index, rows in enumerate(used):
            yield from ((index, int(row)) for row in rows)
        return
    import numpy as np

    lengths = np.array([len(rows) for rows in used], dtype=float)
    weights = np.sqrt(lengths)
    next_row = [0] * len(used)
    for index in np.random.default_rng(seed).choice(len(used), int(lengths.sum()), p=weights / weights.sum()).tolist():
        rows = used[index]
        yield index, int(rows[next_row[index] % len(rows)])
        next_row[index] += 1


# --------------------------------------------------------------------------------------------------------------- rows


class LineFile:
    """Reads the non-empty lines of a text file by number, on demand. Only the offsets of the lines are in memory."""

    def __init__(self, path: str | Path) -> None:
        import numpy as np

        self.path = Path(path)
        places, place = [], 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.strip():
                        places.append(place)
                    place += len(line)
            self._file = self.path.open("rb")
        except OSError as error:
            raise FormatError(
                f"cannot read {self.path} ({error.strerror or error}): check the path in meta.json and the permissions"
            ) from error
        self._places = np.array(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> bytes:
        self._file.seek(int(self._places[number]))
        return self._file.readline()

    def close(self) -> None:
        self._file.close()


def resolve(path: str, meta: str | Path, root: str | Path | None = None) -> Path:
    """Resolve a path in a ``meta.json``.

    If ``root`` is given, the path is looked up relative to ``root``. Otherwise it is looked up relative to the folder
    of the ``meta.json``, the two folders above it, and the working directory. The paths in released files are
    relative to the folder that contains ``MMPR/``.

    Raises:
        FormatError: the path does not exist. The message lists the searched folders.
    """
    home = Path(meta).absolute().parent
    bases = [Path(root)] if root is not None else [home, home.parent, home.parent.parent, Path.cwd()]
    for base in bases:
        if (base / path).exists():
            return base / path
    looked = ", ".join(str(base) for base in dict.fromkeys(bases))
    raise FormatError(
        f"{meta}: {path} does not exist below any of these folders: {looked}. Set data.root to the folder that the "
        "path is relative to"
    )
