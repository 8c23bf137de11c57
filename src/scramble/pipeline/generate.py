"""Stage 1: a data set folder with images, captions, questions, 2x2 items and preference pairs."""

from __future__ import annotations

import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.console import say, track
from scramble.pipeline import StageError, is_main_process
from scramble.pipeline.stage import run_stage
from scramble.records import SPLITS, ImageRecord, PreferencePair
from scramble.storage.files import STAGE_FILE, read_json, write_json
from scramble.storage.hashing import content_key, file_key
from scramble.storage.jsonl import JsonLines
from scramble.storage.locks import wait_for
from scramble.storage.tables import TABLES, open_table, read_table, table_path, write_table

if TYPE_CHECKING:
    from scramble.pairs.base import Generator
    from scramble.sources.bundles import Bundle


def generate(folder: str | Path, *, data: Mapping[str, Any], negatives: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Make a data set folder: images, captions, questions and 2x2 items by split, and preference pairs.

    Args:
        folder: where ``train/``, ``val/`` and ``test/`` go.
        data: ``kind`` (``world`` or a source of :mod:`scramble.sources`) and its options.
        negatives: ``method`` and its options, see :mod:`scramble.pairs`.
        seed: of scenes, splits and the choice of negatives.
    Returns:
        The stage's summary: counts per split, skipped captions by reason, rejected rows, the audit's headline.
    """
    config = {
        "data": dict(data),
        "negatives": dict(negatives),
        "seed": seed,
        "inputs": input_keys(data) | model_keys(negatives),
    }

    def work(folder: Path) -> dict[str, Any]:
        from scramble.world.grammar import GrammarError

        given = _images(folder, dict(data), seed)
        summary = {"rejected_rows": given.pop("rejected_rows", 0), "splits": given}
        for split in SPLITS:
            if not table_path(folder / split, ImageRecord).exists():
                continue
            if negatives["method"] != "given":
                try:
                    summary["splits"][split] |= _pairs(folder / split, dict(negatives), seed)
                except GrammarError as error:
                    raise StageError(
                        f"{error}. negatives.method=world reads the embedded world's captions only: choose "
                        "negatives=rules for English captions"
                    ) from error
        _check_not_empty(folder, summary)
        if negatives.get("audit", True):
            summary["blind"] = _audit(folder, seed)
        return summary

    if not is_main_process():
        marker = Path(folder) / STAGE_FILE
        wait_for(marker, lambda: marker.exists() and read_json(marker)["status"] == "finished")
    summary, how = run_stage(folder, config, work)
    if not is_main_process():
        return summary
    _tell_data(Path(folder), summary, how)
    return summary


def generate_shard(
    folder: str | Path, *, data: Mapping[str, Any], negatives: Mapping[str, Any], seed: int, shard: tuple[int, int]
) -> int:
    """Ask a language model about a share of the images and keep its replies; nothing else is made.

    When all shards are done, :func:`generate` finds every reply on disk, and its result is that of one job.

    Args:
        folder, data, negatives, seed: as for :func:`generate`.
        shard: number of this share and how many there are; an image's share follows from its id.
    Returns:
        How many captions were asked about.
    Raises:
        StageError: the method asks nobody.
    """
    from scramble.engines import in_shard
    from scramble.pairs.captions.assemble import build_pairs

    if negatives["method"] != "cot":
        raise StageError(
            f"shard: negatives of method {negatives['method']} ask no language model for each caption and are made in "
            "one job; leave shard out"
        )
    folder = Path(folder)
    _share_images(folder, data, seed)
    left = {k: v for k, v in negatives.items() if k not in ("method", "options", "engine", "audit", "refine")}
    options, asked = negatives.get("options") or {}, 0
    for split in SPLITS:
        if not table_path(folder / split, ImageRecord).exists():
            continue
        with ExitStack() as stack:
            generator: Any = _generator("cot", options, negatives.get("engine"), folder / split, stack, shard)
            images = (image for image in read_table(folder / split, ImageRecord) if in_shard(image.image_id, shard))
            for _ in build_pairs(images, generator, seed=seed, on_skip=lambda row: None, **left):
                pass
            asked += sum(generator.counts.values())
    say(f"shard {shard[0]}/{shard[1]}: asked about {asked} captions; replies in {folder}/*/replies")
    return asked


def _share_images(folder: Path, data: Mapping[str, Any], seed: int) -> None:
    """The images of a data set, made by the first shard that comes; the others wait for it."""
    wanted = {"data": dict(data), "seed": seed, "inputs": input_keys(data)}
    run_stage(folder / "images", wanted, lambda _: _images(folder, dict(data), seed))


def input_keys(data: Mapping[str, Any]) -> dict[str, str]:
    """Content keys of the files that the data comes from: a changed caption file is a changed input."""
    if data.get("kind") == "mmpr":
        from scramble.formats import mmpr

        return mmpr.content_keys(data["path"], data.get("root"))
    paths = {key: data[key] for key in ("path", "captions") if data.get(key)}
    files = {key: Path(path) for key, path in paths.items() if Path(path).is_file()}
    folders = {key: Path(path) for key, path in paths.items() if Path(path).is_dir()}
    listed = {
        key: content_key([(str(f.relative_to(path)), f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()])
        for key, path in folders.items()
    }
    texts = {
        f"{key}/{f.name}": file_key(f)
        for key, path in folders.items()
        for f in sorted(path.iterdir())
        if f.suffix in (".jsonl", ".json", ".csv")
    }
    return {key: file_key(path) for key, path in files.items()} | listed | texts


def model_keys(negatives: Mapping[str, Any], folder_key: Callable[[str], str] = file_key) -> dict[str, str]:
    """Content keys of the local models that negatives are sampled from: another model is another input."""
    found: dict[str, str] = {}
    for key, value in negatives.items():
        if isinstance(value, Mapping):
            found |= model_keys(value, folder_key)
        elif key in ("path", "adapter") and isinstance(value, str) and Path(value).is_dir():
            found[value] = folder_key(value)
    return found


def _images(folder: Path, data: dict[str, Any], seed: int) -> dict[str, Any]:
    kind = data.pop("kind")
    if kind == "world":
        from scramble import world

        return world.generate(folder, seed=seed, **data)
    return _import(folder, kind, data, seed)


def _import(folder: Path, kind: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Real images into splits, what shares an image into one; see :class:`scramble.sources.splits.Groups`.

    Everything is read into one place first: only at the end is it known what belongs together.
    """
    from scramble import sources
    from scramble.sources.splits import Groups

    fractions = {"val": data.pop("val_fraction"), "test": data.pop("test_fraction")}
    path, allowed = data.pop("path"), data.pop("max_rejected")
    if kind == "mmpr":
        data["seed"] = seed
    tables = [ImageRecord, *(sources.BUNDLES[kind].tables if kind in sources.BUNDLES else ())]
    groups = Groups()
    places: dict[type, array[int]] = {table: array("q") for table in tables}  # the group of each record
    written: set[str] = set()
    incoming = folder / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # of a run that was killed
    try:
        with sources.BadRows(folder / "rejected_rows.jsonl", allowed) as bad, ExitStack() as stack:
            writers = {table: stack.enter_context(open_table(incoming, table)) for table in tables}
            for bundle in track(_bundles(kind, path, bad, data), "reading rows"):
                group = groups.add(bundle.key, {image.image_id: image.image for image in bundle.images})
                new = {image.image_id: image for image in bundle.images if image.image_id not in written}
                for record in (*new.values(), *bundle.pairs, *bundle.questions):
                    writers[type(record)].write(record)
                    places[type(record)].append(group)
                written |= new.keys()
        if duplicates := groups.duplicates():
            say(f"data: {duplicates:,} images have the same bytes as another one; each such group is in one split")
        split_of = groups.assign(fractions, seed)
        counts: dict[str, Any] = {split: {} for split in SPLITS}
        for table in tables:
            for split, count in _distribute(incoming, folder, table, places[table], split_of).items():
                counts[split]["images" if table is ImageRecord else TABLES[table]] = count
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return counts | {"rejected_rows": bad.rejected}


def _bundles(kind: str, path: str, bad: Any, data: Mapping[str, Any]) -> Iterator[Bundle]:
    """The input as bundles: images that come alone are one each."""
    from scramble import sources
    from scramble.sources.bundles import Bundle

    if kind in sources.BUNDLES:  # pairs or questions come with the images
        yield from sources.BUNDLES[kind].read(path, bad, **data)
        sources.check(kind, path, bad)
        return
    for image in sources.read(kind, path, bad=bad, **data):
        yield Bundle(image.image_id, (image,))


def _distribute(
    incoming: Path, folder: Path, table: type, places: Sequence[int], split_of: Sequence[str]
) -> dict[str, int]:
    """Write the records of one table into the splits of their groups, in order; returns how many each got."""
    with ExitStack() as stack:
        writers = {split: stack.enter_context(open_table(folder / split, table)) for split in SPLITS}
        records: Iterable[Any] = read_table(incoming, table)
        for record, group in zip(records, places, strict=True):
            writers[split_of[group]].write(record)
        return {split: writer.count for split, writer in writers.items()}


def _pairs(folder: Path, negatives: dict[str, Any], seed: int) -> dict[str, Any]:
    negatives.pop("audit", None)
    refine = negatives.pop("refine", None)
    skipped: Counter[str] = Counter()
    counts: dict[str, Any] = {}
    (folder / "skipped.jsonl").unlink(missing_ok=True)  # of a run that was killed: all are met again
    with ExitStack() as stack:
        rows = stack.enter_context(JsonLines(folder / "skipped.jsonl"))

        def skip(row: dict[str, Any]) -> None:
            skipped[row["reason"]] += 1
            rows.append(row)

        pairs, counted = _stream(folder, negatives, seed, skip, stack)
        if refine is not None and folder.name == "train":
            pairs, refined = _refine(pairs, refine, seed)
            counts |= refined
        counts["pairs"] = write_table(folder, PreferencePair, pairs)
        counts |= counted()
    return counts | {"skipped": dict(skipped.most_common())}


def _stream(
    folder: Path, negatives: Mapping[str, Any], seed: int, skip: Callable[[dict[str, Any]], None], stack: ExitStack
) -> tuple[Iterable[PreferencePair], Callable[[], dict[str, Any]]]:
    """The pairs of a method, and what tells its own counts when they have been read."""
    from scramble.pairs.answers import methods as mpo
    from scramble.pairs.captions.assemble import build_pairs

    left = {key: value for key, value in negatives.items() if key not in ("audit", "refine")}
    method, options = left.pop("method"), left.pop("options", None) or {}
    if method == "scenealign":
        from scramble.pairs.rationales.method import folder_pairs

        return folder_pairs(folder, stack, skip, seed=seed, **left, **options)
    if method in mpo.METHODS:
        return mpo.folder_pairs(folder, stack, skip, method=method, seed=seed, **left, **options)
    if method == "mix":
        return _mix(folder, seed, skip, **left)
    generator = _generator(method, options, left.pop("engine", None), folder, stack)
    images = track(read_table(folder, ImageRecord), f"negatives for {folder.name}")
    return build_pairs(images, generator, seed=seed, on_skip=skip, **left), partial(_totals, generator)


def _mix(
    folder: Path,
    seed: int,
    skip: Callable[[dict[str, Any]], None],
    *,
    parts: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float] | None = None,
) -> tuple[Iterable[PreferencePair], Callable[[], dict[str, Any]]]:
    """The pairs of several methods, made one after the other and held in memory (text only)."""
    from scramble.pairs.mixing import mix

    found: dict[str, list[PreferencePair]] = {}
    counts: dict[str, Any] = {}
    train = folder.name == "train"
    for name, part in parts.items():
        with ExitStack() as stack:

            def skip_of(row: dict[str, Any], name: str = name) -> None:
                skip({**row, "reason": f"{name}: {row['reason']}"})

            pairs, counted = _stream(folder, part, seed, skip_of, stack)
            refine = part.get("refine")
            refined: dict[str, Any] = {}
            if refine is not None and train:
                pairs, refined = _refine(pairs, refine, seed)
            found[name] = list(pairs)
            counts[name] = {"pairs": len(found[name]), **refined, **counted()}
    if not train:  # a part may be for training alone
        found = {name: made for name, made in found.items() if made}
    return mix(found, weights, seed=seed), lambda: {"parts": counts}


