"""Compares the load-balancing loss of tries with transformers' loss on one sequence per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from scramble.models import ModelError, load_vlm
from scramble.models.backbone import FamilyBackbone
from scramble.training.policy import router_coefficient
from scramble.trie import enable_gradient_checkpointing, logprobs, pack
from tests.exactness import CASES, make_items

NAMES = ("internvl_moe", "qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe")


@pytest.mark.parametrize("case", ["five captions", "rows and padding", "identical", "with and without image"])
@pytest.mark.parametrize("name", NAMES)
def test_shared_tokens_count_once_per_sequence(
    name: str, case: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    """The loss agrees to 1e-6, and so does its gradient. Last tokens count although no score depends on them."""
    vlm = load_vlm(tiny(name), dtype="float32")
    vlm.model.set_experts_implementation("eager")  # grouped matrix products do not support float64
    model = with_lora(vlm.model, vlm.family.lora_targets).double().train()
    backbone = FamilyBackbone(vlm.family, model)
    trained = [p for n, p in model.named_parameters() if p.requires_grad]
    items = make_items(vlm.family, vlm.processor, CASES[case], images)

    decoder: Any = backbone.decoder
    rows: list[tuple[torch.Tensor, ...]] = []
    decoder.config.output_router_logits = True
    handle = decoder.register_forward_hook(lambda module, args, output: rows.append(output.router_logits))
    for item in items:
        for ids in item.sequences:
            row = torch.tensor([ids])
            types = (row == vlm.model.config.image_token_id).long()
            extra = {} if name == "internvl_moe" else {"mm_token_type_ids": types}
            model(input_ids=row, **extra, **(item.images or {}))
    handle.remove()
    decoder.config.output_router_logits = False
    layers: Any = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    wanted = load_balancing_loss_func(layers, 4, 2)
    assert isinstance(wanted, torch.Tensor)
    gradients = torch.autograd.grad(wanted, trained, allow_unused=True)
    norm = torch.cat([g.flatten() for g in gradients if g is not None]).norm()
    assert norm > 0

    batch = pack(items, replace(backbone.token_rules, last_tokens=True), row_tokens=CASES[case].row_tokens)
    assert int(batch.sequences_BL.sum()) == sum(len(ids) for item in items for ids in item.sequences)
    for checkpointing in (False, True):
        if checkpointing:
            enable_gradient_checkpointing(backbone)
        result = logprobs(backbone, batch, with_router_loss=True)
        assert result.router_loss is not None
        assert abs(float((result.router_loss - wanted).detach())) < 1e-6
        actual = torch.autograd.grad(result.router_loss, trained, allow_unused=True)
        for value, expected in zip(actual, gradients, strict=True):
            assert (value is None) == (expected is None)
            if value is not None and expected is not None:
                assert (value - expected).norm() <= 1e-5 * norm
    assert logprobs(backbone, batch).router_loss is None
    without_last = pack(items, backbone.token_rules)
    torch.testing.assert_close(logprobs(backbone, without_last).sums_Q, result.sums_Q, atol=1e-8, rtol=0)


def test_coefficient(tiny: Callable[[str], Path]) -> None:
    experts, dense = load_vlm(tiny("qwen3_vl_moe")).backbone, load_vlm(tiny("qwen3_vl")).backbone
    assert router_coefficient(experts, None) == 0.001  # the model's own
    assert router_coefficient(experts, 0.0) == 0
    assert router_coefficient(experts, 0.5) == 0.5
    assert router_coefficient(dense, None) == router_coefficient(dense, 0.0) == 0
    with pytest.raises(ModelError, match="is not a mixture of experts with a load-balancing loss"):
        router_coefficient(load_vlm(tiny("gemma4_moe")).backbone, 0.5)
    with pytest.raises(ModelError, match=r"router_aux_loss_coef=0\.5: Qwen3VLFor\w+ is not a mixture of experts"):
        router_coefficient(dense, 0.5)
