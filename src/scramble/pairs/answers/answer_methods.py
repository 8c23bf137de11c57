"""Provide MPO's data engine as two pair methods, which create pairs of answers from images and questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scramble.console import track
from scramble.engines import Engine, ReplyStore, open_engine
from scramble.pairs.answers.correctness import CorrectnessPairs
from scramble.pairs.answers.dropout_ntp import DropoutNTP, describe
from scramble.pairs.base import Skip, seeded
from scramble.pairs.method import WHOLE, PairMethod, PairMethodError
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import open_table, read_table, table_path

FORMAT = "format"  # folder of the format pairs, next to a split's tables


class AnswerMethod(PairMethod):
    """The base class of methods that create pairs from a model's answers to the questions of a split.

    Args:
        engine: kind and options of the engine (:func:`scramble.engines.open_engine`).
        options: options of the method. :meth:`_set_shared_options` documents the options that all methods share.
    Raises:
        PairMethodError: there is no engine or no question, or an option is invalid.
    """

    name: str

    def __init__(
        self,
        *,
        seed: int,
        shard: tuple[int, int] = WHOLE,
        engine: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(seed=seed, shard=shard)
        if engine is None:
            raise PairMethodError(f"pairs={self.name} needs a model: set pairs.engine (kind, and path or model)")
        self._engine = engine
        self._maker: CorrectnessPairs | DropoutNTP | None = None
        self._options = self._set_shared_options(**(options or {}))

    def _set_shared_options(
        self,
        *,
        splits: Sequence[str] = ("train", "val"),
        limit: int | None = None,
        kinds: Sequence[str] | None = None,
        replies: str | Path | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Set the options that all methods share.

        Args:
            splits: the splits for which to sample answers. No pairs are created for other splits.
            limit: maximum number of questions per split. The seed selects the questions.
            kinds: kinds of questions to use. None uses all kinds.
            replies: folder of the stored replies, which several runs can share. By default, the folder ``replies`` in
                the split's folder is used.
        Returns:
            The other options.
        """
        self._splits, self._limit, self._kinds, self._replies = splits, limit, kinds, replies
        return options

    @property
    def asks_model(self) -> bool:
        return True

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        if split.name not in self._splits:
            return
        engine = self._stack.enter_context(open_engine(**self._engine))
        folder = split / "replies" if self._replies is None else Path(self._replies) / split.name
        yield from self._make(split, engine, self._stack.enter_context(ReplyStore(folder, self.shard)))

    def totals(self) -> dict[str, Any]:
        """Return the requests, tokens and cost of the engine, and the number of questions for each outcome."""
        return {} if self._maker is None else {"engine": self._maker.totals()}

    @abstractmethod
    def _make(self, split: Path, engine: Engine, store: ReplyStore) -> Iterator[PreferencePair | Skip]:
        """Yield the pairs of the selected questions."""

    def _questions(self, split: Path) -> Iterator[Question]:
        if not table_path(split, Question).exists():
            raise PairMethodError(
                f"{split} contains no questions: use data=world, or your own question file (data=questions)"
            )
        yield from read_table(split, Question)

    def _selected(self, split: Path) -> Iterator[Question]:
        questions = [q for q in self._questions(split) if self._kinds is None or q.kind in self._kinds]
        if self._limit is not None and len(questions) > self._limit:
            rng = seeded(self.seed, "questions", split.name)
            questions = [questions[place] for place in sorted(rng.sample(range(len(questions)), self._limit))]
        questions = list(self.share(questions, lambda question: question.question_id))
        return track(questions, f"{self.name} for {split.name}")


class CorrectnessAnswers(AnswerMethod):
    """A pair method in whose pairs a correct answer is preferred to an incorrect answer.

    See :class:`scramble.pairs.answers.correctness.CorrectnessPairs`. The option ``format_pairs`` determines what
    happens to format pairs: ``apart`` writes them to the separate table ``<split>/format/``, ``with`` yields them with
    the other pairs, and ``drop`` discards them.
    """

    name = "correctness"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._format_pairs = self._options.pop("format_pairs", "apart")
        if self._format_pairs not in ("apart", "with", "drop"):
            raise PairMethodError(
                f"pairs.options.format_pairs must be one of 'apart', 'with', 'drop', not {self._format_pairs!r}"
            )
        self._num_apart: int | None = None

    def _make(self, split: Path, engine: Engine, store: ReplyStore) -> Iterator[PreferencePair | Skip]:
        self._maker = maker = CorrectnessPairs(engine, store, seed=self.seed, **self._options)
        apart = None
        if self._format_pairs == "apart" and self.shard == WHOLE:  # several shards would write the same file
            apart = self._stack.enter_context(open_table(split / FORMAT, PreferencePair))
        for question, result in maker.pairs(self._selected(split), ImageTable(split)):
            if isinstance(result, Skip):
                yield _skip_with_question(question, result)
                continue
            yield from result.correctness
            if self._format_pairs == "with":
                yield from result.format
            elif apart is not None:
                for pair in result.format:
                    apart.write(pair)
        self._num_apart = None if apart is None else apart.count

    def totals(self) -> dict[str, Any]:
        """Return the totals of the base class, and the number of format pairs in the separate table."""
        return super().totals() | ({} if self._num_apart is None else {"format_pairs": self._num_apart})


class DropoutAnswers(AnswerMethod):
    """A pair method in whose pairs an answer generated with the image is preferred to one partly generated without it.

    See :class:`scramble.pairs.answers.dropout_ntp.DropoutNTP`. The option ``ask`` lists the sources of the prompts:
    ``questions`` uses the questions of the split, and ``images`` uses the option ``prompt`` for each image with
    captions.
    """

    name = "dropout_ntp"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._ask = self._options.pop("ask", ("questions",))
        self._prompt = self._options.pop("prompt", "Describe the image.")
        if not self._ask or set(self._ask) - {"questions", "images"}:
            raise PairMethodError(f"pairs.options.ask must list 'questions', 'images' or both, not {list(self._ask)}")

    def _make(self, split: Path, engine: Engine, store: ReplyStore) -> Iterator[PreferencePair | Skip]:
        self._maker = maker = DropoutNTP(engine, store, seed=self.seed, **self._options)
        for question, result in maker.pairs(self._selected(split), ImageTable(split)):
            yield _skip_with_question(question, result) if isinstance(result, Skip) else result

    def _questions(self, split: Path) -> Iterator[Question]:
        if "questions" in self._ask:
            yield from super()._questions(split)
        if "images" in self._ask:
            described = (image for image in read_table(split, ImageRecord) if image.captions)
            yield from describe(described, self._prompt)


def _skip_with_question(question: Question, skip: Skip) -> Skip:
    return replace(skip, item={"question": question.question_id, "text": question.question[:500]})
