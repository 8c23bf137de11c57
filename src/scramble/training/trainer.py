"""The preference trainer: transformers' loop around one pass over tries, a few losses and a reward shift.

Suffixes: P pairs of a micro-batch, Q sequences.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from scramble.storage.files import StoreError, read_json, write_json
from scramble.training.checkpoint import prune, seal, working_path
from scramble.training.collator import PairBatch, TrieCollator
from scramble.training.data import Example
from scramble.training.dataloader import Workers, data_loader, unwrap
from scramble.training.flops import OperationMeter
from scramble.training.losses import PairLogps, combine, needs_pairs, reads, weighted_sum
from scramble.training.monitoring import memory_use
from scramble.training.policy import Policy
from scramble.training.reward_shift import RewardShift
from scramble.training.sampler import MicroBatches
from scramble.trie.engine import NonFiniteError

SHIFT_FILE, STATE_FILE, WEIGHTS_FOLDER = "delta.json", "trainer_state.json", "weights"
LOG_FILE = "log-{rank}.json"


class PreferenceTrainer(Trainer):
    """Trains a :class:`Policy` on micro-batches of tries.

    transformers' Trainer gives the loop, optimizer, schedule, accumulation and the distributed wrappers; this class
    gives the batches in their order, the loss, what is logged, and checkpoints that resume to the same numbers.

    Args:
        policy: the model; what it trains is what requires a gradient.
        args: transformers' arguments; the run is one "epoch" of ``args.max_steps`` steps.
        examples: what is trained on.
        collator: turns examples into a micro-batch.
        order: this process's micro-batches, as numbers of examples.
        weights: the objective, loss name to weight.
        options: what the losses read besides log-probabilities (``beta``, ``label_smoothing``, ...).
        shift: the reward shift, read by ``bco_pair``.
        in_step_reference: compute the reference in the step, adapters off, instead of reading it from the batch.
        save_weights: writes the trained weights into a folder; every process calls it, the main one writes.
        load_weights: reads them back.
        settings: what a checkpoint must have been made with to be resumed.
        keep: checkpoints kept.
        batches_per_epoch: micro-batches (of all processes) that make one pass over the data, for the log.
        callbacks: transformers' callbacks.
        meter: counts operations, for the MFU.
        peak_flops: operations a second that a device can do.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        policy: Policy,
        args: TrainingArguments,
        *,
        examples: Sequence[Example],
        collator: TrieCollator,
        order: MicroBatches,
        weights: Mapping[str, float],
        options: Mapping[str, Any],
        shift: RewardShift,
        in_step_reference: bool,
        save_weights: Callable[[Path], None],
        load_weights: Callable[[Path], None],
        settings: Mapping[str, Any],
        keep: int,
        batches_per_epoch: float,
        callbacks: list[TrainerCallback],
        meter: OperationMeter | None = None,
        peak_flops: float | None = None,
    ) -> None:
        self.examples, self.collator, self.order = examples, collator, order
        self.weights, self.options, self.shift = dict(weights), dict(options), shift
        self.in_step_reference = in_step_reference
        self.save_weights, self.load_weights = save_weights, load_weights
        self.settings, self.keep, self.batches_per_epoch = dict(settings), keep, batches_per_epoch
        self.meter, self.peak_flops = meter, peak_flops
        super().__init__(policy, args, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.last_log: dict[str, float] = {}
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, float] = defaultdict(float)
        self._step_examples: list[str] = []
        self._log_time = time.perf_counter()
        self._data_seconds = 0.0

    # ------------------------------------------------------------------------------------------------------- batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches in the sampler's order, which already deals them out to processes."""
        return data_loader(
            self.examples, self.collator, self.collator.encoder, Workers.of(self.args), batch_sampler=self.order
        )

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """The micro-batches of a step. Times the wait for them; raises the error of one that cannot be built."""
        start = time.perf_counter()
        elements, count = super().get_batch_samples(*args)
        self._data_seconds += time.perf_counter() - start
        return [{"batch": unwrap(element)} for element in elements], count

    # ---------------------------------------------------------------------------------------------------------- step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's loss on one micro-batch (a scalar); in training its rewards enter the shift."""
        batch: PairBatch = inputs["batch"]
        training = model.training
        if training:
            self._step_examples += batch.example_ids
        logps = self._pair_logps(model, batch)
        beta = float(self.options.get("beta", 1.0))
        with torch.no_grad():
            rewards_2P = beta * torch.stack([logps.h_chosen, logps.h_rejected])
            if training and reads(self.weights, "shift"):
                self.shift.observe(rewards_2P)
        means = combine(self.weights, logps, {**self.options, "shift": self.shift.value})
        loss = weighted_sum(self.weights, means)
        with torch.no_grad():
            self._note(batch, logps, rewards_2P, {"loss": loss, **means})
        return (loss, None) if return_outputs else loss

    def _pair_logps(self, model: nn.Module, batch: PairBatch) -> PairLogps:
        try:
            sums_Q, counts_Q, ref_Q = model(batch.tries, with_reference=self.in_step_reference)
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.state.global_step + 1}: {error}") from error
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
        else:  # an objective without a reference
            ref_chosen = ref_rejected = torch.zeros_like(sums_Q[chosen_P])
        return PairLogps(
            sums_Q[chosen_P], sums_Q[rejected_P], ref_chosen, ref_rejected, counts_Q[chosen_P], counts_Q[rejected_P]
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch; the last of an optimizer step also closes it for the reward shift."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients and reads(self.weights, "shift"):
            self.shift.end_step()
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's norm. Raises NonFiniteError, before the weights change, if it is NaN or infinite."""
        norm = super()._get_grad_norm(model, grad_norm)
        value = float(norm)
        if not math.isfinite(value):
            names = ", ".join(self._step_examples[:8])
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient's norm is {value}; its examples: {names}, ... "
                "The weights are unchanged since the last checkpoint. Check the learning rate, float16 instead of "
                "bfloat16, and these examples"
            )
        self._step_examples.clear()
        return norm

    # ----------------------------------------------------------------------------------------------------------- log

    def _note(self, batch: PairBatch, logps: PairLogps, rewards_2P: Tensor, means: Mapping[str, Tensor]) -> None:
        note = {"loss": means["loss"]}
        if len(self.weights) > 1:
            note |= {f"loss/{name}": means[name] for name in self.weights}
        note["logps/chosen"] = logps.policy_chosen.mean()
        note["logps_per_token/chosen"] = logps.policy_chosen.sum() / logps.chosen_tokens.sum()
        if batch.rejected_P is not None:
            note["logps/rejected"] = logps.policy_rejected.mean()
            note["logps/accuracies"] = (logps.policy_chosen > logps.policy_rejected).float().mean()
        if needs_pairs(self.weights):
            note["rewards/chosen"], note["rewards/rejected"] = rewards_2P.mean(1)
            note["rewards/margins"] = (rewards_2P[0] - rewards_2P[1]).mean()
            note["rewards/accuracies"] = (rewards_2P[0] > rewards_2P[1]).float().mean()
            note["kl"] = kl_estimate(logps)
        if reads(self.weights, "shift"):
            note["delta"] = self.shift.value
        for name, value in note.items():
            self._metrics[name].append(value.detach().double())
        tries = batch.tries
        self._counts["pairs"] += len(batch.example_ids)
        self._counts["tokens"] += tries.num_tokens
        self._counts["positions"] += tries.input_ids_BL.numel()
        self._counts["images"] += len({id(image) for image in tries.images if image is not None})
        if self.meter is not None:
            self._counts["flops"] += self.meter(tries)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages since the last log, over micro-batches and processes, and hand the row to the callbacks."""
        if "train_runtime" in logs:
            return
        if "loss" in logs:
            logs |= self._flush()
        logs["epoch"] = self.state.global_step * self.args.gradient_accumulation_steps * self.order.world_size
        logs["epoch"] = round(logs["epoch"] / self.batches_per_epoch, 6)
        self.last_log |= logs
        wanted = self.control.should_log  # a row between steps, of a validation, must not swallow the step's own
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        self.control.should_log = wanted and "loss" not in logs

    def _flush(self) -> dict[str, float]:
        """Averages and rates since the last call; every process makes the call."""
        now = time.perf_counter()
        seconds, self._log_time = now - self._log_time, now
        names, counted = list(self._metrics), ["pairs", "tokens", "positions", "images", "flops"]
        means = torch.stack([torch.stack(self._metrics[name]).mean() for name in names])
        counts = means.new_tensor([self._counts[name] for name in counted])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(means)
            means /= dist.get_world_size()
            dist.all_reduce(counts)
        self._metrics.clear()
        self._counts.clear()
        data_seconds, self._data_seconds = self._data_seconds, 0.0
        pairs, tokens, positions, images, flops = counts.tolist()
        world = self.order.world_size
        mfu = {"mfu": flops / seconds / world / self.peak_flops} if self.peak_flops and flops else {}
        return {
            **dict(zip(names, means.tolist(), strict=True)),
            "pairs": pairs,
            "tokens": tokens,
            "images": images,
            "padding_fraction": 1 - tokens / positions,
            "seconds": seconds,
            "pairs_per_second": pairs / seconds,
            "pairs_per_second_per_device": pairs / seconds / world,
            "tokens_per_second": tokens / seconds,
            "data_fraction": data_seconds / seconds,
            **mfu,
            **memory_use(self.args.device),
        }

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, seal it, rename it into place."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        working = working_path(folder, step)
        main = self.is_world_process_zero()
        try:
            if main:
                shutil.rmtree(working, ignore_errors=True)
                (working / WEIGHTS_FOLDER).mkdir(parents=True)
                write_json(working / SHIFT_FILE, self.shift.state_dict())
                self.state.save_to_json(str(working / STATE_FILE))
            self.save_weights(working / WEIGHTS_FOLDER)
            self.accelerator.wait_for_everyone()
            self._save_optimizer_and_scheduler(str(working))
            self._save_scaler(str(working))
            self._save_rng_state(str(working))
            unlogged = {name: torch.stack(values).tolist() for name, values in self._metrics.items()}
            write_json(
                working / LOG_FILE.format(rank=self.args.process_index),
                {"metrics": unlogged, "counts": self._counts, "last": self.last_log},
            )
            self.accelerator.wait_for_everyone()
            if main:
                seal(folder, step, self.settings)
                prune(folder, self.keep)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            if main:
                shutil.rmtree(working, ignore_errors=True)
            raise StoreError(f"cannot write checkpoint {folder} at step {step}: {error}; earlier ones stay") from error

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As transformers, but without the whole model that it adds under FSDP: trained weights are saved already."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from accelerate.utils import save_fsdp_optimizer

        plugin, scheduler = self.accelerator.state.fsdp_plugin, self.lr_scheduler
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.is_world_process_zero() and scheduler is not None:
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Nothing: :meth:`restore` has done it, before any wrapper shares the weights out."""

    def restore(self, checkpoint: Path) -> None:
        """Weights, reward shift and unlogged numbers of a checkpoint, before ``train``, which restores optimizer,
        schedule, position and random state."""
        self.load_weights(checkpoint / WEIGHTS_FOLDER)
        self.shift.load_state_dict(read_json(checkpoint / SHIFT_FILE))
        log_file = checkpoint / LOG_FILE.format(rank=self.args.process_index)
        if log_file.exists():
            values = read_json(log_file)
            self.last_log = values["last"]
            for name, numbers in values["metrics"].items():
                self._metrics[name] += list(torch.tensor(numbers, dtype=torch.float64, device=self.args.device))
            self._counts |= values["counts"]

    # ---------------------------------------------------------------------------------------------------- validation

    @torch.no_grad()
    def evaluate_pairs(self, batches: Iterable[PairBatch]) -> dict[str, float]:
        """Loss and metrics (``val/...``), averaged over examples, of held-out micro-batches: this process's share, at
        least one. The reward shift is read and left as it is."""
        kept = self._metrics, self._counts
        self._metrics, self._counts = defaultdict(list), defaultdict(float)
        model: Any = self.model
        was_training = model.training
        model.eval()
        sizes: list[float] = []
        try:
            for batch in batches:
                self.compute_loss(model, {"batch": batch})
                sizes.append(float(len(batch.example_ids)))
            names = list(self._metrics)
            values = torch.stack([torch.stack(self._metrics[name]) for name in names])
        finally:
            model.train(was_training)
            self._metrics, self._counts = kept
        weights = values.new_tensor(sizes)
        sums = torch.cat([values @ weights, weights.sum()[None]])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        *means, _ = (sums / sums[-1]).tolist()
        return {f"val/{name}": value for name, value in zip(names, means, strict=True)}


def kl_estimate(logps: PairLogps) -> Tensor:
    """Distance of the policy from its reference in nats a token (scalar): the mean over answers of e^-d - 1 + d.

    d is an answer's mean log-ratio a token. This is Schulman's k3 estimator of KL(policy || reference), never
    negative; here the answers come from the data and not from the policy, so it is a gauge and not an estimate
    without bias. By hand: d = 0 gives 0; d = log 2 gives 1/2 - 1 + 0.693147 = 0.193147.
    """
    d = torch.cat([logps.h_chosen / logps.chosen_tokens, logps.h_rejected / logps.rejected_tokens])
    return (torch.exp(-d) - 1 + d).mean()
