"""Compares the reward shift of BCO with means computed by hand."""

from __future__ import annotations

import json

import pytest
import torch

from scramble.training.reward_shift import RewardShift


def test_earlier_is_the_mean_over_earlier_steps() -> None:
    """Step 1 has rewards 1, 3 and 5 in two micro-batches, step 2 has 7: the shift is 0, 0, then 9/3 = 3, then 16/4 =
    4."""
    shift = RewardShift("earlier")
    shift.observe(torch.tensor([1.0, 3.0]))
    assert shift.value == 0
    shift.observe(torch.tensor([5.0]))
    assert shift.value == 0
    shift.end_step()
    assert shift.value == 3
    shift.observe(torch.tensor([7.0]))
    shift.end_step()
    assert shift.value == 4


def test_inclusive_counts_a_micro_batch_before_it_is_used() -> None:
    shift = RewardShift("inclusive")
    shift.observe(torch.tensor([1.0, 3.0]))
    assert shift.value == 2
    shift.end_step()
    shift.observe(torch.tensor([5.0, 5.0]))
    assert shift.value == 3.5


def test_none_stays_zero() -> None:
    shift = RewardShift("none")
    shift.observe(torch.tensor([1.0, 3.0]))
    shift.end_step()
    assert shift.value == 0


def test_a_checkpoint_restores_it_exactly() -> None:
    shift = RewardShift("earlier")
    shift.observe(torch.rand(1000, generator=torch.Generator().manual_seed(0)))
    shift.end_step()
    copy = RewardShift("earlier")
    copy.load_state_dict(json.loads(json.dumps(shift.state_dict())))
    for each in (shift, copy):
        each.observe(torch.tensor([0.1, 0.2]))
        each.end_step()
    assert copy.state_dict() == shift.state_dict()


def test_another_definition_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.reward_shift=earlier, but this run has inclusive"):
        RewardShift("inclusive").load_state_dict(RewardShift("earlier").state_dict())
