"""From examples to micro-batches of tries: encoding by the model's own processor, lengths before pixels, collation."""

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
from scramble.trie.engine import block_tokens
from scramble.trie.pack import TrieBatch, TrieItem, pack


class Encoder:
    """Token ids and pixels of examples, by the model's own processor; recent prompts stay in memory.

    Holds the processor and three facts about tokens, not the model: it can be pickled and sent to worker processes.

    Args:
        vlm: model, processor and family.
        images: image files by id.
        cache_bytes: memory for encoded prompts (pixels mostly); the least recently used go first.

    Attributes:
        known: prompts that need no encoding, by image ids and text.
        vocab_size: rows of the output head.
        feature_tokens, block_tokens: see :class:`scramble.trie.backbone.Backbone`.
    """

    def __init__(self, vlm: VLM, images: Mapping[str, ImageFile], cache_bytes: int = 1 << 29) -> None:
        self.family, self.processor = vlm.family, vlm.processor
        self.images = images
        self.vocab_size = int(vlm.backbone.head.weight.shape[0])
        self.feature_tokens, self.block_tokens = vlm.backbone.feature_tokens, block_tokens(vlm.backbone)
        self.known: Mapping[tuple[tuple[str, ...], str], Prompt] = {}
        self._prompts: OrderedDict[tuple[tuple[str, ...], str], Prompt] = OrderedDict()
        self._free = cache_bytes
        self._completions: dict[str, list[int]] = {}
        self._lengths: dict[tuple[str, tuple[tuple[int, int], ...]], int] = {}
        self._cache_bytes = cache_bytes

    def __getstate__(self) -> dict[str, Any]:
        empty = {"_prompts": OrderedDict(), "_free": self._cache_bytes, "_completions": {}, "_lengths": {}}
        return self.__dict__ | empty

    def share_memory_limit(self, processes: int) -> None:
        """Keep only this process's share of ``cache_bytes``: called in each of several workers."""
        self._free -= self._cache_bytes - self._cache_bytes // processes

    def prompt(self, example: Example) -> Prompt:
        """Ids and tower inputs of an example's prompt. Raises RecordError naming the example and its image."""
        key = (example.image_ids, example.prompt)
        if key in self.known:
            return self.known[key]
        if key in self._prompts:
            self._prompts.move_to_end(key)
            return self._prompts[key]
        try:
            opened = [self.images[image_id].open() for image_id in example.image_ids]
        except RecordError as error:
            raise RecordError(f"example {example.example_id}: {error}") from error
        prompt = self.family.encode_prompt(self.processor, example.prompt, opened)
        self._prompts[key] = prompt
        self._free -= _num_bytes(prompt)
        while self._free < 0 and len(self._prompts) > 1:
            self._free += _num_bytes(self._prompts.popitem(last=False)[1])
        return prompt

    def prompts(self, examples: Mapping[str, Example]) -> dict[str, Prompt]:
        """Prompts under the keys of their examples."""
        return {key: self.prompt(example) for key, example in examples.items()}

    def completion(self, text: str) -> list[int]:
        """Ids of an answer and its end of turn."""
        if text not in self._completions:
            if len(self._completions) >= 1 << 18:
                self._completions.clear()
            self._completions[text] = self.family.encode_completion(self.processor, text)
        return self._completions[text]

    def prompt_length(self, example: Example) -> int:
        """Tokens of an example's prompt, image tokens included, without decoding pixels."""
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
    """Examples that can be trained on, and the others as ``{"id": ..., "reason": ...}``, in the given order.

    Lengths come from image sizes and text alone; nothing is ever cut to fit.
    """
    kept: list[Example] = []
    refused: list[dict[str, str]] = []
    seen: set[str] = set()
    for example in examples:
        reason = f"duplicate id {example.example_id}" if example.example_id in seen else None
        reason = reason or _fault(encoder, example, needs_rejected, max_length)
        seen.add(example.example_id)
        if reason is None:
            kept.append(example)
        else:
            refused.append({"id": example.example_id, "reason": reason})
    return kept, refused


