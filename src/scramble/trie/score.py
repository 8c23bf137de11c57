"""Computes the log-probabilities of all sequences in a stream of items, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from scramble.trie.backbone import Backbone
from scramble.trie.build import TokenTrie
from scramble.trie.engine import encode_images, logprobs
from scramble.trie.pack import TrieItem, build_item, pack

WINDOW = 16  # items that are sorted by length together, and whose pixels are in memory at the same time


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """Contains the log-probabilities of the scored tokens of a sequence.

    Attributes:
        tokens: log-probability of each scored token, in nats.
    """

    tokens: tuple[float, ...]

    @property
    def sum(self) -> float:
        """The sum of the log-probabilities of all scored tokens, in nats."""
        return sum(self.tokens)

    @property
    def mean(self) -> float:
        """The mean log-probability per scored token, in nats."""
        return self.sum / len(self.tokens)


def default_batch_tokens(device: torch.device) -> int:
    """Return the default number of positions per batch: 1024 on a CPU, where larger batches use more memory and are not
    faster, and 8192 on a GPU.
    """
    return 1024 if device.type == "cpu" else 8192


def score(
    backbone: Backbone, items: Iterable[TrieItem], *, batch_tokens: int | None = None, window: int = WINDOW
) -> list[list[SequenceScore]]:
    """Return the scores of every sequence of every item, in order. See :func:`iter_scores`."""
    return list(iter_scores(backbone, items, batch_tokens=batch_tokens, window=window))


def iter_scores(
    backbone: Backbone, items: Iterable[TrieItem], *, batch_tokens: int | None = None, window: int = WINDOW
) -> Iterator[list[SequenceScore]]:
    """Yield a list of the scores of each item's sequences, in the order of the items.

    Args:
        backbone: the model's parts; put the model into evaluation mode first if it has dropout.
        items: items to score. ``window`` items at a time are read, sorted by length and batched, to reduce padding.
        batch_tokens: maximum number of positions per batch, including padding. A longer trie forms its own batch. None
            means :func:`default_batch_tokens`.
        window: number of items in memory at a time.

    Raises:
        TrieError, NonFiniteError: see :func:`scramble.trie.engine.logprobs`.
    """
    iterator = iter(items)
    if batch_tokens is None:
        batch_tokens = default_batch_tokens(backbone.head.weight.device)
    while part := list(islice(iterator, window)):
        tries = [build_item(item, backbone.token_rules) for item in part]
        results: list[list[SequenceScore]] = [[] for _ in part]
        for members in _batches([len(trie) for trie in tries], batch_tokens):
            scores = _score_batch(backbone, [part[n] for n in members], [tries[n] for n in members])
            for n, item_scores in zip(members, scores, strict=True):
                results[n] = item_scores
        yield from results


@torch.no_grad()
def _score_batch(backbone: Backbone, items: list[TrieItem], tries: list[TokenTrie]) -> list[list[SequenceScore]]:
    batch = pack(items, backbone.token_rules, vocab_size=backbone.head.weight.shape[0], tries=tries)
    result = logprobs(backbone, batch, encode_images(backbone, batch.images))
    tokens = iter(result.tokens_M.tolist())
    counts = iter(result.counts_Q.tolist())
    return [[SequenceScore(tuple(islice(tokens, next(counts)))) for _ in range(num)] for num in result.num_sequences]


def _batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Group items, sorted by decreasing length, into batches of at most ``batch_tokens`` positions.

    Padding counts towards this limit.
    """
    batches: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(n)
    return batches
