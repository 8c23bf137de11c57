"""Compares the model with recorded values, and two computations of the model that must agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scramble.models.molmo import MolmoConfig, MolmoForCausalLM
from scramble.models.molmo.modeling_molmo_text import MolmoEmbedding, rotary_cos_sin, rotate

Golden = Callable[..., Any]
Inputs = dict[str, torch.Tensor]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["molmo_model", "molmo_model_o"])
def test_features_and_logits_are_the_recorded_ones(
    name: str, attention: str, golden: Golden, golden_folder: Path, inputs: Inputs
) -> None:
    recorded = load_file(golden_folder / name / "io.safetensors")
    model, report = golden(name, attn_implementation=attention, output_loading_info=True)
    assert report["missing_keys"] == report["unexpected_keys"] == report["mismatched_keys"] == set()
    with torch.no_grad():
        outputs = model.eval()(**{key: recorded[key] for key in inputs})
        text_only = model(input_ids=recorded["text_only_input_ids"])
    real = recorded["attention_mask"].bool()
    for actual, expected in (
        (outputs.image_hidden_states, recorded["image_features"]),
        (outputs.logits[real], recorded["logits"][real]),
        (text_only.logits, recorded["text_only_logits"]),
    ):
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)


def test_parameters_carry_the_released_names(golden: Golden, golden_folder: Path) -> None:
    assert set(golden().state_dict()) == set(load_file(golden_folder / "molmo_model" / "model.safetensors"))


def test_defaults_are_7b_d() -> None:
    """A model on the meta device has 8.02 billion parameters, which is the hub's count for Molmo-7B-D-0924."""
    with torch.device("meta"):
        model = MolmoForCausalLM(MolmoConfig())
    transformer, vision = model.model.transformer, model.model.vision_backbone
    assert transformer.blocks[0].att_proj.weight.shape == (3584 + 2 * 512, 3584)
    assert transformer.wte.new_embedding.shape == (128, 3584)
    assert vision.image_vit.positional_embedding.shape == (577, 1024)
    assert vision.image_pooling_2d.wq.weight.shape == (1024, 2048)
    assert sum(p.numel() for p in model.parameters()) == 8_021_025_280


def test_72b_is_the_same_design_at_qwen2_72b_size() -> None:
    """Qwen2-72B has 72.7 billion parameters; tower and projector together have 0.6 billion."""
    sizes: dict[str, Any] = {
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }
    config = MolmoConfig(**sizes, intermediate_size=2 * 29568, layer_norm_eps=1e-5)
    with torch.device("meta"):
        model = MolmoForCausalLM(config)
    decoder = sum(p.numel() for p in model.model.transformer.parameters())
    vision = sum(p.numel() for p in model.model.vision_backbone.parameters())
    assert (round(decoder / 1e9, 1), round(vision / 1e9, 1)) == (72.7, 0.6)
    assert model.model.transformer.ln_f.eps == 1e-5


def test_each_embedding_table_serves_its_ids() -> None:
    """Ids 0 and 1 are in the first table, 2 and 3 in the second; -1 gets row 0; 4 and -2 are in neither."""
    sizes: dict[str, Any] = {
        "vocab_size": 2,
        "embedding_size": 2,
        "additional_vocab_size": 2,
        "image_patch_token_id": 3,
    }
    config = MolmoConfig(**sizes, hidden_size=4, num_attention_heads=1, num_key_value_heads=1)
    table = MolmoEmbedding(config)
    table.embedding.data = torch.arange(8.0).view(2, 4)
    table.new_embedding.data = torch.arange(8.0, 16.0).view(2, 4)
    assert table(torch.tensor([0, 1, 2, 3, -1]))[:, 0].tolist() == [0.0, 4.0, 8.0, 12.0, 0.0]
    for outside in (4, -2):
        with pytest.raises(IndexError):
            table(torch.tensor([outside]))


