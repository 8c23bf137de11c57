"""Collates encoded examples into micro-batches of tries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scramble.training.data import Example
from scramble.training.encoder import Encoder
from scramble.trie.backbone import ImageInputs
from scramble.trie.pack import TrieBatch, TrieItem, pack
from scramble.trie.transfer import pickled, unpickled


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A micro-batch: tries, and the indices of each example's answers among the sequences of the tries.

    Attributes:
        tries: one trie per group of examples with the same images and the same start of the prompt.
        chosen_P: sequence index of each example's chosen answer.
        rejected_P: sequence index of each example's rejected answer; None if the objective has no rejected answers.
        ref_P2: reference log-probabilities (nats) of chosen and rejected answers; None if the objective needs no
            reference or the training step computes the reference.
        example_ids: ids for error messages.
    """

    tries: TrieBatch
    chosen_P: Tensor
    rejected_P: Tensor | None
    ref_P2: Tensor | None
    example_ids: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the batch for another process: see :mod:`scramble.trie.transfer`."""
        return _unpickled_batch, (self.tries, self._tensors(pickled), self.example_ids)

    def pin_memory(self) -> PairBatch:
        """Copy the batch to page-locked memory, for asynchronous copies to the GPU. ``DataLoader`` calls this
        method.
        """
        return PairBatch(self.tries.pin_memory(), **self._tensors(Tensor.pin_memory), example_ids=self.example_ids)

    def _tensors(self, move: Callable[[Tensor], Any]) -> dict[str, Any]:
        """Apply ``move`` to each tensor outside the tries, and return the results by name."""
        tensors = {"chosen_P": self.chosen_P, "rejected_P": self.rejected_P, "ref_P2": self.ref_P2}
        return {name: None if tensor is None else move(tensor) for name, tensor in tensors.items()}


def _unpickled_batch(tries: TrieBatch, tensors: dict[str, Any], example_ids: tuple[str, ...]) -> PairBatch:
    moved: dict[str, Any] = {name: None if value is None else unpickled(value) for name, value in tensors.items()}
    return PairBatch(tries, **moved, example_ids=example_ids)


@dataclass(frozen=True)
class TrieCollator:
    """Collates examples into micro-batches of tries, for training, validation and the reference. A collator can be
    pickled.

    Attributes:
        encoder: encodes prompts and answers.
        with_rejected: whether to include each example's rejected answer.
        reference: log-probabilities (nats) of the chosen and the rejected answer by example id, or None (see
            ``PairBatch``).
        row_tokens: tokens per row of a batch; None means the length of the longest trie.
    """

    encoder: Encoder
    with_rejected: bool
    reference: Mapping[str, tuple[float, float]] | None = None
    row_tokens: int | None = None

    def items(self, examples: Sequence[Example]) -> tuple[list[TrieItem], list[list[int]]]:
        """Group examples with the same images and the same start of the prompt, and build one trie item per group.

        The prompts of a group have the same tokens up to and including the last image token. Image tokens are then
        computed once, and bidirectional image blocks (Molmo2) are identical in all sequences. Each example adds a
        sequence for its chosen answer and, with ``with_rejected``, a sequence for its rejected answer.

        Returns:
            The items, and for each item the indices of its examples. The sequences of an item are in the order of these
            examples, with the chosen before the rejected answer.
        """
        encoder = self.encoder
        image_tokens = encoder.token_rules.image_tokens
        shared_images: dict[tuple[str, ...], ImageInputs | None] = {}
        members: dict[tuple[object, ...], list[int]] = {}
        prompts = [encoder.prompt(example) for example in examples]
        for number, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
            # Prompts with the same images share one object of image inputs, because the engine encodes each distinct
            # object once.
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
                prompt_scored = encoder.scored(example, prompts[number])
                answers = [example.chosen, example.rejected] if self.with_rejected else [example.chosen]
                for answer in answers:
                    completion = encoder.completion(answer or "")
                    sequences.append(ids + completion)
                    scored.append(prompt_scored + [True] * len(completion))
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
