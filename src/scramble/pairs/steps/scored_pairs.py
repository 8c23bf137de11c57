"""Score both texts of every pair with models. The scores become columns of the pair."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from scramble.pairs.base import Skip
from scramble.pairs.filters import score_images, score_pairs
from scramble.pairs.method import PairMethod
from scramble.pairs.scoring.score_store import ScoreStore, StoredScorer
from scramble.pairs.scoring.stored_models import ScorerSettings, image_text_content
from scramble.pairs.steps.pair_step import PairStep
from scramble.records import PreferencePair
from scramble.storage.image_table import ImageTable


class ScoredPairs(PairStep):
    """A step that adds scores of both texts to each pair, as the columns ``<name>.chosen`` and ``<name>.rejected``.

    The scores are stored in the folder ``scores/`` of the split, so that an interrupted run can resume.

    Args:
        method: the method that creates the pairs.
        scorers: at least one model, by its name in :data:`scramble.pairs.scoring.stored_models.SCORERS`.
    """

    name = "scored"

    def __init__(self, method: PairMethod, scorers: Mapping[str, ScorerSettings]) -> None:
        super().__init__(method)
        self._scorers = scorers
        self._opened: dict[str, StoredScorer[Any]] = {}

    def process(self, stream: Iterator[PreferencePair | Skip], split: Path) -> Iterator[PreferencePair | Skip]:
        with ExitStack() as stack:
            store = stack.enter_context(ScoreStore(split / "scores" / "pairs", self.shard))
            for name, settings in self._scorers.items():
                content = image_text_content if name == "similarity" else str
                self._opened[name] = settings.stored(name, store, split, content)
            texts: dict[str, Any] = {name: scorer for name, scorer in self._opened.items() if name != "similarity"}
            scored = _with_skips(stream, partial(score_pairs, scorers=texts)) if texts else stream
            if "similarity" in self._opened:
                similarity, images = self._opened["similarity"], ImageTable(split)
                scored = _with_skips(scored, partial(score_images, similarity=similarity, images=images))
            yield from scored

    def totals(self) -> dict[str, Any]:
        """Return the totals of the base class, and the numbers of computed and of reused scores for each model."""
        numbers = {
            name: {"computed": scorer.computed, "reused": scorer.reused} for name, scorer in self._opened.items()
        }
        return super().totals() | {"scores": numbers}

    def store_replies(self, split: Path) -> int:
        """Store the model's replies about this shard's items, and the scores of their pairs."""
        return PairMethod.store_replies(self, split)


def _with_skips(
    stream: Iterator[PreferencePair | Skip], score: Callable[[Iterator[PreferencePair]], Iterator[PreferencePair]]
) -> Iterator[PreferencePair | Skip]:
    """Apply a function to the pairs of a stream, and yield skipped items unchanged."""
    skips: deque[Skip] = deque()

    def only_pairs() -> Iterator[PreferencePair]:
        for pair_or_skip in stream:
            if isinstance(pair_or_skip, Skip):
                skips.append(pair_or_skip)
            else:
                yield pair_or_skip

    for pair in score(only_pairs()):
        while skips:
            yield skips.popleft()
        yield pair
    yield from skips
