"""A tuned model as a plain Hugging Face folder: adapter merged, the base's own file names and processor files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from scramble.models.family import ModelError
from scramble.models.hub import explain, is_folder
from scramble.models.loading import load_vlm, quiet
from scramble.storage.files import StoreError, write_json

# What a released model ships beside its weights; anything else in a folder stays where it is.
SHIPPED = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "*.py",
)


def export(
    path: str | Path,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
) -> Path:
    """Write the model of ``path`` with ``adapter`` merged in to the folder ``out``, loadable like its base.

    Weights keep the base's tensor names; config, tokenizer and processor files are the base's, byte for byte, so that
    whatever loads the base (transformers, vLLM) loads the result. ``export.json`` says what was merged into what.

    Args:
        path, revision, adapter: see :func:`scramble.models.load_vlm`.
        out: a folder that does not exist or is empty; it appears when all is written.
        dtype: of the written weights, ``auto`` for the base's.
        max_shard_size: weights above it are split over several files.

    Raises:
        ModelError: as ``load_vlm``.
        StoreError: ``out`` holds something, or cannot be written.
    """
    out, path = Path(out), str(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is in use: choose another folder (out=...) or empty it")
    vlm = load_vlm(path, revision=revision, dtype=dtype, adapter=adapter)
    model = vlm.model.merge_and_unload() if adapter is not None else vlm.model
    base = base_folder(path, revision)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            folder = Path(name) / "model"
            with quiet():
                model.save_pretrained(folder, max_shard_size=max_shard_size)
            if dtype == "auto":
                copy_shipped(base, folder)
            else:  # the base's config names its own type
                kept = folder / "config.json"
                copy_shipped(base, folder, leave=(kept.name,))
            record = {"base": path, "revision": revision, "adapter": None if adapter is None else str(adapter)}
            write_json(folder / "export.json", record)
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def base_folder(path: str, revision: str | None) -> Path:
    """The local folder of a model: itself, or its snapshot in the hub's cache."""
    if is_folder(path):
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(SHIPPED)))
    except Exception as error:  # the hub's client raises types of several libraries
        raise explain(error, path, revision) from error


def copy_shipped(base: Path, folder: Path, leave: tuple[str, ...] = ()) -> None:
    """Copy what a released model ships beside its weights; ``leave`` names files to keep as they are in ``folder``."""
    files = [file for pattern in SHIPPED for file in sorted(base.glob(pattern)) if file.name not in leave]
    if not any(file.name == "tokenizer_config.json" for file in files):
        raise ModelError(f"{base} holds no tokenizer: it is not a whole model")
    for file in files:
        shutil.copyfile(file, folder / file.name)
