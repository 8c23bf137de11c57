"""Train a model on a data set folder: the one entry point that scripts and notebooks call."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from scramble.models import Loaded, ModelError, load
from scramble.preference.callbacks import Every, LogLastStep, MetricsFile, ProgressBar, WeightsAndBiases
from scramble.preference.checkpoint import newest
from scramble.preference.data import (
    DataError,
    Encoder,
    Example,
    ImageTable,
    PairBatch,
    caption_examples,
    check_examples,
    collate,
    group_by_image,
    pair_examples,
    question_examples,
)
from scramble.preference.losses import needs_pairs, resolve_objective
from scramble.preference.order import MicroBatches, num_steps
from scramble.preference.policy import add_lora, make_policy, set_trained, turn_off_dropout
from scramble.preference.reference import adapter_key, cache_parts, processor_key, reference_logps, weights_key
from scramble.preference.shift import RewardShift
from scramble.preference.trainer import PreferenceTrainer
from scramble.records import ImageFile, ImageRecord, PreferencePair, Question
from scramble.store import JsonLines, content_key, read_json, read_table, write_json

log = logging.getLogger(__name__)

REFERENCES = ("cache", "step")
BASE_FILE = "base.json"


def train(
    model: str | Path | Loaded,
    data: str | Path | tuple[Sequence[Example], Mapping[str, ImageFile]],
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
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    device: str | None = None,
    autocast: bool = False,
    max_tiles: int | None = None,
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
    val_data: str | Path | tuple[Sequence[Example], Mapping[str, ImageFile]] | None = None,
    evaluate: Callable[[Loaded], Mapping[str, float]] | None = None,
    evaluate_every: int = 200,
    log_every: int = 10,
    save_every: int = 200,
    keep: int = 2,
    seed: int = 0,
    data_seed: int | None = None,
    max_refused: float = 0.05,
    wandb: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a model and write the result to ``out``; a run that was killed goes on from its last checkpoint.

    Args:
        model: hub id or folder of the model to start from, or a loaded one.
        data: data set folder (tables of images, pairs, questions), or examples and images.
        out: run folder: ``adapter/`` or ``model/``, ``metrics.jsonl``, ``checkpoints/``, ``rejected_rows.jsonl``.
        objective: ``sft``, ``dpo``, ``mpo``, a loss of :data:`scramble.preference.losses.LOSSES`, or weights by loss.
        beta, label_smoothing, tau: see the losses.
        delta: reward shift of ``bco_pair``: ``earlier`` (the paper), ``inclusive`` or ``none`` (TRL); see ``shift``.
        sft_mean: ``answer`` (the paper: mean over the tokens of each chosen answer) or ``batch`` (TRL).
        use: which tables of the folder to train on: ``pairs``, and for ``sft`` also ``captions`` and ``questions``.
        caption_prompt: the prompt of a caption.
        lora: ``r``, ``alpha`` and where wanted ``dropout`` and ``targets`` (regular expression) of a LoRA adapter on
            the language model; None trains all weights of the language model.
        train_vision: without ``lora``: train tower and projector too.
        adapter: LoRA adapter to go on from; the model with it is the reference.
        revision, dtype, attn_implementation, max_tiles: see :func:`scramble.models.load`.
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
        val_data: held-out pairs whose loss and margins are logged as ``val/...``.
        evaluate: called with the model in evaluation mode by the main process; its numbers are logged.
        evaluate_every: steps between calls of both, besides the first and the last.
        log_every, save_every: steps. keep: checkpoints kept.
        seed: of the adapter's weights, of dropout, and of the order unless ``data_seed`` is given.
        max_refused: largest fraction of rows that may be refused before the run stops.
        wandb: ``mode`` (``disabled``, ``offline``, ``online``), ``project``, ``name``.

    Returns:
        A summary: steps, examples, refused rows, last logged numbers, seconds, and where the result is.

    Raises:
        DataError: no usable rows, or too many refused ones.
        ModelError: LoRA targets, adapter or family that do not fit.
        StoreError: a run folder made with other settings, a damaged cache, a full disk.
        NonFiniteError: NaN or infinity, with step and pairs.
        ValueError: options that are unknown or do not go together.
    """
    started = time.perf_counter()
    out = Path(out)
    weights = resolve_objective(objective)
    with_rejected = needs_pairs(weights)
    _check_options(weights, use, reference, adapter, lora, train_vision, gradient_checkpointing)
    args = _arguments(
        out, device=device, autocast=autocast, learning_rate=learning_rate, schedule=schedule, warmup=warmup,
        weight_decay=weight_decay, adam_betas=adam_betas, max_grad_norm=max_grad_norm, log_every=log_every,
        save_every=save_every, seed=seed,
    )  # fmt: skip
    world, main = args.world_size, args.process_index == 0
    micro = micro_batch_size or max(1, batch_size // world)
    if batch_size % (micro * world):
        raise ValueError(f"batch_size={batch_size} is not a multiple of micro_batch_size={micro} x {world} processes")

    loaded = _load(
        model, revision=revision, dtype=dtype, attn_implementation=attn_implementation, adapter=adapter,
        max_tiles=max_tiles,
    )  # fmt: skip
    turn_off_dropout(loaded.backbone.model)
    base_key = weights_key(loaded.model)
    if adapter is not None:
        check_base(adapter, base_key)
    start_adapter = adapter_key(loaded.model)
    policy_model = _choose_trained(loaded, lora, train_vision, seed)
    loaded = Loaded(policy_model, loaded.processor, loaded.family, loaded.path, loaded.revision)
    loaded.model.to(args.device)

    limit = max_length or loaded.family.max_length(loaded.backbone.model.config)
    examples, images, refused = _examples(data, use, caption_prompt, loaded, with_rejected, limit)
    _report_refused(out, refused, len(examples), max_refused, main)
    encoder = Encoder(loaded, images)
    reference_started = time.perf_counter()

    def cached_reference(of: Sequence[Example], with_images: Mapping[str, ImageFile], coder: Encoder) -> Any:
        if not with_rejected or reference == "step":
            return None
        parts = cache_parts(
            weights=base_key, adapter=start_adapter, processor=processor_key(loaded.processor),
            precision=f"{loaded.backbone.head.weight.dtype}, {attn_implementation}, {args.device.type}",
            examples=of, images=with_images,
        )  # fmt: skip
        folder = reference_cache or out / "reference"
        return reference_logps(folder, parts, of, coder, loaded.backbone, batch_tokens=reference_batch_tokens)

    known = cached_reference(examples, images, encoder)
    val_batches: list[PairBatch] = []
    if val_data is not None:
        val_examples, val_images, _ = _examples(val_data, use, caption_prompt, loaded, with_rejected, limit)
        val_coder = Encoder(loaded, val_images)
        val_known = cached_reference(val_examples, val_images, val_coder)
        val_batches = _validation_batches(
            val_examples, val_coder, loaded, val_known, micro, with_rejected, args.process_index, world
        )
    reference_seconds = time.perf_counter() - reference_started

    groups = group_by_image(examples)
    total = steps or num_steps(len(examples), batch_size, epochs, order)
    micro_batches = MicroBatches(
        groups, micro, total, order=order, seed=seed if data_seed is None else data_seed,
        accumulation=batch_size // (micro * world), rank=args.process_index, world_size=world,
    )  # fmt: skip
    args.max_steps, args.per_device_train_batch_size = total, micro
    args.gradient_accumulation_steps = batch_size // (micro * world)
    options = {"beta": beta, "label_smoothing": label_smoothing, "tau": tau, "sft_mean": sft_mean}
    settings = {
        "model": base_key, "adapter": start_adapter, "lora": dict(lora) if lora else None,
        "train_vision": train_vision, "objective": weights, **options, "delta": delta, "reference": reference,
        "data": content_key([[e.example_id, e.image_ids, e.prompt, e.chosen, e.rejected] for e in examples]),
        "steps": total, "batch_size": batch_size, "micro_batch_size": micro, "order": order,
        "learning_rate": learning_rate, "schedule": schedule, "warmup": warmup, "weight_decay": weight_decay,
        "adam_betas": list(adam_betas), "max_grad_norm": max_grad_norm, "seed": seed, "data_seed": data_seed,
        "dtype": str(loaded.backbone.head.weight.dtype), "autocast": autocast,
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))

    watch = Every(evaluate_every, dict)
    callbacks = [MetricsFile(out / "metrics.jsonl"), LogLastStep(), ProgressBar(_label(objective)), watch]
    if wandb and wandb.get("mode", "disabled") != "disabled":
        callbacks.append(
            WeightsAndBiases(wandb["mode"], out, wandb.get("project", "scramble"), wandb.get("name"), settings)
        )
    trainer = PreferenceTrainer(
        make_policy(loaded, policy_model, gradient_checkpointing=gradient_checkpointing),
        args,
        make_batch=lambda numbers: collate(
            encoder, loaded.backbone, [examples[n] for n in numbers], with_rejected=with_rejected, reference=known,
            row_tokens=row_tokens,
        ),
        order=micro_batches,
        weights=weights,
        options=options,
        shift=RewardShift(delta, args.device),
        in_step_reference=with_rejected and reference == "step",
        save_weights=lambda folder: save_trained(loaded, folder, base_key),
        load_weights=lambda folder: load_trained(loaded, folder),
        settings=settings,
        keep=keep,
        batches_per_epoch=len(examples) / micro,
        callbacks=callbacks,
    )  # fmt: skip

    def watching() -> dict[str, float]:
        numbers = trainer.evaluate_pairs(val_batches) if val_batches else {}
        return {**numbers, **(evaluate(loaded) if evaluate is not None and main else {})}

    watch.work, watch.log = watching, trainer.log
    resume = newest(args.output_dir, settings)
    if resume is not None:
        log.info("%s: going on from %s", out, resume.name)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))

    kind = "adapter" if loaded.model is not loaded.backbone.model else "model"
    if main:
        _export(loaded, out / kind, base_key)
    trainer.accelerator.wait_for_everyone()
    return {
        "steps": trainer.state.global_step,
        "examples": len(examples),
        "images": len(groups),
        "refused": len(refused),
        "objective": weights,
        "trained_parameters": sum(p.numel() for p in policy_model.parameters() if p.requires_grad),
        "resumed_from": None if resume is None else resume.name,
        "reference_seconds": round(reference_seconds, 3),
        "seconds": round(time.perf_counter() - started, 3),
        "last": trainer.last_log,
        kind: str(out / kind),
    }


