"""Implements ``dry_run=true``: logs what a command would do and which results it would reuse."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.pipeline import StageError
from scramble.pipeline.stage import ANOTHER_ARM, ANOTHER_RUN, Changes, other_settings
from scramble.pipeline.train import needs
from scramble.storage.files import STAGE_FILE, read_json, stage_status
from scramble.storage.hashing import differing_keys
from scramble.storage.similar_paths import did_you_mean
from scramble.training.checkpoint_paths import newest_step
from scramble.training.resume import changes_since_stage, stage_settings

log = logging.getLogger(__name__)


def plan(root: str, values: Mapping[str, Any]) -> None:
    """Log the plan of one command.

    Args:
        root: the script's name.
        values: the whole configuration as plain values.

    Raises:
        StageError: if a folder of the run contains work with other settings. The command would raise the same error.
    """
    run = Path(values["run"]["dir"])
    if root in ("generate", "train", "study"):
        _plan_data(values)
    if root in ("train", "study"):
        _plan_arm(values)
    elif root == "evaluate":
        _plan_scores(values)
    elif root != "generate":
        log.info(f"plan: the run folder is {run}{'' if run.is_dir() else ', which does not exist yet'}")
    log.info("plan: dry_run=true, so nothing was done")


def _plan_data(values: Mapping[str, Any]) -> None:
    folder, data, pairs = Path(values["run"]["data"]), values["data"], values["pairs"]
    stage = _stage(folder, {"data": data, "pairs": pairs, "seed": values["data_seed"]})
    if stage is not None and stage["status"] == "finished":
        log.info(f"plan: the data in {folder} ({_pairs(stage):,} training pairs) is finished and will be reused")
        return
    _check_paths(data)
    how = "is resumed" if stage is not None else "is generated"
    log.info(f"plan: the data {how} in {folder} from data={data['kind']}, with pairs of the method {pairs['method']}")


def _check_paths(data: Mapping[str, Any]) -> None:
    """Raise StageError if a file or folder of a data source does not exist. The contents are not read."""
    if data["kind"] == "pairs":
        _check_pair_paths(data)
        return
    path = Path(data.get("path") or "")
    if data["kind"] == "hf":
        from scramble.sources.hf import may_be_on_hub, tar_files

        # The path may also be a pattern of shards, or a hub id.
        if tar_files(path) or may_be_on_hub(str(path)):
            return
    for key in ("path", "images", "root", "graphs", "questions"):
        value = data.get(key)
        # Scene graphs name their files relative to data.path.
        if isinstance(value, str) and not Path(value).exists() and not (key != "path" and (path / value).exists()):
            raise StageError(
                f"data.{key}={value} does not exist: set data.{key} to an existing file or folder{did_you_mean(value)}"
            )


def _check_pair_paths(data: Mapping[str, Any]) -> None:
    """Raise StageError if an input of preference data is a local path that does not exist."""
    from scramble.formats.data_files import may_exist

    mix = {f"data.mix[{number}]": one for number, one in enumerate(data["mix"] or ())}
    for at, one in (mix or {"data": data}).items():
        path = str(one["path"])
        if not may_exist(path):
            raise StageError(
                f"{at}.path={path} does not exist: set {at}.path to an existing file or folder{did_you_mean(path)}"
            )
        if one.get("images") is not None and not Path(one["images"]).expanduser().is_dir():
            raise StageError(f"{at}.images={one['images']} is not a folder: set {at}.images to an existing folder")


def _plan_arm(values: Mapping[str, Any]) -> None:
    run, trainer, model = values["run"], values["trainer"], values["model"]
    folder = Path(run["dir"]) / "train" / run["arm"]
    config = {"objective": values["objective"], "trainer": stage_settings(trainer), "peft": values["peft"]}
    stage = _stage(folder, config, ANOTHER_ARM, partial(changes_since_stage, model=model))
    if stage is not None and stage["status"] == "finished":
        log.info(f"plan: the arm {run['arm']} in {folder} is finished and will be reused")
        return
    step = newest_step(folder / "checkpoints")
    start = "" if step is None else f", starting from the checkpoint of step {step}"
    steps, warning = _steps(values)
    log.info(f"plan: the arm {run['arm']} in {folder} is trained for {steps}{start}")
    if warning:
        log.warning(f"plan: {warning}")
    if model.get("new") is not None:
        log.info(f"plan: a new {model['family']} model is created in {model['path']}")
        return
    from scramble.models.family import ModelError

    try:
        need = needs(model, trainer, values["peft"])
    except ModelError as error:
        log.warning(f"plan: the required memory and disk space cannot be estimated: {error}")
        return
    log.info(f"plan: {need.line()}")
    weights = 4 * need.trained  # adapters are float32; AdamW stores two moments of the same size
    num_checkpoints = trainer["save_total_limit"] or 1
    checkpoints = 3 * weights * num_checkpoints
    log.info(
        f"plan: {folder} needs about {(weights + checkpoints) / 1e6:,.0f} MB of disk space (for the trained weights "
        f"and {counted(num_checkpoints, 'checkpoints')} with the optimizer's state)"
    )


def _steps(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the number of training steps as text, and a warning if the number is small ("" otherwise)."""
    trainer, data = values["trainer"], Path(values["run"]["data"])
    batch, epochs = trainer["global_batch_size"], trainer["num_train_epochs"]
    if batch is None:
        batch = (trainer["per_device_train_batch_size"] or 8) * (trainer["gradient_accumulation_steps"] or 1)
    if trainer["max_steps"] > 0:
        return f"{counted(trainer['max_steps'], 'steps')} of {counted(batch, 'pairs')}", ""
    if stage_status(data) != "finished" or trainer["tables"] != ["pairs"]:
        return f"{_epochs(epochs)}, in steps of {counted(batch, 'pairs')}", ""
    pairs = _pairs(read_json(data / STAGE_FILE))
    from scramble.training.sampler import few_steps_warning, num_steps

    steps = num_steps(pairs, batch, epochs, trainer["group_by_image"])
    # The number is approximate, because training may reject rows.
    text = f"about {counted(steps, 'steps')} ({_epochs(epochs)} of {counted(pairs, 'pairs')}, {batch} per step)"
    has_warmup = bool(trainer.get("warmup_ratio") or trainer.get("warmup_steps"))
    return text, few_steps_warning(steps, pairs, has_warmup=has_warmup)