def _fault(encoder: Encoder, example: Example, needs_rejected: bool, max_length: int) -> str | None:
    if needs_rejected and example.rejected is None:
        return "has no rejected answer, which this objective compares with; objective 'sft' does not need one"
    missing = [image_id for image_id in example.image_ids if image_id not in encoder.images]
    if missing:
        return f"its image {missing[0]} is not in the table of images"
    try:
        prompt = encoder.prompt_length(example)
        chosen = encoder.completion(example.chosen)
        rejected = encoder.completion(example.rejected) if needs_rejected and example.rejected is not None else []
    except ValueError as error:  # unreadable image, control token in the text
        return str(error)
    if not example.chosen.strip() or (rejected and not (example.rejected or "").strip()):
        return "an answer is empty: there is nothing to score"
    if chosen == rejected:
        return "chosen and rejected are the same tokens"
    if (worst := max(chosen + rejected)) >= encoder.vocab_size:
        return (
            f"token id {worst} of an answer has no row in the output head ({encoder.vocab_size} rows): take the image "
            "or other special token out of the text"
        )
    longest = prompt + max(len(chosen), len(rejected))
    if longest > max_length:
        return (
            f"{longest} tokens ({prompt} of them the prompt) exceed the limit of {max_length}: use fewer image tiles "
            "or a higher limit"
        )
    return None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A micro-batch: tries, and where the answers of each example are among their sequences.

    Attributes:
        tries: one trie an image.
        chosen_P: number of each example's chosen answer among the batch's sequences.
        rejected_P: likewise, None if the objective has no rejected answers.
        ref_P2: reference log-probabilities (nats) of chosen and rejected; None where the step computes or needs none.
        example_ids: names for error messages.
    """

    tries: TrieBatch
    chosen_P: Tensor
    rejected_P: Tensor | None
    ref_P2: Tensor | None
    example_ids: tuple[str, ...]

    def pin_memory(self) -> PairBatch:
        """The batch in page-locked memory, from which a GPU copies while it computes (called by ``DataLoader``)."""
        return PairBatch(
            self.tries.pin_memory(),
            self.chosen_P.pin_memory(),
            None if self.rejected_P is None else self.rejected_P.pin_memory(),
            None if self.ref_P2 is None else self.ref_P2.pin_memory(),
            self.example_ids,
        )


@dataclass(frozen=True)
class TrieCollator:
    """Examples to micro-batches of tries, for training, validation and the reference. Can be pickled.

    Attributes:
        encoder: token ids and pixels.
        with_rejected: whether each example contributes its rejected answer besides its chosen one.
        reference: two log-probabilities (nats) per example id, None where the step computes or needs none.
        row_tokens: tokens per row of a batch; None: the longest trie.
    """

    encoder: Encoder
    with_rejected: bool
    reference: Mapping[str, tuple[float, float]] | None = None
    row_tokens: int | None = None

    def items(self, examples: Sequence[Example]) -> tuple[list[TrieItem], list[list[int]]]:
        """The tries of some examples, and the numbers of the examples in each, in the order of its sequences.

        Examples whose prompts agree up to the last image token share a trie; each contributes its chosen and then,
        where wanted, its rejected answer.
        """
        encoder = self.encoder
        image_tokens = encoder.feature_tokens | encoder.block_tokens
        shared_images: dict[tuple[str, ...], ImageInputs | None] = {}
        members: dict[tuple[object, ...], list[int]] = {}
        prompts = [encoder.prompt(example) for example in examples]
        for number, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
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
        """The micro-batch of some examples."""
        items, members = self.items(examples)
        per_example = 2 if self.with_rejected else 1
        first = torch.empty(len(examples), dtype=torch.long)
        for place, number in enumerate(number for numbers in members for number in numbers):
            first[number] = per_example * place
        tries = pack(
            items,
            feature_tokens=self.encoder.feature_tokens,
            block_tokens=self.encoder.block_tokens,
            vocab_size=self.encoder.vocab_size,
            row_tokens=self.row_tokens,
        )
        ids = tuple(example.example_id for example in examples)
        known = self.reference
        ref = None if known is None else torch.tensor([known[name] for name in ids], dtype=torch.float32)
        return PairBatch(tries, first, first + 1 if self.with_rejected else None, ref, ids)
