"""Defines the parts of a trainer that do not depend on the loss: order of batches, log rows, checkpoints, evaluation.

Both backends derive from :class:`RunTrainer`: :mod:`scramble.training.trainer` trains on tries, and
:mod:`scramble.training.trl_backend` combines this class with TRL's trainers.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from scramble.models import VLM
from scramble.storage.files import StoreError, read_json, write_json
from scramble.training.checkpoint import newest, prune, seal
from scramble.training.checkpoint_paths import checkpoint_path, working_path
from scramble.training.config import PreferenceConfig
from scramble.training.data import group_by_image
from scramble.training.dataloader import Workers, data_loader, unwrap
from scramble.training.dataset import PairDataset
from scramble.training.sampler import MicroBatches
from scramble.training.weights import gathered, is_sharded, load_trained, replace_result, save_trained
from scramble.trie.engine import NonFiniteError

log = logging.getLogger(__name__)

STATE_FILE, WEIGHTS_FOLDER = "trainer_state.json", "weights"
RANK_LOG_FILE = "log-{rank}.json"


class RunTrainer(Trainer):
    """transformers' Trainer with this project's order of batches, log rows, checkpoints and evaluation.

    For transformers, the run is one epoch of ``args.max_steps`` steps. A resumed run computes exactly what an
    uninterrupted run would have computed.

    A subclass calls :meth:`init_run` before ``Trainer.__init__`` and defines :meth:`prepare_batch` and
    :meth:`evaluate_pairs`.

    Attributes:
        settings: settings that a checkpoint must match so that the run can resume from it.
        last_log: the last logged value under each name.
        best_weights: folder of the best checkpoint's weights if these weights are the result but are not loaded, else
            None.
        data_seconds: seconds spent waiting for batches since the last log row.
        cache_seconds: seconds spent on building each cache before the first step.
    """

    def init_run(self, data: PairDataset, args: PreferenceConfig, settings: Mapping[str, Any]) -> None:
        """Set the attributes, and compute the order of the micro-batches, which is the same when the run resumes."""
        self.settings = dict(settings)
        self.last_log: dict[str, float] = {}
        self.best_weights: Path | None = None
        self.data_seconds = 0.0
        self.cache_seconds = {"features": 0.0, "reference": 0.0}
        self.batches_per_epoch = len(data) / args.per_device_train_batch_size
        self.encoder = data.encoder
        self.order = MicroBatches(
            group_by_image(data),
            args.per_device_train_batch_size,
            args.max_steps,
            group_by_image=args.group_by_image,
            seed=args.seed if args.data_seed is None else args.data_seed,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            world_size=args.world_size,
        )

    @property
    def vlm(self) -> VLM:
        """The model with its processor and family; callbacks access it as ``model.vlm``."""
        policy: Any = self.model
        return getattr(policy, "module", policy).vlm

    def prepare_batch(self, batch: Any) -> dict[str, Any]:
        """Return the collator's result as the inputs of :meth:`compute_loss`."""
        raise NotImplementedError

    def evaluate_pairs(self) -> dict[str, float]:
        """Return the loss and metrics of the held-out pairs (``eval_...``)."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------- batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the micro-batches in the sampler's order.

        The sampler already divides the micro-batches among the processes, so accelerate must not divide them again.
        """
        collator: Any = self.data_collator
        data: Any = self.train_dataset
        return data_loader(data, collator, self.encoder, Workers.of(self.args), batch_sampler=self.order)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any) -> tuple[list[Any], Any]:
        """Return the micro-batches of an optimizer step, and measure the time spent waiting for these micro-batches.

        Raises the error of a micro-batch that a worker could not build (see :func:`unwrap`).
        """
        start = time.perf_counter()
        batches = (self.prepare_batch(unwrap(element)) for element in epoch_iterator)
        result = super().get_batch_samples(batches, *args)
        self.data_seconds += time.perf_counter() - start
        return result

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the gradient norm. Raises NonFiniteError if the norm is NaN or infinite.

        transformers calls this method between the backward pass and the optimizer step, when the weights are still
        valid.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        value = float(norm)
        if not math.isfinite(value):
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient norm is {value}{self.step_examples()}. The weights "
                "of the last checkpoint are unaffected. Check trainer.learning_rate, model.dtype (float16 overflows), "
                "and the examples of this step"
            )
        return norm

    def step_examples(self) -> str:
        """Return the current step's examples for an error message, or "" if the examples are unknown.

        The text starts with a separator.
        """
        return ""

    # ----------------------------------------------------------------------------------------------------------- log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass a log row to the callbacks.

        The ``epoch`` of this row is the number of processed examples divided by the number of examples in the data set.
        """
        if "train_runtime" in logs:  # transformers' summary at the end, whose rates are wrong for tries
            return
        num_batches = self.state.global_step * self.args.gradient_accumulation_steps * self.order.world_size
        logs["epoch"] = round(num_batches / self.batches_per_epoch, 6)
        self.last_log |= logs
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    # ---------------------------------------------------------------------------------------------------- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the metrics of the held-out pairs (``eval_...``) and the metrics that callbacks add in
        ``on_evaluate``.

        The random state and the training mode of every module are restored afterwards, so that an evaluation does not
        change the run.
        """
        policy: Any = self.model
        modes = {module: module.training for module in policy.modules()}
        policy.eval()
        try:
            with torch.random.fork_rng(), torch.no_grad():
                metrics = self.evaluate_pairs() if self.eval_dataset else {}
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
                if metrics:
                    self.log(metrics)  # in evaluation mode, because TRL's trainers then add their evaluation metrics
        finally:
            for module, mode in modes.items():
                module.training = mode
        self._check_metric(metrics)
        return metrics

    def _check_metric(self, metrics: Mapping[str, float]) -> None:
        """Raise ValueError at the first evaluation if ``metric_for_best_model`` is not one of its metrics."""
        name = self.args.metric_for_best_model
        if not (self.args.load_best_model_at_end or self.args.save_strategy == "best") or name is None:
            return
        if name not in metrics and f"eval_{name}" not in metrics:
            fix = f"choose one of {', '.join(sorted(metrics))}" if metrics else "add held-out pairs"
            raise ValueError(f"trainer.metric_for_best_model={name}: evaluations do not measure this metric: {fix}")

    # --------------------------------------------------------------------------------------------------- checkpoints

    def log_state(self) -> dict[str, Any]:
        """Return the state of the unfinished log row of this process as JSON values. Subclasses extend this state."""
        return {"last": self.last_log}

    def load_log_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`log_state` returned."""
        self.last_log = state["last"]

    def save_loss_state(self, folder: Path) -> None:
        """Write the state that the loss keeps between steps. Only the main process calls this method."""

    def load_loss_state(self, folder: Path) -> None:
        """Read the state that :meth:`save_loss_state` wrote."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint to a working folder, seal the folder with checksums, and rename it into place."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        working = working_path(folder, step)
        main = self.is_world_process_zero()
        try:
            best = self.state.best_global_step
            self.state.best_model_checkpoint = str(checkpoint_path(folder, best)) if best else None
            if main:
                shutil.rmtree(working, ignore_errors=True)
                (working / WEIGHTS_FOLDER).mkdir(parents=True)
                self.save_loss_state(working)
                self.state.save_to_json(str(working / STATE_FILE))
            self._save_weights(working / WEIGHTS_FOLDER)
            self.accelerator.wait_for_everyone()
            self._save_optimizer_and_scheduler(str(working))
            self._save_scaler(str(working))
            self._save_rng_state(str(working))
            write_json(working / RANK_LOG_FILE.format(rank=self.args.process_index), self.log_state())
            self.accelerator.wait_for_everyone()
            if main:
                seal(folder, step, self.settings)
                prune(folder, self.args.save_total_limit, best)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap disk errors
            if main:
                shutil.rmtree(working, ignore_errors=True)
            raise StoreError(
                f"cannot write the checkpoint of step {step} to {folder}: {error}. Earlier checkpoints are kept; free "
                "disk space if the disk is full, and run the same command again"
            ) from error

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save optimizer and scheduler.

        Under FSDP, transformers would also save the full model, which is not needed.
        """
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from accelerate.utils import save_fsdp_optimizer

        plugin, scheduler = self.accelerator.state.fsdp_plugin, self.lr_scheduler
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.is_world_process_zero() and scheduler is not None:
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Do nothing, because :meth:`restore` has loaded the weights before FSDP or DeepSpeed shards them."""

    def restore(self) -> Path | None:
        """Restore weights, the state of the loss and the unfinished log row from the newest complete checkpoint.

        Call this method before ``train``, which restores optimizer, schedule, position in the data and random state.

        Returns:
            The checkpoint's folder, or None if there is no checkpoint.
        """
        checkpoint = newest(str(self.args.output_dir), self.settings)
        if checkpoint is None:
            return None
        self.args.eval_on_start = False  # the interrupted run has already logged this evaluation
        load_trained(self.vlm, checkpoint / WEIGHTS_FOLDER)
        self.load_loss_state(checkpoint)
        log_file = checkpoint / RANK_LOG_FILE.format(rank=self.args.process_index)
        if log_file.exists():
            self.load_log_state(read_json(log_file))
        return checkpoint

    def _save_weights(self, folder: Path) -> None:
        state = gathered(self.vlm)
        if self.is_world_process_zero():
            save_trained(self.vlm, folder, self.settings["base"], state)

    def _load_best_model(self) -> None:
        """Load the weights of the checkpoint with the best evaluation (``load_best_model_at_end``).

        Sharded weights (FSDP2, ZeRO-3) are not loaded. Instead, :meth:`export` copies the checkpoint's files.
        """
        best = self.state.best_global_step
        folder = checkpoint_path(str(self.args.output_dir), best) if best else None
        if folder is None or not folder.is_dir():
            raise StoreError(
                f"{self.args.output_dir} no longer contains the checkpoint of the best step {best}: restore the "
                "folder, or set trainer.load_best_model_at_end=false"
            )
        metric = self.args.metric_for_best_model
        log.info(
            "the result is the checkpoint of step %d, which is the best by %s (%.4g)",
            best,
            metric,
            self.state.best_metric,
        )
        if is_sharded(self.vlm.model):
            self.best_weights = folder / WEIGHTS_FOLDER
        else:
            load_trained(self.vlm, folder / WEIGHTS_FOLDER)

    # -------------------------------------------------------------------------------------------------------- result

    def export(self, out: Path) -> Path:
        """Write the trained adapter, or the whole model, to ``out``. Every process must call this method."""
        folder = out / ("adapter" if self.vlm.has_adapter else "model")
        state = None if self.best_weights is not None else gathered(self.vlm)
        if self.is_world_process_zero():
            replace_result(self.vlm, folder, self.settings["base"], state, self.best_weights)
        self.accelerator.wait_for_everyone()
        return folder
