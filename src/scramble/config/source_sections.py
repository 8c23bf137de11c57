"""Defines the names, types and ranges of the section ``data``. See :mod:`scramble.config.roots`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from scramble.config.sections import ORDERED, CaptionStyle, NotNegative, QuestionKind
from scramble.field_checks import (
    Bound,
    PositiveInt,
    Section,
    Share,
    Text,
    Variants,
    Whole,
    as_override,
    at_least,
)
from scramble.formats.recognise import READABLE


@dataclass(frozen=True)
class World(Section):
    """The embedded world; see :func:`scramble.world.build_world`."""

    n_train: PositiveInt
    n_val: Whole
    n_test: Whole
    image_size: Annotated[int, at_least(48)]
    objects: Annotated[tuple[PositiveInt, PositiveInt], ORDERED]
    lookalikes: Share
    captions_per_image: PositiveInt
    sized: Share
    questions_per_image: Whole
    question_kinds: list[QuestionKind]
    quads_val: Whole
    quads_test: Whole
    first_train: Whole = 0
    styles: dict[CaptionStyle, NotNegative] | None = None


@dataclass(frozen=True)
class Real(Section):
    """Keys that all sources of real images share."""

    path: Text
    val_fraction: Share
    test_fraction: Share
    embed: bool
    verify: bool
    max_rejected: Share
    limit: PositiveInt | None

    def faults(self, at: str) -> Iterator[str]:
        """Check that the fractions of the validation and test splits sum to at most 1."""
        if self.val_fraction + self.test_fraction > 1:
            yield (
                f"{at}.val_fraction={self.val_fraction:g} and {at}.test_fraction={self.test_fraction:g} must sum to "
                "at most 1, because training uses the remaining images"
            )


@dataclass(frozen=True)
class Coco(Real):
    """COCO captions."""

    split: Text
    images: Text | None


@dataclass(frozen=True)
class ImageFolder(Real):
    """A folder of images with a caption file."""

    images: Text | None
    image_column: Text | None
    caption_column: Text | None
    id_column: Text | None


@dataclass(frozen=True)
class HuggingFace(Real):
    """Any data set that the datasets library can open."""

    name: Text | None
    split: Text
    revision: Text | None
    streaming: bool
    image_column: Text | None
    caption_column: Text | None
    id_column: Text | None


PairFormat = Annotated[str, Bound(lambda value: value in READABLE, f"must be one of {', '.join(READABLE)}")]


@dataclass(frozen=True)
class MixedPairsSection(Section):
    """One input of a mix of preference data."""

    path: Text
    weight: NotNegative
    format: PairFormat | None = None
    columns: dict[Text, Text] = field(default_factory=dict)
    images: Text | None = None
    root: Text | None = None
    resample: bool = False
    name: Text | None = None
    split: Text = "train"
    revision: Text | None = None
    ratings: Literal["best_worst", "all"] = "best_worst"


@dataclass(frozen=True)
class Pairs(Real):
    """Preference data in any known format; see :func:`scramble.sources.preference_data.bundles`."""

    path: Text | None  # type: ignore[assignment]  # null with a mix
    format: PairFormat | None
    columns: dict[Text, Text]
    images: Text | None
    root: Text | None
    resample: bool
    name: Text | None
    split: Text
    revision: Text | None
    ratings: Literal["best_worst", "all"]
    mix: list[MixedPairsSection] | None

    def faults(self, at: str) -> Iterator[str]:
        """Check that there is either a path, or a mix with a weight above 0."""
        yield from super().faults(at)
        if (self.path is None) == (not self.mix):
            yield f"{at} must have a path or a mix: set either {at}.path=... or, for several inputs, {at}.mix=[...]"
        weights = [dict(one).get("weight", 0) for one in self.mix or []]  # type: ignore[call-overload]
        if self.mix and not sum(weights) > 0:
            yield f"{at}.mix: the weights {as_override(weights)} must sum to more than 0"


@dataclass(frozen=True)
class Questions(Real):
    """Questions with answers."""

    images: Text | None


@dataclass(frozen=True)
class SceneGraphs(Real):
    """GQA or Visual Genome: scene graphs and questions."""

    graphs: Text
    questions: Text | None
    images: Text | None
    source: Text


DataSection = Annotated[
    Any,
    Variants(
        "kind",
        {
            "world": World,
            "image_folder": ImageFolder,
            "coco": Coco,
            "hf": HuggingFace,
            "pairs": Pairs,
            "questions": Questions,
            "gqa": SceneGraphs,
            "visual_genome": SceneGraphs,
        },
    ),
]
