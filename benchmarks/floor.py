"""The floor of a step: the matrix multiplications that it cannot do without, counted, and timed alone.

Tower and projector forward once an image; decoder forward over the distinct tokens, where the last layer's query,
output and feed-forward parts are needed only on positions that predict a scored token; backward to every activation
that depends on an adapter; the adapters' own products; the head on the predicting positions and its gradient;
attention over the pairs of tokens that see each other. Biases, norms, activations, softmax, the optimizer, reading
images and recomputation (gradient checkpointing) are not in it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Product = tuple[int, int, int]  # (n, k) @ (k, m)
Products = tuple[Counter[Product], Counter[Product]]  # of linear layers; of attention as (queries, width, keys)
Parts = Mapping[str, Products]

# The first layer's projections of the embeddings, which are frozen: no gradient goes below them.
READS_EMBEDDINGS = re.compile(r"\w+\.0\.(self_attn\.[qkv]_proj|att_proj)\b(?!.*lora_B)")


def count_products(backbone: Any, items: Sequence[Any]) -> Parts:
    """Products of a training step over the tries of ``items``, by part; what is trained is what requires a gradient.

    The tower's are read off one pass over the items' images, the decoder's are counted from its layers and the tries.
    """
    from scramble.trie import block_tokens, build_item, encode_images

    tries = [
        build_item(item, feature_tokens=backbone.feature_tokens, block_tokens=block_tokens(backbone)) for item in items
    ]
    with recorded(backbone.vision) as tower:
        encode_images(backbone, [item.images for item in items])
    tokens, predicting = sum(map(len, tries)), sum(len(trie.rows) for trie in tries)
    visible = sum(int((trie.end - range(len(trie))).sum()) for trie in tries)  # pairs of tokens
    for block in (int(trie.block.sum()) for trie in tries):
        visible += block * (block - 1) // 2  # a two-way block sees the later tokens, too
    forward, backward = _decoder_products(backbone, tokens, predicting)
    config = backbone.decoder.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_attention_heads * config.num_hidden_layers
    # A square of side sqrt(visible) has as many entries as there are pairs of tokens that see each other.
    side = round(visible**0.5)
    head = backbone.head
    return {
        "tower": tower,
        "decoder forward": (forward, Counter({(side, width, side): heads})),
        "decoder backward": (backward, Counter({(side, width, side): 2 * heads})),
        "head": (
            Counter(
                [(predicting, head.in_features, head.out_features), (predicting, head.out_features, head.in_features)]
            ),
            Counter(),
        ),
    }


def _decoder_products(backbone: Any, tokens: int, predicting: int) -> Products:
    """Forward and backward products of the decoder's linear layers, adapters included."""
    from scramble.trie.tail import POSITION_WISE, last_layer

    tail: set[int] = set()
    for name, module in last_layer(backbone.decoder).named_modules():
        if name in POSITION_WISE:
            tail |= {id(part) for part in module.modules()}
    forward: Counter[Product] = Counter()
    backward: Counter[Product] = Counter()
    for name, module in backbone.decoder.named_modules():
        if not isinstance(module, nn.Linear) or module is backbone.head:
            continue
        rows, k, m = (predicting if id(module) in tail else tokens), module.in_features, module.out_features
        forward[rows, k, m] += 1
        if module.weight.requires_grad:
            backward[m, rows, k] += 1
        if not READS_EMBEDDINGS.match(name):
            backward[rows, m, k] += 1
    return forward, backward


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[Products]:
    """The products of linear layers, convolutions and attentions in these modules' forward passes while it runs."""
    linear: Counter[Product] = Counter()
    attention: Counter[Product] = Counter()

    def note(module: Any, args: tuple[Any, ...], output: Any) -> None:
        size, width = module.weight.numel(), module.weight.shape[0]
        linear[output.numel() // width, size // width, width] += 1

    class Attentions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is nn.functional.scaled_dot_product_attention:
                query, key = args[:2]
                attention[query.shape[-2], query.shape[-1], key.shape[-2]] += query.shape[:-2].numel()
            return func(*args, **(kwargs or {}))

    layers = [m for part in modules for m in part.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with Attentions():
            yield linear, attention
    finally:
        for hook in hooks:
            hook.remove()


def floating_point_operations(parts: Parts) -> float:
    """Multiplications and additions of all products."""
    linear = sum(2.0 * n * k * m * count for part, _ in parts.values() for (n, k, m), count in part.items())
    return linear + sum(4.0 * q * d * k * count for _, part in parts.values() for (q, d, k), count in part.items())


def floor_seconds(parts: Parts, repeats: int = 7) -> dict[str, float]:
    """Seconds of each part on this CPU with torch's threads, each product at its fastest of some runs."""
    return {
        name: sum(_product_seconds(p, repeats) * count for p, count in linear.items())
        + sum(_attention_seconds(p, repeats) * count for p, count in attention.items())
        for name, (linear, attention) in parts.items()
    }


def matrix_rate(dtype: torch.dtype = torch.bfloat16, size: int = 8192) -> float:
    """Floating-point operations a second of a large square product on the GPU: the best of some runs."""
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)
        torch.cuda.synchronize()

    return 2.0 * size**3 / _time(run, 20)


def _product_seconds(product: Product, repeats: int) -> float:
    n, k, m = product
    a, b, out = torch.randn(n, k), torch.randn(m, k).T, torch.empty(n, m)
    return _time(lambda: torch.mm(a, b, out=out), repeats)


def _attention_seconds(product: Product, repeats: int) -> float:
    """Scores and weighted values of one head, in tiles that stay in the cache, as a fused kernel has them."""
    queries, width, keys = product
    tile = min(queries, 64)
    q, k, v = torch.randn(tile, width), torch.randn(width, keys), torch.randn(keys, width)
    scores, out = torch.empty(tile, keys), torch.empty(tile, width)

    def run() -> None:
        torch.mm(q, k, out=scores)
        torch.mm(scores, v, out=out)

    return _time(run, 4 * repeats) * queries / tile


def _time(run: Callable[[], None], repeats: int) -> float:
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
