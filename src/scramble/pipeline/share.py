"""Writes a tuned model or a data set with its card to a folder, and optionally pushes the folder to the hub."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scramble.pipeline import StageError, check_arm
from scramble.pipeline.provenance import command_of
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.files import STAGE_FILE, StoreError, read_json, stage_status, write_json, write_text
from scramble.storage.hashing import file_key
from scramble.storage.tables import read_table

log = logging.getLogger(__name__)

SHAREABLE = ("adapter", "model", "data")
NAMES_OF_MODELS = ("base_model_name_or_path", "_name_or_path", "name_or_path")
"""Fields of configuration files in which peft and transformers record the path or hub id from which a model was
loaded.
"""
SHARED_SUFFIXES = (
    ".safetensors",
    ".json",
    ".jsonl",
    ".parquet",
    ".md",
    ".txt",
    ".jinja",
    ".model",
    ".png",
    ".jpg",
    ".jpeg",
)
"""File types that a shared folder may contain. Weights must be safetensors, because loading pickled weights can run
code.
"""


def share(
    run: str | Path,
    arm: str,
    data: str | Path,
    out: str | Path | None = None,
    *,
    what: str,
    model: Mapping[str, Any],
    name: str,
    license: str = "other",
    data_license: str | None = None,
    base_license: str | None = None,
    dtype: str = "auto",
    notes: str = "",
    push_to_hub: str | None = None,
    private: bool = True,
) -> Path:
    """Write an adapter, a merged model or a data set to ``out``, with its card as ``README.md``.

    If the folder already contains the same files, nothing is written, so that the same command can repeat a failed
    push.

    Args:
        run, arm, data: the run folder, the arm and the data set folder.
        out: output folder; None means ``<run>/share/data`` or ``<run>/share/<arm>/<what>``.
        what: ``adapter`` (the arm's adapter), ``model`` (the adapter merged into its base) or ``data`` (the training
            pairs as parquet with images, which ``datasets`` can open).
        model: the base model's ``path`` and ``revision``.
        name: title of the card.
        license: the hub's identifier of the licence.
        data_license: licence of data whose source has no known licence, as text for the card.
        base_license: licence of the base model, as text for the card; None reads the licence from the model's own card,
            if the card is in the model's folder or in the hub's cache.
        dtype: dtype of a merged model.
        notes: text to add to the card.
        push_to_hub: repository to create and upload to; None only writes the folder.
        private: whether a new repository is private.

    Raises:
        StageError: if the arm or the data is not finished, a file must not be shared, or the hub refuses the upload.
        StoreError: if ``out`` contains other files.
    """
    run, data = Path(run), Path(data)
    if what not in SHAREABLE:
        raise StageError(f"what={what} cannot be shared: choose one of {', '.join(SHAREABLE)}")
    out = run / "share" / ("data" if what == "data" else f"{arm}/{what}") if out is None else Path(out)
    if push_to_hub is not None:
        _check_repository(push_to_hub)
    if what != "data":
        check_arm(run, arm)
    with _temporary_folder(out) as temporary:
        folder = temporary / "shared"
        if what == "data":
            card = _data(data, folder, name, license, data_license, notes)
        else:
            licences = base_license or _licence_of(model["path"]), data_license
            card = _model(run, arm, data, folder, what == "adapter", model, name, license, licences, dtype, notes)
        write_text(folder / "README.md", card)
        check_files(folder)
        if is_new := not out.exists() or (out.is_dir() and not any(out.iterdir())):
            if out.exists():
                out.rmdir()
            folder.rename(out)
        elif file_key(out) != file_key(folder):
            raise StoreError(
                f"{out} exists and has different content: choose another folder (out=...) or remove this folder"
            )
    log.info(f"shared {what}: {out}{'' if is_new else ' (finished already)'}")
    if push_to_hub is not None:
        again = "If you are not logged in, run `hf auth login` or set HF_TOKEN. Then run the command again"
        push(out, push_to_hub, again, kind="dataset" if what == "data" else "model", private=private)
    return out


def check_files(folder: str | Path) -> None:
    """Raise StageError if a file is a link or has a type that is not shared."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_symlink() or (path.is_file() and path.suffix not in SHARED_SUFFIXES):
            raise StageError(
                f"{path.name} cannot be shared, because it is a link or its type is not one of "
                f"{', '.join(SHARED_SUFFIXES)}: remove the file from the arm's folder"
            )


def _finished(folder: Path, script: str) -> dict[str, Any]:
    if stage_status(folder) != "finished":
        raise StageError(f"{folder} is not finished: run {script} first")
    return read_json(folder / STAGE_FILE)