def _generator(
    method: str,
    options: Mapping[str, Any],
    engine: Mapping[str, Any] | None,
    folder: Path,
    stack: ExitStack,
    shard: tuple[int, int] = (0, 1),
) -> Generator:
    if method == "world":
        from scramble.pairs.captions.world_swaps import WorldNegatives

        return WorldNegatives(**options)
    if method == "rules":
        from scramble.pairs.captions.rules.generator import RuleGenerator

        return RuleGenerator(**options)
    if method == "cot":
        from scramble.engines import ReplyStore, open_engine
        from scramble.pairs.captions.chain_of_thought import CotGenerator

        if engine is None:
            raise StageError("negatives=cot asks a language model: give negatives.engine (kind, model, base_url)")
        opened = stack.enter_context(open_engine(**engine))
        if options.get("cleaner"):
            options = {**options, "cleaner": stack.enter_context(open_engine(**options["cleaner"]))}
        return CotGenerator(opened, stack.enter_context(ReplyStore(folder / "replies", shard)), **options)
    raise StageError(
        f"no method of negatives is called {method!r}: choose world, rules, cot, scenealign, correctness, "
        "dropout_ntp, mix or given"
    )


def _totals(generator: Generator) -> dict[str, Any]:
    """Of a language model: requests, tokens, cost."""
    return {"engine": generator.totals()} if hasattr(generator, "totals") else {}


