"""Computes content keys of the files and models from which a data set is made, so that changed inputs are detected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.storage.hashing import content_key, file_key


def input_keys(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the content keys of the files at ``data["path"]``, by name.

    In a folder, text files, and tables at the top level, are identified by their content, and all other files by name
    and size. If the kind is ``hf`` and ``path`` names tar files, these are identified by name and size. With
    ``embed=false``, image files are identified by name alone, so that a damaged image can be replaced: the data set
    contains only their paths, and the reference cache detects changed images.
    """
    if data.get("kind") == "pairs":
        return _pair_keys(data)
    if data.get("kind") == "hf":
        from scramble.sources.hf import tar_files

        if tars := tar_files(data["path"]):
            return {tar.name: str(tar.stat().st_size) for tar in tars}
    if not data.get("path"):
        return {}
    path = Path(data["path"])
    if path.is_file():
        return {"path": file_key(path)}
    if not path.is_dir():  # a hub id
        return {}
    embed = bool(data.get("embed", True))
    files = [
        (str(file.relative_to(path)), _file_state(file, embed)) for file in sorted(path.rglob("*")) if file.is_file()
    ]
    tables = [file for file in sorted(path.iterdir()) if file.suffix in (".jsonl", ".json", ".csv", ".tsv")]
    return {"path": content_key(files), **{f"path/{file.name}": file_key(file) for file in tables}}


def _file_state(file: Path, embed: bool) -> str | int:
    """Return the content key of a text file, which may contain captions, and the size of any other file.

    The size of an image that is not embedded is replaced by "".
    """
    if file.suffix == ".txt":
        return file_key(file)
    return "" if not embed and file.suffix.lower() in PHOTO_SUFFIXES else file.stat().st_size


def _pair_keys(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the content keys of preference data.

    The data can be a mix, an MMPR ``meta.json`` with the files that it lists, files that match a pattern, a file, or a
    folder.
    """
    from scramble.formats import mmpr
    from scramble.formats.data_files import matching_files

    if data.get("mix"):
        keys = [_pair_keys(one) for one in data["mix"]]
        return {f"{number}/{name}": key for number, part in enumerate(keys) for name, key in part.items()}
    path = str(data["path"])
    if sets := mmpr.content_keys(path, data.get("root")):
        return sets
    if files := matching_files(path):
        return {str(file): file_key(file) for file in files}
    return input_keys({"path": path, "embed": data.get("embed", True)})


def model_keys(pairs: Mapping[str, Any], folder_key: Callable[[str], str] = file_key) -> dict[str, str]:
    """Return the content keys of the local models that make or score pairs, and of the local benchmarks whose images
    are excluded.
    """
    keys: dict[str, str] = {}
    for key, value in pairs.items():
        if isinstance(value, Mapping):
            keys |= model_keys(value, folder_key)
            if key == "exclude_benchmarks":
                keys |= {place: input_keys({"path": place})["path"] for place in value.values() if _exists(place)}
        elif key in ("path", "adapter") and isinstance(value, str) and Path(value).is_dir():
            keys[value] = folder_key(value)
    return keys


def _exists(place: Any) -> bool:
    return isinstance(place, str) and Path(place).exists()