def test_rotation_depends_on_distance_only_and_is_done_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)
    products = []
    for shift in (0, 1000):
        cos, sin = rotary_cos_sin(torch.tensor([[3 + shift, 10 + shift]]), 8, 1e4)
        products.append((rotate(query, cos, sin)[..., 0, :] * rotate(key, cos, sin)[..., 1, :]).sum())
    torch.testing.assert_close(*products, atol=1e-4, rtol=0)
    assert cos.dtype == torch.float32
    assert rotate(query.bfloat16(), cos, sin).dtype == torch.bfloat16


def test_padding_on_either_side_and_finished_masks_change_nothing(golden: Golden, inputs: Inputs) -> None:
    """The second row has 44 real tokens of 48. If they are moved to the right, positions and features are moved too."""
    model = golden().eval()
    row = {key: value[1:] for key, value in inputs.items()}
    moved = dict(row, input_ids=row["input_ids"].roll(4, 1), attention_mask=row["attention_mask"].roll(4, 1))
    moved["image_input_idx"] = torch.where(row["image_input_idx"] >= 0, row["image_input_idx"] + 4, -1)
    mask = torch.ones(48, 48, dtype=torch.bool).tril() & row["attention_mask"].bool()[:, None, None]
    with torch.no_grad():
        expected = model(**row).logits[:, :44]
        torch.testing.assert_close(model(**moved).logits[:, 4:], expected, atol=1e-5, rtol=0)
        for attention in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
            actual = model(**dict(row, attention_mask=mask)).logits[:, :44]
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_positions_can_be_given(golden: Golden, inputs: Inputs) -> None:
    """Rotary positions are relative: shifting all of them by 7 changes nothing, but increasing their distances changes
    the result."""
    model, ids = golden().eval(), inputs["input_ids"][:1, 12:24]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        shifted = model(input_ids=ids, position_ids=torch.arange(12)[None] + 7).logits
        spread = model(input_ids=ids, position_ids=torch.arange(12)[None] * 3).logits
    torch.testing.assert_close(shifted, expected, atol=1e-5, rtol=0)
    assert (spread - expected).abs().max() > 1e-3


def test_features_can_be_computed_once_and_added_to_embeddings(golden: Golden, inputs: Inputs) -> None:
    model = golden().eval()
    with torch.no_grad():
        expected = model(**inputs).logits
        features = model.get_image_features(inputs["images"], inputs["image_masks"])
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        untouched = embeds.clone()
        joined = model.model.add_image_features(embeds, features, inputs["image_input_idx"])
        actual = model(inputs_embeds=joined, attention_mask=inputs["attention_mask"]).logits
    assert torch.equal(embeds, untouched)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_padding_crops_do_not_pass_the_tower(golden: Golden, inputs: Inputs) -> None:
    """Of two rows of three crops, one crop contains only -1, so the tower processes five crops."""
    model, seen = golden().eval(), []
    model.model.vision_backbone.image_vit.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    with torch.no_grad():
        model(**inputs)
    assert seen == [5]


def test_loss_is_the_mean_cross_entropy_of_the_next_tokens(golden: Golden, inputs: Inputs) -> None:
    model = golden().eval()
    labels = torch.where((inputs["input_ids"] < 384) & (inputs["input_ids"] >= 0), inputs["input_ids"], -100)
    with torch.no_grad():
        outputs = model(**inputs, labels=labels)
    logps = outputs.logits[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    remaining = targets >= 0
    expected = -logps[remaining].gather(1, targets[remaining][:, None]).mean()
    torch.testing.assert_close(outputs.loss, expected, atol=1e-5, rtol=0)


def test_logits_to_keep_by_number_and_by_position(golden: Golden, inputs: Inputs) -> None:
    model = golden().eval()
    with torch.no_grad():
        every = model(**inputs).logits
        torch.testing.assert_close(model(**inputs, logits_to_keep=3).logits, every[:, -3:], atol=1e-6, rtol=0)
        where = torch.tensor([5, 40])
        torch.testing.assert_close(model(**inputs, logits_to_keep=where).logits, every[:, where], atol=1e-6, rtol=0)


def test_hidden_states_and_attentions_on_request(golden: Golden, inputs: Inputs) -> None:
    with torch.no_grad():
        model = golden(attn_implementation="eager").eval()
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 48, 64)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 4, 48, 48)] * 2


