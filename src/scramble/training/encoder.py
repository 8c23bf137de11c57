"""Encodes examples with the model's processor, and checks which examples can be used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from scramble.models import VLM, Prompt
from scramble.models.earlier_answers import answer_spans
from scramble.records import ImageFile, RecordError
from scramble.storage.image_table import replace_image
from scramble.training.data import Example, image_size

if TYPE_CHECKING:
    from PIL import Image


class Encoder:
    """Encodes examples with the model's processor and caches recent prompts in memory.

    An encoder contains the processor and the token rules, but not the model, so that it can be pickled and sent to
    worker processes.

    Args:
        vlm: model, processor and family.
        images: image files by id.
        cache_bytes: memory in bytes for encoded prompts, mostly pixels; least recently used prompts are removed first.
        score_history: whether the loss also covers the assistant's answers before the prompt.

    Attributes:
        cached: prompts that are already encoded, by image ids and text (see :mod:`scramble.training.features`).
        vocab_size: number of rows of the output head.
        token_rules: see :class:`scramble.trie.backbone.Backbone`.
    """

    def __init__(
        self, vlm: VLM, images: Mapping[str, ImageFile], cache_bytes: int = 1 << 29, score_history: bool = False
    ) -> None:
        self.family, self.processor = vlm.family, vlm.processor
        self.images = images
        self.score_history = score_history
        self.vocab_size = int(vlm.backbone.head.weight.shape[0])
        self.token_rules = vlm.backbone.token_rules
        self.cached: Mapping[tuple[tuple[str, ...], str], Prompt] = {}
        self._prompts: OrderedDict[tuple[tuple[str, ...], str], Prompt] = OrderedDict()
        self._free = cache_bytes
        self._completions: dict[str, list[int]] = {}
        self._lengths: dict[tuple[str, tuple[tuple[int, int], ...]], int] = {}
        self._spans: dict[tuple[str, tuple[tuple[int, int], ...]], list[tuple[int, int]]] = {}
        self._cache_bytes = cache_bytes

    def __getstate__(self) -> dict[str, Any]:
        empty = {
            "_prompts": OrderedDict(),
            "_free": self._cache_bytes,
            "_completions": {},
            "_lengths": {},
            "_spans": {},
        }
        return self.__dict__ | empty

    def share_memory_limit(self, processes: int) -> None:
        """Limit the cache to this process's share of ``cache_bytes``. Every worker calls this method."""
        self._free -= self._cache_bytes - self._cache_bytes // processes

    def prompt(self, example: Example) -> Prompt:
        """Return the token ids and image inputs of an example's prompt.

        Raises RecordError, which names the example and the image, if an image cannot be read.
        """
        key = (example.image_ids, example.prompt_key)
        if key in self.cached:
            return self.cached[key]
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        images = [self._open(example, image_id) for image_id in example.image_ids]
        prompt = self.family.encode_prompt(self.processor, example.prompt, images, example.history)
        self._prompts[key] = prompt
        self._free -= _num_bytes(prompt)
        while self._free < 0 and len(self._prompts) > 1:
            self._free += _num_bytes(self._prompts.popitem(last=False)[1])
        return prompt

    def _open(self, example: Example, image_id: str) -> Image.Image:
        try:
            return self.images[image_id].open()
        except RecordError as error:  # training resumes from the last checkpoint
            fix = replace_image(self.images, image_id)
            raise RecordError(f"example {example.example_id}: {error}; {fix}") from error

    def prompts(self, examples: Mapping[str, Example]) -> dict[str, Prompt]:
        """Return the encoded prompts of examples, under the same keys."""
        return {key: self.prompt(example) for key, example in examples.items()}

    def completion(self, text: str) -> list[int]:
        """Return the token ids of an answer, including the end of the turn."""
        if text not in self._completions:
            if len(self._completions) >= 1 << 18:
                self._completions.clear()
            self._completions[text] = self.family.encode_completion(self.processor, text)
        return self._completions[text]

    def scored(self, example: Example, prompt: Prompt) -> list[bool]:
        """Return for each token of a prompt whether the loss covers it.

        With ``score_history``, the loss covers the assistant's earlier answers. Otherwise, it covers no token of the
        prompt.
        """
        scored = [False] * len(prompt.input_ids)
        for start, stop in self.answer_spans(example):
            scored[start:stop] = [True] * (stop - start)
        return scored

    def answer_spans(self, example: Example) -> list[tuple[int, int]]:
        """Return the token positions of the earlier answers that the loss covers, each as (start, end).

        Raises ModelError if the chat template changes an earlier answer.
        """
        if not self.score_history or not example.history:
            return []
        sizes = [image_size(self.images[image_id]) for image_id in example.image_ids]
        key = (example.prompt_key, tuple(sizes))
        if key not in self._spans:
            self._spans[key] = answer_spans(self.family, self.processor, example.prompt, sizes, example.history)
        return self._spans[key]

    def prompt_length(self, example: Example) -> int:
        """Return the number of tokens of an example's prompt, including image tokens. No image is decoded."""
        sizes = tuple(image_size(self.images[image_id]) for image_id in example.image_ids)
        key = (example.prompt_key, sizes)
        if key not in self._lengths:
            self._lengths[key] = self.family.num_tokens(self.processor, example.prompt, sizes, example.history)
        return self._lengths[key]