def _refine(
    pairs: Iterable[PreferencePair], options: Mapping[str, Any], seed: int
) -> tuple[list[PreferencePair], dict[str, Any]]:
    """Drop what classifiers without the image can tell, and what the summary says of it.

    Text only, so the pairs are held in memory.
    """
    from scramble.pairs.audit.refine import kind_groups, refine_blind

    everything = list(pairs)
    groups, sizes = kind_groups(everything), Counter(pair.kind for pair in everything)
    small = {
        "refined_together": {kind: sizes[kind] for kind in groups.pooled},
        "not_refined": {kind: sizes[kind] for kind in groups.left_alone},
    }
    counts = {"pairs_before_refinement": len(everything), **{what: kinds for what, kinds in small.items() if kinds}}
    return refine_blind(everything, seed=seed, **options), counts


def _audit(folder: Path, seed: int) -> dict[str, float]:
    """Ask of the training pairs how much can be told without the image; ``audit.json`` and ``audit.html``."""
    from scramble.pairs.audit.audit import audit
    from scramble.reporting.audit_page import write_page
    from scramble.storage.image_table import ImageTable

    pairs = list(read_table(folder / "train", PreferencePair))
    result = audit(pairs, seed=seed)
    images = ImageTable(folder / "train")
    write_json(folder / "audit.json", result)
    write_page(folder / "audit.html", result, pairs, open_image=lambda name: images[name].open(), seed=seed)
    return {name: blind["accuracy"] for name, blind in result["kinds"]["all"]["blind"].items()}


