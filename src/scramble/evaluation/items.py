"""Define the data types of an evaluation: items, benchmarks, queries to a model, and the model's replies."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from scramble.records import LETTERS, ImageFile, Question, RecordError, Turn, TwoByTwoItem
from scramble.storage.image_table import replace_image


class EvaluationError(ValueError):
    """Raised if data, settings or results cannot be evaluated. The message names the cause and the fix."""


def name_hint(name: object, names: Iterable[str]) -> str:
    """Return a hint for a message: up to three similar names or, if no name is similar, all names."""
    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, cutoff=0.4)
    return f"(did you mean {' or '.join(close)}?)" if close else f"(choose one of {', '.join(known)})"


AnswerStyle = Literal["quad", "captions", "yes_no", "letter", "short", "closed", "free", "rationale"]
"""How an item is answered:

============= ===================================================================================================
``quad``      two captions are matched with two images
``captions``  one of several captions is chosen
``yes_no``    yes or no
``letter``    the letter of an option
``short``     a word or phrase
``closed``    one of the answers in ``details["candidates"]``
``free``      free text, graded by a judge or by rule
``rationale`` reasoning steps and an answer; the scene graph in ``details["graph"]`` decides which steps are true
============= ===================================================================================================
"""


@dataclass(frozen=True, slots=True)
class CaptionChoice:
    """Several captions of an image, of which ``captions[target]`` is true, or several answers to a prompt about any
    number of images.

    ``prompt`` is the question that the captions answer, and ``history`` contains the turns before it. If ``prompt`` is
    None, the benchmark's caption prompt is used. If the benchmark has no caption prompt, the protocol's caption prompt
    is used.
    """

    item_id: str
    image_ids: tuple[str, ...]
    captions: tuple[str, ...]
    target: int = 0
    kind: str = ""
    prompt: str | None = None
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One scored item. Items of one ``group`` (an MMVP pair, a NaturalBench group) are scored together, and ``limit``
    never splits a group.

    ``details["rule"]`` names the rule that grades a generated answer. :mod:`scramble.evaluation.scoring.answer_rules`
    lists the rules of each style.
    """

    record: TwoByTwoItem | CaptionChoice | Question
    style: AnswerStyle
    group: str = ""
    tags: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def item_id(self) -> str:
        return self.record.question_id if isinstance(self.record, Question) else self.record.item_id

    @property
    def image_ids(self) -> tuple[str, ...]:
        return self.record.image_ids

    @property
    def image_sets(self) -> tuple[tuple[str, ...], ...]:
        """The images with which each caption is scored: one image of a 2x2 item at a time, otherwise all images."""
        if isinstance(self.record, TwoByTwoItem):
            return tuple((image_id,) for image_id in self.record.image_ids)
        return (self.record.image_ids,)

    @property
    def kind(self) -> str:
        return self.record.kind

    @property
    def options(self) -> dict[str, str]:
        """The options of a question by letter. The letters are A, B, ..., unless ``details["letters"]`` lists different
        letters (for example A, B, D).
        """
        choices = self.record.choices if isinstance(self.record, Question) else ()
        return dict(zip(self.details.get("letters", LETTERS), choices, strict=False))


class _ImageHashes(dict[str, str]):
    """See :attr:`Benchmark.image_hashes`."""

    def __init__(self, images: Mapping[str, ImageFile]) -> None:
        super().__init__()
        self._images = images

    def __missing__(self, image_id: str) -> str:
        if image_id not in self._images:
            raise EvaluationError(f"the image {image_id!r} of an item is missing: download the data again")
        file = self._images[image_id]
        try:
            file = replace(file, bytes=file.read())
            file.check()  # before the model is loaded
        except RecordError as error:
            fix = replace_image(self._images, image_id)
            raise RecordError(f"image {image_id!r} cannot be used ({error}): {fix}") from error
        self[image_id] = file.sha256
        return self[image_id]


