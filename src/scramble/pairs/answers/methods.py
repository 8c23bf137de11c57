"""MPO's data engine on a data set folder: its images and questions, as a stream of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from scramble.console import track
from scramble.pairs.base import Skip, seeded
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import open_table, read_table, table_path

METHODS = ("correctness", "dropout_ntp")
FORMAT = "format"  # folder beside a split's tables, for the pairs that are about form alone
OnSkip = Callable[[dict[str, Any]], None]
Stream = tuple[Iterator[PreferencePair], Callable[[], dict[str, Any]]]


class DataEngineError(ValueError):
    """Settings or data that MPO's data engine cannot work with. The message says which and the way out."""


def folder_pairs(
    folder: Path,
    stack: ExitStack,
    on_skip: OnSkip,
    *,
    method: str,
    seed: int,
    engine: Mapping[str, Any] | None = None,
    splits: Sequence[str] = ("train", "val"),
    limit: int | None = None,
    kinds: Sequence[str] | None = None,
    replies: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    **options: Any,
) -> Stream:
    """The pairs of a split's folder, and a function that says what was counted (call it when the stream has ended).

    Args:
        stack: closes what is opened (engine, store of replies, table of format pairs).
        method: ``correctness`` or ``dropout_ntp``.
        engine: kind and options, see :func:`scramble.engines.open_engine`.
        splits: the splits to sample for; the others get no pairs.
        limit: at most so many questions a split, drawn by the seed.
        kinds: if given, only questions of these kinds.
        replies: folder of the replies, shared by several runs; the split's own by default.
        shard: (i, n): only the i-th of n parts of the questions, by their ids. A run without it finds the replies of
            all parts that share its folder of replies.
        options: of the method, see :func:`correctness` and :func:`dropout_ntp`.
    Raises:
        DataEngineError: no engine, no questions, or options that do not fit.
    """
    if folder.name not in splits:
        return iter(()), dict
    if engine is None:
        raise DataEngineError(f"negatives={method} samples from a model: give negatives.engine (kind, path or model)")

    from scramble.engines import ReplyStore, in_shard, open_engine

    def asked(questions: Iterable[Question]) -> Iterator[Question]:
        chosen = [q for q in questions if kinds is None or q.kind in kinds]
        if limit is not None and len(chosen) > limit:
            places = sorted(seeded(seed, "questions", folder.name).sample(range(len(chosen)), limit))
            chosen = [chosen[n] for n in places]
        chosen = [q for q in chosen if in_shard(q.question_id, shard)]
        return track(chosen, f"{method} for {folder.name}")

    opened = stack.enter_context(open_engine(**engine))
    place = folder / "replies" if replies is None else Path(replies) / folder.name
    store = stack.enter_context(ReplyStore(place, (shard[0], shard[1])))
    make = correctness if method == "correctness" else dropout_ntp
    return make(folder, stack, on_skip, opened, store, asked, seed=seed, **options)


def correctness(
    folder: Path,
    stack: ExitStack,
    on_skip: OnSkip,
    engine: Any,
    store: Any,
    asked: Callable[[Iterable[Question]], Iterator[Question]],
    *,
    seed: int,
    format_pairs: str = "apart",
    **options: Any,
) -> Stream:
    """Pairs of right and wrong answers to the folder's questions.

    Args:
        format_pairs: what becomes of pairs about form alone: ``apart`` (a table of their own, ``<split>/format/``),
            ``with`` (among the others) or ``drop``.
        options: see :class:`scramble.pairs.answers.correctness.CorrectnessPairs`.
    """
    from scramble.pairs.answers.correctness import CorrectnessPairs

    if format_pairs not in ("apart", "with", "drop"):
        raise DataEngineError(f"format_pairs={format_pairs!r}: choose apart, with or drop")
    maker = CorrectnessPairs(engine, store, seed=seed, **options)
    apart = stack.enter_context(open_table(folder / FORMAT, PreferencePair)) if format_pairs == "apart" else None

    def stream() -> Iterator[PreferencePair]:
        for question, found in maker.pairs(asked(_questions(folder)), ImageTable(folder)):
            if isinstance(found, Skip):
                on_skip(_row(question, found))
                continue
            yield from found.correctness
            if format_pairs == "with":
                yield from found.format
            elif apart is not None:
                for pair in found.format:
                    apart.write(pair)

    def counted() -> dict[str, Any]:
        return {"engine": maker.totals()} | ({"format_pairs": apart.count} if apart is not None else {})

    return stream(), counted


def dropout_ntp(
    folder: Path,
    stack: ExitStack,
    on_skip: OnSkip,
    engine: Any,
    store: Any,
    asked: Callable[[Iterable[Question]], Iterator[Question]],
    *,
    seed: int,
    ask: Sequence[str] = ("questions",),
    prompt: str = "Describe the image.",
    **options: Any,
) -> Stream:
    """Answers against their blind continuation.

    Args:
        ask: ``questions`` (the folder's), ``images`` (each image is asked ``prompt``), or both.
        options: see :class:`scramble.pairs.answers.dropout_ntp.DropoutNTP`.
    """
    from scramble.pairs.answers.dropout_ntp import DropoutNTP, describe

    if not ask or set(ask) - {"questions", "images"}:
        raise DataEngineError(f"ask={list(ask)}: name questions, images or both")
    maker = DropoutNTP(engine, store, seed=seed, **options)

    def questions() -> Iterator[Question]:
        if "questions" in ask:
            yield from _questions(folder)
        if "images" in ask:
            described = (image for image in read_table(folder, ImageRecord) if image.captions)
            yield from describe(described, prompt)

    def stream() -> Iterator[PreferencePair]:
        for question, found in maker.pairs(asked(questions()), ImageTable(folder)):
            if isinstance(found, Skip):
                on_skip(_row(question, found))
            else:
                yield found

    return stream(), lambda: {"engine": maker.totals()}


def _questions(folder: Path) -> Iterator[Question]:
    if not table_path(folder, Question).exists():
        raise DataEngineError(
            f"{folder} has no questions: they come with data=world, or from a file of yours (data=questions)"
        )
    return cast(Iterator[Question], read_table(folder, Question))


def _row(question: Question, skip: Skip) -> dict[str, Any]:
    return {"question": question.question_id, "text": question.question[:500], "reason": skip.reason}
