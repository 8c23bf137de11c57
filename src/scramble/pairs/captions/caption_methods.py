"""Methods that prefer a caption to a hard negative: by the embedded world, by rule, or by a language model."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.console import track
from scramble.engines import ReplyStore, open_engine
from scramble.pairs.base import Generator, Similarity, Skip
from scramble.pairs.captions.assemble import caption_pairs
from scramble.pairs.captions.chain_of_thought import CotGenerator
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.captions.world_swaps import WorldNegatives
from scramble.pairs.method import WHOLE, PairMethod, PairMethodError
from scramble.pairs.scoring.score_store import ScoreStore
from scramble.pairs.scoring.stored_models import ScorerSettings, image_text_content
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.tables import read_table
from scramble.world.grammar import GrammarError


class CaptionMethod(PairMethod):
    """Captions preferred to hard negatives that a generator makes from them.

    Args:
        options: options of the generator, see the subclasses.
        similarity: the CLIP or SigLIP model that chooses captions if ``captions_per_image`` is ``clip``, as the fields
            of :class:`scramble.pairs.scoring.stored_models.ScorerSettings`. Its scores are stored in the split's folder
            ``scores/``, so that an interrupted run resumes.
        assembly: options of the pairs, see :func:`scramble.pairs.captions.assemble.caption_pairs`.
    """

    def __init__(
        self,
        *,
        seed: int,
        shard: tuple[int, int] = WHOLE,
        options: Mapping[str, Any] | None = None,
        similarity: Mapping[str, Any] | None = None,
        **assembly: Any,
    ) -> None:
        super().__init__(seed=seed, shard=shard)
        self._options, self._assembly = dict(options or {}), assembly
        self._similarity = None if similarity is None else ScorerSettings(**similarity)
        self._counts: Counter[str] = Counter()

    @abstractmethod
    def generator(self, split: Path) -> Generator:
        """The generator of a split's negatives."""

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        generator = self.generator(split)
        images = self.share(read_table(split, ImageRecord), lambda image: image.image_id)
        watched = track(images, f"negatives for {split.name}")
        yield from caption_pairs(
            watched,
            generator,
            seed=self.seed,
            similarity=self._open_similarity(split),
            counts=self._counts,
            **self._assembly,
        )

    def totals(self) -> dict[str, Any]:
        """The numbers of images, of chosen captions and of negatives."""
        return {"steps": {"images": self.num_items, **self._counts}}

    def _open_similarity(self, split: Path) -> Similarity | None:
        if self._similarity is None or self._assembly.get("captions_per_image") != "clip":
            return None
        store = self._stack.enter_context(ScoreStore(split / "scores" / "captions", self.shard))
        return self._similarity.stored("similarity", store, split, image_text_content)


class WorldCaptions(CaptionMethod):
    """Options: see :class:`scramble.pairs.captions.world_swaps.WorldNegatives`."""

    def generator(self, split: Path) -> Generator:
        return WorldNegatives(**self._options)

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        try:
            yield from super().pairs(split)
        except GrammarError as error:
            raise PairMethodError(
                f"{error}. pairs.method=world reads only the embedded world's captions: choose pairs=rules for "
                "English captions"
            ) from error


class RuleCaptions(CaptionMethod):
    """Options: see :class:`scramble.pairs.captions.rules.generator.RuleGenerator`."""

    def generator(self, split: Path) -> Generator:
        return RuleGenerator(**self._options)


class CotCaptions(CaptionMethod):
    """Options: see :class:`scramble.pairs.captions.chain_of_thought.CotGenerator`.

    Args:
        engine: kind and options, see :func:`scramble.engines.open_engine`. The option ``cleaner`` has the same form.
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
            raise PairMethodError("pairs=cot asks a language model: give pairs.engine (kind, model, base_url)")
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
        """The engines' requests, tokens and cost, and the captions by outcome."""
        return super().totals() | ({} if self._generator is None else {"engine": self._generator.totals()})
