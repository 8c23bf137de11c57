"""Turns examples into micro-batches of tries: encodes them with the model's processor, checks lengths, collates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scramble.models import VLM, Prompt
from scramble.records import ImageFile, RecordError
from scramble.training.data import Example, image_size
from scramble.trie.backbone import ImageInputs
from scramble.trie.pack import TrieBatch, TrieItem, pack


class Encoder:
    """Encodes examples with the model's processor and caches recent prompts in memory.

    It contains the processor and what it needs to know about tokens, but not the model, so that it can be pickled and
    sent to worker processes.

    Args:
        vlm: model, processor and family.
        images: image files by id.
        cache_bytes: memory for encoded prompts (mostly pixels); the least recently used are removed first.

    Attributes:
        cached: prompts that need no encoding, by image ids and text (see :mod:`scramble.training.features`).
        vocab_size: rows of the output head.
        token_rules: see :class:`scramble.trie.backbone.Backbone`.
    """

    def __init__(self, vlm: VLM, images: Mapping[str, ImageFile], cache_bytes: int = 1 << 29) -> None:
        self.family, self.processor = vlm.family, vlm.processor
        self.images = images
        self.vocab_size = int(vlm.backbone.head.weight.shape[0])
        self.token_rules = vlm.backbone.token_rules
        self.cached: Mapping[tuple[tuple[str, ...], str], Prompt] = {}
        self._prompts: OrderedDict[tuple[tuple[str, ...], str], Prompt] = OrderedDict()
        self._free = cache_bytes
        self._completions: dict[str, list[int]] = {}
        self._lengths: dict[tuple[str, tuple[tuple[int, int], ...]], int] = {}
        self._cache_bytes = cache_bytes

    def __getstate__(self) -> dict[str, Any]:
        empty = {"_prompts": OrderedDict(), "_free": self._cache_bytes, "_completions": {}, "_lengths": {}}
        return self.__dict__ | empty

    def share_memory_limit(self, processes: int) -> None:
        """Limit the cache to this process's share of ``cache_bytes``; called in every worker."""
        self._free -= self._cache_bytes - self._cache_bytes // processes

    def prompt(self, example: Example) -> Prompt:
        """Token ids and image inputs of an example's prompt. Raises RecordError naming the example and its image."""
        key = (example.image_ids, example.prompt)
        if key in self.cached:
            return self.cached[key]
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        try:
            images = [self.images[image_id].open() for image_id in example.image_ids]
        except RecordError as error:
            raise RecordError(f"example {example.example_id}: {error}") from error
        prompt = self.family.encode_prompt(self.processor, example.prompt, images)
        self._prompts[key] = prompt
        self._free -= _num_bytes(prompt)
        while self._free < 0 and len(self._prompts) > 1:
            self._free += _num_bytes(self._prompts.popitem(last=False)[1])
        return prompt

    def prompts(self, examples: Mapping[str, Example]) -> dict[str, Prompt]:
        """Encoded prompts of examples, under the same keys."""
        return {key: self.prompt(example) for key, example in examples.items()}

    def completion(self, text: str) -> list[int]:
        """Token ids of an answer, including its end of turn."""
        if text not in self._completions:
            if len(self._completions) >= 1 << 18:
                self._completions.clear()
            self._completions[text] = self.family.encode_completion(self.processor, text)
        return self._completions[text]

    def prompt_length(self, example: Example) -> int:
        """Number of tokens of an example's prompt, image tokens included. No pixels are decoded."""
        sizes = tuple(image_size(self.images[image_id]) for image_id in example.image_ids)
        key = (example.prompt, sizes)
        if key not in self._lengths:
            self._lengths[key] = self.family.num_tokens(self.processor, example.prompt, sizes)
        return self._lengths[key]


def _num_bytes(prompt: Prompt) -> int:
    images = prompt.images or {}
    return 32 * len(prompt.input_ids) + sum(t.numel() * t.element_size() for t in images.values())


