"""Provide three pair methods that pair captions with hard negatives from a grammar, rules or a language model."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from scramble.console import track
from scramble.engines import ReplyStore, open_engine
from scramble.pairs.base import CandidateSet, Generator, Similarity, Skip
from scramble.pairs.captions.assemble import caption_candidates, caption_pairs, in_form
from scramble.pairs.captions.chain_of_thought import CotGenerator
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.captions.world_swaps import WorldNegatives
from scramble.pairs.method import WHOLE, PairMethod, PairMethodError
from scramble.pairs.scoring.score_store import ScoreStore
from scramble.pairs.scoring.stored_models import ScorerSettings, image_text_content
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.tables import read_column, read_table, table_path
from scramble.world.grammar import GrammarError


class CaptionMethod(PairMethod):
    """The base class of methods that pair captions with hard negatives, which a generator derives from the captions.

    Args:
        options: options of the generator (see the subclasses).
        similarity: fields of :class:`scramble.pairs.scoring.stored_models.ScorerSettings` for the CLIP or SigLIP model
            that selects captions if ``captions_per_image`` is ``clip``. The scores of this model are stored in the
            split's folder ``scores/``, so that an interrupted run resumes.
        form, assembly: options of the pairs (see :func:`scramble.pairs.captions.assemble.caption_pairs`).
    """

    def __init__(
        self,
        *,
        seed: int,
        shard: tuple[int, int] = WHOLE,
        options: Mapping[str, Any] | None = None,
        similarity: Mapping[str, Any] | None = None,
        form: Literal["caption", "yes-no", "both"] = "caption",
        **assembly: Any,
    ) -> None:
        super().__init__(seed=seed, shard=shard)
        self._options, self._form, self._assembly = dict(options or {}), form, assembly
        self._similarity = None if similarity is None else ScorerSettings(**similarity)
        self._counts: Counter[str] = Counter()

    @abstractmethod
    def generator(self, split: Path) -> Generator:
        """Return the generator of a split's negatives."""

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        yield from caption_pairs(
            self._images(split), self.generator(split), form=self._form, **self._assembly_options(split)
        )

    def candidates(self, split: Path) -> Iterator[CandidateSet | Skip]:
        yield from caption_candidates(self._images(split), self.generator(split), **self._assembly_options(split))

    def expand(self, pair: PreferencePair) -> tuple[PreferencePair, ...]:
        return in_form(pair, self._form)

    def _assembly_options(self, split: Path) -> dict[str, Any]:
        similarity = self._open_similarity(split)
        return {"seed": self.seed, "similarity": similarity, "counts": self._counts, **self._assembly}

    def _images(self, split: Path) -> Iterator[ImageRecord]:
        images = self.share(read_table(split, ImageRecord), lambda image: image.image_id)
        return track(images, f"negatives for {split.name}")

    def totals(self) -> dict[str, Any]:
        """Return the numbers of images, selected captions and negatives."""
        return {"steps": {"images": self.num_items, **self._counts}}

    def _open_similarity(self, split: Path) -> Similarity | None:
        if self._similarity is None or self._assembly.get("captions_per_image") != "clip":
            return None
        store = self._stack.enter_context(ScoreStore(split / "scores" / "captions", self.shard))
        return self._similarity.stored("similarity", store, split, image_text_content)


class WorldCaptions(CaptionMethod):
    """Pairs captions of the embedded world with negatives that the world's grammar generates by swaps and replacements.

    The options are the arguments of :class:`scramble.pairs.captions.world_swaps.WorldNegatives`.
    """

    def generator(self, split: Path) -> Generator:
        return WorldNegatives(**self._options)

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        with _explain_grammar_errors():
            yield from super().pairs(split)

    def candidates(self, split: Path) -> Iterator[CandidateSet | Skip]:
        with _explain_grammar_errors():
            yield from super().candidates(split)


@contextmanager
def _explain_grammar_errors() -> Iterator[None]:
    """Replace a GrammarError raised in the block with a PairMethodError, which says how to fix the settings."""
    try:
        yield
    except GrammarError as error:
        raise PairMethodError(
            f"{error}. pairs.method=world supports only captions of the embedded world: choose pairs=rules for English "
            "captions"
        ) from error


class RuleCaptions(CaptionMethod):
    """Pairs English captions with negatives that rules generate by swaps and replacements.

    The plausibility of negatives is learned from the captions of the training split, even for other splits.
    The options are the arguments of :class:`scramble.pairs.captions.rules.generator.RuleGenerator`.
    """

    def generator(self, split: Path) -> Generator:
        generator = RuleGenerator(**self._options)
        train = split.parent / "train"
        learned = train if table_path(train, ImageRecord).exists() else split
        generator.learn(text for texts in read_column(learned, ImageRecord, "captions") for text in texts)
        return generator


class CotCaptions(CaptionMethod):
    """Pairs English captions with negatives that a language model writes.

    Args:
        engine: kind and options of the language model (see :func:`scramble.engines.open_engine`).
        options: see :class:`scramble.pairs.captions.chain_of_thought.CotGenerator`. The option ``cleaner`` has the same
            fields as ``engine``.
    """

    def __init__(
        self,
        *,
        seed: int,
        shard: tuple[int, int] = WHOLE,
        engine: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **assembly: Any,
    ) -> None:
        super().__init__(seed=seed, shard=shard, options=options, **assembly)
        if engine is None:
            raise PairMethodError("pairs=cot needs a language model: set pairs.engine (kind, model, base_url)")
        self._engine = engine
        self._generator: CotGenerator | None = None

    @property
    def asks_model(self) -> bool:
        return True

    def generator(self, split: Path) -> Generator:
        options, enter = dict(self._options), self._stack.enter_context
        engine = enter(open_engine(**self._engine))
        if options.get("cleaner"):
            options["cleaner"] = enter(open_engine(**options["cleaner"]))
        self._generator = CotGenerator(engine, enter(ReplyStore(split / "replies", self.shard)), **options)
        return self._generator

    def totals(self) -> dict[str, Any]:
        """Return the totals of the base class, the requests, tokens and cost, and the number of captions by outcome."""
        return super().totals() | ({} if self._generator is None else {"engine": self._generator.totals()})
