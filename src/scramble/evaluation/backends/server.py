"""Replies from a model behind an engine: an OpenAI-compatible server, or vLLM in this process. Generation only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from scramble.engines import Engine, Message, ReplyStore, Request
from scramble.engines.request import encoded
from scramble.evaluation.items import EvaluationError, Query, Reply
from scramble.evaluation.prompts import open_images
from scramble.pixels import png_bytes
from scramble.records import ImageFile


class EngineBackend:
    """Answers queries through an engine; every reply is on disk as it comes, so that a kill loses none.

    The server applies its own chat template and image preparation: a result under a protocol is comparable with one of
    a model in this process as far as these two agree.
    """

    def __init__(self, engine: Engine, store: ReplyStore) -> None:
        self.engine, self.store = engine, store

    def check(self, queries: Iterable[Query]) -> None:
        """Raises EvaluationError for a query that asks for likelihoods. Control tokens in texts are the server's."""
        for query in queries:
            if query.candidates:
                raise EvaluationError(
                    f"{query.query_id} asks how likely given answers are, which an engine does not tell: choose a "
                    "protocol that generates (standard, say, for questions), or run the model in this process"
                )

    def reply(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[list[Reply]]:
        """Replies to each group of queries, in order; images go in front of the text.

        Raises:
            EvaluationError: a query that asks for likelihoods, or one that the server refuses, by its id.
            EngineError: no server, a wrong key or model.
        """
        self.check(query for group in groups for query in group)
        answers = self.engine.generate(_requests(groups, images), self.store)
        for group in groups:
            replies = []
            for query in group:
                answer = next(answers)
                if answer.error:
                    raise EvaluationError(
                        f"item {query.query_id}: no answer from {self.engine.model} ({answer.error}); "
                        "what has been answered is kept"
                    )
                replies.append(Reply(text=answer.text.strip()))
            yield replies

    def chunk_size(self, group: Sequence[Query], images: Mapping[str, ImageFile]) -> int:
        """Many groups: the engine keeps replies itself, and waits for its slowest request at the end of a chunk."""
        return 4 * self.engine.window

    def self_test(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> None:
        """None: what is batched with what is the server's affair."""


def _requests(groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[Request]:
    for group in groups:
        opened = open_images(group[0].image_ids, images, group[0].image_px)
        as_files = group[0].image_px is None  # else they were resized here
        sent = tuple(
            encoded(images[name]) if as_files else png_bytes(image)
            for name, image in zip(group[0].image_ids, opened, strict=True)
        )
        for query in group:
            yield Request((Message("user", query.prompt, sent),), max_tokens=query.max_new_tokens)
