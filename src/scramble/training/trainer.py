"""Defines the preference trainer that uses token tries. It computes the loss and the metrics of each micro-batch.

Suffixes of tensor names: P pairs of a micro-batch, Q sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl.models.activation_offloading import get_act_offloading_ctx_manager

from scramble.storage.files import read_json, write_json
from scramble.training.collator import PairBatch, TrieCollator
from scramble.training.config import PreferenceConfig
from scramble.training.data import Example, group_by_image
from scramble.training.dataloader import Workers, data_loader, results
from scramble.training.dataset import PairDataset
from scramble.training.losses import LOSSES, PairLogps, combine, needs_pairs, reads, weighted_sum
from scramble.training.metrics import RunningMetrics
from scramble.training.policy import Policy, PolicyLogps, router_coefficient
from scramble.training.reward_shift import RewardShift
from scramble.training.run_trainer import RunTrainer
from scramble.training.token_weights import length_desensitised, wpo_weights
from scramble.trie.engine import NonFiniteError

SHIFT_FILE = "reward_shift.json"


class PreferenceTrainer(RunTrainer):
    """Trains a :class:`Policy` on micro-batches of tries.

    transformers' Trainer provides the training loop, the optimizer, the schedule, gradient accumulation and the
    distributed wrappers. :class:`RunTrainer` provides the order of the batches and exact resumption. This class
    provides the loss and its metrics.

    Args:
        policy: the model; its parameters with ``requires_grad`` are trained.
        args: the run's settings. For transformers, the run is one epoch of ``args.max_steps`` steps.
        data_collator: turns training examples into a micro-batch.
        train_dataset: training examples.
        eval_dataset: held-out pairs, or None.
        eval_collator: turns held-out examples into a micro-batch.
        settings: settings that a checkpoint must match so that the run can resume from it.
        callbacks: transformers' callbacks.
    """

    # transformers then divides the loss by the number of micro-batches, as a mean over pairs requires.
    loss_is_scaled_for_ga = False
    args: PreferenceConfig

    def __init__(
        self,
        policy: Policy,
        args: PreferenceConfig,
        data_collator: TrieCollator,
        train_dataset: PairDataset,
        eval_dataset: PairDataset | None = None,
        eval_collator: TrieCollator | None = None,
        settings: Mapping[str, Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.losses = args.losses
        loss_fields = {key for name in self.losses for key in LOSSES[name].options} - {"shift"}
        self._loss_options = {key: getattr(args, key) for key in loss_fields}
        self.in_step_reference = needs_pairs(self.losses) and not args.precompute_ref_log_probs
        self.shift = RewardShift(args.reward_shift, args.device)
        self.eval_collator = eval_collator
        self.router_coefficient = router_coefficient(policy.backbone, args.router_aux_loss_coef)
        self.init_run(train_dataset, args, settings or {})
        # Without held-out pairs the dataset is empty and not None. Transformers refuses to evaluate without a dataset,
        # but callbacks may score benchmarks at each evaluation.
        super().__init__(
            policy,
            args,
            data_collator=data_collator,  # type: ignore[arg-type]
            train_dataset=train_dataset,
            eval_dataset=eval_dataset if eval_dataset is not None else (),
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        offloads = args.activation_offloading
        self._offloaded = get_act_offloading_ctx_manager(policy) if offloads else contextlib.nullcontext()
        self.metrics = RunningMetrics(args, policy.backbone, self.in_step_reference)
        self._step_examples: list[str] = []  # example ids of the current optimizer step, for error messages

    def prepare_batch(self, batch: PairBatch) -> dict[str, Any]:
        """Return the inputs of :meth:`compute_loss`."""
        return {"batch": batch}

    # ---------------------------------------------------------------------------------------------------------- step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the objective's loss on one micro-batch (a scalar). In training, also update the reward shift."""
        batch: PairBatch = inputs["batch"]
        training, args = model.training, self.args
        if training:
            self._step_examples += batch.example_ids
        with self._offloaded:
            output = self._score(model, batch)
        logps = self._pair_logps(output, batch)
        with torch.no_grad():
            rewards_2P = args.beta * torch.stack([logps.h_chosen, logps.h_rejected])
            if training and reads(self.losses, "shift"):
                self.shift.observe(rewards_2P)
        pair_weights_P = wpo_weights(output, batch) if args.use_weighting else None
        means = combine(self.losses, logps, {**self._loss_options, "shift": self.shift.value}, pair_weights_P)
        loss = weighted_sum(self.losses, means)
        if output.router_loss is not None:
            loss = loss + self.router_coefficient * output.router_loss
        with torch.no_grad():
            losses = {"loss": loss, **means, "aux_loss": output.router_loss}
            self.metrics.add(batch, logps, rewards_2P, losses, self.shift.value, output.entropy_M)
        return (loss, None) if return_outputs else loss

    def _score(self, model: nn.Module, batch: PairBatch) -> PolicyLogps:
        statistics = self.args.use_weighting or self.args.log_entropy
        try:
            output: PolicyLogps = model(
                batch.tries,
                with_reference=self.in_step_reference,
                with_statistics=statistics,
                with_router_loss=self.router_coefficient != 0,
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.state.global_step + 1}: {error}") from error
        if self.args.ld_alpha is None:
            return output
        return length_desensitised(output, batch, self.args.ld_alpha)

    def _pair_logps(self, output: PolicyLogps, batch: PairBatch) -> PairLogps:
        sums_Q, counts_Q, ref_Q = output.sums_Q, output.counts_Q, output.reference_Q
        device = sums_Q.device
        chosen_P = batch.chosen_P.to(device, non_blocking=True)
        if batch.rejected_P is None:
            zeros = torch.zeros_like(sums_Q[chosen_P])
            return PairLogps(sums_Q[chosen_P], zeros, zeros, zeros, counts_Q[chosen_P], zeros)
        rejected_P = batch.rejected_P.to(device, non_blocking=True)
        if ref_Q is not None:
            ref_chosen, ref_rejected = ref_Q[chosen_P], ref_Q[rejected_P]
        elif batch.ref_P2 is not None:
            ref_chosen, ref_rejected = batch.ref_P2.to(device, non_blocking=True).unbind(1)
        else:  # the objective uses no reference
            ref_chosen = ref_rejected = torch.zeros_like(sums_Q[chosen_P])
        return PairLogps(
            sums_Q[chosen_P],
            sums_Q[rejected_P],
            ref_chosen,
            ref_rejected,
            counts_Q[chosen_P],
            counts_Q[rejected_P],
            self.args.f_divergence_type,
            self.args.f_alpha_divergence_coef,
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run one micro-batch. After the last micro-batch of an optimizer step, update the reward shift."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients and reads(self.losses, "shift"):
            self.shift.end_step()
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the gradient norm, and clear the list of the optimizer step's examples."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._step_examples.clear()
        return norm

    def step_examples(self) -> str:
        """Return the first examples of the current step, for an error message."""
        return f" (first examples of this step: {', '.join(self._step_examples[:8])})"

    # ----------------------------------------------------------------------------------------------------------- log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages over micro-batches and processes since the last row to a log row, and log this row."""
        if "loss" in logs:
            logs |= self.metrics.row(self.data_seconds)
            self.data_seconds = 0.0
        super().log(logs, start_time)

    # --------------------------------------------------------------------------------------------------- checkpoints

    def log_state(self) -> dict[str, Any]:
        """Return the metrics of the unfinished log row."""
        return super().log_state() | self.metrics.state_dict()

    def load_log_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`log_state` returned."""
        super().load_log_state(state)
        self.metrics.load_state_dict(state)

    def save_loss_state(self, folder: Path) -> None:
        """Write the reward shift."""
        write_json(folder / SHIFT_FILE, self.shift.state_dict())

    def load_loss_state(self, folder: Path) -> None:
        """Read the reward shift."""
        self.shift.load_state_dict(read_json(folder / SHIFT_FILE))

    # ---------------------------------------------------------------------------------------------------- validation

    def evaluate_pairs(self) -> dict[str, float]:
        """Return the loss and metrics of the held-out pairs, averaged over examples and processes.

        Every process scores its share of the micro-batches, which contains at least one micro-batch. The reward shift
        is used but not updated.
        """
        collator: Any = self.eval_collator
        data: Any = self.eval_dataset
        chunks = eval_chunks(data, self.args.per_device_eval_batch_size, self.args.process_index, self.args.world_size)
        loader = data_loader(data, collator, collator.encoder, Workers.of(self.args), batch_sampler=chunks)
        # compute_loss adds to self.metrics, so set the training metrics since the last row aside.
        training_metrics, self.metrics = self.metrics, RunningMetrics(self.args, None, self.in_step_reference)
        model: Any = self.model
        sizes: list[float] = []
        try:
            for batch in results(loader):
                self.compute_loss(model, {"batch": batch})
                sizes.append(float(len(batch.example_ids)))
            means = self.metrics.means(sizes)
        finally:
            self.metrics = training_metrics
        return {f"eval_{name}": value for name, value in means.items()}


def eval_chunks(data: Sequence[Example], size: int, rank: int, world: int) -> list[list[int]]:
    """Return a process's share of the held-out micro-batches, with pairs of an image adjacent.

    Every process gets the same number of micro-batches, because each forward pass of a wrapped model is a collective
    operation. Up to ``world - 1`` micro-batches are omitted. With fewer micro-batches than processes, every process
    scores all micro-batches.
    """
    numbers = list(chain.from_iterable(group_by_image(data)))
    chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return chunks[rank::world][: len(chunks) // world] if len(chunks) >= world else chunks
