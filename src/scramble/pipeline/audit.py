"""Audits pairs from any file: measures how well text-only classifiers recognise the chosen text."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scramble.console import show
from scramble.storage.files import STAGE_FILE, StoreError, read_json, write_json
from scramble.storage.hashing import content_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from PIL import Image

    from scramble.formats.layout import Layout
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
    seed: int = 0,
) -> dict[str, Any]:
    """Audit a pair file or data set folder, print tables, and write ``audit.json`` and ``audit.html`` to ``out``.

    Rows that cannot be used are skipped and listed in ``out/rejected_rows.jsonl``.

    Args:
        pairs: a file of pairs, a data set folder, or a data folder, of which the training split is audited.
        out: output folder; by default a folder in :data:`AUDITS` that is unique to this file.
        held_out: file or folder with pairs of other images, on which the classifiers of the transfer accuracy are
            fitted.
        format, columns: format and column names of the rows; see :class:`scramble.formats.layout.Layout`.
        images: folder that image paths are relative to, for the images on the page; None means the folder of the file.
        seed: seed of the classifiers' folds.

    Raises:
        FormatError: if the file does not exist, or no row in the file can be used.
        StoreError: if ``out`` contains the audit of other pairs.
    """
    from scramble.formats import FormatError
    from scramble.formats.layout import Layout
    from scramble.formats.pair_files import ImageNames, is_own_table, training_split
    from scramble.pairs.audit.audit import audit as examine
    from scramble.pairs.audit.audit import sample_note
    from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS
    from scramble.records import PreferencePair
    from scramble.reporting.audit_page import audit_tables, write_page
    from scramble.storage.tables import table_path

    source = Path(pairs)
    for key, path in (("path", source), *((("held_out", Path(held_out)),) if held_out is not None else ())):
        if not path.exists():
            raise FormatError(f"{path} does not exist: set {key}=... to the file of pairs or to its folder")
    if images is not None and not Path(images).expanduser().is_dir():
        raise FormatError(f"images={images} is not a folder: set images=<folder that the image paths are relative to>")
    if (split := training_split(source)) != source:
        log.info(f"audit: {source} is a data folder of this project, and its training split {split} is audited")
        source = split
    folder = _folder(source) if out is None else Path(out)
    _check_owner(folder, source)
    layout, names = Layout(format, columns or {}), ImageNames()
    usable, bad = _read(source, folder / "rejected_rows.jsonl", seed, layout, names)
    others = []
    if held_out is not None:
        rejected = folder / "rejected_rows_held_out.jsonl"
        split = training_split(Path(held_out))
        # format and columns describe files of rows; a data folder of this project needs neither.
        other_layout = Layout() if is_own_table(table_path(split, PreferencePair)) else layout
        others = _read(split, rejected, seed, other_layout, ImageNames())[0].items
    result = examine(usable.items, held_out=others, total=usable.total, seed=seed)
    write_json(folder / "audit.json", {"file": str(source.resolve()), "rejected_rows": bad.rejected, **result})
    opener = _Images(source, None if images is None else Path(images).expanduser(), names)
    title = f"Audit of {source.name}"
    write_page(folder / "audit.html", result, usable.items, open_image=opener.open, title=title, seed=seed)
    if images is not None and not opener.opened:
        log.warning(f"audit: the page has no images, because no image path is a file in {images}: correct images=...")
    for table in audit_tables(result):
        show(table.rich())
    if note := sample_note(result):
        log.info(note)
    if bad.rejected:
        counts = ", ".join(f"{count} x {reason}" for reason, count in bad.reasons.most_common())
        total = bad.rejected + bad.used
        log.info(f"audit: {bad.rejected} of {total} rows cannot be used and are skipped ({counts}); see {bad.path}")
    if not result["kinds"]["all"]["blind"]:
        log.info(
            f"audit: {usable.total} pairs ({result['images']} images or prompts) are too few for text-only accuracies: "
            f"{MIN_PAIRS} pairs and {FOLDS} images are needed"
        )
    if others and not result["held_out"]:
        log.info(
            f"audit: no transfer accuracy, because {held_out} has too few pairs of other images than {source}: "
            f"{MIN_PAIRS} pairs and {FOLDS} images are needed"
        )
    log.info(f"audit: the results are in {folder / 'audit.html'}")
    return result


def _read(
    source: Path, rejected: Path, seed: int, layout: Layout, names: ImageNames
) -> tuple[ImageSample[PreferencePair], BadRows]:
    """Read the usable pairs, or a sample if there are many.

    Rows that cannot be used are listed in the file ``rejected``, which exists only if there are such rows.
    """
    from scramble.formats import read_pairs
    from scramble.pairs.audit.text_only import sample_of_pairs
    from scramble.sources import BadRows

    with ExitStack() as stack:
        bad = stack.enter_context(BadRows(rejected, max_fraction=1.0))
        stack.callback(lambda: None if bad.rejected else _remove(rejected))

        def singles() -> Iterator[PreferencePair]:
            for pair in read_pairs(source, bad.reject, layout=layout, names=names):
                bad.use()
                yield from pair.singles()

        pairs = sample_of_pairs(singles(), seed)
        bad.check(source, columns_key="columns")
    return pairs, bad


class _Images:
    """Opens the images of the audited pairs for the page."""

    def __init__(self, source: Path, folder: Path | None, names: ImageNames) -> None:
        from scramble.records import ImageRecord
        from scramble.storage.image_table import ImageTable
        from scramble.storage.tables import table_path

        self.opened = 0
        self._paths = names.paths
        self._folder = folder or (source if source.is_dir() else source.parent)
        tables = source if source.is_dir() else source.parent
        has_table = not names.paths and table_path(tables, ImageRecord).exists()
        self._table: Mapping[str, ImageFile] = {}
        if has_table:
            with suppress(StoreError):  # the texts can be audited without images
                self._table = ImageTable(tables)

    def open(self, image_id: str) -> Image.Image | None:
        """Return an image, or None if there is no such image file or the image cannot be decoded."""
        from scramble.formats.checks import exists, find_image
        from scramble.records import ImageFile, RecordError

        try:
            image = self._table.get(image_id)
        except StoreError:
            return None
        if image is None and image_id in self._paths:
            name = self._paths[image_id]
            places = (find_image(self._folder, name), find_image(self._folder, PurePosixPath(name).name))
            image = next((ImageFile(path=str(place)) for place in places if exists(place) and place.is_file()), None)
        if image is None:
            return None
        try:
            opened = image.open()
        except RecordError:
            return None
        self.opened += 1
        return opened


def _remove(file: Path) -> None:
    """Remove a file, and its folder if it is then empty."""
    file.unlink()
    with suppress(OSError):
        file.parent.rmdir()


def _folder(source: Path) -> Path:
    """Return the folder in :data:`AUDITS` for the audit of a file. The name includes a hash of the path, because many
    files are called pairs.jsonl.
    """
    resolved = source.resolve()
    return AUDITS / f"{resolved.stem}-{content_key(str(resolved))[:8]}"


def _check_owner(folder: Path, source: Path) -> None:
    """Raise StoreError if the folder contains the audit of another file than ``source``."""
    if not (folder / "audit.json").exists():
        return
    owner = read_json(folder / "audit.json").get("file", "other pairs")
    if owner != str(source.resolve()):
        raise StoreError(f"{folder} contains the audit of {owner}: choose another folder (out=...)")


def text_only_accuracy(data: Path) -> dict[str, float]:
    """Return the text-only accuracies from the data's audit: how often a classifier that does not see the image picks
    the chosen text (percent).

    The transfer accuracies are returned if other splits have enough pairs, otherwise the in-sample accuracies.
    """
    summary = read_json(data / STAGE_FILE)["summary"]
    accuracies = summary.get("transfer") or summary.get("blind") or {}
    return {f"data/text_only_accuracy/{name}": value for name, value in accuracies.items()}
