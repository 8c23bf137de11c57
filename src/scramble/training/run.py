"""Train a model on a data set folder: the one entry point that scripts and notebooks call."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from scramble import interrupt
from scramble.models import Loaded
from scramble.storage.files import StoreError
from scramble.storage.hashing import content_key
from scramble.training.callbacks import (
    Every,
    LogLastStep,
    MetricsFile,
    ProgressBar,
    StopWhenAsked,
    WeightsAndBiases,
)
from scramble.training.checkpoint import Best, newest
from scramble.training.checkpoint_paths import newest_step
from scramble.training.collator import Encoder, TrieCollator, check_examples
from scramble.training.data import Data, Example, group_by_image, load_examples, report_refused
from scramble.training.dataloader import Workers, data_loader, results, worker_failures_explained
from scramble.training.features import FeatureBackbone, cached_prompts, feature_parts
from scramble.training.flops import OperationMeter
from scramble.training.losses import needs_pairs, resolve_objective
from scramble.training.monitoring import LogAtStart, Warnings, peak_flops
from scramble.training.options import check_options, check_shared_out, training_arguments
from scramble.training.policy import add_lora, make_policy, set_trained, turn_off_dropout
from scramble.training.reference import cache_parts, reference_logps
from scramble.training.reward_shift import RewardShift
from scramble.training.sampler import MicroBatches, num_steps
from scramble.training.trainer import PreferenceTrainer
from scramble.training.weights import (
    adapter_key,
    check_base,
    export,
    gathered,
    load_trained,
    processor_key,
    save_trained,
    weights_key,
)
from scramble.trie.backbone import Backbone

log = logging.getLogger(__name__)

FEW_STEPS = 20
"""Fewer steps, where nobody has set their number, are reported: the warm-up alone takes a first one at rate 0."""


def train(
    loaded: Loaded,
    data: Data,
    out: str | Path,
    *,
    objective: str | Mapping[str, float] = "dpo",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    tau: float = 0.05,
    delta: str = "earlier",
    sft_mean: str = "answer",
    use: Sequence[str] = ("pairs",),
    caption_prompt: str = "Describe the image.",
    lora: Mapping[str, Any] | None = None,
    train_vision: bool = False,
    device: str | None = None,
    autocast: bool = False,
    max_length: int | None = None,
    epochs: float = 1.0,
    steps: int | None = None,
    batch_size: int = 32,
    micro_batch_size: int | None = None,
    row_tokens: int | None = None,
    order: str = "images",
    learning_rate: float = 1e-5,
    schedule: str = "cosine",
    warmup: float = 0.03,
    weight_decay: float = 0.0,
    adam_betas: tuple[float, float] = (0.9, 0.999),
    max_grad_norm: float = 1.0,
    gradient_checkpointing: bool = False,
    reference: str = "cache",
    reference_cache: str | Path | None = None,
    reference_batch_tokens: int = 4096,
    image_features: str | Path | None = None,
    image_memory: int = 512,
    dataloader_num_workers: int | None = None,
    dataloader_prefetch_factor: int | None = None,
    val_data: Data | None = None,
    evaluate: Callable[[Loaded], Mapping[str, float]] | None = None,
    evaluate_every: int = 200,
    log_every: int = 10,
    save_every: int = 200,
    keep: int = 2,
    best: str | None = None,
    peak_tflops: float | None = None,
    facts: Mapping[str, float] | None = None,
    seed: int = 0,
    data_seed: int | None = None,
    max_refused: float = 0.05,
    wandb: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a model and write the result to ``out``; a run that was killed goes on from its last checkpoint.

    Args:
        loaded: the model to start from, see :func:`scramble.models.load`. The model with the adapter it comes with is
            the reference.
        data: data set folder (tables of images, pairs, questions), or examples and images.
        out: run folder: ``adapter/`` or ``model/``, ``metrics.jsonl``, ``checkpoints/``, ``rejected_rows.jsonl``.
        objective: ``sft``, ``dpo``, ``mpo``, a loss of :data:`scramble.training.losses.LOSSES`, or weights by loss.
        beta, label_smoothing, tau: see the losses.
        delta: reward shift of ``bco_pair``: ``earlier`` (the paper), ``inclusive`` or ``none`` (TRL); see ``shift``.
        sft_mean: ``answer`` (the paper: mean over the tokens of each chosen answer) or ``batch`` (TRL).
        use: which tables of the folder to train on: ``pairs``, and for ``sft`` also ``captions`` and ``questions``.
        caption_prompt: the prompt of a caption.
        lora: ``r``, ``alpha`` and where wanted ``dropout`` and ``targets`` (regular expression) of a fresh LoRA adapter
            on the language model; None trains the adapter that the model comes with, else all weights of the language
            model.
        train_vision: without an adapter: train tower and projector too.
        device: ``cpu``, ``cuda`` or None for what is there.
        autocast: bfloat16 autocast over float32 weights.
        max_length: tokens of prompt and answer; a longer row is refused, never cut. Default the model's own limit.
        epochs, steps: length of the run; ``steps`` wins.
        batch_size: pairs an optimizer step, all processes together.
        micro_batch_size: pairs a forward pass; default the batch's share of a process.
        row_tokens: tokens a row of a batch may hold; default the longest trie.
        order: ``images`` keeps the pairs of an image together, ``pairs`` is TRL's order.
        learning_rate, schedule, warmup, weight_decay, adam_betas, max_grad_norm: AdamW and its schedule; ``warmup``
            is a fraction of the run below 1 and a number of steps from 1 on.
        gradient_checkpointing: recompute the language model's layers in the backward pass.
        reference: ``cache`` computes reference log-probabilities once, on disk; ``step`` in each step, adapters off.
        reference_cache: where caches live; share it between runs. Default ``out/reference``.
        reference_batch_tokens: positions a batch while filling it.
        image_features: folder in which a frozen tower's features are kept, so that it runs once an image and not once
            an epoch; None keeps none.
        image_memory: megabytes of processed images that a process keeps in memory (its workers share them out), the
            least recently used go first.
        dataloader_num_workers: worker processes that build batches ahead; 0 builds them in this process, None decides
            by the machine. The batches are the same.
        dataloader_prefetch_factor: batches that a worker builds ahead; None is torch's 2.
        val_data: held-out pairs whose loss and margins are logged as ``val/...``.
        evaluate: called with the model in evaluation mode by the main process; its numbers are logged.
        evaluate_every: steps between calls of both, besides the first and the last.
        log_every, save_every: steps. keep: checkpoints kept.
        best: number of the held-out pairs (``val/loss``, say) by which the best weights are kept in ``best/``.
        peak_tflops: TFLOP/s of the device, for the MFU; None knows those of common GPUs.
        facts: numbers known beforehand (of the data set, say), logged once.
        seed: of the adapter's weights, of dropout, and of the order unless ``data_seed`` is given.
        max_refused: largest fraction of rows that may be refused before the run stops; a single row never stops it.
        wandb: ``mode`` (``disabled``, ``offline``, ``online``), ``project``, ``entity``, ``name``.

    Returns:
        A summary: steps, examples, refused rows, last logged numbers, seconds, and where the result is.

    Raises:
        DataError: no usable rows, or too many refused ones.
        ModelError: LoRA targets, adapter or family that do not fit.
        StoreError: a run folder made with other settings, a damaged cache, a full disk.
        WorkerError: the system killed a data loading worker.
        NonFiniteError: NaN or infinity, with step and pairs.
        Stopped: a signal asked for it (see ``interrupt``); the last step is saved.
        ValueError: options that are unknown or do not go together.
    """
    started = time.perf_counter()
    out = Path(out)
    _quiet()
    _make_folder(out)
    weights = resolve_objective(objective)
    with_rejected = needs_pairs(weights)
    has_adapter = loaded.model is not loaded.backbone.model
    check_options(weights, use, reference, has_adapter, lora, train_vision, image_features, label_smoothing)
    args = training_arguments(
        out,
        device=device,
        autocast=autocast,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        adam_betas=adam_betas,
        max_grad_norm=max_grad_norm,
        log_every=log_every,
        save_every=save_every,
        seed=seed,
        dataloader_num_workers=dataloader_num_workers,
        dataloader_prefetch_factor=dataloader_prefetch_factor,
    )
    world, main = args.world_size, args.process_index == 0
    micro = micro_batch_size or max(1, batch_size // world)
    if batch_size % (micro * world):
        raise ValueError(f"batch_size={batch_size} is not a multiple of micro_batch_size={micro} x {world} processes")

    base_key, start_adapter = weights_key(loaded.backbone.model), adapter_key(loaded.backbone.model)
    if loaded.adapter is not None:
        check_base(loaded.adapter, base_key)
    turn_off_dropout(loaded.backbone.model)
    loaded = _choose_trained(loaded, lora, train_vision, seed)
    if getattr(loaded.backbone.model, "quantization_method", None) is None:  # quantised weights stay where they are
        loaded.model.to(args.device)

    backbone: Backbone = loaded.backbone
    config: Any = backbone.model.config
    if image_features is not None:
        backbone = cast(Backbone, FeatureBackbone(backbone))

    as_in_a_step = torch.autocast(args.device.type, torch.bfloat16, enabled=autocast)

    def prepare(
        source: Data, tables: Sequence[str], paired: bool
    ) -> tuple[list[Example], list[dict[str, str]], Encoder, Any]:
        """Usable examples of a data set, the refused rows, what encodes them, and their reference log-probabilities."""
        found, images = load_examples(source, tables, caption_prompt)
        encoder = Encoder(loaded, images, image_memory * 1_000_000)
        limit = max_length or loaded.family.max_length(config)
        examples, refused = check_examples(encoder, found, needs_rejected=paired, max_length=limit)
        listed = out / ("rejected_rows.jsonl" if source is data else "rejected_rows_val.jsonl")
        report_refused(listed, refused, len(examples), max_refused, write=main)
        from_cache = with_rejected and reference == "cache"
        if not from_cache and image_features is None:
            return examples, refused, encoder, None
        parts = cache_parts(
            weights=base_key,
            adapter=start_adapter,
            processor=processor_key(loaded),
            precision=f"{backbone.head.weight.dtype}, {config._attn_implementation}, {args.device.type}"
            + (", autocast" if autocast else ""),
            examples=examples,
            images=images,
        )
        began = time.perf_counter()
        if image_features is not None:
            kept = feature_parts(parts, examples)
            with as_in_a_step:
                encoder.known = cached_prompts(image_features, kept, examples, encoder, backbone, Workers.of(args))
        seconds["features"] += time.perf_counter() - began
        if not from_cache:
            return examples, refused, encoder, None
        began = time.perf_counter()
        folder = reference_cache or out / "reference"
        with as_in_a_step:
            known = reference_logps(
                folder,
                parts,
                examples,
                encoder,
                backbone,
                batch_tokens=reference_batch_tokens,
                workers=Workers.of(args),
            )
        seconds["reference"] += time.perf_counter() - began
        return examples, refused, encoder, known

    seconds = {"features": 0.0, "reference": 0.0}
    prepare_started = time.perf_counter()
    validation: DataLoader[Any] | None = None
    with worker_failures_explained(lambda: "the same command reuses what the caches hold"):
        examples, refused, encoder, known = prepare(data, use, with_rejected)
        if val_data is not None:
            val_paired = "pairs" in use  # a supervised run, too, is asked how likely it finds the rejected answers
            val_examples, _, val_encoder, val_known = prepare(val_data, ("pairs",) if val_paired else use, val_paired)
            val_chunks = _validation_chunks(val_examples, micro, args.process_index, world)
            val_collator = TrieCollator(val_encoder, val_paired, val_known)
            validation = data_loader(
                val_examples, val_collator, val_encoder, Workers.of(args), batch_sampler=val_chunks
            )

    prepare_seconds = time.perf_counter() - prepare_started

    groups = group_by_image(examples)
    total = steps or num_steps(len(examples), batch_size, epochs, order)
    if main and steps is None and total < FEW_STEPS:
        log.warning(
            f"only {total} steps for {len(examples)} examples: set trainer.epochs or trainer.steps to train longer"
        )
    micro_batches = MicroBatches(
        groups,
        micro,
        total,
        order=order,
        seed=seed if data_seed is None else data_seed,
        accumulation=batch_size // (micro * world),
        rank=args.process_index,
        world_size=world,
    )
    args.max_steps, args.per_device_train_batch_size = total, micro
    args.gradient_accumulation_steps = batch_size // (micro * world)
    options = {"beta": beta, "label_smoothing": label_smoothing, "tau": tau, "sft_mean": sft_mean}
    settings = {
        "model": base_key,
        "adapter": start_adapter,
        "lora": dict(lora) if lora else None,
        "train_vision": train_vision,
        "objective": weights,
        **options,
        "delta": delta,
        "reference": reference,
        "data": content_key([[e.example_id, e.image_ids, e.prompt, e.chosen, e.rejected] for e in examples]),
        "steps": total,
        "batch_size": batch_size,
        "micro_batch_size": micro,
        "order": order,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warmup": warmup,
        "weight_decay": weight_decay,
        "adam_betas": list(adam_betas),
        "max_grad_norm": max_grad_norm,
        "seed": seed,
        "data_seed": data_seed,
        "dtype": str(loaded.backbone.head.weight.dtype),
        "autocast": autocast,
    }
    settings = json.loads(json.dumps(settings))

    watch, stop = Every(evaluate_every, dict), StopWhenAsked()
    start = LogAtStart(facts or {})
    callbacks = [
        MetricsFile(out / "metrics.jsonl"),
        LogLastStep(),
        ProgressBar(_label(objective, out)),
        start,
        watch,
        stop,
    ]
    if with_rejected:
        callbacks.append(Warnings(out / "warnings.jsonl", beta))

    def save_weights(folder: Path) -> None:
        state = gathered(loaded)
        if main:
            save_trained(loaded, folder, base_key, state)

    if best is not None:
        if val_data is None:
            raise ValueError(f"best={best!r}: there are no validation pairs to choose by; set trainer.best=null")
        callbacks.append(Best(best, out / "best", save_weights))
    if wandb and wandb.get("mode", "disabled") != "disabled":
        callbacks.append(
            WeightsAndBiases(
                wandb["mode"], out, wandb.get("project", "scramble"), wandb.get("name"), settings, wandb.get("entity")
            )
        )
    peak, in_step = peak_flops(args.device, peak_tflops), with_rejected and reference == "step"
    trainer = PreferenceTrainer(
        make_policy(loaded, backbone, gradient_checkpointing=gradient_checkpointing),
        args,
        examples=examples,
        collator=TrieCollator(encoder, with_rejected, known, row_tokens),
        order=micro_batches,
        weights=weights,
        options=options,
        shift=RewardShift(delta, args.device),
        in_step_reference=in_step,
        save_weights=save_weights,
        load_weights=lambda folder: load_trained(loaded, folder),
        settings=settings,
        keep=keep,
        batches_per_epoch=len(examples) / micro,
        callbacks=callbacks,
        meter=None if peak is None else OperationMeter(backbone, in_step_reference=in_step),
        peak_flops=peak,
    )

    check_shared_out(trainer.accelerator, watched=evaluate is not None)

    def watching() -> dict[str, float]:
        numbers = trainer.evaluate_pairs(results(validation)) if validation is not None else {}
        return {**numbers, **(evaluate(loaded) if evaluate is not None and main else {})}

    watch.work = watching
    watch.log = start.log = trainer.log
    resume = newest(str(args.output_dir), settings)
    if resume is not None:
        log.info("%s: resuming from %s", out, resume.name)
        trainer.restore(resume)

    def lost() -> str:
        step, saved = trainer.state.global_step, newest_step(str(args.output_dir))
        if saved is None:
            return f"all {step} steps so far are lost, there is no checkpoint yet, and the same command starts over"
        return f"{step - saved} steps since the checkpoint of step {saved} are lost, and the same command resumes there"

    with interrupt.deferred(lost), worker_failures_explained(lost):
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if stop.reason is not None:
        raise interrupt.Stopped(
            f"stopped by {stop.reason}: saved at step {trainer.state.global_step} of {total}; the same command resumes "
            "from there"
        )

    kind = "adapter" if loaded.model is not loaded.backbone.model else "model"
    state = gathered(loaded)
    if main:
        export(loaded, out / kind, base_key, state)
    trainer.accelerator.wait_for_everyone()
    return {
        "steps": trainer.state.global_step,
        "examples": len(examples),
        "images": len(groups),
        "refused": len(refused),
        "objective": weights,
        "trained_parameters": sum(p.numel() for p in loaded.model.parameters() if p.requires_grad),
        "resumed_from": None if resume is None else resume.name,
        "prepare_seconds": round(prepare_seconds, 3),
        "features_seconds": round(seconds["features"], 3),
        "reference_seconds": round(seconds["reference"], 3),
        "seconds": round(time.perf_counter() - started, 3),
        "last": trainer.last_log,
        kind: str(out / kind),
    }


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from error


def _quiet() -> None:
    """No progress bars of the libraries unless standard error is a terminal."""
    if not sys.stderr.isatty():
        from datasets import disable_progress_bars
        from transformers.utils import logging as transformers_logging

        disable_progress_bars()
        transformers_logging.disable_progress_bar()


def _label(objective: str | Mapping[str, float], out: Path) -> str:
    """The objective's name; of weights the run folder's, which a stage names by the arm."""
    return objective if isinstance(objective, str) else out.name


def _validation_chunks(examples: Sequence[Example], size: int, rank: int, world: int) -> list[list[int]]:
    """This process's share of the validation micro-batches, images together; every process takes as many."""
    numbers = list(chain.from_iterable(group_by_image(examples)))
    chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return chunks[rank::world][: len(chunks) // world] if len(chunks) >= world else chunks


# --------------------------------------------------------------------------------------------------------------- model


def _choose_trained(loaded: Loaded, lora: Mapping[str, Any] | None, train_vision: bool, seed: int) -> Loaded:
    """The model with its trained weights marked: a fresh adapter, the adapter it has, or all weights."""
    model: nn.Module = loaded.model
    if lora:
        model = add_lora(loaded, seed=seed, **lora)
    elif loaded.model is not loaded.backbone.model:
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        set_trained(loaded, vision=train_vision)
    return replace(loaded, model=model)
