"""Tests the amount of work that the engine does, and errors that name the item."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from scramble.trie import (
    NonFiniteError,
    TrieBatch,
    TrieError,
    TrieItem,
    enable_gradient_checkpointing,
    encode_images,
    logprobs,
    pack,
    score,
)
from scramble.trie import engine as engine_module
from scramble.trie.last_layer import only_predicting
from tests.exactness import CASES, make_items


@pytest.fixture
def batch_of(vlm: Any, images: list[Image.Image]) -> Callable[[str], TrieBatch]:
    def make(name: str) -> TrieBatch:
        items = make_items(vlm.family, vlm.processor, CASES[name], images)
        return pack(items, vlm.backbone.token_rules, row_tokens=CASES[name].row_tokens)

    return make


pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


class Counter:
    """Counts calls and rows of a module's forward, and backward passes through it."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = self.rows = self.backwards = 0
        module.register_forward_hook(self._forward)
        module.register_full_backward_hook(self._backward)

    def _forward(self, module: nn.Module, args: Any, output: Any) -> None:
        self.calls += 1
        self.rows += (output if isinstance(output, torch.Tensor) else output[0]).shape[0]

    def _backward(self, module: nn.Module, grad_input: Any, grad_output: Any) -> None:
        self.backwards += 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_tower_runs_once_per_image_and_never_backward(
    checkpointing: bool, vlm: Any, batch_of: Callable[[str], TrieBatch]
) -> None:
    model, backbone = vlm.model, vlm.backbone
    if checkpointing:
        enable_gradient_checkpointing(backbone)
    model.train()
    towers = [Counter(layer) for layer in backbone.vision[0].encoder.layer]
    projector = Counter(backbone.vision[1])
    layers = [Counter(layer) for layer in backbone.decoder.layers]
    batch = batch_of("several images in a row")
    assert len(batch.images) == 3
    logprobs(backbone, batch).sums_Q.sum().backward()
    for counter in (*towers, projector):
        assert (counter.calls, counter.rows, counter.backwards) == (3, 3, 0)
    for counter in layers:
        assert (counter.calls, counter.backwards) == (1, 1)
    assert not any(module.training for module in backbone.vision)


def test_shared_images_are_encoded_once(vlm: Any, batch_of: Callable[[str], TrieBatch]) -> None:
    tower = Counter(vlm.backbone.vision[0].encoder.layer[0])
    batch = batch_of("one pair")
    images = batch.images[0]
    encode_images(vlm.backbone, [images, None, images, dict(images)])
    assert (tower.calls, tower.rows) == (2, 2)


def test_trained_tower_gets_its_gradient_in_one_pass(vlm: Any, batch_of: Callable[[str], TrieBatch]) -> None:
    vlm.backbone.vision[1].requires_grad_(True)
    tower = Counter(vlm.backbone.vision[0].encoder.layer[0])
    projector = Counter(vlm.backbone.vision[1])
    logprobs(vlm.backbone, batch_of("five captions")).sums_Q.sum().backward()
    assert tower.calls == 1
    assert (projector.calls, projector.backwards) == (1, 1)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in vlm.backbone.vision[1].parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_last_layer_works_on_predicting_positions(
    checkpointing: bool, vlm: Any, batch_of: Callable[[str], TrieBatch]
) -> None:
    if checkpointing:
        enable_gradient_checkpointing(vlm.backbone)
    vlm.model.train()
    first, last = vlm.backbone.decoder.layers[0], vlm.backbone.decoder.layers[-1]
    inner = [layer.mlp.down_proj for layer in (first, last)]
    inner += [layer.self_attn.v_proj for layer in (first, last)]
    sizes: list[int] = []
    for module in inner:
        module.register_forward_hook(lambda module, args, output: sizes.append(output.shape[:-1].numel()))
    batch = batch_of("rows and padding")
    everywhere, predicting = batch.input_ids_BL.numel(), len(batch.rows_R)
    with torch.no_grad():
        logprobs(vlm.backbone, batch)
    # v_proj and mlp of the first layer, then v_proj and mlp of the last layer
    assert sizes == [everywhere, everywhere, everywhere, predicting]


