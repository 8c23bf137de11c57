"""The floor of a step: the matrix multiplications that it cannot do without, counted, and timed alone.

Tower and projector forward once an image; decoder forward over the distinct tokens, where the last layer's query,
output and feed-forward parts are needed only on positions that predict a scored token; backward to every activation
that depends on an adapter; the adapters' own products; the head on the predicting positions and its gradient;
attention over the pairs of tokens that see each other. Biases, norms, activations, softmax, the optimizer, reading
images and recomputation (gradient checkpointing) are not in it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Product = tuple[int, int, int]  # (n, k) @ (k, m)
Parts = dict[str, tuple[Counter[Product], Counter[Product]]]  # linear layers; attention as (queries, width, keys)


def count_products(model: Path, items: Sequence[Any]) -> Parts:
    """Products of a LoRA step (rank 16) over the tries of ``items``, by part; no weight is loaded."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from scramble.models import Loaded
    from scramble.models.registry import family_of
    from scramble.preference.policy import add_lora
    from scramble.trie import build_item
    from scramble.trie.tail import POSITION_WISE, last_layer

    config = AutoConfig.from_pretrained(model)
    family = family_of(config.model_type)
    with torch.device("meta"):
        loaded = Loaded(AutoModelForImageTextToText.from_config(config), None, family, str(model))
        add_lora(loaded, r=16, alpha=32.0)
    backbone = loaded.backbone
    tries = [build_item(item, feature_tokens=backbone.feature_tokens) for item in items]
    tokens, predicting = sum(map(len, tries)), sum(len(trie.rows) for trie in tries)
    visible = sum(int((trie.end - range(len(trie))).sum()) for trie in tries)  # pairs of tokens

    tail: set[int] = set()
    for name, module in last_layer(backbone.decoder).named_modules():
        if name in POSITION_WISE:
            tail |= {id(part) for part in module.modules()}
    forward: Counter[Product] = Counter()
    backward: Counter[Product] = Counter()
    for name, module in backbone.decoder.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        rows, k, m = (predicting if id(module) in tail else tokens), module.in_features, module.out_features
        forward[rows, k, m] += 1
        if module.weight.requires_grad:
            backward[m, rows, k] += 1
        first_inputs = ".0.self_attn." in f".{name}" and "o_proj" not in name  # they read the frozen embeddings
        if not first_inputs or "lora_B" in name:
            backward[rows, m, k] += 1

    text, vision = config.get_text_config(), config.vision_config
    patches = (vision.image_size[0] // vision.patch_size[0]) ** 2 + 1
    tower, projector = backbone.vision
    seen: Counter[Product] = Counter()
    for part, rows in ((tower, len(items) * patches), (projector, sum(trie.num_features for trie in tries))):
        seen.update((rows, m.in_features, m.out_features) for m in part.modules() if isinstance(m, torch.nn.Linear))
    heads = len(items) * vision.num_attention_heads * vision.num_hidden_layers
    tower_attention = Counter({(patches, vision.hidden_size // vision.num_attention_heads, patches): heads})
    # A square of side sqrt(visible) has as many entries as there are pairs of tokens that see each other.
    side, width = round(visible**0.5), text.hidden_size // text.num_attention_heads
    heads = text.num_attention_heads * text.num_hidden_layers
    head = backbone.head
    return {
        "tower": (seen, tower_attention),
        "decoder forward": (forward, Counter({(side, width, side): heads})),
        "decoder backward": (backward, Counter({(side, width, side): 2 * heads})),
        "head": (
            Counter(
                [(predicting, head.in_features, head.out_features), (predicting, head.out_features, head.in_features)]
            ),
            Counter(),
        ),
    }


def floating_point_operations(parts: Parts) -> float:
    """Multiplications and additions of all products."""
    linear = sum(2.0 * n * k * m * count for part, _ in parts.values() for (n, k, m), count in part.items())
    return linear + sum(4.0 * q * d * k * count for _, part in parts.values() for (q, d, k), count in part.items())


def floor_seconds(parts: Parts, threads: int, repeats: int = 5) -> Mapping[str, float]:
    """Seconds of each part on this CPU, each product at its fastest of some runs."""
    torch.set_num_threads(threads)
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
