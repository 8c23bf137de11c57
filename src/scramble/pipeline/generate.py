"""Stage 1: generates a data set folder with images, captions, questions, 2x2 items and preference pairs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.console import counted
from scramble.pipeline import StageError, is_main_process
from scramble.pipeline.images import make_images
from scramble.pipeline.inputs import input_keys, model_keys
from scramble.pipeline.new_model import make_model
from scramble.pipeline.stage import run_stage
from scramble.records import SPLITS, ImageRecord, PreferencePair, RecordError
from scramble.storage.files import STAGE_FILE, read_json, stage_status, write_json
from scramble.storage.jsonl import JsonLines
from scramble.storage.locks import wait_for
from scramble.storage.tables import open_table, read_table, table_path

if TYPE_CHECKING:
    from PIL import Image

    from scramble.pairs.audit.text_only import ImageSample
    from scramble.pairs.method import PairMethod

log = logging.getLogger(__name__)

MANY_STEPS = 3  # images, captions, negatives; the counts of more steps are logged on a separate line
# Limits if the model that answers questions is new, because its random answers are long.
FEW = {"samples": 2, "limit": 16, "max_tokens": 512}
# The fix if a step leaves no pairs.
EMPTY_STEP_FIXES = {
    "filtered": "relax pairs.filters (train/skipped.jsonl lists the dropped pairs)",
    "balanced": "the gaps of all pairs have the same sign; set pairs.balance=null to keep these pairs",
}


def generate(
    folder: str | Path,
    *,
    data: Mapping[str, Any],
    pairs: Mapping[str, Any],
    seed: int,
    new_model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Generate a data set folder: images, captions, questions and 2x2 items by split, and preference pairs.

    Args:
        folder: output folder, with subfolders ``train/``, ``val/`` and ``test/``.
        data: ``kind`` (``world`` or a source of :mod:`scramble.sources`) and its options.
        pairs: ``method`` and its options; see :mod:`scramble.pairs.registry`.
        seed: seed of scenes, splits and the choice of negatives.
        new_model: ``path``, ``family`` and ``new`` of a model that does not exist yet (``debug=tiny``). If the pairs
            are made from this model's answers, the model is created as soon as the texts of the images are known.

    Returns:
        The stage's summary: counts per split, skipped captions by reason, rejected rows, text-only accuracies.
    """
    inputs = input_keys(data) | model_keys(pairs)
    if new_model is not None:
        inputs.pop(new_model["path"], None)  # the model may have been created since, from the data itself
    config = {"data": dict(data), "pairs": dict(pairs), "seed": seed, "inputs": inputs}
    if not is_main_process():
        wait_for(Path(folder) / STAGE_FILE, lambda: stage_status(folder) == "finished")
    work = partial(_make_data_set, data=data, pairs=pairs, seed=seed, new_model=new_model)
    summary, how = run_stage(folder, config, work)
    if is_main_process():
        _report(Path(folder), summary, data["kind"], reused=how == "reused")
    return summary


def _make_data_set(
    folder: Path,
    *,
    data: Mapping[str, Any],
    pairs: Mapping[str, Any],
    seed: int,
    new_model: Mapping[str, Any] | None,
) -> dict[str, Any]:
    from scramble.pairs.registry import GivenPairs, make_method

    _check_models(pairs, None if new_model is None else new_model["path"])
    with make_method(pairs, seed=seed) as method:
        method.prepare()
    counts = make_images(folder, data, seed)
    if new_model is not None and any(path == new_model["path"] for path, _, _ in _models(pairs, "pairs")):
        make_model(new_model["path"], folder, new_model["family"], new_model["new"], seed)
        pairs = _few_answers(pairs)
    summary = {"rejected_rows": counts.pop("rejected_rows", 0), "splits": counts}
    for split in _splits(folder):
        with make_method(pairs, seed=seed) as method:
            if not isinstance(method, GivenPairs):  # given pairs are already in the folder
                counts[split.name] |= _make_pairs(method, split)
    _check_not_empty(folder, summary, pairs["method"])
    if pairs.get("audit", True):
        summary |= audit_folder(folder, seed, is_refined=_is_refined(counts.get("train", {})))
    return summary


