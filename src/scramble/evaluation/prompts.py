"""Encode and score queries (prompts and candidate answers) as tries or rows, and open the images of queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from scramble.evaluation.items import EvaluationError, Query
from scramble.models.family import Family
from scramble.models.prompts import PromptEncoder, common_suffix
from scramble.models.rows import PromptRow, iter_row_scores
from scramble.models.vlm import VLM
from scramble.records import ImageFile, RecordError
from scramble.storage.image_table import replace_image
from scramble.trie.pack import TrieItem
from scramble.trie.score import SequenceScore, iter_scores


class QueryEncoder(PromptEncoder):
    """Encodes the queries of a benchmark for one model. ``max_length`` is the maximum sequence length of the model in
    tokens. If it is None, the length of sequences is not checked.
    """

    def __init__(self, family: Family, processor: Any, max_length: int | None = None) -> None:
        super().__init__(family, processor)
        self.max_length = max_length
        self._end = common_suffix(self.completion("Yes"), self.completion("No"))

    def answer(self, text: str, score_end: bool) -> tuple[list[int], list[bool]]:
        """Return the token ids of an answer, including the end of turn, and for each token whether it is scored."""
        ids = self.completion(text)
        scored = len(ids) if score_end else len(ids) - self._end
        if scored < 1:
            raise EvaluationError(
                f"the answer {text!r} has no token before the end of turn, which is not scored: set "
                "protocol.score_end=true, or remove empty answers from the benchmark's file"
            )
        return ids, [k < scored for k in range(len(ids))]

    def token_texts(self, text: str, count: int) -> list[str]:
        """Return the texts of the first ``count`` tokens of an answer. The concatenated texts of all tokens are the
        answer, including its spaces.

        If a character consists of several tokens, the last of these tokens gets the character and the others get an
        empty text.
        """
        ids, texts, before = self.completion(text)[:count], [], ""
        for end in range(1, len(ids) + 1):
            # Tokens are not decoded one by one, because many tokenizers then drop the space before a word.
            after = self.processor.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
            is_whole = not after.endswith("\N{REPLACEMENT CHARACTER}")
            texts.append(after[len(before) :] if is_whole else "")
            before = after if is_whole else before
        return texts

    def rows(self, queries: Sequence[Query], images: Sequence[Image.Image]) -> list[PromptRow]:
        """Return one row (prompt and answer) for each candidate of each query about one set of images, in order."""
        rows = []
        prompts = self.prompts([query.prompt for query in queries], images, queries[0].history)
        for query, prompt in zip(queries, prompts, strict=True):
            for candidate in query.candidates:
                ids, mask = self.answer(candidate, query.score_end)
                self.check_length(len(prompt.input_ids) + len(ids), query)
                rows.append(PromptRow(prompt, ids, mask, query.query_id))
        return rows

    def trie_item(self, queries: Sequence[Query], images: Sequence[Image.Image]) -> TrieItem:
        """Return one trie with all candidates of all queries about one set of images. The sequences are in the order of
        the queries.
        """
        rows = self.rows(queries, images)
        sequences = [[*row.prompt.input_ids, *row.completion] for row in rows]
        scored = [[False] * len(row.prompt.input_ids) + row.scored for row in rows]
        return TrieItem(sequences, scored, rows[0].prompt.images, queries[0].query_id)

    def check_length(self, length: int, query: Query) -> None:
        """Raise EvaluationError if a sequence has more tokens than the model has positions."""
        if self.max_length is not None and length > self.max_length:
            raise EvaluationError(
                f"item {query.query_id} has {length} tokens, but the model has {self.max_length} positions: "
                "use smaller images (lower model.max_tiles) or a model with a longer context"
            )


def score_queries(
    vlm: VLM,
    encoder: QueryEncoder,
    groups: Iterable[tuple[Sequence[Query], Sequence[Image.Image]]],
    *,
    batch_tokens: int | None = None,
) -> Iterator[list[SequenceScore]]:
    """Yield the scores of all candidates of each group, in order. A group consists of a list of queries about the same
    images, and these images. Each group is scored as one trie or, if the model family does not support tries, as one
    row per candidate.

    Raises NonFiniteError as described in :func:`scramble.trie.score.iter_scores` and
    :func:`scramble.models.rows.iter_row_scores`.
    """
    if vlm.family.has_trie:
        return iter_scores(vlm.backbone, (encoder.trie_item(*group) for group in groups), batch_tokens=batch_tokens)
    return iter_row_scores(vlm, (encoder.rows(*group) for group in groups), batch_tokens=batch_tokens)


def open_images(image_ids: Sequence[str], images: Mapping[str, ImageFile], px: int | None) -> list[Image.Image]:
    """Return the decoded images, resized to a square with sides of ``px`` pixels if ``px`` is given.

    Raises RecordError, which names the image, if an image cannot be decoded.
    """
    opened = []
    for image_id in image_ids:
        try:
            image = images[image_id].open()
        except RecordError as error:
            fix = replace_image(images, image_id)
            raise RecordError(f"image {image_id!r} cannot be used ({error}): {fix}") from error
        opened.append(image if px is None else image.resize((px, px), Image.Resampling.BICUBIC))
    return opened
