"""Defines the names, types and ranges of the sections ``engine`` and ``pairs``. See :mod:`scramble.config.roots`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from scramble.config.pair_step_sections import PairSteps, ScorerSection
from scramble.config.sections import (
    ORDERED,
    AnswerRule,
    AskStyle,
    CaptionKind,
    Device,
    Dtype,
    Intervention,
    NotNegative,
    Positive,
    Seed,
    Split,
    Temperature,
    TopP,
)
from scramble.field_checks import (
    NOT_EMPTY,
    Bound,
    PositiveInt,
    Section,
    Share,
    Text,
    Variants,
    Whole,
    as_override,
    at_least,
    between,
)

# -------------------------------------------------------------------------------------------------------------- engines


Address = Annotated[
    str,
    Bound(
        lambda value: urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).netloc),
        "must be a URL such as http://localhost:8000/v1",
    ),
]


@dataclass(frozen=True)
class OpenAI(Section):
    """A server with OpenAI's chat completions API."""

    model: Text
    base_url: Address
    api_key_env: Text | None = None
    concurrency: PositiveInt = 64
    timeout: Positive = 300.0
    attempts: PositiveInt = 6
    backoff: NotNegative = 1.0
    max_backoff: NotNegative = 60.0
    patience: NotNegative = 3600.0
    give_up_after: PositiveInt = 16
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    extra_body: dict[str, Any] | None = None
    price_prompt: NotNegative = 0.0
    price_completion: NotNegative = 0.0


@dataclass(frozen=True)
class Transformers(Section):
    """A model that the command runs with transformers."""

    path: Text
    revision: Text | None = None
    dtype: Dtype = "auto"
    device: Device | None = None
    batch_size: PositiveInt = 8
    loading: dict[str, Any] | None = None


@dataclass(frozen=True)
class Vllm(Section):
    """A model that the command runs with vLLM, without a server."""

    path: Text
    revision: Text | None = None
    dtype: Text = "auto"
    batch_size: PositiveInt = 1024
    options: dict[str, Any] | None = None


EngineSection = Annotated[Any, Variants("kind", {"openai": OpenAI, "transformers": Transformers, "vllm": Vllm})]


# ---------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class Refine(Section):
    """Refinement against text-only classifiers; see :func:`scramble.pairs.audit.refine.select`."""

    exponent: NotNegative = 2.0


@dataclass(frozen=True)
class MethodSection(PairSteps):
    """Keys that all methods share."""

    audit: bool = True
    refine: Refine | None = None


@dataclass(frozen=True)
class Given(MethodSection):
    """Pairs that the data set already contains. ``prompt`` and ``captions_per_image`` have no effect and are accepted
    only because experiments set them.
    """

    has_columns: ClassVar[bool] = True

    prompt: Text = ""
    captions_per_image: Text = ""


@dataclass(frozen=True)
class CaptionNegatives(MethodSection):
    """Hard negatives of captions; see :func:`scramble.pairs.captions.assemble.caption_pairs`."""

    prompt: Text = "caption:"
    per_caption: PositiveInt = 1
    kinds: Annotated[list[CaptionKind], NOT_EMPTY] | None = None
    captions_per_image: Literal["all", "one", "clip"] = "all"
    form: Literal["caption", "yes-no", "both"] = "caption"
    similarity: ScorerSection | None = None
    surface: bool = True

    def faults(self, at: str) -> Iterator[str]:
        """Check that a model is set if captions are selected by similarity, and that only caption pairs are scored."""
        yield from super().faults(at)
        if self.captions_per_image == "clip" and self.similarity is None:
            yield f"{at}.captions_per_image=clip needs a CLIP or SigLIP model: set {at}.similarity.path"
        scores: Any = self.scores or {}  # a checked mapping
        if self.form != "caption" and any(scores.values()):
            yield (
                f"{at}.form={self.form} must be 'caption' if {at}.scores is set, because the answers Yes and No cannot "
                "be scored"
            )