@dataclass(frozen=True)
class Benchmark:
    """A loaded benchmark.

    Attributes:
        name: the name in configurations.
        version: the version of the data. It contains, for example, the number of items, a hash, or whether the labels
            are original or corrected.
        items: the items in the benchmark's order.
        images: mapping from image ids to encoded images, which are read on demand.
        scoring: name of the function in :mod:`scramble.evaluation.scoring.aggregation` that computes scores from
            outcomes.
        chance, human: chance level and human score in percent, by the name of the score.
        default_protocol: the protocol that ``protocol=default`` selects for this benchmark.
        caption_prompt, yes_template: prompts with which the models of the embedded world were trained. If they are
            None, the protocol's prompts are used.
    """

    name: str
    version: str
    items: tuple[Item, ...]
    images: Mapping[str, ImageFile]
    scoring: str
    chance: Mapping[str, float] = field(default_factory=dict)
    human: Mapping[str, float] = field(default_factory=dict)
    default_protocol: str = "standard"
    caption_prompt: str | None = None
    yes_template: str | None = None

    @cached_property
    def image_hashes(self) -> Mapping[str, str]:
        """Hashes of the images' bytes by image id. Each hash is computed once, on first access.

        Raises EvaluationError for an id without an image, and RecordError for a file that is not an image.
        """
        return _ImageHashes(self.images)


@dataclass(frozen=True, slots=True)
class Query:
    """One question to the model about some images. The model scores the ``candidates`` as answers. If there are no
    candidates, the model generates an answer.

    ``score_end`` is true if the end-of-turn token counts as part of an answer. ``image_px`` is the side length in
    pixels of the square to which images are resized. If it is None, images are not resized. ``history`` contains the
    turns before the prompt. Images that are not in ``history`` precede the prompt.
    """

    query_id: str
    image_ids: tuple[str, ...]
    prompt: str
    candidates: tuple[str, ...] = ()
    score_end: bool = True
    max_new_tokens: int = 0
    image_px: int | None = None
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryReply:
    """The model's reply to a query: the log-probability (nats, summed over tokens) and token count of each candidate,
    or the generated text. ``token_logprobs`` contains the (token, log-probability) pairs of each candidate, if they
    were requested. ``refusal`` is the reason why the model cannot answer the query.
    """

    logprobs: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    text: str | None = None
    token_logprobs: tuple[tuple[tuple[str, float], ...], ...] = ()
    refusal: str = ""


@runtime_checkable
class ModelBackend(Protocol):
    """The interface to the evaluated model, which is loaded in the same process
    (:class:`scramble.evaluation.backends.local.LocalBackend`) or runs behind an engine
    (:class:`scramble.evaluation.backends.server.EngineBackend`).
    """

    def check(self, queries: Iterable[Query]) -> Mapping[str, str]:
        """Return, by query id, the reasons why the model cannot answer some of the queries. This method is called
        before :meth:`reply`.

        Raises EvaluationError, which names the item, if the backend rejects a query.
        """

    def reply(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[list[QueryReply]]:
        """Yield the replies to each group of queries, in order. The queries of a group have the same images, image
        size, history and kind.
        """

    def chunk_size(self, group: Sequence[Query], images: Mapping[str, ImageFile]) -> int:
        """Return the number of groups that are processed between two writes of replies, estimated from one group."""

    def self_test(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> dict[str, Any] | None:
        """Compare the replies to a few groups at batch size 1 with the replies in a larger batch, and return the
        differences. Return None if the backend does not control the batch size.
        """


def limit_items(items: tuple[Item, ...], limit: int | None) -> tuple[Item, ...]:
    """Return the first ``limit`` items and all other items of their groups, so that no group is incomplete."""
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise EvaluationError(f"limit must be at least 1, not {limit}")
    groups = {item.group or item.item_id for item in items[:limit]}
    return tuple(item for item in items if (item.group or item.item_id) in groups)
