"""Tests the engine with FlexAttention; on a GPU in bfloat16 against one sequence per row in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from scramble.trie import TrieItem, enable_gradient_checkpointing, logprobs, pack
from tests.exactness import CASES, make_items, plain_logprobs


def compare(vlm: Any, items: list[TrieItem], expected: torch.Tensor, row_tokens: int | None, atol: float) -> None:
    batch = pack(items, vlm.backbone.token_rules, row_tokens=row_tokens)
    result = logprobs(vlm.backbone, batch)
    torch.testing.assert_close(result.tokens_M.cpu(), expected, atol=atol, rtol=0)
    if result.sums_Q.requires_grad:
        result.sums_Q.sum().backward()
        trained = [p for p in vlm.model.parameters() if p.requires_grad]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.full  # compiles kernels; for a single long row the C++ code of PyTorch 2.13 does not compile
@pytest.mark.parametrize("name", ["one pair", "rows and padding"])
def test_flex_attention_on_cpu(name: str, vlm: Any, images: list[Image.Image]) -> None:
    items = make_items(vlm.family, vlm.processor, CASES[name], images)
    with torch.no_grad():
        expected = torch.cat(plain_logprobs(vlm.model, items))
        vlm.backbone.decoder.set_attn_implementation("flex_attention")
        compare(vlm, items, expected, CASES[name].row_tokens, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("name", CASES)
def test_bfloat16_on_cuda(name: str, attention: str, vlm: Any, images: list[Image.Image]) -> None:
    """Within 2e-2 nats per token of the same weights in float32; gradients with checkpointing are finite."""
    items = make_items(vlm.family, vlm.processor, CASES[name], images)
    vlm.model.bfloat16().float()
    with torch.no_grad():
        expected = torch.cat(plain_logprobs(vlm.model, items))
    vlm.model.bfloat16().cuda().train()
    vlm.backbone.decoder.set_attn_implementation(attention)
    enable_gradient_checkpointing(vlm.backbone)
    compare(vlm, items, expected, CASES[name].row_tokens, atol=2e-2)