def test_last_layer_checkpointed_by_others_runs_in_full(vlm: Any, batch_of: Callable[[str], TrieBatch]) -> None:
    batch = batch_of("five captions")
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    vlm.model.train()
    wanted = torch.autograd.grad(logprobs(vlm.backbone, batch).sums_Q.sum(), trained)
    enable_gradient_checkpointing(vlm.backbone)
    vlm.backbone.decoder.layers[-1].gradient_checkpointing = True
    actual = torch.autograd.grad(logprobs(vlm.backbone, batch).sums_Q.sum(), trained)
    for actual_value, expected_value in zip(actual, wanted, strict=True):
        torch.testing.assert_close(actual_value, expected_value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["one pair", "five captions", "prefix", "identical"])
def test_head_rows_are_distinct_predictors(
    name: str, vlm: Any, batch_of: Callable[[str], TrieBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []

    def counting(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor | None, ...]:
        rows.append(len(hidden))
        return head_logprobs(hidden, *args, **kwargs)

    head_logprobs = engine_module.head_logprobs
    monkeypatch.setattr(engine_module, "head_logprobs", counting)
    batch = batch_of(name)
    with torch.no_grad():
        logprobs(vlm.backbone, batch)
    items = make_items(vlm.family, vlm.processor, CASES[name], [Image.new("RGB", (48, 48))])
    predictors = {
        tuple(ids[:n])
        for item in items
        for ids, mask in zip(item.sequences, item.scored, strict=True)
        for n in range(len(ids))
        if mask[n]
    }
    assert rows == [len(predictors)]


def count_hooks(model: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


def test_hooks_do_not_grow_with_steps(vlm: Any, batch_of: Callable[[str], TrieBatch]) -> None:
    enable_gradient_checkpointing(vlm.backbone)
    vlm.model.train()
    batch = batch_of("one pair")
    counts = []
    for _ in range(50):
        with torch.no_grad(), vlm.model.disable_adapter():
            logprobs(vlm.backbone, batch)
        logprobs(vlm.backbone, batch).sums_Q.sum().backward()
        counts.append(count_hooks(vlm.model))
    assert len(set(counts)) == 1
    embedding = vlm.backbone.model.get_input_embeddings()
    assert not embedding._forward_hooks  # no hook requests a gradient of the frozen embeddings


def test_checkpointing_changes_no_number(vlm: Any, batch_of: Callable[[str], TrieBatch]) -> None:
    batch = batch_of("five captions")
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    vlm.model.train()
    plain = logprobs(vlm.backbone, batch)
    plain_gradients = torch.autograd.grad(plain.sums_Q.sum(), trained)
    enable_gradient_checkpointing(vlm.backbone)
    layer = Counter(vlm.backbone.decoder.layers[0].input_layernorm)
    again = logprobs(vlm.backbone, batch)
    gradients = torch.autograd.grad(again.sums_Q.sum(), trained)
    assert layer.calls == 2  # the second call is the recomputation in the backward pass
    torch.testing.assert_close(again.sums_Q, plain.sums_Q, atol=0, rtol=0)
    for actual_value, expected_value in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(actual_value, expected_value)


def test_sums_and_counts_are_those_of_the_tokens(vlm: Any, batch_of: Callable[[str], TrieBatch]) -> None:
    with torch.no_grad():
        result = logprobs(vlm.backbone, batch_of("rows and padding"))
    assert result.num_sequences == (2, 5, 1, 5)
    sums = [tokens.sum() for tokens in result.tokens_M.split(result.counts_Q.tolist())]
    torch.testing.assert_close(torch.stack(sums), result.sums_Q)


def test_wrong_number_of_features_names_the_item(vlm: Any, images: list[Image.Image]) -> None:
    item = make_items(vlm.family, vlm.processor, CASES["one pair"], images)[0]
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in item.images.items()}
    wrong = dataclasses.replace(item, images=twice, item_id="pair 7")
    batch = pack([item, wrong], vlm.backbone.token_rules)
    with pytest.raises(
        TrieError, match=r"item 'pair 7': the number of image tokens in the prompt is 16, but the number .* is 32"
    ):
        logprobs(vlm.backbone, batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda item: {"scored": [[False] * len(ids) for ids in item.sequences]},
            "sequence 0: the sequence has no scored token",
        ),
        (lambda item: {"sequences": [[*ids[:-1], 10**6] for ids in item.sequences]}, "token id 1000000 is scored"),
        (lambda item: {"images": None}, "the prompt contains image tokens, but the item has no images"),
        (lambda item: {"sequences": [ids[1:] for ids in item.sequences]}, "but the length of its mask is"),
    ],
)
def test_scoring_names_the_item_that_it_cannot_score(
    vlm: Any, images: list[Image.Image], change: Callable[[TrieItem], dict[str, Any]], message: str
) -> None:
    item = make_items(vlm.family, vlm.processor, CASES["one pair"], images)[0]
    with pytest.raises(TrieError, match=f"item 'quad 3'.*{message}"):
        score(vlm.backbone, [item, dataclasses.replace(item, item_id="quad 3", **change(item))])


