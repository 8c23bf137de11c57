"""Store the scores of models on disk, so that an interrupted run does not compute them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from scramble.storage.hashing import content_key
from scramble.storage.jsonl import JsonLines, read_jsonl

Item = TypeVar("Item")
PATTERN = "scores*.jsonl"


class ScoreStore:
    """The scores stored in a folder.

    All ``scores*.jsonl`` files are read, and each new batch is appended to one of them. As in
    :class:`scramble.engines.ReplyStore`, each shard of a job writes its own file. All scores are held in memory (about
    100 bytes each). Use the store as a context manager.
    """

    def __init__(self, folder: str | Path, shard: tuple[int, int] = (0, 1)) -> None:
        index, count = shard
        name = "scores.jsonl" if count == 1 else f"scores-{index:04d}-of-{count:04d}.jsonl"
        self._file = JsonLines(Path(folder) / name)
        self._scores: dict[int, float] = {}
        for file in sorted(Path(folder).glob(PATTERN)):
            for row in read_jsonl(file):
                self._scores |= {int(key, 16): score for key, score in row.items()}

    def get(self, keys: Sequence[str]) -> list[float] | None:
        """Return the stored scores of content keys, or None if a score is missing."""
        scores = [self._scores.get(int(key, 16)) for key in keys]
        stored = [score for score in scores if score is not None]
        return stored if len(stored) == len(keys) else None

    def add(self, keys: Sequence[str], scores: Sequence[float]) -> None:
        """Write a batch of scores to disk. Raises StoreError if the scores cannot be written."""
        self._file.append(dict(zip(keys, scores, strict=True)))
        self._scores |= {int(key, 16): score for key, score in zip(keys, scores, strict=True)}

    def __len__(self) -> int:
        return len(self._scores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class StoredScorer(Generic[Item]):
    """A scorer whose scores are stored. The model is loaded when a score is missing for the first time.

    If a score of a batch is missing, all scores of the batch are computed, so that a resumed run yields the same scores
    as an uninterrupted run. The last digits of a score can depend on the padding and therefore on the batch.

    Args:
        store: the scores of a split.
        model: the name of the scorer, the path, the revision and the data type, which identify the model.
        load: function that loads the scorer, which is a function from items to their scores.
        content: function that returns the part of the content key that identifies an item.
    """

    def __init__(
        self,
        store: ScoreStore,
        model: Sequence[str | None],
        load: Callable[[], Callable[[Sequence[Item]], Sequence[float]]],
        content: Callable[[Item], object],
    ) -> None:
        self._store, self._model, self._load, self._content = store, tuple(model), load, content
        self._scorer: Callable[[Sequence[Item]], Sequence[float]] | None = None
        self.computed = self.reused = 0

    def __call__(self, items: Sequence[Item]) -> list[float]:
        keys = [content_key(self._model, self._content(item)) for item in items]
        scores = self._store.get(keys)
        if scores is not None:
            self.reused += len(items)
            return scores
        if self._scorer is None:
            self._scorer = self._load()
        scores = [float(score) for score in self._scorer(items)]
        self.computed += len(items)
        self._store.add(keys, scores)
        return scores
