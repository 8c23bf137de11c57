"""Stage 2: trains one arm on a data set folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scramble import interrupt
from scramble.pipeline import is_main_process
from scramble.pipeline.audit import recorded_text_only_accuracy
from scramble.pipeline.new_model import make_model
from scramble.pipeline.provenance import environment, log_slow_threads
from scramble.pipeline.stage import ANOTHER_ARM, run_stage
from scramble.records import PreferencePair
from scramble.storage.files import STAGE_FILE, stage_status, write_json
from scramble.storage.hashing import file_key
from scramble.storage.tables import read_table
from scramble.training.checkpoint_paths import newest_step
from scramble.training.resume import changes_since_stage, stage_settings

log = logging.getLogger(__name__)


def train_arm(
    run: str | Path,
    arm: str,
    data: str | Path,
    *,
    model: Mapping[str, Any],
    objective: Mapping[str, Any],
    trainer: Mapping[str, Any],
    peft: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Train one arm, and write an adapter (or a whole model), metrics and checkpoints to ``<run>/train/<arm>``.

    Args:
        run: the run folder.
        arm: name of the arm.
        data: data set folder made by :func:`generate`.
        model: ``name``, ``path`` and loading options; see :func:`scramble.models.load_vlm`.
        objective: ``name`` of the objective.
        trainer: fields of :class:`scramble.training.PreferenceConfig`, and ``watch``, which names benchmarks on the
            validation split to score at each evaluation (``limit`` items per benchmark).
        peft: fields of ``peft.LoraConfig`` for a new adapter, or None.

    Returns:
        The stage's summary; see :func:`scramble.training.run.train`.
    """
    data = Path(data)
    config = {
        "model": model_content(model),
        "objective": dict(objective),
        "trainer": stage_settings(trainer),
        "peft": None if peft is None else dict(peft),
        "data": file_key(data / STAGE_FILE),
    }

    def work(folder: Path) -> dict[str, Any]:
        from scramble.models import load_vlm
        from scramble.training import PreferenceConfig, train
        from scramble.training.callbacks import DataFacts, ScoreBenchmarks

        if is_main_process():
            # If there is a checkpoint, scramble.training.run logs from which checkpoint the run resumes.
            if state in ("running", "stopped") and newest_step(folder / "checkpoints") is None:
                log.info(f"{arm}: an earlier run was interrupted; this one {resumes()}")
            write_json(folder / "environment.json", environment())
            log_slow_threads()
        options = dict(trainer)
        watch = options.pop("watch", None)
        if model.get("new") is not None:
            make_model(model["path"], data, model["family"], model["new"], options["seed"])
        elif is_main_process():
            log_needs(model, options, peft)
        ours = {"reference_cache_dir": str(Path(run) / "reference"), "run_name": f"{Path(run).name}/{arm}"}
        args = PreferenceConfig(**{**ours, **options, "peft": None if peft is None else dict(peft)})
        vlm = load_vlm(**{k: v for k, v in model.items() if k not in ("name", "new")})
        held_out = read_table(data / "val", PreferencePair, missing_ok=True)
        val = data / "val" if "pairs" in args.tables and next(held_out, None) is not None else None
        callbacks: list[Any] = [DataFacts(recorded_text_only_accuracy(data))]
        if watch:
            from scramble.evaluation.quick import scorer

            callbacks.append(ScoreBenchmarks(scorer(data / "val", **watch)))
        summary = train(vlm, data / "train", folder, args, eval_data=val, callbacks=callbacks)
        if args.push_to_hub and is_main_process():
            from scramble.pipeline.share import push

            result = folder / ("adapter" if (folder / "adapter").is_dir() else "model")
            again = "Repeat the upload with scripts/share.py push_to_hub=..."
            push(
                result,
                str(args.hub_model_id),
                again,
                private=args.hub_private_repo,
                token=args.hub_token,
                revision=args.hub_revision,
            )
        return summary

    folder = Path(run) / "train" / arm
    state = stage_status(folder)

    def resumes() -> str:
        step = newest_step(folder / "checkpoints")
        return "starts again (no checkpoint yet)" if step is None else f"resumes from the checkpoint of step {step}"

    with interrupt.resumable(lambda: f"the same command {resumes()}"):
        changes = partial(changes_since_stage, model=model)
        summary, how = run_stage(folder, config, work, main=is_main_process(), instead=ANOTHER_ARM, changes=changes)
    if not is_main_process():
        return summary
    from scramble.console import counted

    last = summary["last"]
    numbers = ", ".join(f"{k} {last[k]:.3f}" for k in ("loss", "rewards/margins", "logps/chosen") if k in last)
    progress = (
        "finished already" if how == "reused" else f"{counted(summary['steps'], 'steps')} in {summary['seconds']:.0f} s"
    )
    log.info(f"{arm}: {progress}; {numbers}; the results are in {folder}")
    return summary


def check_model_files(run: str | Path, arm: str, model: Mapping[str, Any]) -> None:
    """Check that the model of an arm can be loaded, before data is generated for the arm. A finished arm is not
    checked.

    Raises:
        ModelError: if the model's configuration, the weights in a local folder, or the configuration of its adapter
            cannot be read.
    """
    if stage_status(Path(run) / "train" / arm) == "finished" or model.get("new") is not None:
        return
    from scramble.models.hub import check_adapter_config, check_weight_files, is_folder, read_config

    read_config(model["path"], model.get("revision"))
    if is_folder(model["path"]):
        check_weight_files(Path(model["path"]).expanduser())
    if model.get("adapter"):
        check_adapter_config(model["adapter"])


def model_content(model: Mapping[str, Any], folder_key: Callable[[str], str] = file_key) -> dict[str, Any]:
    """Return the model's settings. If the model is loaded from a local folder, they include the content key of the
    folder, so that a retrained base model counts as changed.
    """
    content = dict(model)
    if model.get("new") is None and Path(model["path"]).is_dir():
        content["content"] = folder_key(model["path"])
    return content


def log_needs(model: Mapping[str, Any], trainer: Mapping[str, Any], peft: Mapping[str, Any] | None) -> None:
    """Log the memory and disk that the job needs, and raise ModelError if the job cannot fit. No weights are loaded."""
    need = needs(model, trainer, peft)
    log.info(need.line())
    need.check()


def needs(model: Mapping[str, Any], trainer: Mapping[str, Any], peft: Mapping[str, Any] | None) -> Any:
    """Estimate memory and disk for training from the model's configuration. Raises ModelError if the configuration
    cannot be read.
    """
    from scramble.models.hub import num_adapter_weights
    from scramble.models.preflight import preflight
    from scramble.training.trainable import num_new_weights

    num_adapter: Callable[[Any], int] | None = None
    if peft is not None:
        num_adapter = partial(num_new_weights, peft=peft, vision=trainer.get("train_vision") == "lora")
    elif adapter := model.get("adapter"):
        num_adapter = lambda _: num_adapter_weights(adapter)  # noqa: E731
    return preflight(
        model["path"],
        revision=model.get("revision"),
        dtype=model.get("dtype") or "auto",
        quantization=model.get("quantization"),
        num_adapter_weights=num_adapter,
        train_vision=trainer.get("train_vision") is True,
        gradient_checkpointing=trainer["gradient_checkpointing"],
    )