# ------------------------------------------------------------------------------------------------------------- options


def _check_options(
    weights: Mapping[str, float],
    use: Sequence[str],
    reference: str,
    adapter: str | Path | None,
    lora: Mapping[str, Any] | None,
    train_vision: bool,
    gradient_checkpointing: bool,
) -> None:
    known = {"pairs", "captions", "questions"}
    if not use or set(use) - known:
        raise ValueError(f"use={list(use)}: name at least one of {sorted(known)}")
    if needs_pairs(weights) and set(use) != {"pairs"}:
        raise ValueError(f"use={list(use)}: captions and questions have no rejected answer; only objective 'sft' can")
    if reference not in REFERENCES:
        raise ValueError(f"reference={reference!r} is unknown: choose one of {REFERENCES}")
    if reference == "step" and needs_pairs(weights) and (adapter is not None or not lora):
        raise ValueError(
            "reference='step' computes the reference with the adapters off, which is the starting model only for a "
            "fresh adapter: use reference='cache'"
        )
    if lora and adapter is not None:
        raise ValueError("lora and adapter: a fresh adapter or one to go on from, not both")
    if lora and train_vision:
        raise ValueError("train_vision: with LoRA the tower is frozen")
    unknown = sorted(set(lora or {}) - {"r", "alpha", "dropout", "targets"})
    if unknown:
        raise ValueError(f"lora has no option {unknown[0]!r}: it has r, alpha, dropout and targets")


