"""Exports a tuned model as a Hugging Face folder, with a merged adapter and the base model's other files."""

from __future__ import annotations

import shutil
from pathlib import Path

from scramble.models.family import ModelError
from scramble.models.hub import explain, is_folder
from scramble.models.loading import load_vlm, quiet
from scramble.storage.files import StoreError, atomic_folder, write_json

# Files of a released model other than its weights. No other file in a model's folder is copied.
OTHER_FILES = (
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


def export_model(
    path: str | Path,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
) -> Path:
    """Write the model at ``path``, with ``adapter`` merged, to the folder ``out``.

    Tensors have the same names as in the base model. Tokenizer and processor files are copied unchanged, and so is
    ``config.json`` if ``dtype`` is ``auto``. Any library that loads the base model (transformers, vLLM) can therefore
    load the result. ``export.json`` records the base model and the adapter.

    Args:
        path, revision, adapter: see :func:`scramble.models.load_vlm`.
        out: a folder that does not exist or is empty. It is created after all files have been written.
        dtype: dtype of the written weights; ``auto`` keeps the base model's dtype.
        max_shard_size: maximum size of a weight file; larger models are split into several files.

    Raises:
        ModelError: see ``load_vlm``.
        StoreError: ``out`` is not empty or cannot be written.
    """
    out, path = Path(out), str(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} exists and is not an empty folder: choose another folder (out=...), or remove {out}")
    vlm = load_vlm(path, revision=revision, dtype=dtype, adapter=adapter)
    model = vlm.model.merge_and_unload() if adapter is not None else vlm.model
    base = base_folder(vlm.path, revision)
    with atomic_folder(out) as folder:
        with quiet():
            model.save_pretrained(folder, max_shard_size=max_shard_size)
        # The base model's config contains its dtype, so the config that save_pretrained wrote is kept if the dtype
        # differs.
        copy_other_files(base, folder, leave=() if dtype == "auto" else ("config.json",))
        record = {"base": path, "revision": revision, "adapter": None if adapter is None else str(adapter)}
        write_json(folder / "export.json", record)
    return out


def base_folder(path: str, revision: str | None) -> Path:
    """Return the local folder of a model, which is the given folder or the snapshot in the hub's cache."""
    if is_folder(path):
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(OTHER_FILES)))
    except Exception as error:  # the hub's client raises exceptions of several libraries
        raise explain(error, path, revision) from error


def copy_other_files(base: Path, folder: Path, leave: tuple[str, ...] = ()) -> None:
    """Copy the files of a released model except its weights and the files in ``leave``."""
    files = [file for pattern in OTHER_FILES for file in sorted(base.glob(pattern)) if file.name not in leave]
    if not any(file.name == "tokenizer_config.json" for file in files):
        raise ModelError(
            f"{base} has no tokenizer_config.json, so it is not a complete model: copy or download the model again"
        )
    for file in files:
        shutil.copyfile(file, folder / file.name)
