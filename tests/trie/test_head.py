"""Tests the head's log-probabilities and all three gradients against log_softmax and autograd, in float64."""

from __future__ import annotations

import pytest
import torch

from scramble.trie.head import head_logprobs

ROW_STARTS = (0, 1, 4, 6)
TARGET_ROWS = torch.tensor([0, 1, 1, 1, 2, 2])
TARGET_IDS = torch.tensor([4, 0, 2, 6, 1, 2])


def expected_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None = None
) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1)[TARGET_ROWS, TARGET_IDS]


@pytest.mark.parametrize("chunk_elements", [1, 14, 10_000])  # chunks of 1, 2 and all rows
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_values_and_gradients(chunk_elements: int, with_bias: bool, softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7, 5), (7,)][: 3 if with_bias else 2]
    inputs = [torch.randn(*s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    bias = inputs[2] if with_bias else None
    actual, *_ = head_logprobs(
        inputs[0],
        inputs[1],
        bias,
        ROW_STARTS,
        TARGET_ROWS,
        TARGET_IDS,
        softcap=softcap,
        chunk_elements=chunk_elements,
    )
    expected = expected_logprobs(inputs[0], inputs[1], bias, softcap)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn(6, generator=generator, dtype=torch.float64)
    for actual_value, expected_value in zip(
        torch.autograd.grad(actual, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(actual_value, expected_value)


def test_frozen_head_stores_no_tensor_of_the_vocabularys_size() -> None:
    rows, width, vocab = 40, 8, 5000
    hidden = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocab, width)
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        actual, *_ = head_logprobs(hidden, weight, None, range(rows + 1), torch.arange(rows), torch.arange(rows))
    assert max(t.numel() for t in saved if t is not weight and t.data_ptr() != weight.data_ptr()) == rows * width
    actual.sum().backward()
    assert hidden.grad is not None and weight.grad is None


def test_bfloat16_is_normalised_in_float32() -> None:
    """With bfloat16 inputs log-probabilities are float32 and more accurate than rounded logits."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(3, 64, generator=generator), torch.randn(700, 64, generator=generator) / 8
    exact = (hidden.bfloat16().double() @ weight.bfloat16().double().T).log_softmax(-1)[TARGET_ROWS, TARGET_IDS]
    actual, *_ = head_logprobs(
        hidden.bfloat16(), weight.bfloat16(), None, ROW_STARTS, TARGET_ROWS, TARGET_IDS, chunk_elements=1000
    )
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("with_gradient", [False, True])
def test_statistics_of_the_whole_distribution(with_gradient: bool) -> None:
    """Entropy and log sum p^2 per row against the full softmax, in chunks of two rows; log-probabilities are equal."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, generator=generator, requires_grad=with_gradient)
    weight = torch.randn(7, 5, generator=generator)
    arguments = (hidden, weight, None, ROW_STARTS, TARGET_ROWS, TARGET_IDS)
    plain, *nothing = head_logprobs(*arguments, chunk_elements=14)
    actual, entropy, log_sum_squares = head_logprobs(*arguments, chunk_elements=14, with_statistics=True)
    assert nothing == [None, None] and torch.equal(actual, plain)
    probabilities = (hidden @ weight.T).softmax(-1).detach()
    torch.testing.assert_close(entropy, -(probabilities * probabilities.log()).sum(-1))
    torch.testing.assert_close(log_sum_squares, (probabilities**2).sum(-1).log())