def _check_not_empty(folder: Path, summary: Mapping[str, Any]) -> None:
    train = summary["splits"]["train"]
    if train.get("pairs") != 0:
        return
    if train["images"] == 0:
        raise StageError(
            f"{folder}: the training split gets none of the images; data.val_fraction=0 data.test_fraction=0 gives it "
            "all of them, seed=... draws other splits"
        )
    if count := train.get("pairs_before_refinement"):
        raise StageError(
            f"{folder}: refinement drops all {count} training pairs: text-only classifiers recognise the chosen text "
            "of each; negatives.refine=null keeps them"
        )
    reasons = train.get("skipped", {})
    why = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "the source has no captions"
    raise StageError(
        f"{folder}: the training split gives no pair ({why}); choose another method, "
        "negatives=rules for English captions"
    )


def _tell_data(folder: Path, summary: Mapping[str, Any], how: str) -> None:
    for split, counts in summary["splits"].items():
        numbers = ", ".join(f"{count:,} {what}" for what, count in counts.items() if isinstance(count, int) and count)
        empty = f"no images; data.{split}_fraction gives it more"
        say(f"data, {split}: {numbers or empty}" + (" (finished already)" if how == "reused" else ""))
        if how == "reused":  # a sweep would say all of it for each arm
            return
    _tell_small_kinds(summary["splits"].get("train", {}))
    for split, counts in summary["splits"].items():
        if skipped := counts.get("skipped"):
            reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.items())
            say(f"data, {split}: without a pair: {reasons}; see {folder / split / 'skipped.jsonl'}")
    if blind := summary.get("blind"):
        numbers = ", ".join(f"{name} {value:.0f}" for name, value in blind.items())
        say(f"data: chosen told from rejected without the image, percent: {numbers}; see {folder / 'audit.html'}")
    if summary["rejected_rows"]:
        say(f"data: {summary['rejected_rows']} rows could not be used, see {folder / 'rejected_rows.jsonl'}")


def _tell_small_kinds(counts: Mapping[str, Any]) -> None:
    """Say which kinds of training pairs refinement could not judge by themselves."""
    from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS

    parts = {"": counts} | {f" of {name}": part for name, part in counts.get("parts", {}).items()}
    for part, numbers in parts.items():
        said = []
        for what, does in (("refined_together", "refined together"), ("not_refined", "not refined")):
            if kinds := numbers.get(what):
                said.append(f"{does}: {', '.join(f'{kind} ({count})' for kind, count in kinds.items())}")
        if said:
            say(
                f"data, train: kinds{part} with fewer than {MIN_PAIRS} pairs or {FOLDS} images are too small to refine "
                f"one by one; {'; '.join(said)}"
            )
