"""Converts the items of a benchmark to rows for the browser, with texts, images, and the verdict, margin, scores and
reply of every arm.

A row contains the following keys. Keys without a value are omitted.

=========== ===========================================================================================================
``id``      id of the item
``kind``    kind of the item
``tags``    tags of the item
``images``  file names in the site's folder ``images``
``prompt``  the prompt that the captions answer, with the turns before it
``captions`` texts; a text is a list of parts that are alternately unchanged and changed, for example
            ``["a ", "red", " cup"]``
``targets`` indices of the true captions or of the right candidates; absent for a 2x2 item
``question`` text of a question, with the texts ``options`` and ``answer``
``candidates`` the scored answers of a question
``results`` one entry per arm in the order of ``arms``: ``right`` (true, false or null if not graded), ``margin`` (see
            :func:`margin_of`), ``scores`` (2x2 or per candidate), ``reply``, ``status``; null if not evaluated
=========== ===========================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.console import track
from scramble.evaluation.items import Benchmark, CaptionChoice, Item
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.hallucination import lower_is_better
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.formats.word_diff import word_edits
from scramble.records import TwoByTwoItem, conversation_text
from scramble.reporting.arms import RUN_SEPARATOR, split_run
from scramble.reporting.browser.images import SiteImages
from scramble.reporting.browser.sampling import sample
from scramble.reporting.pages.texts import marked

MAIN_SCORES = ("group", "accuracy", "itt", "hallucination_rate", "hal", "chair_s", "score")
"""An outcome is right or wrong according to the first of these scores that it contains."""
RIGHT = 0.5
"""An answer with at least this score counts as right (VQA accuracy takes the values 0, 0.3, 0.6, 0.9 and 1)."""


@dataclass(frozen=True)
class ItemTable:
    """The rows of one benchmark.

    Attributes:
        arms: for each entry of ``results``, the name and the method of its arm. Each seed of a method is a separate
            arm.
        total: number of items of the benchmark that were evaluated.
        tokens: for each item id, a list with one entry per arm, which contains the log-probabilities of the tokens by
            query id. Empty if the runs did not store log-probabilities.
        reason: why texts and images are missing; empty if they are shown.
        other_arms: arms that are not shown because they were evaluated on another version of the data.
    """

    benchmark: str
    arms: list[tuple[str, str]]
    rows: list[dict[str, Any]]
    total: int
    tokens: dict[str, list[dict[str, Any] | None]]
    reason: str = ""
    other_arms: Sequence[str] = ()

    @property
    def note(self) -> str:
        """The note on the page that explains missing texts, images and arms."""
        notes = [f"{self.benchmark} is shown without texts and images: {self.reason}."] if self.reason else []
        if self.other_arms:
            notes.append(f"Arms that were evaluated on other data are not shown: {', '.join(self.other_arms)}.")
        return " ".join(notes)


def item_table(
    name: str,
    folders: Mapping[str, Sequence[Path]],
    order: Sequence[str],
    benchmark: Benchmark | None,
    images: SiteImages,
    *,
    limit: int | None = None,
    missing: str = "",
) -> ItemTable:
    """Return the rows of a benchmark's evaluated items, in the benchmark's order.

    Args:
        name: name of the benchmark.
        folders: result folders by method, one per seed.
        order: methods in the order of the columns.
        benchmark: the benchmark, for texts and images. If ``benchmark`` is None, or if no arm was evaluated on its data
            version, the rows contain no texts and images.
        images: writer of the site's images, which receives the images of the items.
        limit: maximum number of items. If there are more, a random sample is drawn with a fixed seed.
        missing: why ``benchmark`` is None.
    """
    arms = {
        arm_name(method, folder, len(folders[method])): (method, folder)
        for method in order
        if method in folders
        for folder in folders[method]
    }
    versions = {arm: results.read(folder).benchmark["version"] for arm, (_, folder) in arms.items()}
    reason = ""
    version = next(iter(versions.values()))
    if benchmark is None:
        reason = (
            missing
            or "its data was not loaded; run scripts/browse.py with the same benchmark settings as scripts/evaluate.py"
        )
    elif benchmark.version in versions.values():
        version = benchmark.version
    else:
        listed = ", ".join(sorted(set(versions.values())))
        reason = f"the results are for data version {listed}, but the loaded data has version {benchmark.version}"
    # Items of different data versions may have the same ids, for example in two runs on drawn scenes.
    others = [arm for arm in arms if versions[arm] != version]
    arms = {arm: arms[arm] for arm in arms if arm not in others}
    outcomes = {arm: {o.item_id: o for o in results.read_outcomes(folder)} for arm, (_, folder) in arms.items()}
    items = {item.item_id: item for item in benchmark.items} if benchmark is not None and not reason else {}
    evaluated = dict.fromkeys(item_id for by_id in outcomes.values() for item_id in by_id)
    ids = [item_id for item_id in items if item_id in evaluated] or list(evaluated)
    rows = []
    tokens: dict[str, list[dict[str, Any] | None]] = {}
    for item_id in track(sample(ids, limit), f"{name}: items and images"):
        row = {"id": item_id, **_common(outcomes, item_id)}
        if benchmark is not None and item_id in items:
            item = items[item_id]
            names = [images.add(benchmark.images, image_id) for image_id in item.image_ids]
            row |= {"images": names, **_texts(item)}
        row["results"] = [_result(items.get(item_id), by_id.get(item_id)) for by_id in outcomes.values()]
        by_arm = [_tokens(by_id.get(item_id)) for by_id in outcomes.values()]
        if any(by_arm):
            tokens[item_id] = by_arm
        rows.append({key: value for key, value in row.items() if value not in ("", [])})
    return ItemTable(name, [(arm, method) for arm, (method, _) in arms.items()], rows, len(ids), tokens, reason, others)


def arm_name(method: str, folder: Path, seeds: int) -> str:
    """Return the name of an arm: its method, with the seed if the method has several seeds."""
    run, _ = split_run(method)
    prefix = f"{run}{RUN_SEPARATOR}" if run else ""
    return method if seeds == 1 else prefix + folder.parent.name


def _common(outcomes: Mapping[str, Mapping[str, Outcome]], item_id: str) -> dict[str, Any]:
    """Return the kind and the tags of an item, which are the same for all arms."""
    outcome = next(by_id[item_id] for by_id in outcomes.values() if item_id in by_id)
    return {"kind": outcome.kind, "tags": list(outcome.tags)}


def _texts(item: Item) -> dict[str, Any]:
    """Return the captions with their differences marked, or the question with its options and answer."""
    record = item.record
    if isinstance(record, (TwoByTwoItem, CaptionChoice)):
        true = 0 if isinstance(record, TwoByTwoItem) else record.target
        captions = marked_captions(record.captions, true)
        if isinstance(record, TwoByTwoItem):
            return {"captions": captions}
        prompt = conversation_text(record.prompt or "", record.history)
        return {"prompt": prompt, "captions": captions, "targets": targets(item)}
    texts: dict[str, Any] = {"question": record.question, "answer": record.answer}
    texts["options"] = [f"{letter}. {text}" for letter, text in item.options.items()]
    if candidates := scored_candidates(item):
        texts |= {"candidates": candidates, "targets": targets(item)}
    return texts


def marked_captions(captions: Sequence[str], true: int) -> list[list[str]]:
    """Mark the words in which captions differ.

    In the true caption, the words that differ from the first false caption are marked. In every other caption, the
    words that differ from the true caption are marked. Every diff starts from the true caption, because a diff in the
    opposite direction can mark different parts of swapped phrases.
    """
    edits = [word_edits(captions[true], caption) for caption in captions]
    other = edits[1 if true == 0 else 0]
    return [
        marked(caption, [e.chosen for e in other] if place == true else [e.rejected for e in edits[place]])
        for place, caption in enumerate(captions)
    ]


def scored_candidates(item: Item) -> list[str]:
    """Return the candidate answers whose likelihoods can be compared.

    The list is empty for a question with free-form answers.
    """
    if item.style == "closed":
        return list(item.details["candidates"])
    if item.style == "yes_no":
        return ["yes", "no"]
    return list(item.options) if item.style == "letter" else []


def targets(item: Item) -> list[int]:
    """Return the indices of the right captions or candidates of an item that is not 2x2."""
    record = item.record
    if isinstance(record, CaptionChoice):
        return list(range(item.details["true_captions"])) if "true_captions" in item.details else [record.target]
    if isinstance(record, TwoByTwoItem):
        return []
    answers = {record.answer, record.answer.lower()}
    return [place for place, candidate in enumerate(scored_candidates(item)) if candidate in answers]


def is_right(outcome: Outcome) -> bool | None:
    """Return whether an item is right according to its main score. Return None if the item is not graded.

    A 2x2 item is right if all four comparisons are right. An answer with a hallucination is wrong.
    """
    name = next((name for name in MAIN_SCORES if name in outcome.values), None)
    return None if name is None else (outcome.values[name] >= RIGHT) != lower_is_better(name)


def margin_of(scores: Sequence[Any], true: Sequence[int]) -> float | None:
    """Return the lowest score of a right answer minus the highest score of a wrong answer, in the unit of the scores.

    The margin of a 2x2 table (images, captions) is the smallest margin of the four comparisons, so that an item with a
    positive margin is right. Return None if there is no target, or no wrong candidate.
    """
    if scores and isinstance(scores[0], Sequence):
        (a, b), (c, d) = scores
        return float(min(a, d) - max(b, c))
    wrong = [score for place, score in enumerate(scores) if place not in true]
    right = [scores[place] for place in true if place < len(scores)]
    return float(min(right) - max(wrong)) if right and wrong else None


def _tokens(outcome: Outcome | None) -> dict[str, Any] | None:
    return None if outcome is None else outcome.details.get("token_logprobs")


def _result(item: Item | None, outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    result: dict[str, Any] = {"right": is_right(outcome)}
    if scores := outcome.details.get("scores"):
        if isinstance(scores[0], list):
            result["scores"] = [[round(score, 3) for score in row] for row in scores]
            true: list[int] = []
        else:
            result["scores"] = [round(score, 3) for score in scores]
            true = targets(item) if item is not None else []
        if (margin := margin_of(scores, true)) is not None:
            result["margin"] = round(margin, 3)
    response = outcome.details.get("response")
    if isinstance(response, Mapping):  # one reply per question of a 2x2 item
        response = "\n".join(f"{part}: {text}" for part, text in response.items())
    if reply := response or outcome.prediction:
        result["reply"] = reply
    if outcome.status != "ok":
        result["status"] = outcome.status
    return result