def check_examples(
    encoder: Encoder, examples: Iterable[Example], *, needs_rejected: bool, max_length: int
) -> tuple[list[Example], list[dict[str, str]]]:
    """Split examples into usable and rejected ones, both in order; the latter as ``{"id": ..., "reason": ...}``.

    Lengths are computed from image sizes and texts. Nothing is truncated: an example that is too long is rejected.
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
        return "it has no rejected answer, which this objective needs; objective=sft does not need one"
    missing = [image_id for image_id in example.image_ids if image_id not in encoder.images]
    if missing:
        return f"its image {missing[0]} is not in the images table"
    try:
        prompt = encoder.prompt_length(example)
        chosen = encoder.completion(example.chosen)
        rejected = encoder.completion(example.rejected) if needs_rejected and example.rejected is not None else []
    except ValueError as error:  # an unreadable image or a control token in the text
        return str(error)
    if not example.chosen.strip() or (rejected and not (example.rejected or "").strip()):
        return "an answer is empty"
    if chosen == rejected:
        return "chosen and rejected answer have the same tokens"
    if (worst := max(chosen + rejected)) >= encoder.vocab_size:
        return (
            f"token id {worst} of an answer has no row in the output head ({encoder.vocab_size} rows): remove image "
            "and other special tokens from the text"
        )
    longest = prompt + max(len(chosen), len(rejected))
    if longest > max_length:
        return (
            f"{longest} tokens (the prompt has {prompt}) exceed the limit of {max_length}: use fewer image tiles or "
            "raise trainer.max_length"
        )
    return None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A micro-batch: tries, and the indices of each example's answers among the sequences of the tries.

    Attributes:
        tries: one trie per image.
        chosen_P: sequence index of each example's chosen answer.
        rejected_P: sequence index of its rejected answer; None if the objective has no rejected answers.
        ref_P2: reference log-probabilities (nats) of chosen and rejected; None if the objective needs none or the
            training step computes them.
        example_ids: ids for error messages.
    """

    tries: TrieBatch
    chosen_P: Tensor
    rejected_P: Tensor | None
    ref_P2: Tensor | None
    example_ids: tuple[str, ...]

    def pin_memory(self) -> PairBatch:
        """Copy the batch to page-locked memory, for asynchronous copies to the GPU. ``DataLoader`` calls this."""
        return PairBatch(
            self.tries.pin_memory(),
            self.chosen_P.pin_memory(),
            None if self.rejected_P is None else self.rejected_P.pin_memory(),
            None if self.ref_P2 is None else self.ref_P2.pin_memory(),
            self.example_ids,
        )


@dataclass(frozen=True)
class TrieCollator:
    """Collates examples into micro-batches of tries, for training, validation and the reference. Can be pickled.

    Attributes:
        encoder: encodes prompts and answers.
        with_rejected: whether to include each example's rejected answer.
        reference: log-probabilities (nats) of chosen and rejected answer by example id, or None (see ``PairBatch``).
        row_tokens: tokens per row of a batch; None: length of the longest trie.
    """

    encoder: Encoder
    with_rejected: bool
    reference: Mapping[str, tuple[float, float]] | None = None
    row_tokens: int | None = None

    def items(self, examples: Sequence[Example]) -> tuple[list[TrieItem], list[list[int]]]:
        """Build one trie item per group of examples with the same images.

        Examples share an item if their prompts have the same tokens up to and including the last image token: image
        tokens are then computed once, and bidirectional image blocks (Molmo2) are identical in all sequences. Each
        example contributes a sequence for its chosen answer and, with ``with_rejected``, the next
        one for its rejected answer.

        Returns:
            The items, and for each item the indices of its examples in the order of its sequences.
        """
        encoder = self.encoder
        image_tokens = encoder.token_rules.image_tokens
        shared_images: dict[tuple[str, ...], ImageInputs | None] = {}
        members: dict[tuple[object, ...], list[int]] = {}
        prompts = [encoder.prompt(example) for example in examples]
        for number, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
            # Prompts with the same images share one object: the engine encodes every distinct object once.
            shared_images.setdefault(example.image_ids, prompt.images)
            is_image = [token in image_tokens for token in prompt.input_ids]
            stop = len(is_image) - is_image[::-1].index(True) if any(is_image) else len(is_image)
            members.setdefault((example.image_ids, *prompt.input_ids[:stop]), []).append(number)
        items = []
        for numbers in members.values():
            sequences: list[list[int]] = []
            scored: list[list[bool]] = []
            for number in numbers:
                example, ids = examples[number], prompts[number].input_ids
                answers = [example.chosen, example.rejected] if self.with_rejected else [example.chosen]
                for answer in answers:
                    completion = encoder.completion(answer or "")
                    sequences.append(ids + completion)
                    scored.append([False] * len(ids) + [True] * len(completion))
            name = ", ".join(examples[number].example_id for number in numbers)
            items.append(TrieItem(sequences, scored, shared_images[examples[numbers[0]].image_ids], name))
        return items, list(members.values())

    def __call__(self, examples: Sequence[Example]) -> PairBatch:
        """Collate examples into a micro-batch."""
        items, members = self.items(examples)
        per_example = 2 if self.with_rejected else 1
        first = torch.empty(len(examples), dtype=torch.long)
        for place, number in enumerate(number for numbers in members for number in numbers):
            first[number] = per_example * place
        tries = pack(
            items,
            self.encoder.token_rules,
            vocab_size=self.encoder.vocab_size,
            row_tokens=self.row_tokens,
        )
        ids = tuple(example.example_id for example in examples)
        logps = self.reference
        ref = None if logps is None else torch.tensor([logps[name] for name in ids], dtype=torch.float32)
        return PairBatch(tries, first, first + 1 if self.with_rejected else None, ref, ids)
