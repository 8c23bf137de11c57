"""Audits pairs from any file: measures how well text-only classifiers recognise the chosen text."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.console import show
from scramble.storage.files import STAGE_FILE, StoreError, read_json, write_json
from scramble.storage.hashing import content_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scramble.pairs.audit.text_only import ImageSample
    from scramble.records import PreferencePair
    from scramble.sources import BadRows

log = logging.getLogger(__name__)

AUDITS = Path("runs", "audits")


def audit(
    pairs: str | Path, out: str | Path | None = None, *, held_out: str | Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Audit a pair file or data set folder, print tables, and write ``audit.json`` and ``audit.html`` to ``out``.

    Rows that cannot be used are skipped and listed in ``out/rejected_rows.jsonl``.

    Args:
        pairs: a file of pairs, or a data set folder.
        out: output folder; by default a folder in :data:`AUDITS` that is unique to this file.
        held_out: file or folder with pairs of other images, on which the classifiers of the transfer accuracy are
            fitted.
        seed: seed of the classifiers' folds.

    Raises:
        FormatError: if the file does not exist, or no row in the file can be used.
        StoreError: if ``out`` contains the audit of other pairs.
    """
    from scramble.formats import FormatError
    from scramble.pairs.audit.audit import audit as examine
    from scramble.pairs.audit.audit import sample_note
    from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS
    from scramble.reporting.audit_page import audit_tables, write_page

    source = Path(pairs)
    for key, path in (("path", source), *((("held_out", Path(held_out)),) if held_out is not None else ())):
        if not path.exists():
            raise FormatError(f"{path} does not exist: set {key}=... to the file of pairs or to its folder")
    folder = _folder(source) if out is None else Path(out)
    _check_owner(folder, source)
    usable, bad = _read(source, folder / "rejected_rows.jsonl", seed)
    others = [] if held_out is None else _read(Path(held_out), folder / "rejected_rows_held_out.jsonl", seed)[0].items
    result = examine(usable.items, held_out=others, total=usable.total, seed=seed)
    write_json(folder / "audit.json", {"file": str(source.resolve()), "rejected_rows": bad.rejected, **result})
    write_page(folder / "audit.html", result, usable.items, title=f"Audit of {source.name}", seed=seed)
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


def _read(source: Path, rejected: Path, seed: int) -> tuple[ImageSample[PreferencePair], BadRows]:
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
            for pair in read_pairs(source, bad.reject):
                bad.use()
                yield from pair.singles()

        pairs = sample_of_pairs(singles(), seed)
        bad.check(source)
    return pairs, bad


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
