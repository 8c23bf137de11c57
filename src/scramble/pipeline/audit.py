"""Audits pairs of any data set: measures how well text-only classifiers recognise the chosen text."""

from __future__ import annotations

import logging
import re
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scramble.console import counted, show_table
from scramble.storage.files import STAGE_FILE, StoreError, read_json, write_json
from scramble.storage.hashing import content_key, differing_keys
from scramble.storage.similar_paths import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from PIL import Image

    from scramble.formats.data_files import OnBadRow
    from scramble.formats.pair_files import ImageNames
    from scramble.pairs.audit.text_only import ImageSample
    from scramble.records import ImageFile, PreferencePair
    from scramble.sources import BadRows

log = logging.getLogger(__name__)

AUDITS = Path("runs", "audits")


def audit(
    pairs: str | Path,
    out: str | Path | None = None,
    *,
    held_out: str | Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Audit a data set of pairs, print tables, and write ``audit.json`` and ``audit.html`` to ``out``.

    Rows that cannot be used are skipped and listed in ``out/rejected_rows.jsonl``.

    Args:
        pairs: a data set of pairs; see :func:`scramble.formats.read_pairs`.
        out: output folder; by default a folder in :data:`AUDITS` that is unique to this data set and these settings.
        held_out: a data set with pairs of other images, on which the classifiers of the transfer accuracy are fitted.
        format, columns: format and column names of the rows; see :class:`scramble.formats.layout.Layout`.
        images: folder that image paths are relative to, for the images on the page; None means the folder of the file.
        split, name, revision: the part of ``pairs`` to audit; see :func:`scramble.formats.data_files.find_data_files`.
        seed: seed of the classifiers' folds.

    Raises:
        FormatError: if the data set does not exist, or no row can be used.
        StoreError: if ``out`` contains an audit of other pairs or with other settings.
    """
    from scramble.formats import FormatError, read_pairs
    from scramble.formats.data_files import is_pattern, may_exist
    from scramble.formats.layout import Layout
    from scramble.formats.pair_files import ImageNames, own_tables
    from scramble.pairs.audit.audit import audit_pairs, sample_note
    from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS
    from scramble.reporting.audit_page import audit_tables, shown_pairs, write_audit_page

    for key, path in {"path": pairs, "held_out": held_out}.items():
        if path is not None and not may_exist(str(path)):
            raise FormatError(
                f"{path} does not exist: set {key}=... to a file of pairs, a folder, a file pattern, or a hub id"
                f"{did_you_mean(path)}"
            )
    if images is not None and not Path(images).expanduser().is_dir():
        raise FormatError(f"images={images} is not a folder: set images=<folder that the image paths are relative to>")
    source = Path(pairs).expanduser()
    own = own_tables(source, split)
    if own is not None and source.is_dir() and own != source:
        log.info(f"audit: {source} is a data folder that SCRAMBLe wrote; the audited split is {own}")
        source = own
    has_splits = own is None and not source.is_file() and not is_pattern(str(source))
    given = {
        "split": split if has_splits and split != "train" else None,
        "name": name,
        "revision": revision,
        "format": format,
        "columns": {key: column for key, column in (columns or {}).items() if key != column},
        "held_out": None if held_out is None else _identity(Path(held_out).expanduser()),
        "seed": seed,
    }
    settings = {key: value for key, value in given.items() if value}
    audited = {"file": _identity(source), "settings": settings}
    folder = _folder(_identity(source), settings) if out is None else Path(out)
    _check_owner(folder, audited)
    layout, names = Layout(format, columns or {}), ImageNames()
    read = partial(read_pairs, source, layout=layout, names=names, split=split, name=name, revision=revision)
    usable, bad = _read(source, read, folder / "rejected_rows.jsonl", seed)
    others = []
    if held_out is not None:
        # format and columns describe data files; a data folder of this project needs neither.
        other_layout = layout if own_tables(Path(held_out).expanduser(), "train") is None else None
        read_others = partial(read_pairs, held_out, layout=other_layout)
        others = _read(held_out, read_others, folder / "rejected_rows_held_out.jsonl", seed)[0].items
    result = audit_pairs(usable.items, held_out=others, total=usable.total, seed=seed)
    write_json(folder / "audit.json", {**audited, "rejected_rows": bad.rejected, **result})
    names.wanted = {name for pair in shown_pairs(usable.items, seed) for name in pair.image_ids[:1]} & names.embedded
    _read_wanted(read, names)
    opener = _Images(names, own, source, None if images is None else Path(images).expanduser())
    title = f"Audit of {source.name}{f', split {split}' if has_splits else ''}"
    write_audit_page(folder / "audit.html", result, usable.items, open_image=opener.open, title=title, seed=seed)
    if images is not None and not opener.opened:
        log.warning(
            f"audit: the page has no images, because {images} contains none of the image files: correct images=..."
        )
    for table in audit_tables(result):
        show_table(table.rich())
    if note := sample_note(result):
        log.info(note)
    if bad.rejected:
        total = bad.rejected + bad.used
        log.info(f"audit: {bad.rejected} of {total} rows cannot be used and are skipped ({bad.counts}); see {bad.path}")
    if not result["kinds"]["all"]["blind"]:
        log.info(
            f"audit: the text-only accuracies are missing, because they need {MIN_PAIRS} pairs of {FOLDS} images or "
            f"prompts, and the data has {counted(usable.total, 'pairs')} of {result['images']} images or prompts"
        )
    if others and not result["held_out"]:
        log.info(
            f"audit: the transfer accuracy is missing, because {held_out} contains too few pairs of images that are "
            f"not in {source}: at least {MIN_PAIRS} pairs and {FOLDS} images are needed"
        )
    log.info(f"audit: the results are in {folder / 'audit.html'}")
    return result


def _read(
    source: str | Path, read: Callable[[OnBadRow], Iterator[PreferencePair]], rejected: Path, seed: int
) -> tuple[ImageSample[PreferencePair], BadRows]:
    """Read the usable pairs, or a sample if there are many.

    Rows that cannot be used are listed in the file ``rejected``, which exists only if there are such rows.
    """
    from scramble.pairs.audit.text_only import sample_of_pairs
    from scramble.sources import BadRows

    with ExitStack() as stack:
        bad = stack.enter_context(BadRows(rejected, max_fraction=1.0))
        stack.callback(lambda: None if bad.rejected else _remove(rejected))

        def singles() -> Iterator[PreferencePair]:
            for pair in read(bad.reject):
                bad.use()
                yield from pair.singles()

        pairs = sample_of_pairs(singles(), seed)
        bad.check(source)
    return pairs, bad


def _read_wanted(read: Callable[[OnBadRow], Iterator[PreferencePair]], names: ImageNames) -> None:
    """Read the rows again for the images in ``names.wanted``, because the images of all rows may not fit in memory."""
    rows = read(lambda *_: None)
    while len(names.contents) < len(names.wanted) and next(rows, None) is not None:
        pass


class _Images:
    """Opens the images of the audited pairs for the page.

    Args:
        names: the paths and contents of the rows' images.
        own: the folder with this project's tables, if the pairs are from such a folder.
        source: the data set of pairs.
        folder: the folder that image paths are relative to; None means the folder of the rows.
    """

    def __init__(self, names: ImageNames, own: Path | None, source: Path, folder: Path | None) -> None:
        from scramble.storage.image_table import ImageTable

        self.opened = 0
        self._names, self._given = names, folder
        self._folder = folder or (source if source.is_dir() else source.parent)
        self._table: Mapping[str, ImageFile] = {}
        if own is not None:
            with suppress(StoreError):  # the texts can be audited without images
                self._table = ImageTable(own)

    def open(self, image_id: str) -> Image.Image | None:
        """Return an image, or None if there is no such image file or the image cannot be decoded."""
        from scramble.records import ImageFile, RecordError

        try:
            if image_id in self._names.contents:
                image = ImageFile(self._names.contents[image_id])
            elif image_id in self._names.paths:
                image = ImageFile(path=str(self._find(self._names.paths[image_id])))
            else:
                image = self._table[image_id]
            opened = image.open()
        except (KeyError, RecordError, StoreError):
            return None
        self.opened += 1
        return opened

    def _find(self, path: Path) -> Path:
        """Return the file for an image path, or the unchanged path if there is no such file.

        An absolute path is tried first if no folder is given. Then, the trailing parts of the path are tried as files
        in the folder, from the longest to the shortest.
        """
        from scramble.formats.checks import exists, find_image

        places = [find_image(path.parent, path.name)] if self._given is None and path.is_absolute() else []
        parts = PurePosixPath(str(path).replace("\\", "/")).parts
        places += [find_image(self._folder, str(PurePosixPath(*parts[start:]))) for start in range(len(parts))]
        return next((place for place in places if exists(place) and place.is_file()), path)


def _remove(file: Path) -> None:
    """Remove a file, and its folder if it is then empty."""
    file.unlink()
    with suppress(OSError):
        file.parent.rmdir()


def _identity(source: Path) -> str:
    """Return the absolute path of a file, folder or pattern, or the hub id."""
    from scramble.formats.data_files import is_pattern

    return str(source.resolve() if source.exists() or is_pattern(str(source)) else source)


def _folder(file: str, settings: Mapping[str, Any]) -> Path:
    """Return the folder in :data:`AUDITS` for an audit. The name includes a hash of the path and of the settings
    that differ from the defaults, because many files are called pairs.jsonl.
    """
    stem = re.sub(r"[*?]", "_", Path(file).stem)
    parts = [stem, settings["split"]] if "split" in settings else [stem]
    return AUDITS / "-".join([*parts, content_key(file, *([settings] if settings else []))[:8]])


def _check_owner(folder: Path, audited: Mapping[str, Any]) -> None:
    """Raise StoreError if the folder contains an audit of another data set, or with other settings."""
    if not (folder / "audit.json").exists():
        return
    record = read_json(folder / "audit.json")
    if (owner := record.get("file", "other pairs")) != audited["file"]:
        raise StoreError(f"{folder} contains the audit of {owner}: choose another folder (out=...)")
    # Audits of earlier versions do not contain the settings.
    if changed := differing_keys(record.get("settings", audited["settings"]), audited["settings"]):
        raise StoreError(
            f"{folder} contains an audit with other settings ({', '.join(changed)}): choose another folder (out=...)"
        )


def recorded_text_only_accuracy(data: Path) -> dict[str, float]:
    """Return the text-only accuracies from the audit of a data set: the percentage of pairs in which a classifier that
    does not see the image picks the chosen text.

    The transfer accuracies are returned if other splits have enough pairs, otherwise the in-sample accuracies.
    """
    summary = read_json(data / STAGE_FILE)["summary"]
    accuracies = summary.get("transfer") or summary.get("blind") or {}
    return {f"data/text_only_accuracy/{name}": value for name, value in accuracies.items()}
