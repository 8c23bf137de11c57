"""Counts the matrix multiplications that a training step needs, for the model FLOPs utilisation (mfu).

The count includes:

- tower and projector: one forward pass per image;
- decoder: one forward pass over the distinct tokens; the last layer's query, output and feed-forward parts count only
  at positions that predict a scored token;
- backward pass: the gradients of the trained weights, and of all activations that depend on a trained weight;
- output head: at the predicting positions;
- attention: the pairs of tokens in which one token attends to the other.

The count excludes biases, norms, activations, softmax, the convolutions and states of recurrent layers, the optimizer,
and recomputation (gradient checkpointing). These exclusions are usual for model FLOPs utilisation (PaLM, arXiv
2204.02311, appendix B).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from scramble.training.features import FEATURES
from scramble.trie.backbone import Backbone, ImageInputs
from scramble.trie.engine import encode_images, vision_is_trained
from scramble.trie.last_layer import POSITION_WISE, last_layer
from scramble.trie.pack import TrieBatch

Product = tuple[int, int, int]  # (n, k) @ (k, m)
Products = tuple[Counter[Product], Counter[Product]]  # linear layers; attention as (queries, width, keys)

# Projections of the first layer's input. If embeddings and tower are frozen, this input needs no gradient.
READS_INPUTS = re.compile(r"\w+\.0\.(self_attn\.[qkv]_proj|linear_attn\.in_proj_\w+|att_proj)\b(?!.*lora_B)")


def tower_products(backbone: Backbone, images: Sequence[ImageInputs | None]) -> dict[str, Products]:
    """Return the matrix products of the tower and the projector for distinct images, by part.

    The forward pass is run once and recorded. If the tower is trained, the backward pass is derived from the recorded
    products.
    """
    with torch.no_grad(), torch.random.fork_rng(), _recorded(backbone.vision) as (linear, attention, of_pixels):
        encode_images(backbone, images)
    parts: dict[str, Products] = {"tower": (linear, attention)}
    if vision_is_trained(backbone):
        backward: Counter[Product] = Counter()
        for (n, k, m), count in linear.items():
            backward[m, n, k] += count
            backward[n, m, k] += count - of_pixels[n, k, m]  # pixels need no gradient
        parts["tower backward"] = (backward, Counter({product: 2 * count for product, count in attention.items()}))
    return parts


def decoder_products(backbone: Backbone, *, tokens: int, predicting: int, visible: int) -> dict[str, Products]:
    """Return the matrix products of decoder, head and adapters, by part.

    Weights with ``requires_grad`` count as trained.

    Args:
        backbone: the model.
        tokens: number of distinct tokens, without padding.
        predicting: number of positions that predict a scored token.
        visible: number of pairs of tokens in which one token attends to the other; see :func:`visible_pairs`.
    """
    tail = _tail(backbone)
    stops = not _inputs_are_trained(backbone)
    forward: Counter[Product] = Counter()
    backward: Counter[Product] = Counter()
    for name, module in backbone.decoder.named_modules():
        if not isinstance(module, nn.Linear) or module is backbone.head:
            continue
        rows, k, m = (predicting if id(module) in tail else tokens), module.in_features, module.out_features
        forward[rows, k, m] += 1
        if module.weight.requires_grad:
            backward[m, rows, k] += 1
        if not (stops and READS_INPUTS.match(name)):
            backward[rows, m, k] += 1
    head, heads, width = backbone.head, *_attention(backbone)
    k, m = head.in_features, head.out_features
    of_head = [(predicting, m, k)] + ([(m, predicting, k)] if head.weight.requires_grad else [])
    # Attention over ``visible`` pairs of tokens costs as much as a dense square with this many entries.
    side = round(visible**0.5)
    return {
        "decoder forward": (forward, Counter({(side, width, side): heads})),
        "decoder backward": (backward, Counter({(side, width, side): 2 * heads})),
        "head forward": (Counter([(predicting, k, m)]), Counter()),
        "head backward": (Counter(of_head), Counter()),
    }


def visible_pairs(batch: TrieBatch) -> int:
    """Return the number of pairs (query, key) of tokens, without padding, in which the query attends to the key."""
    own = torch.arange(batch.end_BL.shape[1], device=batch.end_BL.device)
    padding = batch.end_BL.numel() - batch.num_tokens  # a padding position attends only to itself
    # The queries k to end[k] - 1 attend to token k.
    pairs = int((batch.end_BL - own).sum()) - padding
    if batch.block_BL is not None:  # tokens of a bidirectional block also attend to later tokens of the block
        sizes = batch.block_BL[batch.block_BL >= 0].unique(return_counts=True)[1]
        pairs += int((sizes * (sizes - 1) // 2).sum())
    return pairs


def operations(parts: Iterable[Products]) -> float:
    """Return the number of multiplications and additions in all products."""
    return sum(
        sum(2.0 * n * k * m * count for (n, k, m), count in linear.items())
        + sum(4.0 * q * d * k * count for (q, d, k), count in attention.items())
        for linear, attention in parts
    )


class OperationMeter:
    """Counts the floating-point operations of training on a batch, independently of their implementation.

    The tower is measured once, on the first image inputs, and its count is scaled with the number of pixel values.
    """

    def __init__(self, backbone: Backbone, *, in_step_reference: bool) -> None:
        self._backbone = backbone

        def count(**sizes: int) -> float:
            parts = decoder_products(backbone, **{"tokens": 0, "predicting": 0, "visible": 0, **sizes})
            reference = [parts["decoder forward"], parts["head forward"]] if in_step_reference else []
            return operations([*parts.values(), *reference])

        # Every part is proportional to one of these three sizes.
        self._each = count(tokens=1), count(predicting=1), count(visible=1)
        self._per_value: float | None = None

    def __call__(self, batch: TrieBatch) -> float:
        """Return the number of operations for one micro-batch, forward and backward."""
        sizes = batch.num_tokens, len(batch.rows_R), visible_pairs(batch)
        return sum(each * size for each, size in zip(self._each, sizes, strict=True)) + self._tower(batch.images)

    def _tower(self, images: Sequence[ImageInputs | None]) -> float:
        distinct = {id(image): image for image in images if image is not None and FEATURES not in image}
        if not distinct:
            return 0.0
        if self._per_value is None:
            first = next(iter(distinct.values()))
            self._per_value = operations(tower_products(self._backbone, [first]).values()) / _num_values(first)
        return self._per_value * sum(_num_values(image) for image in distinct.values())


def _num_values(image: ImageInputs) -> int:
    return sum(tensor.numel() for tensor in image.values() if tensor.is_floating_point())


def _tail(backbone: Backbone) -> set[int]:
    """Return the ids of the last layer's modules that run only at predicting positions (``trie/last_layer.py``)."""
    layer = last_layer(backbone.decoder)
    named = [] if layer is None else [module for name, module in layer.named_modules() if name in POSITION_WISE]
    return {id(part) for module in named for part in module.modules()}


