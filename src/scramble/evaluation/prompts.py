"""Token ids of prompts and answers, with the images of a prompt prepared once however many prompts share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from scramble.evaluation.items import EvaluationError, Query
from scramble.models.family import Prompt
from scramble.records import ImageFile, RecordError
from scramble.trie.backbone import ImageInputs
from scramble.trie.pack import TrieItem


@dataclass(frozen=True, slots=True)
class _Frame:
    """How the images sit in a prompt: ``short`` ids have one placeholder where ``head + block`` has features."""

    short: list[int]
    head: int
    placeholder: int
    block: list[int]
    full: list[int]
    images: ImageInputs | None


class PromptEncoder:
    """Encodes the queries of a model's family.

    The processor prepares the pixels of an image set once; the other prompts on it are tokenised as text and get the
    same image tokens spliced in. The first splice of every encoder is compared with the processor's own ids, and a
    family whose ids differ is encoded in full each time.
    """

    def __init__(self, family: Any, processor: Any, max_length: int | None = None) -> None:
        self.family = family
        self.processor = processor
        self.max_length = max_length
        self._splices: bool | None = None
        self._end = _common_suffix(self._completion("Yes"), self._completion("No"))

    def _completion(self, text: str) -> list[int]:
        return list(self.family.encode_completion(self.processor, text))

    def answer(self, text: str, score_end: bool) -> tuple[list[int], list[bool]]:
        """Ids of an answer with its end of turn, and which of them are scored."""
        ids = self._completion(text)
        scored = len(ids) if score_end else len(ids) - self._end
        if scored < 1:
            raise EvaluationError(f"the answer {text!r} has no tokens of its own to score")
        return ids, [k < scored for k in range(len(ids))]

    def prompts(self, texts: Sequence[str], images: Sequence[Image.Image]) -> list[Prompt]:
        """Ids of each text after the same images; all share one object of image inputs."""
        encode = self.family.encode_prompt
        first = encode(self.processor, texts[0], images)
        if not images or len(texts) == 1:
            rest = [encode(self.processor, text, images) for text in texts[1:]]
            return [first, *(replace(prompt, images=first.images) for prompt in rest)]
        frame = self._frame(texts[0], first, len(images))
        done = {texts[0]: first}
        for text in texts[1:]:
            if text not in done:
                done[text] = self._splice(frame, text, images)
        return [done[text] for text in texts]

    def _frame(self, text: str, full: Prompt, num_images: int) -> _Frame:
        short = self._short(text, num_images)
        head = _common_prefix(short, full.input_ids)
        tail = min(_common_suffix(short, full.input_ids), len(short) - head)
        block = full.input_ids[head : len(full.input_ids) - tail]
        return _Frame(short, head, len(short) - head - tail, block, full.input_ids, full.images)

    def _splice(self, frame: _Frame, text: str, images: Sequence[Image.Image]) -> Prompt:
        short = self._short(text, len(images))
        until = frame.head + frame.placeholder
        spliced = frame.full[: frame.head] + frame.block + short[until:]
        if self._splices is None:
            full = self.family.encode_prompt(self.processor, text, images)
            self._splices = full.input_ids == spliced
        if self._splices and short[:until] == frame.short[:until]:
            return Prompt(spliced, frame.images)
        return replace(self.family.encode_prompt(self.processor, text, images), images=frame.images)

    def _short(self, text: str, num_images: int) -> list[int]:
        return self.family.unexpanded_ids(self.processor, text, num_images)

    def trie_item(self, queries: Sequence[Query], images: Sequence[Image.Image]) -> TrieItem:
        """All candidates of all queries on one image set as one trie, sequences in the order of the queries."""
        sequences, scored = [], []
        prompts = self.prompts([query.prompt for query in queries], images)
        for query, prompt in zip(queries, prompts, strict=True):
            for candidate in query.candidates:
                ids, mask = self.answer(candidate, query.score_end)
                self.check_length(len(prompt.input_ids) + len(ids), query)
                sequences.append([*prompt.input_ids, *ids])
                scored.append([False] * len(prompt.input_ids) + mask)
        return TrieItem(sequences, scored, prompts[0].images, queries[0].query_id)

    def check_length(self, length: int, query: Query) -> None:
        """Raises EvaluationError if a sequence has more tokens than the model has positions."""
        if self.max_length is not None and length > self.max_length:
            raise EvaluationError(
                f"item {query.query_id}: {length} tokens, but the model has {self.max_length} positions; "
                "use smaller images (model.max_tiles) or a model with a longer context"
            )


def open_images(image_ids: Sequence[str], images: Mapping[str, ImageFile], px: int | None) -> list[Image.Image]:
    """The decoded images, resized to a square of ``px`` if given. Raises RecordError naming a bad or missing one."""
    opened = []
    for image_id in image_ids:
        try:
            image = images[image_id].open()
        except KeyError:
            raise RecordError(f"image {image_id!r} is named by an item but not in the data set") from None
        except RecordError as error:
            raise RecordError(f"image {image_id!r}: {error}; download it again") from error
        opened.append(image if px is None else image.resize((px, px), Image.Resampling.BICUBIC))
    return opened


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _common_suffix(a: Sequence[int], b: Sequence[int]) -> int:
    return _common_prefix(a[::-1], b[::-1])