def _arguments(
    out: Path,
    *,
    device: str | None,
    autocast: bool,
    learning_rate: float,
    schedule: str,
    warmup: float,
    weight_decay: float,
    adam_betas: tuple[float, float],
    max_grad_norm: float,
    log_every: int,
    save_every: int,
    seed: int,
) -> TrainingArguments:
    """transformers' arguments; the number of steps is set once the data is known. Starts the process group."""
    cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=1,
        learning_rate=learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=warmup,
        weight_decay=weight_decay,
        adam_beta1=adam_betas[0],
        adam_beta2=adam_betas[1],
        max_grad_norm=max_grad_norm,
        logging_steps=log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=save_every,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        bf16=autocast,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and distributed else None,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )


def _label(objective: str | Mapping[str, float]) -> str:
    return objective if isinstance(objective, str) else "+".join(objective)


# ---------------------------------------------------------------------------------------------------------------- data


def _examples(
    data: str | Path | tuple[Sequence[Example], Mapping[str, ImageFile]],
    use: Sequence[str],
    caption_prompt: str,
    loaded: Loaded,
    with_rejected: bool,
    limit: int,
) -> tuple[list[Example], Mapping[str, ImageFile], list[dict[str, str]]]:
    if isinstance(data, tuple):
        found, images = iter(data[0]), data[1]
    else:
        images = ImageTable(data)
        found = chain.from_iterable(_table_examples(data, table, caption_prompt) for table in use)
    kept, refused = check_examples(Encoder(loaded, images), found, needs_rejected=with_rejected, max_length=limit)
    if not kept:
        first = f"; the first of {len(refused)} refused rows: {refused[0]['reason']}" if refused else ""
        raise DataError(f"there is nothing to train on in {data if not isinstance(data, tuple) else 'the data'}{first}")
    return kept, images, refused