@dataclass(frozen=True)
class WorldOptions(Section):
    """Options of the generator of the embedded world."""

    check: bool = True
    kinds: list[CaptionKind] | None = None


@dataclass(frozen=True)
class WorldMethod(CaptionNegatives):
    """Swaps and replacements in captions of the embedded world."""

    options: WorldOptions | None = None


@dataclass(frozen=True)
class RulesOptions(Section):
    """Options of the rule-based generator."""

    pipeline: Text = "en_core_web_sm"
    rules: Annotated[list[Literal["swap", "replace"]], NOT_EMPTY] = field(default_factory=lambda: ["swap", "replace"])
    processes: PositiveInt = 1
    lexicon: Text | None = None
    min_lift: float = -2.0
    min_replacement_lift: float = -0.5
    min_replacement_odds: float = -2.0
    min_swap_odds: float = -2.0


@dataclass(frozen=True)
class RulesMethod(CaptionNegatives):
    """Rule-based swaps and replacements."""

    options: RulesOptions | None = None


@dataclass(frozen=True)
class CotOptions(Section):
    """Options of rearrangements by a language model."""

    prompt: Text = "rearrange"
    cleaner: EngineSection | None = None
    pipeline: Text = "en_core_web_sm"
    samples: PositiveInt = 1
    temperature: Temperature = 0.2
    top_p: TopP = 0.9
    max_tokens: PositiveInt = 800
    length_ratio: Annotated[tuple[NotNegative, NotNegative], ORDERED] = (0.7, 1.2)
    content_kept: Share | None = None
    seed: Seed = 0


@dataclass(frozen=True)
class CotMethod(CaptionNegatives):
    """Rearrangements by a language model."""

    kinds: Annotated[list[Text], NOT_EMPTY] | None = None  # type: ignore[assignment]  # a user's prompt defines a kind
    engine: EngineSection | None = None
    options: CotOptions | None = None

    def faults(self, at: str) -> Iterator[str]:
        """Check that an engine is configured."""
        yield from super().faults(at)
        if self.engine is None:
            yield (
                f"{at}.engine is null, but pairs=cot needs a language model: set engine@{at}.engine=openai and its keys"
            )


@dataclass(frozen=True)
class SceneAlignOptions(Section):
    """Options of SceneAlign's interventions."""

    rewrite: Literal["template", "words", "engine"] = "template"
    kinds: dict[Intervention, NotNegative | None] | None = None
    per_question: PositiveInt = 1
    edits: dict[Any, NotNegative] | None = None
    distance: Annotated[tuple[Whole, Whole], ORDERED] | None = None
    answer: Literal["follow", "keep"] = "follow"
    balance: Literal["pad", "none"] = "pad"
    graphs: Literal["given", "captions", "engine"] = "given"
    pipeline: Text | None = None
    generate_rationales: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: PositiveInt | None = None

    def faults(self, at: str) -> Iterator[str]:
        """Check that at least one kind has a weight above 0, that ``edits`` are valid, and that ``rewrite`` uses all
        options that are set.
        """
        if self.kinds is not None and not any(self.kinds.values()):
            yield f"{at}.kinds={as_override(self.kinds)} must contain at least one weight above 0"
        if self.edits is not None and (bad := [n for n in self.edits if not str(n).isdecimal() or int(n) < 1]):
            edits = as_override(self.edits)
            yield f"{at}.edits={edits} must map numbers of edits (1 or more) to weights, not {bad[0]}"
        for name in ("generate_rationales", "temperature", "top_p", "max_tokens"):
            needed = ("words", "engine") if name == "generate_rationales" else ("engine",)
            if getattr(self, name) is not None and self.rewrite not in needed:
                yield f"{at}.{name} must be null unless {' or '.join(f'{at}.rewrite={value}' for value in needed)}"


