"""Trains a model on a data set folder. Scripts and notebooks call :func:`train`."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers.trainer_callback import TrainerCallback

from scramble import interrupt
from scramble.models import VLM
from scramble.models.family import Family
from scramble.models.loading import no_checkpointing_warnings
from scramble.storage.files import writing
from scramble.training.callbacks import (
    ConfiguredSteps,
    LogLastStep,
    MetricsFile,
    ProgressLines,
    ScoreBenchmarks,
    StopOnSignal,
    Warnings,
    wandb_run,
)
from scramble.training.checkpoint_paths import newest_step
from scramble.training.collator import TrieCollator
from scramble.training.config import PreferenceConfig
from scramble.training.data import Data, group_by_image
from scramble.training.dataloader import Workers, explain_worker_failures
from scramble.training.dataset import PairDataset
from scramble.training.features import FeatureBackbone, cached_prompts, feature_parts
from scramble.training.fields import trl_faults, used_backend
from scramble.training.losses import needs_pairs
from scramble.training.policy import Policy, router_coefficient
from scramble.training.reference import StartingModel, reference_logps
from scramble.training.resume import checkpoint_settings
from scramble.training.sampler import few_steps_warning, num_steps
from scramble.training.trainable import check_model, select_trained_weights, turn_off_dropout
from scramble.training.trainer import PreferenceTrainer
from scramble.training.weights import check_base
from scramble.trie.backbone import Backbone

log = logging.getLogger(__name__)


@no_checkpointing_warnings()
def train(
    vlm: VLM,
    data: Data,
    out: str | Path,
    args: PreferenceConfig,
    *,
    eval_data: Data | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train a model and write the result to ``out``. An interrupted run resumes from its last checkpoint.

    Args:
        vlm: the model to start from; see :func:`scramble.models.load_vlm`. Its layers are changed in place. This model,
            including an adapter that it was loaded with, is also the reference model.
        data: data set folder (tables of images, pairs, questions), or a tuple of examples and images.
        out: folder for ``adapter/`` or ``model/``, ``metrics.jsonl``, ``checkpoints/`` and ``rejected_rows.jsonl``.
        args: settings.
        eval_data: held-out pairs whose loss and rewards are logged as ``eval_...``.
        callbacks: transformers' callbacks, which may add values to ``metrics`` in ``on_evaluate``.

    Returns:
        A summary: steps, examples, rejected rows, last logged values, seconds, and the path of the result.

    Raises:
        DataError: no rows are usable, or too many are rejected.
        ModelError: LoRA targets, adapter or family do not match the model.
        RecordError: an image cannot be decoded. The message names the example and the image.
        StoreError: ``out`` was created with different settings, a cache is damaged, or the disk is full.
        WorkerError: the operating system killed a data loading worker.
        NonFiniteError: a loss or gradient is NaN or infinite. The message names the step and its pairs.
        Stopped: a signal requested a stop (see ``interrupt``). The last step is saved.
        ValueError: settings contradict each other, or ``vlm`` has already been trained: load the model again.

    Examples:
        >>> import scramble
        >>> scenes = {"n_train": 16, "n_val": 4, "n_test": 4, "quads_val": 0, "quads_test": 2}
        >>> _ = scramble.make_pairs("pairs", "world", "world", data_settings=scenes)
        >>> args = scramble.PreferenceConfig(max_steps=2, global_batch_size=4, peft={"r": 4})
        >>> summary = scramble.train(scramble.load_vlm("data/tiny_internvl"), "pairs/train", "tuned", args)
        >>> summary["steps"], summary["adapter"]
        (2, 'tuned/adapter')
    """
    started = time.perf_counter()
    out, args = Path(out), copy.copy(args)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink(missing_ok=True)  # another process may have removed the file
    args.output_dir = str(out / "checkpoints")
    _quiet()
    backend = select_backend(args, vlm.family)
    check_model(vlm, args, backend)
    start = StartingModel.of(vlm, args)
    if vlm.adapter is not None:
        check_base(vlm.adapter, start.weights)
    turn_off_dropout(vlm.backbone.model)

    pairs = needs_pairs(args.losses)
    train_set = PairDataset.read(
        data, vlm, args, tables=args.tables, with_rejected=pairs, rejected_file=out / "rejected_rows.jsonl"
    )
    eval_set = None
    if eval_data is not None:
        tables = ["pairs"] if "pairs" in args.tables else args.tables
        file = out / "rejected_rows_val.jsonl"
        eval_set = PairDataset.read(
            eval_data, vlm, args, tables=tables, with_rejected="pairs" in tables, rejected_file=file
        )
    plan_steps(args, len(train_set), has_eval=eval_set is not None or bool(callbacks))
    stop = StopOnSignal()
    ours = [ConfiguredSteps(), MetricsFile(out / "metrics.jsonl"), LogLastStep(), stop]
    if args.disable_tqdm:
        ours.append(ProgressLines(out.name))
    if pairs:
        ours.append(Warnings(out / "warnings.jsonl", args.beta))
    settings = start.settings(train_set) | checkpoint_settings(args, backend)
    with explain_worker_failures(lambda: "the same command reuses the values that are already cached"):
        if backend == "trl":
            from scramble.training.trl_backend import trl_trainer  # this module takes seconds to import

            trainer = trl_trainer(vlm, args, train_set, eval_set, settings, [*ours, *callbacks])
        else:
            trainer = trie_trainer(vlm, args, start, out, train_set, eval_set, settings, [*ours, *callbacks])
    prepare_seconds = time.perf_counter() - started
    check_sharding(trainer.accelerator, scores_benchmarks=any(isinstance(c, ScoreBenchmarks) for c in callbacks))
    checkpoint = trainer.restore()
    if checkpoint is not None:
        step = int(checkpoint.name.partition("-")[2])
        log.info(f"{out.name}: an earlier run was interrupted; this one resumes from the checkpoint of step {step}")

    def lost() -> str:
        step, saved = trainer.state.global_step, newest_step(str(args.output_dir))
        if saved is None:
            return "there is no checkpoint yet, so all steps are lost and the same command starts again"
        steps = "1 step" if step - saved == 1 else f"{step - saved} steps"
        return f"the work since the checkpoint of step {saved} ({steps}) is lost; the same command resumes from there"

    with wandb_run(args, out), interrupt.deferred(lost), explain_worker_failures(lost):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if stop.reason is not None:
        raise interrupt.Stopped(
            f"stopped by {stop.reason} and saved at step {trainer.state.global_step} of {args.max_steps}; the same "
            "command resumes from there"
        )
    result = trainer.export(out)
    return {
        "steps": trainer.state.global_step,
        "examples": len(train_set),
        "images": len(group_by_image(train_set)),
        "rejected_rows": len(train_set.rejected_rows),
        "objective": args.losses,
        "backend": backend,
        "trained_parameters": sum(p.numel() for p in trainer.vlm.model.parameters() if p.requires_grad),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "prepare_seconds": round(prepare_seconds, 3),
        "features_seconds": round(trainer.cache_seconds["features"], 3),
        "reference_seconds": round(trainer.cache_seconds["reference"], 3),
        "seconds": round(time.perf_counter() - started, 3),
        "last": trainer.last_log,
        result.name: str(result),
    }


