"""Compute a lower bound for the time of a training step: the time of its matrix multiplications.

The products are counted by :mod:`scramble.training.flops`, and each product is timed alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scramble.training.flops import Product, Products, decoder_products, tower_products, visible_pairs

REPEATS = 7


def count_products(backbone: Any, items: Sequence[Any]) -> dict[str, Products]:
    """Count, for each part of the model, the products of a training step on the tries of ``items``.

    Parameters that require a gradient count as trained.
    """
    from scramble.trie import pack

    batch = pack(items, backbone.token_rules)
    return {
        **tower_products(backbone, batch.images),
        **decoder_products(
            backbone, tokens=batch.num_tokens, predicting=len(batch.rows_R), visible=visible_pairs(batch)
        ),
    }


def floor_seconds(parts: dict[str, Products]) -> dict[str, float]:
    """Return the seconds of each part on this CPU, with the number of threads that torch uses. Each product is timed
    several times, and its fastest run is used.
    """
    return {
        name: sum(_product_seconds(p) * count for p, count in linear.items())
        + sum(_attention_seconds(p) * count for p, count in attention.items())
        for name, (linear, attention) in parts.items()
    }


def matrix_rate() -> float:
    """Return the floating-point operations per second of a large bfloat16 product on the GPU (best of several runs)."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)
        torch.cuda.synchronize()

    return 2.0 * size**3 / _time(run, 20)


def _product_seconds(product: Product) -> float:
    n, k, m = product
    a, b, out = torch.randn(n, k), torch.randn(m, k).T, torch.empty(n, m)
    return _time(lambda: torch.mm(a, b, out=out), REPEATS)


def _attention_seconds(product: Product) -> float:
    """Time the attention scores and weighted values of one head, in tiles that fit into the cache, as in a fused
    kernel.
    """
    queries, width, keys = product
    tile = min(queries, 64)
    q, k, v = torch.randn(tile, width), torch.randn(width, keys), torch.randn(keys, width)
    scores, out = torch.empty(tile, keys), torch.empty(tile, width)

    def run() -> None:
        torch.mm(q, k, out=scores)
        torch.mm(scores, v, out=out)

    return _time(run, 4 * REPEATS) * queries / tile


def _time(run: Callable[[], object], repeats: int) -> float:
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
