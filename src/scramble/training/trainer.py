"""The preference trainer: transformers' training loop with tries as batches and preference losses.

Suffixes: P pairs of a micro-batch, Q sequences.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl.models.activation_offloading import get_act_offloading_ctx_manager

from scramble.models import VLM
from scramble.storage.files import StoreError, read_json, write_json
from scramble.training.checkpoint import newest, prune, seal
from scramble.training.checkpoint_paths import checkpoint_path, working_path
from scramble.training.collator import PairBatch, TrieCollator
from scramble.training.config import PreferenceConfig, defaults
from scramble.training.data import Example, group_by_image
from scramble.training.dataloader import Workers, data_loader, results, unwrap
from scramble.training.dataset import PairDataset
from scramble.training.losses import LOSSES, PairLogps, combine, needs_pairs, reads, weighted_sum
from scramble.training.metrics import RunningMetrics
from scramble.training.policy import Policy, PolicyLogps
from scramble.training.reward_shift import RewardShift
from scramble.training.sampler import MicroBatches
from scramble.training.token_weights import length_desensitised, wpo_weights
from scramble.training.weights import gathered, load_trained, replace_result, save_trained
from scramble.trie.engine import NonFiniteError

log = logging.getLogger(__name__)

SHIFT_FILE, STATE_FILE, WEIGHTS_FOLDER = "reward_shift.json", "trainer_state.json", "weights"
LOG_FILE = "log-{rank}.json"


class PreferenceTrainer(Trainer):
    """Trains a :class:`Policy` on micro-batches of tries.

    transformers' Trainer provides the loop, optimizer, schedule, accumulation and the distributed wrappers. This class
    provides the order of the batches, the loss, the logged metrics, and checkpoints from which a resumed run computes
    exactly what the uninterrupted run would have computed.

    Args:
        policy: the model; its parameters with ``requires_grad`` are trained.
        args: the run's settings; to transformers the run is one epoch of ``args.max_steps`` steps.
        data_collator: turns training examples into a micro-batch.
        train_dataset: training examples.
        eval_dataset: held-out pairs, or None.
        eval_collator: turns held-out examples into a micro-batch.
        settings: settings that a checkpoint must have been written with to be resumed.
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
        self.weights = args.weights
        loss_fields = {key for name in self.weights for key in LOSSES[name][1]} - {"shift"}
        self._loss_options = {key: getattr(args, key) for key in loss_fields}
        self.in_step_reference = needs_pairs(self.weights) and not args.precompute_ref_log_probs
        self.shift = RewardShift(args.reward_shift, args.device)
        self.settings = dict(settings or {})
        self.eval_collator = eval_collator
        self.batches_per_epoch = len(train_dataset) / args.per_device_train_batch_size
        self.order = MicroBatches(
            group_by_image(train_dataset),
            args.per_device_train_batch_size,
            args.max_steps,
            group_by_image=args.group_by_image,
            seed=args.seed if args.data_seed is None else args.data_seed,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            world_size=args.world_size,
        )
        # Without held-out pairs the dataset is empty, not None: transformers refuses to evaluate without a dataset, and
        # callbacks may score benchmarks at each evaluation.
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
        self.last_log: dict[str, float] = {}
        self.metrics = RunningMetrics(args, policy.backbone, self.in_step_reference)
        self._step_examples: list[str] = []  # example ids of the current optimizer step, for error messages

    # ------------------------------------------------------------------------------------------------------- batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches in the sampler's order. Accelerate must not shard them: the sampler already does."""
        collator: Any = self.data_collator
        data: Any = self.train_dataset
        return data_loader(data, collator, collator.encoder, Workers.of(self.args), batch_sampler=self.order)

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step; measures the time spent waiting for them.

        Raises the error of a micro-batch that a worker could not build (see :func:`unwrap`).
        """
        start = time.perf_counter()
        elements, count = super().get_batch_samples(*args)
        self.metrics.data_seconds += time.perf_counter() - start
        return [{"batch": unwrap(element)} for element in elements], count

    # ---------------------------------------------------------------------------------------------------------- step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's loss on one micro-batch (a scalar). In training, its rewards update the reward shift."""
        batch: PairBatch = inputs["batch"]
        training, args = model.training, self.args
        if training:
            self._step_examples += batch.example_ids
        with self._offloaded:
            output = self._score(model, batch)
        logps = self._pair_logps(output, batch)
        with torch.no_grad():
            rewards_2P = args.beta * torch.stack([logps.h_chosen, logps.h_rejected])
            if training and reads(self.weights, "shift"):
                self.shift.observe(rewards_2P)
        pair_weights_P = wpo_weights(output, batch) if args.use_weighting else None
        means = combine(self.weights, logps, {**self._loss_options, "shift": self.shift.value}, pair_weights_P)
        loss = weighted_sum(self.weights, means)
        with torch.no_grad():
            self.metrics.add(batch, logps, rewards_2P, {"loss": loss, **means}, self.shift.value, output.entropy_M)
        return (loss, None) if return_outputs else loss

    def _score(self, model: nn.Module, batch: PairBatch) -> PolicyLogps:
        statistics = self.args.use_weighting or self.args.log_entropy
        try:
            output: PolicyLogps = model(batch.tries, with_reference=self.in_step_reference, with_statistics=statistics)
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
        """Run one micro-batch; after the last one of an optimizer step, update the reward shift."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients and reads(self.weights, "shift"):
            self.shift.end_step()
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm. Raises NonFiniteError if it is NaN or infinite.

        transformers calls this between the backward pass and the optimizer step, so that the weights are still good.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        value = float(norm)
        if not math.isfinite(value):
            names = ", ".join(self._step_examples[:8])
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient norm is {value}; examples of this step: {names}, ... "
                "The weights are unchanged since the last checkpoint. Check the learning rate, float16 instead of "
                "bfloat16, and these examples"
            )
        self._step_examples.clear()
        return norm

    # ----------------------------------------------------------------------------------------------------------- log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add averages since the last log over micro-batches and processes, and pass the row to the callbacks."""
        if "train_runtime" in logs:  # transformers' own summary at the end, whose rates do not account for tries
            return
        if "loss" in logs:
            logs |= self.metrics.row()
        logs["epoch"] = self.state.global_step * self.args.gradient_accumulation_steps * self.order.world_size
        logs["epoch"] = round(logs["epoch"] / self.batches_per_epoch, 6)
        self.last_log |= logs
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint to a working folder, seal it with checksums, and rename it into place."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        working = working_path(folder, step)
        main = self.is_world_process_zero()
        try:
            best = self.state.best_global_step
            self.state.best_model_checkpoint = str(checkpoint_path(folder, best)) if best else None
            if main:
                shutil.rmtree(working, ignore_errors=True)
                (working / WEIGHTS_FOLDER).mkdir(parents=True)
                write_json(working / SHIFT_FILE, self.shift.state_dict())
                self.state.save_to_json(str(working / STATE_FILE))
            self._save_weights(working / WEIGHTS_FOLDER)
            self.accelerator.wait_for_everyone()
            self._save_optimizer_and_scheduler(str(working))
            self._save_scaler(str(working))
            self._save_rng_state(str(working))
            log_file = working / LOG_FILE.format(rank=self.args.process_index)
            write_json(log_file, {**self.metrics.state_dict(), "last": self.last_log})
            self.accelerator.wait_for_everyone()
            if main:
                seal(folder, step, self.settings)
                prune(folder, self.args.save_total_limit, best)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap errors of the disk
            if main:
                shutil.rmtree(working, ignore_errors=True)
            raise StoreError(
                f"cannot write checkpoint {folder} at step {step}: {error}; earlier checkpoints are kept"
            ) from error

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As in transformers, but under FSDP without the full model, because the trained weights are already saved."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from accelerate.utils import save_fsdp_optimizer

        plugin, scheduler = self.accelerator.state.fsdp_plugin, self.lr_scheduler
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.is_world_process_zero() and scheduler is not None:
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Does nothing: :meth:`restore` loads the weights earlier, before FSDP or DeepSpeed shard them."""

    def restore(self) -> Path | None:
        """Restore weights, reward shift and metrics not yet logged from the newest complete checkpoint.

        Call this before ``train``, which restores optimizer, schedule, position and random state.

        Returns:
            The checkpoint's folder, or None if there is no checkpoint.
        """
        checkpoint = newest(str(self.args.output_dir), self.settings, defaults())
        if checkpoint is None:
            return None
        self.args.eval_on_start = False  # the interrupted run has logged this evaluation
        load_trained(self.vlm, checkpoint / WEIGHTS_FOLDER)
        self.shift.load_state_dict(read_json(checkpoint / SHIFT_FILE))
        log_file = checkpoint / LOG_FILE.format(rank=self.args.process_index)
        if log_file.exists():
            values = read_json(log_file)
            self.last_log = values["last"]
            self.metrics.load_state_dict(values)
        return checkpoint

    @property
    def vlm(self) -> VLM:
        """The model with its processor and family."""
        policy: Any = self.model
        return getattr(policy, "module", policy).vlm

    def _save_weights(self, folder: Path) -> None:
        state = gathered(self.vlm)
        if self.is_world_process_zero():
            save_trained(self.vlm, folder, self.settings["base"], state)

    def _load_best_model(self) -> None:
        """Load the weights of the checkpoint with the best evaluation (``load_best_model_at_end``)."""
        best = self.state.best_global_step
        folder = checkpoint_path(str(self.args.output_dir), best) if best else None
        if folder is None or not folder.is_dir():
            raise StoreError(f"{self.args.output_dir} no longer has the checkpoint of the best step {best}")
        metric = self.args.metric_for_best_model
        log.info("the result is the checkpoint of step %d, the best by %s (%.4g)", best, metric, self.state.best_metric)
        load_trained(self.vlm, folder / WEIGHTS_FOLDER)

    # ---------------------------------------------------------------------------------------------------- validation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Metrics of the held-out pairs (``eval_...``) and those that callbacks add in ``on_evaluate``.

        The random state and the training mode of every module are restored afterwards, so that evaluating does not
        change the run.
        """
        policy: Any = self.model
        modes = {module: module.training for module in policy.modules()}
        policy.eval()
        try:
            with torch.random.fork_rng(), torch.no_grad():
                metrics = self._evaluate_pairs() if self.eval_dataset else {}
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        finally:
            for module, mode in modes.items():
                module.training = mode
        self._check_metric(metrics)
        if metrics:
            self.log(dict(metrics))
        return metrics

    def _check_metric(self, metrics: Mapping[str, float]) -> None:
        """Raise ValueError, at the first evaluation, if the metric that chooses the result does not exist."""
        name = self.args.metric_for_best_model
        if not (self.args.load_best_model_at_end or self.args.save_strategy == "best") or name is None:
            return
        if name not in metrics and f"eval_{name}" not in metrics:
            existing = ", ".join(sorted(metrics)) or "none: there are no held-out pairs"
            raise ValueError(
                f"trainer.metric_for_best_model={name}: evaluations have no such number; there are {existing}"
            )

    def _evaluate_pairs(self) -> dict[str, float]:
        """Loss and metrics of the held-out pairs, averaged over examples and processes.

        Every process scores its share of the micro-batches, at least one. The reward shift is used but not updated.
        """
        collator: Any = self.eval_collator
        data: Any = self.eval_dataset
        chunks = eval_chunks(data, self.args.per_device_eval_batch_size, self.args.process_index, self.args.world_size)
        loader = data_loader(data, collator, collator.encoder, Workers.of(self.args), batch_sampler=chunks)
        # compute_loss adds to the metrics; those of training since the last row are set aside.
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

    # -------------------------------------------------------------------------------------------------------- result

    def export(self, out: Path) -> Path:
        """Write the trained adapter, or the whole model, to ``out``. Collective: every process must call it."""
        folder = out / ("adapter" if self.vlm.has_adapter else "model")
        state = gathered(self.vlm)
        if self.is_world_process_zero():
            replace_result(self.vlm, folder, self.settings["base"], state)
        self.accelerator.wait_for_everyone()
        return folder


def eval_chunks(data: Sequence[Example], size: int, rank: int, world: int) -> list[list[int]]:
    """A process's share of the held-out micro-batches, with pairs of an image adjacent.

    Every process gets the same number, because each forward pass of a wrapped model is a collective operation; up to
    ``world - 1`` micro-batches are left out. With fewer micro-batches than processes, every process scores all of them.
    """
    numbers = list(chain.from_iterable(group_by_image(data)))
    chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return chunks[rank::world][: len(chunks) // world] if len(chunks) >= world else chunks
