"""Generate replies with an engine: an OpenAI-compatible server or in-process vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from scramble.engines import Engine, Message, ReplyStore, Request
from scramble.engines.request import encoded
from scramble.evaluation.items import EvaluationError, Query, QueryReply
from scramble.evaluation.prompts import open_images
from scramble.pixels import png_bytes
from scramble.records import ImageFile, conversation


class EngineBackend:
    """Answers queries through an engine. Every reply is stored as soon as it arrives, so that an interrupted run loses
    at most the replies to requests in flight.

    The engine applies its own chat template and image preprocessing. The results are comparable with results without an
    engine only if both use the same template and preprocessing.
    """

    def __init__(self, engine: Engine, store: ReplyStore) -> None:
        self.engine, self.store = engine, store

    def check(self, queries: Iterable[Query]) -> dict[str, str]:
        """Raise EvaluationError for a query that asks for likelihoods. Texts are not checked for control tokens,
        because the engine encodes the texts.
        """
        for query in queries:
            if query.candidates:
                raise EvaluationError(
                    f"item {query.query_id} asks for the likelihood of given answers, which an engine does not return: "
                    "choose a generative protocol (protocol=standard for questions), or omit engine=..."
                )
        return {}

    def reply(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[list[QueryReply]]:
        """Yield the replies to each group of queries, in order. Images precede the text of their turn.

        Raises:
            EvaluationError: the server rejects a query; the message names the query's id.
            EngineError: the server cannot be reached, or the key or model is wrong.
        """
        answers = self.engine.generate(_requests(groups, images), self.store)
        for group in groups:
            replies = []
            for query in group:
                answer = next(answers)
                if answer.error:
                    raise EvaluationError(
                        f"item {query.query_id}: no answer from {self.engine.model} ({answer.error}): repeat the "
                        "command when the cause is fixed; earlier answers are stored"
                    )
                replies.append(QueryReply(text=answer.text.strip()))
            yield replies

    def chunk_size(self, group: Sequence[Query], images: Mapping[str, ImageFile]) -> int:
        """Return a large number of groups per chunk: every chunk waits for its slowest request, so there should be few
        chunks. An interrupted chunk loses no reply that has arrived, because the engine stores each reply itself.
        """
        return 4 * self.engine.window

    def self_test(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> None:
        """Return None, because the engine decides which requests it batches."""


def _requests(groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[Request]:
    for group in groups:
        opened = open_images(group[0].image_ids, images, group[0].image_px)
        as_files = group[0].image_px is None  # otherwise the images were resized above
        sent = tuple(
            encoded(images[name]) if as_files else png_bytes(image)
            for name, image in zip(group[0].image_ids, opened, strict=True)
        )
        for query in group:
            files = iter(sent)
            turns = conversation(query.prompt, len(sent), query.history)
            messages = (Message(turn.role, turn.text, tuple(islice(files, turn.num_images))) for turn in turns)
            yield Request(tuple(messages), max_tokens=query.max_new_tokens)