def _epochs(number: float) -> str:
    return "1 epoch" if number == 1 else f"{number:g} epochs"


def _plan_scores(values: Mapping[str, Any]) -> None:
    from scramble.evaluation.benchmarks import load_benchmark
    from scramble.evaluation.runner import check_earlier_results
    from scramble.pipeline.evaluate import arms_of, results_folder

    run, names = Path(values["run"]["dir"]), []
    folder = run / results_folder(values["folder"], values["limit"])
    if values["engine"] is not None:
        arms = [values["arms"]] if isinstance(values["arms"], str) else values["arms"]
    else:
        arms = list(arms_of(run, values["model"], values["arms"], values["adapter"]))
    for name, options in values["benchmark"].items():
        if (options or {}).get("root") is None:  # on the hub, from which a plan downloads nothing
            names.append(name)
            continue
        benchmark = load_benchmark(name, **options)
        names.append(benchmark.name)
        # A judge is not opened for a plan, so who graded the answers cannot be compared.
        for arm in arms if values["judge"]["engine"] is None else ():
            check_earlier_results([benchmark], values["protocol"], folder / arm, limit=values["limit"])
    for arm in arms:
        scored = [name for name in names if (folder / arm / name / "result.json").is_file()]
        unscored = [name for name in names if name not in scored]
        if unscored:
            log.info(f"plan: {arm} is scored on {', '.join(unscored)}; the results are written to {folder / arm}")
        if scored:
            log.info(f"plan: {arm} has results on {', '.join(scored)}, which are reused if nothing has changed")


def _stage(
    folder: Path,
    config: Mapping[str, Any],
    instead: str = ANOTHER_RUN,
    changes: Changes = differing_keys,
) -> Any:
    """Return the stage's record, or None if the stage has not started or has failed."""
    file = folder / STAGE_FILE
    stage = read_json(file) if file.is_file() else None
    if stage is None or stage["status"] == "failed":
        return None
    recorded = {key: stage["config"].get(key) for key in config}
    if recorded != config and (changed := changes(recorded, config)):
        raise StageError(other_settings(folder, changed, instead))
    return stage


def _pairs(stage: Mapping[str, Any]) -> int:
    return int(stage["summary"]["splits"].get("train", {}).get("pairs", 0))