def _table_examples(folder: str | Path, table: str, caption_prompt: str) -> Iterator[Example]:
    if table == "pairs":
        return pair_examples(read_table(folder, PreferencePair))
    if table == "captions":
        return caption_examples(read_table(folder, ImageRecord), caption_prompt)
    return question_examples(read_table(folder, Question))


def _report_refused(out: Path, refused: list[dict[str, str]], kept: int, max_refused: float, main: bool) -> None:
    path = out / "rejected_rows.jsonl"
    if main:
        path.unlink(missing_ok=True)
    if not refused:
        return
    if main:
        with JsonLines(path) as file:
            for row in refused:
                file.append(row)
    share = len(refused) / (kept + len(refused))
    message = f"{len(refused)} of {kept + len(refused)} rows refused, listed in {path}; the first: {refused[0]}"
    if share > max_refused:
        raise DataError(f"{message}. More than the allowed {max_refused:.0%}: mend the data or raise the limit")
    warnings.warn(message, stacklevel=3)


def _validation_batches(
    examples: list[Example],
    encoder: Encoder,
    loaded: Loaded,
    reference: Mapping[str, tuple[float, float]] | None,
    size: int,
    with_rejected: bool,
    rank: int,
    world: int,
) -> list[PairBatch]:
    """This process's share of the validation micro-batches, images together; every process takes as many."""
    numbers = list(chain.from_iterable(group_by_image(examples)))
    chunks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    share = chunks[rank::world][: len(chunks) // world] if len(chunks) >= world else chunks
    return [
        collate(
            encoder, loaded.backbone, [examples[n] for n in chunk], with_rejected=with_rejected, reference=reference
        )
        for chunk in share
    ]


# --------------------------------------------------------------------------------------------------------------- model


def _load(model: str | Path | Loaded, adapter: str | Path | None, **options: Any) -> Loaded:
    if not isinstance(model, Loaded):
        return load(model, adapter=adapter, **options)
    if adapter is not None:
        raise ValueError("adapter: give the model's path, or load model and adapter together and pass that")
    return model


def _choose_trained(loaded: Loaded, lora: Mapping[str, Any] | None, train_vision: bool, seed: int) -> nn.Module:
    """The model with its trained weights marked: a fresh adapter, the adapter it has, or all weights."""
    wrapped = loaded.model is not loaded.backbone.model
    if lora:
        if wrapped:
            raise ModelError(f"{loaded.path} already has an adapter: merge it first, or go on from it with lora=None")
        return add_lora(loaded, seed=seed, **lora)
    if wrapped:
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        set_trained(loaded, vision=train_vision)
    return loaded.model


def save_trained(loaded: Loaded, folder: str | Path, base_key: str) -> None:
    """Write the adapter, with what it was made on, or the whole model with its processor (safetensors only)."""
    folder = Path(folder)
    loaded.model.save_pretrained(folder)
    if loaded.model is loaded.backbone.model:
        loaded.processor.save_pretrained(folder)
    else:
        base = {"path": loaded.path, "revision": loaded.revision, "weights": base_key}
        write_json(folder / BASE_FILE, base)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def load_trained(loaded: Loaded, folder: str | Path) -> None:
    """Read back what :func:`save_trained` wrote, into the model in place."""
    if loaded.model is loaded.backbone.model:
        saved = type(loaded.model).from_pretrained(folder, dtype=loaded.backbone.head.weight.dtype)
        loaded.model.load_state_dict(saved.state_dict())
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(loaded.model, load_file(Path(folder) / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise ModelError(f"{folder}: the adapter has weights this model does not: {result.unexpected_keys[0]}")


def check_base(adapter: str | Path, base_key: str) -> None:
    """Raise ModelError if an adapter folder says that it was made on other weights."""
    record = Path(adapter) / BASE_FILE
    if record.exists() and (base := read_json(record))["weights"] != base_key:
        raise ModelError(
            f"adapter {adapter} was trained on {base['path']} (weights {base['weights']}), not on this model (weights "
            f"{base_key}): load it on its own base"
        )


def _export(loaded: Loaded, folder: Path, base_key: str) -> None:
    working = folder.with_name(f".{folder.name}")
    for path in (working, folder):
        shutil.rmtree(path, ignore_errors=True)
    save_trained(loaded, working, base_key)
    working.rename(folder)