def _num_bytes(prompt: Prompt) -> int:
    images = prompt.images or {}
    return 32 * len(prompt.input_ids) + sum(t.numel() * t.element_size() for t in images.values())


def check_examples(
    encoder: Encoder, examples: Iterable[Example], *, needs_rejected: bool, max_length: int
) -> tuple[list[Example], list[dict[str, str]]]:
    """Return the usable examples, and ``{"id": ..., "reason": ...}`` for each rejected example, both in input order.

    Lengths are computed from image sizes and texts. Nothing is truncated; an example that is too long is rejected.
    """
    usable: list[Example] = []
    rejected_rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for example in examples:
        reason = f"duplicate id {example.example_id}" if example.example_id in seen else None
        reason = reason or _fault(encoder, example, needs_rejected, max_length)
        seen.add(example.example_id)
        if reason is None:
            usable.append(example)
        else:
            rejected_rows.append({"id": example.example_id, "reason": reason})
    return usable, rejected_rows


def _fault(encoder: Encoder, example: Example, needs_rejected: bool, max_length: int) -> str | None:
    if needs_rejected and example.rejected is None:
        return "there is no rejected answer, which this objective needs: add one or set objective=sft"
    missing = [image_id for image_id in example.image_ids if image_id not in encoder.images]
    if missing:
        return f"the image {missing[0]} is not in the images table: add the image or correct its id"
    try:
        prompt = encoder.prompt_length(example)
        encoder.answer_spans(example)
        chosen = encoder.completion(example.chosen)
        rejected = encoder.completion(example.rejected) if needs_rejected and example.rejected is not None else []
    except ValueError as error:  # an unreadable image or a control token in the text
        return str(error)
    if not example.chosen.strip() or (rejected and not (example.rejected or "").strip()):
        return "an answer is empty: write an answer or remove the row"
    if chosen == rejected:
        return "the chosen and the rejected answer have the same tokens: change an answer or remove the row"
    if (worst := max(chosen + rejected)) >= encoder.vocab_size:
        return (
            f"token id {worst} of an answer has no row in the output head ({encoder.vocab_size} rows): remove image "
            "and other special tokens from the text"
        )
    longest = prompt + max(len(chosen), len(rejected))
    if longest > max_length:
        return (
            f"{longest} tokens ({prompt} in the prompt) exceed the limit of {max_length}: use smaller images "
            "(model.max_pixels, model.max_tiles or model.resize) or raise trainer.max_length"
        )
    return None