def _inputs_are_trained(backbone: Backbone) -> bool:
    """Return whether the gradient also flows below the first layer, to the embeddings or to the tower."""
    layers = {id(p) for m in backbone.decoder.modules() if isinstance(m, nn.ModuleList) for p in m.parameters()}
    others = [p for p in backbone.decoder.parameters() if id(p) not in layers and p.ndim > 1]
    return vision_is_trained(backbone) or any(p.requires_grad for p in others)


def _attention(backbone: Backbone) -> tuple[int, int]:
    """Return the number of attention heads in all layers together, and the width of one head."""
    config: Any = backbone.decoder.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return config.num_attention_heads * (len(types) - types.count("linear_attention")), width


@contextmanager
def _recorded(modules: Iterable[nn.Module]) -> Iterator[tuple[Counter[Product], Counter[Product], Counter[Product]]]:
    """Within the block, record the matrix products in the forward passes of ``modules``.

    Yields three counters of products: in linear layers and convolutions, in attention, and in the first layer that ran.
    """
    linear: Counter[Product] = Counter()
    attention: Counter[Product] = Counter()
    of_first: Counter[Product] = Counter()
    ran: list[nn.Module] = []

    def record(module: Any, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear):  # quantised weights have another shape
            k, m = module.in_features, module.out_features
        else:
            k, m = module.weight[0].numel(), module.weight.shape[0]
        product = output.numel() // m, k, m
        linear[product] += 1
        ran.append(module)
        of_first[product] += module is ran[0]

    class Attentions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is nn.functional.scaled_dot_product_attention:
                query, key = args[:2]
                attention[query.shape[-2], query.shape[-1], key.shape[-2]] += query.shape[:-2].numel()
            return func(*args, **(kwargs or {}))

    layers = [m for part in modules for m in part.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        with Attentions():
            yield linear, attention, of_first
    finally:
        for hook in hooks:
            hook.remove()