@dataclass(frozen=True)
class SceneAlignMethod(MethodSection):
    """Rationales written from edited scene graphs."""

    prompt: Text = "{question}"
    engine: EngineSection | None = None
    options: SceneAlignOptions | None = None

    def faults(self, at: str) -> Iterator[str]:
        """Check that an engine is configured if an option needs an engine."""
        yield from super().faults(at)
        options: Any = self.options or {}
        needs_engine = isinstance(options, Mapping) and "engine" in (options.get("rewrite"), options.get("graphs"))
        if needs_engine and self.engine is None:
            yield (
                f"{at}.engine is null, but {at}.options need a language model: set engine@{at}.engine=openai and its "
                "keys"
            )


@dataclass(frozen=True)
class Sampled(Section):
    """Options that the two MPO methods share."""

    splits: Annotated[list[Split], NOT_EMPTY] = field(default_factory=lambda: ["train", "val"])
    limit: PositiveInt | None = None
    kinds: Annotated[list[Text], NOT_EMPTY] | None = None
    replies: Text | None = None
    temperature: Temperature = 1.0
    top_k: Whole | None = 50
    top_p: TopP = 1.0
    max_tokens: PositiveInt = 1024


@dataclass(frozen=True)
class CorrectnessOptions(Sampled):
    """Options of the correctness pairs."""

    styles: Annotated[list[AskStyle], NOT_EMPTY] = field(default_factory=lambda: ["steps", "boxed", "think"])
    samples: Annotated[int, at_least(2)] = 32
    pairs: PositiveInt = 15
    rule: AnswerRule | Literal["auto"] = "auto"
    rules: dict[Text, AnswerRule] | None = None
    format_pairs: Literal["apart", "with", "drop"] = "apart"


@dataclass(frozen=True)
class CorrectnessMethod(MethodSection):
    """Correct answers are preferred to incorrect answers."""

    engine: EngineSection = None
    options: CorrectnessOptions | None = None


@dataclass(frozen=True)
class DropoutOptions(Sampled):
    """Options of DropoutNTP."""

    ask: Annotated[list[Literal["questions", "images"]], NOT_EMPTY] = field(default_factory=lambda: ["questions"])
    prompt: Text = "Describe the image."
    start_ratio: Annotated[float, between(0, 1, with_most=False)] = 0.5


@dataclass(frozen=True)
class DropoutMethod(MethodSection):
    """Answers are preferred to answers that were partly generated without the image."""

    engine: EngineSection = None
    options: DropoutOptions | None = None


METHOD_SECTIONS: dict[str, type[Section]] = {
    "world": WorldMethod,
    "rules": RulesMethod,
    "cot": CotMethod,
    "scenealign": SceneAlignMethod,
    "correctness": CorrectnessMethod,
    "dropout_ntp": DropoutMethod,
    "given": Given,
}


@dataclass(frozen=True)
class MixMethod(MethodSection):
    """Several methods, mixed with the given weights."""

    has_columns: ClassVar[bool] = True  # the columns of the parts

    parts: Annotated[dict[Text, Annotated[Any, Variants("method", METHOD_SECTIONS)]], NOT_EMPTY] = field(
        default_factory=dict
    )
    weights: dict[Text, Positive] | None = None

    @classmethod
    def renamed(cls) -> Mapping[str, str]:
        """Return a mapping from keys of a single method to the keys to use instead."""
        return {name: f"pairs.parts.<part>.{name}" for name in ("engine", "options")}

    def faults(self, at: str) -> Iterator[str]:
        """Check that parts and weights have the same names."""
        yield from super().faults(at)
        for name in [] if self.weights is None else sorted(set(self.parts) ^ set(self.weights)):
            yield f"{at}.parts and {at}.weights must contain the same names, but only one of them contains {name}"


Method = Annotated[Any, Variants("method", {**METHOD_SECTIONS, "mix": MixMethod})]
