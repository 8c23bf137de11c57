"""Compute the replies of a model without an engine. Likelihoods are computed with the token trie, and text is generated
with shared prefixes.

If the model family does not support tries, each row contains one sequence, and prompts are answered one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scramble.evaluation.items import EvaluationError, Query, QueryReply
from scramble.evaluation.prompts import QueryEncoder, open_images, score_queries
from scramble.models import VLM, ModelError, Prompt
from scramble.models.generation import generate_greedy
from scramble.records import ImageFile
from scramble.trie.score import default_batch_tokens


class LocalBackend:
    """Answers queries with one loaded model.

    ``batch_tokens`` is the maximum number of positions in one forward pass (default: 1,024 on a CPU, 8,192 on a GPU).
    A longer row is processed alone. With ``token_logprobs``, replies to queries with candidates contain the
    log-probability of each token. All queries use the same prompt encoder, so that the position of the images in a
    prompt is determined only once.
    """

    def __init__(self, vlm: VLM, batch_tokens: int | None = None, *, token_logprobs: bool = False) -> None:
        self.vlm, self.token_logprobs = vlm, token_logprobs
        self.batch_tokens = batch_tokens or default_batch_tokens(vlm.backbone.head.weight.device)
        self.encoder = QueryEncoder(vlm.family, vlm.processor, vlm.family.max_length(vlm.backbone.model.config))

    def check(self, queries: Iterable[Query]) -> dict[str, str]:
        """Return the reasons why the chat template does not accept some of the queries, by query id."""
        family, processor = self.vlm.family, self.vlm.processor
        queries, refused = list(queries), []
        for query in queries:
            try:
                family.check_text(processor, query.prompt, query.history)
                for text in query.candidates:
                    family.check_text(processor, text)
            except ModelError as error:
                refused.append(f"item {query.query_id}: {error}")
        if refused:
            raise EvaluationError(
                f"{refused[0]}, or remove the item from the benchmark's file"
                f"{f' (number of affected queries: {len(refused)})' if len(refused) > 1 else ''}"
            )
        refusals = {}
        for query in (query for query in queries if query.history):
            try:
                family.render_prompt(processor, query.prompt, len(query.image_ids), query.history)
            except ModelError as error:
                refusals[query.query_id] = str(error)
        return refusals

    def reply(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[list[QueryReply]]:
        likelihood = [group for group in groups if group[0].candidates]
        generated = [group for group in groups if not group[0].candidates]
        scored, written = self._score(likelihood, images), self._generate(generated, images)
        for group in groups:
            yield next(scored) if group[0].candidates else next(written)

    def _score(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> Iterator[list[QueryReply]]:
        opened = ((group, open_images(group[0].image_ids, images, group[0].image_px)) for group in groups)
        results = score_queries(self.vlm, self.encoder, opened, batch_tokens=self.batch_tokens)
        for group, result in zip(groups, results, strict=True):
            parts = iter(result)
            replies = []
            for query in group:
                own = [next(parts) for _ in query.candidates]
                tokens = tuple(
                    tuple(zip(self.encoder.token_texts(text, len(score.tokens)), score.tokens, strict=True))
                    for text, score in zip(query.candidates, own if self.token_logprobs else (), strict=False)
                )
                replies.append(
                    QueryReply(tuple(s.sum for s in own), tuple(len(s.tokens) for s in own), token_logprobs=tokens)
                )
            yield replies

    def _generate(
        self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]
    ) -> Iterator[list[QueryReply]]:
        """Yield greedy replies."""
        for batch in self._batches(groups, images):
            for texts in generate_greedy(self.vlm, *zip(*batch, strict=True)):
                yield [QueryReply(text=text) for text in texts]

    def _batches(
        self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]
    ) -> Iterator[list[tuple[list[Prompt], list[int]]]]:
        """Yield batches of as many image sets as fit in ``batch_tokens``. An image set is represented by the prompts
        about its images and the maximum number of new tokens of each reply.
        """
        batch: list[tuple[list[Prompt], list[int]]] = []
        for group in groups:
            opened = open_images(group[0].image_ids, images, group[0].image_px)
            prompts = self.encoder.prompts([query.prompt for query in group], opened, group[0].history)
            for query, prompt in zip(group, prompts, strict=True):
                self.encoder.check_length(len(prompt.input_ids) + query.max_new_tokens, query)
            row = (prompts, [query.max_new_tokens for query in group])
            if batch and max(_tokens(p) for p, _ in [*batch, row]) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def chunk_size(self, group: Sequence[Query], images: Mapping[str, ImageFile]) -> int:
        """Return the number of groups per chunk: 64 for short prompts, fewer for long prompts, at least 1."""
        opened = open_images(group[0].image_ids, images, group[0].image_px)
        prompt = self.encoder.prompts([group[0].prompt], opened, group[0].history)[0]
        return max(1, min(64, 4 * self.batch_tokens // max(1, len(prompt.input_ids))))

    def self_test(self, groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> dict[str, Any]:
        """Compare the replies to a few image groups at batch size 1 with the replies in a larger batch.

        Returns:
            A dictionary with the number of image groups (``groups``), the maximum difference in nats between the
            log-probabilities of a candidate (``max_logprob_difference``), the number of generated replies (``texts``),
            and the number of generated replies that differ (``texts_differ``).
        """
        together = list(self.reply(groups, images))
        alone = [next(self.reply([group], images)) for group in groups]
        pairs = [(a, b) for x, y in zip(together, alone, strict=True) for a, b in zip(x, y, strict=True)]
        differences = [abs(p - q) for a, b in pairs for p, q in zip(a.logprobs, b.logprobs, strict=True)]
        return {
            "groups": len(groups),
            "max_logprob_difference": max(differences, default=0.0),
            "texts": sum(a.text is not None for a, _ in pairs),
            "texts_differ": sum(a.text != b.text for a, b in pairs),
        }


def _tokens(prompts: Sequence[Prompt]) -> int:
    """Estimate the number of tokens in the row of one image set. The estimate assumes that all prompts share a prefix
    as long as the shortest prompt, and adds 64 tokens per prompt for the reply.
    """
    shortest = min(len(prompt.input_ids) for prompt in prompts)
    return shortest + sum(len(prompt.input_ids) - shortest + 64 for prompt in prompts)