def select_backend(args: PreferenceConfig, family: Family) -> str:
    """Return ``trie`` or ``trl``, as requested by ``args.backend`` or supported by the family, and log the choice.

    Raises:
        ValueError: the trie is requested but not supported, or TRL does not support all settings.
    """
    if args.backend == "trie" and not family.has_trie:
        raise ValueError(
            f"trainer.backend=trie: the family {family.name} does not support token tries; use "
            "trainer.backend=trl or auto"
        )
    backend = used_backend(args.backend, family.has_trie)
    if backend == "trl" and (faults := trl_faults(vars(args))):
        reason = "" if args.backend == "trl" else f"models of type {family.name} do not support token tries. "
        raise ValueError(reason + faults)
    if args.process_index == 0:
        name = "TRL's DPOTrainer" if needs_pairs(args.losses) else "TRL's SFTTrainer"
        log.info(f"trainer.backend={args.backend}: training uses {'token tries' if backend == 'trie' else name}")
    return backend


def trie_trainer(
    vlm: VLM,
    args: PreferenceConfig,
    start: StartingModel,
    out: Path,
    train_set: PairDataset,
    eval_set: PairDataset | None,
    settings: Mapping[str, Any],
    callbacks: list[TrainerCallback],
) -> PreferenceTrainer:
    """Build the caches that depend on the starting model, and return the trainer that uses tries.

    Args:
        vlm, args, out: as in :func:`train`.
        start: the starting model, which is also the reference.
        train_set, eval_set: examples; ``eval_set`` is None without held-out pairs.
        settings: settings that a checkpoint must match so that the run can resume from it.
        callbacks: transformers' callbacks.
    """
    vlm = select_trained_weights(vlm, args)
    if getattr(vlm.backbone.model, "quantization_method", None) is None:  # quantised weights cannot be moved
        vlm.model.to(args.device)
    caches = Caches(vlm, args, start, out)
    has_router_loss = router_coefficient(caches.backbone, args.router_aux_loss_coef) != 0

    def prepare_collator(data: PairDataset, with_rejected: bool) -> TrieCollator:
        if args.feature_cache_dir is not None:
            caches.read_features(data, args.feature_cache_dir)
        reference = None
        if needs_pairs(args.losses) and args.precompute_ref_log_probs:
            reference = caches.reference(data)
        if has_router_loss:  # the loss also counts the last token of each sequence, which the reference does not need
            data.encoder.token_rules = replace(data.encoder.token_rules, last_tokens=True)
        return TrieCollator(data.encoder, with_rejected, reference, args.row_tokens)

    train_collator = prepare_collator(train_set, needs_pairs(args.losses))
    # A run that trains on chosen answers alone (sft) is also evaluated on the rejected answers of its held-out pairs.
    eval_collator = None if eval_set is None else prepare_collator(eval_set, "pairs" in args.tables)
    policy = Policy(vlm, caches.backbone, args.tower_tokens)
    trainer = PreferenceTrainer(policy, args, train_collator, train_set, eval_set, eval_collator, settings, callbacks)
    trainer.cache_seconds = caches.seconds
    return trainer