@pytest.mark.parametrize("name", ["molmo_model", "molmo_model_o"])
@pytest.mark.parametrize("part", ["whole model", "decoder alone"])
def test_gradient_checkpointing_changes_no_gradient(name: str, part: str, golden: Golden, inputs: Inputs) -> None:
    labels = torch.where((inputs["input_ids"] < 370) & (inputs["input_ids"] >= 0), inputs["input_ids"], -100)
    gradients = []
    for checkpointing in (False, True):
        model = golden(name).train()
        if checkpointing:
            target = model if part == "whole model" else model.model.transformer
            target.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
            assert len(layers) == (2 + 10 + 1 if part == "whole model" else 2 + 1)
        model(**inputs, labels=labels).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    plain, checkpointed = gradients
    # Only the tower's last block, on which no output depends, has no gradient.
    assert {key for key, grad in plain.items() if grad is None} == {key for key in plain if ".resblocks.9." in key}
    for key, grad in plain.items():
        torch.testing.assert_close(checkpointed[key], grad, atol=1e-6, rtol=0)


def test_decoder_trains_on_frozen_features(golden: Golden, inputs: Inputs) -> None:
    """With tower and embeddings frozen, gradient checkpointing still reaches the decoder's weights."""
    model = golden().train()
    model.requires_grad_(False)
    model.model.transformer.blocks.requires_grad_(True)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(**inputs).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.model.transformer.blocks.parameters())


def test_efficient_attention_stays_enabled(golden: Golden) -> None:
    golden()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.math_sdp_enabled()


def test_bfloat16_stays_close(golden: Golden, inputs: Inputs) -> None:
    with torch.no_grad():
        expected = golden().eval()(**inputs).logits
        actual = golden(dtype=torch.bfloat16).eval()(**inputs).logits
    real = inputs["attention_mask"].bool()
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected)[real].abs().max() < 0.05 * expected[real].abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_input_idx": None}, "image_input_idx"),
        ({"image_input_idx": torch.full((2, 3, 4), 48)}, "do not truncate the processor's output"),
        ({"image_input_idx": torch.full((2, 3, 4), -1)}, "do not match"),
        ({"image_input_idx": torch.tensor(0).expand(2, 3, 4)}, "do not match"),
        ({"images": torch.zeros(2, 3, 25, 588)}, "use the processor saved with this model"),
        ({"labels": torch.full((2, 48), 386)}, "set the labels of image tokens to -100"),
        ({"input_ids": None}, "exactly one of"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change: Inputs, message: str, golden: Golden, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match=message):
        golden().eval()(**{**inputs, **change})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer_norm_type": "low_precision"}, "layer_norm_type"),
        ({"clip_qkv": 8.0}, "clip_qkv"),
        ({"moe_num_experts": 64}, "MolmoE"),
        ({"embedding_size": 100}, "must be at least vocab_size"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"image_patch_token_id": 7}, "must be an additional id"),
        ({"vision_config": {"image_size": 340}}, "must be a multiple of patch_size=14"),
        ({"vision_config": {"feature_layers": [-30]}}, "23 blocks"),
    ],
)
def test_configurations_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        MolmoConfig(**values)


def test_embeddings_are_not_resized(golden: Golden) -> None:
    with pytest.raises(ValueError, match="cannot be resized"):
        golden().resize_token_embeddings(500)


@pytest.mark.full
def test_flex_attention_equals_sdpa(golden: Golden, inputs: Inputs) -> None:
    """Compiling the kernel for a CPU takes a minute. The tower, which has no mask, uses SDPA."""
    from torch.nn.attention.flex_attention import create_block_mask

    model = golden().eval()
    row = {key: value[:1] for key, value in inputs.items()}
    causal = create_block_mask(lambda b, h, q, k: q >= k, 1, None, 48, 48, device="cpu")
    with torch.no_grad():
        expected = model(**row).logits
        model.set_attn_implementation("flex_attention")
        for mask in (row["attention_mask"], causal):
            torch.testing.assert_close(model(**dict(row, attention_mask=mask)).logits, expected, atol=2e-5, rtol=0)