def _models(settings: Mapping[str, Any], key: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield the path and the revision of each model that makes or scores pairs in the calling process.

    The third value is the key of the setting that contains the path.
    """
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            continue
        in_process = value.get("kind") in ("transformers", "vllm") or ("kind" not in value and value.get("new") is None)
        if in_process and "path" in value:
            yield value["path"], value.get("revision"), f"{key}.{name}.path"
        yield from _models(value, f"{key}.{name}")


def _few_answers(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a pair method and its parts for a new model: limited by ``FEW`` and without ``top_k``."""
    limited = dict(pairs)
    if "options" in pairs and "engine" in pairs:
        options = dict(pairs["options"] or {})
        few = {name: min(options[name] or most, most) for name, most in FEW.items() if name in options}
        # Without top_k, each token ends an answer with nearly the same small probability.
        limited["options"] = options | few | {"top_k": None}
    if "parts" in pairs:
        limited["parts"] = {name: _few_answers(part) for name, part in pairs["parts"].items()}
    return limited


def _check_models(pairs: Mapping[str, Any], new_path: str | None = None) -> None:
    """Raise ModelError if the configuration of a model other than the new model cannot be read.

    The check runs before the images are generated or imported, which takes much longer than the check.
    """
    for path, revision, key in _models(pairs, "pairs"):
        if path != new_path:
            from scramble.models.hub import find_config

            find_config(path, revision, key)


def _splits(folder: Path) -> Iterator[Path]:
    """Yield the folder of each split that has images."""
    return (folder / name for name in SPLITS if table_path(folder / name, ImageRecord).exists())


def _make_pairs(method: PairMethod, split: Path) -> dict[str, Any]:
    """Write a split's pairs and ``skipped.jsonl``. Return counts, the method's totals and the reasons for skips."""
    from scramble.pairs.base import Skip

    skipped: Counter[str] = Counter()
    (split / "skipped.jsonl").unlink(missing_ok=True)  # a killed run may have left the file; all items are repeated
    with JsonLines(split / "skipped.jsonl", sync=False) as rows, open_table(split, PreferencePair) as table:
        for pair_or_skip in method.pairs(split):
            if isinstance(pair_or_skip, Skip):
                skipped[pair_or_skip.reason] += 1
                rows.append(pair_or_skip.row())
            else:
                table.write(pair_or_skip)
    return {"pairs": table.count, **method.totals(), "skipped": dict(skipped.most_common())}


def generate_shard(
    folder: str | Path, *, data: Mapping[str, Any], pairs: Mapping[str, Any], seed: int, shard: tuple[int, int]
) -> int:
    """Request and store a model's replies for one shard of the images or questions, without making pairs.

    When all shards are done, :func:`generate` finds every reply on disk. The pairs are the same as those of a
    single job.

    Args:
        folder, data, pairs, seed: as for :func:`generate`.
        shard: index of the shard, and number of shards; the id of an item determines its shard.

    Returns:
        The number of images or questions in this shard.

    Raises:
        StageError: if the method does not use a model.
    """
    from scramble.pairs.registry import make_method

    with make_method(pairs, seed=seed, shard=shard) as method:
        if not method.asks_model:
            raise StageError(
                f"shard={shard[0]}/{shard[1]}: the method {pairs['method']} uses no model, so its work cannot be "
                "divided into shards: omit shard"
            )
        _check_models(pairs)
        method.prepare()
    folder = Path(folder)
    # The first shard makes the images, and the other shards wait for it.
    config = {"data": dict(data), "seed": seed, "inputs": input_keys(data)}
    run_stage(folder / "images", config, lambda _: make_images(folder, data, seed))
    num_items = 0
    for split in _splits(folder):
        with make_method(pairs, seed=seed, shard=shard) as method:
            num_items += method.store_replies(split)
    log.info(f"shard {shard[0]}/{shard[1]}: the replies for {num_items:,} images or questions are stored")
    return num_items


def audit_folder(folder: Path, seed: int, *, is_refined: bool | None = None) -> dict[str, dict[str, float]]:
    """Audit the training pairs and write ``audit.json`` and ``audit.html``.

    The classifiers of the transfer accuracy are fitted on the pairs of the other splits, because these pairs are never
    refined. ``is_refined`` says whether the training pairs were refined; None means unknown.

    Returns:
        Text-only accuracies (percent) by classifier: in-sample (``blind``) and transfer (``transfer``).
    """
    from scramble.pairs.audit.audit import audit_pairs, sample_note
    from scramble.pairs.audit.text_only import sample_of_pairs
    from scramble.reporting.audit_page import write_audit_page
    from scramble.storage.image_table import ImageTable

    def sample(splits: Iterable[Path]) -> ImageSample[PreferencePair]:
        tables = (read_table(split, PreferencePair, missing_ok=True) for split in splits)
        return sample_of_pairs((single for table in tables for pair in table for single in pair.singles()), seed)

    pairs = sample([folder / "train"])
    held_out = sample(split for split in _splits(folder) if split.name != "train")
    result = audit_pairs(pairs.items, held_out=held_out.items, total=pairs.total, seed=seed)
    if note := sample_note(result):
        log.info(note)
    images = ImageTable(folder / "train")

    def open_image(image_id: str) -> Image.Image | None:
        with suppress(RecordError):  # damaged, which was not checked (data.verify=false)
            return images[image_id].open()
        return None

    write_json(folder / "audit.json", result)
    write_audit_page(
        folder / "audit.html",
        result,
        pairs.items,
        open_image=open_image,
        seed=seed,
        is_refined=is_refined,
    )
    whole = result["kinds"]["all"]
    return {key: {name: row["accuracy"] for name, row in whole[key].items()} for key in ("blind", "transfer")}


def _check_not_empty(folder: Path, summary: Mapping[str, Any], method: str) -> None:
    train = summary["splits"]["train"]
    if train.get("pairs") != 0:
        return
    if train["images"] == 0:
        raise StageError(
            f"{folder}: the training split has no images; set data.val_fraction=0 data.test_fraction=0 to use all "
            "images for training, or data_seed=... to draw other splits"
        )
    if lost := [step for step, count in train.get("steps", {}).items() if step in EMPTY_STEP_FIXES and not count]:
        raise StageError(
            f"{folder}: no training pairs are left ({_listed(train['steps'])}): {EMPTY_STEP_FIXES[lost[0]]}"
        )
    if count := train.get("pairs_before_refinement"):
        raise StageError(
            f"{folder}: refinement removes every training pair (number of pairs before refinement: {count}), because "
            "text-only classifiers recognise the chosen text of each pair; set pairs.refine=null to keep the pairs"
        )
    reasons = train.get("skipped", {})
    why = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "the source has no captions"
    raise StageError(f"{folder}: no pairs could be made from the training split ({why}); {_advice(reasons, method)}")


def _advice(reasons: Mapping[str, int], method: str) -> str:
    """Return advice on how to get pairs if a method made none; ``reasons`` counts why the items were skipped."""
    if any("token limit" in reason for reason in reasons):
        return "raise pairs.options.max_tokens, which limits the length of a reply"
    if method == "rules":
        return "the rules need English captions of at least three words; for other captions, use pairs=cot"
    return "choose another method, for example pairs=rules for English captions"


# ------------------------------------------------------------------------------------------------------------- console


def _report(folder: Path, summary: Mapping[str, Any], kind: str, *, reused: bool) -> None:
    from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS
    from scramble.reporting.table import listed_counts

    for split, counts in summary["splits"].items():
        numbers = listed_counts(counts)
        log.info(
            f"data, {split}: {numbers or f'no images; {_more_images(split, kind)}'}"
            + (" (finished already)" if reused else "")
        )
        if len(counts.get("steps", {})) > MANY_STEPS and not reused:
            log.info(f"data, {split}: {_listed(counts['steps'])}")
        if reused:  # otherwise a sweep would repeat all lines for each arm
            return
    advice = "raise data.n_test" if kind == "world" else "raise data.test_fraction, or add images"
    _report_few_test_pairs(summary["splits"].get("test", {}), advice)
    _report_small_kinds(summary["splits"].get("train", {}))
    for split, counts in summary["splits"].items():
        if skipped := counts.get("skipped"):
            reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.items())
            log.info(f"data, {split}: skipped items: {reasons}; see {folder / split / 'skipped.jsonl'}")
    if summary.get("blind"):
        transfer = summary.get("transfer")
        accuracies = transfer or summary["blind"]
        fitted = (
            "pairs of other images" if transfer else "these pairs, because too few pairs of other images are held out"
        )
        best = max(accuracies, key=accuracies.__getitem__)
        row = read_json(folder / "audit.json")["kinds"]["all"]["transfer" if transfer else "blind"][best]
        log.info(
            f"audit: the most accurate of {len(accuracies)} text-only classifiers ({best}) picks the chosen text "
            f"{row['accuracy']:.0f} % of the time (95 % interval: {row['low']:.0f} to {row['high']:.0f} %; 50 % = "
            f"chance). It was fitted on {fitted}; see {folder / 'audit.html'}"
        )
        listed = ", ".join(f"{name} {accuracy:.1f} %" for name, accuracy in accuracies.items())
        log.debug(f"audit: text-only accuracy by classifier: {listed}")
    elif "blind" in summary:
        log.info(
            f"audit: there are too few training pairs for text-only accuracies ({MIN_PAIRS} pairs of {FOLDS} images "
            f"are needed); see {folder / 'audit.html'}"
        )
    if summary["rejected_rows"]:
        rejected = counted(summary["rejected_rows"], "rows")
        log.info(f"data: {rejected} could not be used; see {folder / 'rejected_rows.jsonl'}")