class Caches:
    """The image features and reference log-probabilities of a run, computed with its starting model and kept on disk.

    Attributes:
        backbone: the trie engine's interface to the model. With a feature cache, it reads image features from the
            cache.
        seconds: time in seconds spent on building each cache.
    """

    def __init__(self, vlm: VLM, args: PreferenceConfig, start: StartingModel, out: Path) -> None:
        self.vlm, self.args, self.start = vlm, args, start
        cached = args.feature_cache_dir is not None
        self.backbone: Backbone = cast(Backbone, FeatureBackbone(vlm.backbone)) if cached else vlm.backbone
        self.reference_folder = Path(args.reference_cache_dir or out / "reference")
        self.seconds = {"features": 0.0, "reference": 0.0}

    def read_features(self, data: PairDataset, folder: str) -> None:
        """Compute the image features of a data set unless they are cached, and let its encoder read the cache."""
        with self._building("features"):
            parts = feature_parts(self.start.cache_parts(data), data)
            data.encoder.cached = cached_prompts(folder, parts, data, self.backbone, Workers.of(self.args))

    def reference(self, data: PairDataset) -> Mapping[str, tuple[float, float]]:
        """Return the reference log-probabilities of a data set; see :func:`reference_logps`."""
        # A new adapter may change the output from the start (peft.init_lora_weights), so the reference is computed
        # without the adapter.
        without_adapter = self.vlm.model.disable_adapter() if self.args.peft is not None else contextlib.nullcontext()
        with self._building("reference"), without_adapter:
            return reference_logps(
                self.reference_folder,
                self.start.cache_parts(data),
                data,
                self.backbone,
                batch_tokens=self.args.reference_batch_tokens,
                workers=Workers.of(self.args),
            )

    @contextlib.contextmanager
    def _building(self, cache: str) -> Iterator[None]:
        """Within the block, compute in the precision of training. Record the time spent in the block in ``seconds``."""
        started = time.perf_counter()
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=bool(self.args.bf16)):
            yield
        self.seconds[cache] += time.perf_counter() - started


def plan_steps(args: PreferenceConfig, num_examples: int, *, has_eval: bool) -> None:
    """Set the number of steps from the size of the data, and convert the strategy ``epoch`` to a number of steps.

    For transformers, the whole run is one epoch of ``max_steps`` steps, so that a batch may contain pairs from the end
    of one epoch and the start of the next.
    """
    batch = args.global_batch_size or 1
    epoch = num_steps(num_examples, batch, 1.0, args.group_by_image)
    if args.max_steps <= 0:
        args.max_steps = num_steps(num_examples, batch, args.num_train_epochs, args.group_by_image)
        warning = few_steps_warning(args.max_steps, num_examples, has_warmup=bool(args.warmup_steps))
        if warning and args.process_index == 0:
            log.warning(warning)
    for kind in ("logging", "save", "eval"):
        if getattr(args, f"{kind}_strategy") == "epoch":
            setattr(args, f"{kind}_strategy", type(getattr(args, f"{kind}_strategy"))("steps"))
            setattr(args, f"{kind}_steps", epoch)
    if not has_eval:
        if args.load_best_model_at_end:
            raise ValueError(
                "trainer.load_best_model_at_end=true needs held-out pairs, but there are none: set "
                "trainer.load_best_model_at_end=false"
            )
        args.eval_on_start = False
        args.eval_strategy = type(args.eval_strategy)("no")


def check_sharding(accelerator: Any, *, scores_benchmarks: bool) -> None:
    """Raise ValueError if requested sharding (FSDP) is not active, or if a setting is incompatible with sharding."""
    kind = accelerator.distributed_type.value
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != "FSDP":
        raise ValueError(
            f"FSDP was requested, but accelerate started {kind}, because FSDP needs at least two GPUs: use more GPUs "
            "or set launcher.strategy=ddp"
        )
    plugin = accelerator.state.deepspeed_plugin
    if scores_benchmarks and (kind == "FSDP" or (plugin is not None and plugin.zero_stage == 3)):
        raise ValueError(
            "trainer.watch does not work under FSDP and ZeRO-3, because one process scores the benchmarks and holds "
            "only a shard of the weights: set launcher.strategy=ddp or zero2, or trainer.watch=null (held-out pairs "
            "are still scored)"
        )


def _quiet() -> None:
    """Disable the libraries' progress bars unless standard error is a terminal."""
    if not sys.stderr.isatty():
        from datasets import disable_progress_bars
        from transformers.utils import logging as transformers_logging

        os.environ.setdefault("TQDM_DISABLE", "1")  # the only way to disable TRL's bar
        disable_progress_bars()
        transformers_logging.disable_progress_bar()