def _model(
    run: Path,
    arm: str,
    data: Path,
    folder: Path,
    as_adapter: bool,
    model: Mapping[str, Any],
    name: str,
    license: str,
    licences: tuple[str | None, str | None],
    dtype: str,
    notes: str,
) -> str:
    from scramble.models.export import export_model
    from scramble.reporting import comparison
    from scramble.reporting.model_card import Trained, model_card

    trained = check_arm(run, arm)
    stage = read_json(trained / STAGE_FILE)
    adapter, whole = trained / "adapter", trained / "model"
    if as_adapter:
        if not adapter.is_dir():
            raise StageError(f"the arm {arm} has no adapter, because all weights were trained: set what=model")
        shutil.copytree(adapter, folder)
    elif whole.is_dir():
        shutil.copytree(whole, folder)
    else:
        export_model(model["path"], folder, adapter=adapter, revision=model.get("revision"), dtype=dtype)
    _name_models(folder)
    results = comparison.find_methods(run / "evaluation")
    environment = trained / "environment.json"
    facts = Trained(
        arm,
        stage["config"],
        stage["summary"],
        _finished(data, "scripts/generate.py"),
        read_json(environment) if environment.exists() else {},
        as_adapter,
        tuple(filter(None, (command_of(data), command_of(trained)))),
        *licences,
    )
    rows = comparison.compare(results, ["base"]) if results else []
    return model_card(name, facts, rows, license=license, notes=notes)


def _name_models(folder: Path) -> None:
    """Replace paths of models in configuration files with the names that the card uses."""
    from scramble.reporting.model_card import public_name

    for file in sorted(folder.glob("*config.json")):
        config = read_json(file)
        named = {key: config[key] for key in NAMES_OF_MODELS if isinstance(config.get(key), str)}
        if public := {key: public_name(name) for key, name in named.items() if name and public_name(name) != name}:
            write_json(file, config | public)


def _licence_of(model: str) -> str | None:
    """Return the licence on the card of a model in a folder or in the hub's cache, or None if none is stated."""
    from huggingface_hub import ModelCard, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    card: Any = Path(model) / "README.md"
    if not card.is_file():
        try:
            card = try_to_load_from_cache(model, "README.md")
        except HFValidationError:  # a folder
            return None
    if not isinstance(card, str | Path):
        return None
    licence = ModelCard.load(card).data.get("license")
    return None if licence is None else str(licence)


def _data(data: Path, folder: Path, name: str, license: str, data_license: str | None, notes: str) -> str:
    from scramble import formats

    stage = _finished(data, "scripts/generate.py")
    train = data / "train"
    formats.write("trl-parquet", read_table(train, ImageRecord), read_table(train, PreferencePair), folder)
    audit = read_json(data / "audit.json") if (data / "audit.json").exists() else None
    return formats.dataset_card(
        name,
        read_table(train, ImageRecord),
        read_table(train, PreferencePair),
        own_licence=data_license,
        audit=None if audit is None else _audit(audit),
        is_transfer=bool(audit and audit.get("held_out")),
        stage=stage,
        command=command_of(data),
        card_license=license,
        notes=notes,
    )


def _audit(result: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]] | None:
    """Return the columns and rows of the table of text-only accuracies, or None if there were too few pairs."""
    from scramble.pairs.audit.audit import classifiers

    names, key = classifiers(dict(result)), "transfer" if result.get("held_out") else "blind"
    if not names:
        return None
    rows = []
    for kind, row in result["kinds"].items():
        scores = [row[key].get(name) for name in names]
        rows.append([kind, row["n"], *(f"{s['accuracy']:.1f} ± {s['error']:.1f}" if s else "-" for s in scores)])
    return ["kind", "pairs", *names], rows


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder on the same file system as ``out``, so that the folder can be moved to ``out`` by
    renaming.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise StoreError(f"cannot write {out} ({error.strerror or error}): choose another folder (out=...)") from error
    with temporary as name:
        yield Path(name)


def _check_repository(name: str) -> None:
    """Raise StageError for an invalid repository name, before anything is written."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise StageError(f"push_to_hub={name} is not the name of a repository: write owner/name") from error


def push(
    folder: Path,
    repository: str,
    again: str,
    *,
    kind: str = "model",
    private: bool | None = True,
    token: str | None = None,
    revision: str | None = None,
) -> None:
    """Create a repository on the hub, unless the repository exists, and upload a folder.

    Raises StageError if the upload fails. The message ends with ``again``, which explains how to repeat the upload. The
    local folder is not removed.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder, revision=revision)
    except Exception as error:  # also exceptions of the hub client's HTTP library
        raise StageError(
            f"{folder} was written but not pushed to {repository}: {str(error).splitlines()[0]}. {again}"
        ) from error
    log.info(f"pushed: {commit}")