def test_nan_names_the_item(vlm: Any, images: list[Image.Image]) -> None:
    good = make_items(vlm.family, vlm.processor, CASES["one pair"], images)[0]
    pixels = {name: torch.full_like(tensor, float("nan")) for name, tensor in good.images.items()}
    bad = dataclasses.replace(good, images=pixels, item_id="broken image")
    with pytest.raises(NonFiniteError, match=r"1 of 2 items: broken image. Check trainer.learning_rate"):
        logprobs(vlm.backbone, pack([good, bad], vlm.backbone.token_rules))


def test_scores_come_back_in_order(vlm: Any, images: list[Image.Image]) -> None:
    """An item has the same scores alone and in any window and batch."""
    items = [
        item
        for name in ("five captions", "no image", "rows and padding")
        for item in make_items(vlm.family, vlm.processor, CASES[name], images)
    ]
    alone = [score(vlm.backbone, [item])[0] for item in items]
    together = score(vlm.backbone, iter(items), batch_tokens=150, window=4)
    assert [len(item) for item in together] == [len(item.sequences) for item in items]
    for actual, expected in zip(together, alone, strict=True):
        assert [s.sum for s in actual] == pytest.approx([s.sum for s in expected], abs=1e-4)
        assert [len(s.tokens) for s in actual] == [len(s.tokens) for s in expected]
    assert actual[0].mean == pytest.approx(actual[0].sum / len(actual[0].tokens))


def test_score_of_option_letters_adds_up_to_one(vlm: Any, images: list[Image.Image]) -> None:
    """The probabilities of all single-token continuations of a prompt sum to 1."""
    prompt = vlm.family.encode_prompt(vlm.processor, "circle", images[:1])
    vocab = vlm.backbone.head.weight.shape[0]
    sequences = [[*prompt.input_ids, token] for token in range(vocab)]
    mask = [False] * len(prompt.input_ids) + [True]
    item = TrieItem(sequences, [mask] * vocab, prompt.images)
    batch = pack([item], vlm.backbone.token_rules)
    assert batch.num_tokens == len(prompt.input_ids) and len(batch.rows_R) == 1
    (scores,) = score(vlm.backbone, [item])
    assert torch.tensor([s.sum for s in scores]).exp().sum().item() == pytest.approx(1, abs=1e-5)


MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "layer_types": ["full_attention"] * 2},  # its block also returns router scores
}


@pytest.mark.parametrize("model_type", MIXTURES)
def test_last_layer_of_a_mixture_of_experts(model_type: str) -> None:
    """At predicting positions the restricted last layer has the same output; elsewhere it does not run."""
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, "bos_token_id": 0}
    config = AutoConfig.for_model(model_type, **sizes, eos_token_id=1, pad_token_id=0, **MIXTURES[model_type])
    torch.manual_seed(0)
    decoder = AutoModel.from_config(config, attn_implementation="eager").eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    embeds, rows = torch.randn(2, 9, 32), torch.tensor([3, 4, 8, 9, 16])
    with torch.no_grad():
        wanted = decoder(inputs_embeds=embeds).last_hidden_state.flatten(0, 1)
        with only_predicting(decoder, rows):
            actual = decoder(inputs_embeds=embeds).last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(actual[rows], wanted[rows], atol=1e-5, rtol=0)
    assert not torch.allclose(actual, wanted, atol=1e-2)


def test_a_frozen_tower_encodes_a_limited_number_of_patches() -> None:
    """Chunks are consecutive and as full as the limit allows; an item with more patches than that is encoded alone."""
    from scramble.trie.engine import in_chunks

    inputs = [{"pixel_values": torch.zeros(n)} for n in (3, 4, 9, 1, 1, 5)]

    def sizes(limit: int | None) -> list[list[int]]:
        chunks = in_chunks(inputs, [len(image["pixel_values"]) for image in inputs], limit)
        return [[len(image["pixel_values"]) for image in chunk] for chunk in chunks]

    assert sizes(None) == [[3, 4, 9, 1, 1, 5]]
    assert sizes(7) == [[3, 4], [9], [1, 1, 5]]
    assert sizes(1) == [[3], [4], [9], [1], [1], [5]]