def _listed(steps: Mapping[str, int]) -> str:
    return "steps: " + ", ".join(f"{count:,} {name}" for name, count in steps.items())


def _more_images(split: str, kind: str) -> str:
    """Return the advice for a split without images."""
    if kind == "world":
        return f"raise data.n_{split} for more"
    if split == "train":
        return "lower data.val_fraction or data.test_fraction, or add images"
    return f"raise data.{split}_fraction for more"


def _report_few_test_pairs(counts: Mapping[str, Any], advice: str) -> None:
    """Log a note if the test split has too few pairs to compare models; ``advice`` explains how to get more pairs."""
    from scramble.reporting.headline import FEW_ITEMS

    pairs = counts.get("pairs")
    if pairs is not None and counts.get("images") and pairs < FEW_ITEMS:
        log.info(f"data, test: {counted(pairs, 'pairs')}; comparing models needs at least {FEW_ITEMS}: {advice}")


def _report_small_kinds(counts: Mapping[str, Any]) -> None:
    """Log which kinds had too few training pairs to be refined separately, or that nothing was refined."""
    from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS

    for name, numbers in _parts(counts).items():
        part = f" of {name}" if name else ""
        if "pairs_before_refinement" in numbers and not _is_refined(numbers):
            log.info(
                f"data, train: the pairs{part} were not refined, because refinement needs at least {MIN_PAIRS} pairs "
                f"from {FOLDS} images per family of kinds (such as swap or replace)"
            )
            continue
        clauses = []
        for key, label in (("refined_together", "refined together"), ("not_refined", "not refined")):
            if kinds := [f"{kind} ({count})" for kind, count in numbers.get(key, {}).items() if count]:
                clauses.append(f"{label}: {', '.join(kinds)}")
        if clauses:
            log.info(
                f"data, train: kinds{part} with fewer than {MIN_PAIRS} pairs or {FOLDS} images are too small to be "
                f"refined separately; {'; '.join(clauses)}"
            )


def _parts(counts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the counts of a split under the name "", and the counts of the parts of a mix under their own names."""
    return {"": counts, **counts.get("parts", {})}


def _is_refined(counts: Mapping[str, Any]) -> bool:
    """Return whether any pairs of a split were refined.

    Only the pairs of families of kinds with enough pairs are refined.
    """
    return any(
        numbers.get("pairs_before_refinement", 0) > sum(numbers.get("not_refined", {}).values())
        for numbers in _parts(counts).values()
    )
