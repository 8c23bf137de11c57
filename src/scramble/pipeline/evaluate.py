"""Stage 3: scores the base model, the arms of a run and other adapters on benchmarks, and compares their scores."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble import interrupt
from scramble.console import counter
from scramble.pipeline import BASE, StageError, arm_model, is_main_process
from scramble.pipeline.provenance import environment, log_slow_threads
from scramble.reporting.arms import finished_arms, incomplete_notes, is_trial

if TYPE_CHECKING:
    from scramble.evaluation.items import Benchmark
    from scramble.evaluation.judge import Judge
    from scramble.evaluation.scoring.results import Result
    from scramble.models import VLM

log = logging.getLogger(__name__)

REPLIES = "evaluation"
"""Results folder whose replies the other results folders of the run reuse, for example for another protocol with the
same prompts.
"""
BATCH_TOLERANCE = 1e-2
"""Log-probability differences between batch sizes are reported if they exceed this number of nats. In float32,
differences stay below 1e-4; in bfloat16, they may be larger.
"""


def results_folder(folder: str, limit: int | None) -> str:
    """Return the name of the folder for results of at most ``limit`` items. Partial results have a separate folder, so
    that they never replace full results.
    """
    return folder if limit is None else f"{folder}-limit{limit}"


def evaluate(
    run: str | Path,
    *,
    model: Mapping[str, Any],
    benchmarks: Mapping[str, Mapping[str, Any]],
    arms: Sequence[str] | str = "all",
    adapter: Sequence[str] | str | None = None,
    protocol: Mapping[str, Any],
    limit: int | None = None,
    batch_tokens: int | None = None,
    token_logprobs: bool = False,
    engine: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
    export_predictions: Sequence[str] = (),
    baselines: Sequence[str] = (BASE,),
    folder: str = "evaluation",
    shard: tuple[int, int] | None = None,
) -> dict[str, list[Result]]:
    """Score arms on benchmarks and print a table that compares the arms.

    Replies and results are written to ``<run>/<folder>/<arm>/<benchmark>/``. Replies that this folder or
    ``<run>/evaluation`` already contains are reused.

    Args:
        run: the run folder.
        model: the base model's ``path`` and loading options.
        benchmarks: options (``root``, ...) by name of the benchmark.
        arms: names of folders in ``<run>/train``. ``base`` is the untrained model. ``all`` means base and every
            finished arm except the trials of a study.
        adapter: additional adapters of the base model (folders or hub ids). Each is an arm with the name of its folder
            or repository; an arm from a folder named ``adapter`` has the name of the parent folder.
        protocol: ``name`` of a protocol (``default`` uses each benchmark's own protocol), and settings to change in
            this protocol.
        limit: maximum number of items per benchmark; groups are kept complete. The results go to
            ``<folder>-limit<limit>``; the replies are stored with the replies of the full evaluation.
        batch_tokens: token positions per forward pass; None means 1,024 on a CPU and 8,192 on a GPU.
        token_logprobs: whether to store the log-probability of each token of scored answers, for the results browser.
        engine: ``kind`` and options of an engine that generates the answers instead of the model. In this case,
            ``arms`` names the one arm that the engine serves.
        judge: ``engine`` (None for no judge) and the options of :class:`scramble.evaluation.judge.Judge`. A prompt is
            given as the path of a file.
        export_predictions: formats of :mod:`scramble.evaluation.external.export_predictions` in which predictions are
            exported. ``every_eval_ever`` is written to ``<run>/every_eval_ever``, or to
            ``<run>/every_eval_ever-limit<limit>`` if there is a limit.
        baselines: arms with which the printed table compares the other arms.
        folder: name of the results folder; use another one for other data or a second protocol of the same benchmarks.
        shard: (index, count). With a shard, only the replies for the items in this shard are generated, and nothing is
            scored. When all shards are done, a call without ``shard`` finds every reply on disk.

    Returns:
        The results of each arm, in the order of ``benchmarks``. With a shard, the dictionary is empty.

    Raises:
        EvaluationError: a results folder contains scores of other data, another protocol or another model.
    """
    from scramble.evaluation import runner
    from scramble.evaluation.answering import Answerer, LazyBackend
    from scramble.evaluation.benchmarks import load_benchmark
    from scramble.evaluation.external.export_predictions import check_formats
    from scramble.evaluation.protocols import resolve

    run, place = Path(run), Path(run) / results_folder(folder, limit)
    check_formats(export_predictions)
    process, wait = runner.data_parallel()
    if shard is not None:
        process = (shard[0] * process[1] + process[0], shard[1] * process[1])
    versions = environment()
    results: dict[str, list[Result]] = {}
    if is_main_process() and engine is None:
        log_slow_threads()
    with ExitStack() as stack:
        stack.enter_context(
            interrupt.resumable(lambda: "the replies so far are stored; the same command adds the missing replies")
        )
        if engine is not None:
            models = [_served(stack, run / folder, engine, arms, process)]
        else:
            models = list(_local(run, model, arms, adapter))
        loaded = [load_benchmark(name, **settings) for name, settings in benchmarks.items()]
        grader = _judge(stack, run, judge or {}) if is_main_process() and shard is None else None
        if is_main_process() and shard is None:
            for _, identity in models:
                runner.check_earlier_results(
                    loaded, protocol, place / identity.name, model_id=identity, limit=limit, judge=grader
                )
        for model_or_loader, identity in models:
            arm = identity.name
            out, replies = place / arm, list(dict.fromkeys((run / folder / arm, run / REPLIES / arm)))
            if shard is not None:
                backend = LazyBackend(model_or_loader, batch_tokens, token_logprobs)
                answerer = Answerer(backend, identity.key, limit, process, test_groups=0, progress=counter)
                for benchmark in loaded:
                    answerer.answer(
                        benchmark, resolve(protocol, benchmark), *(each / benchmark.name for each in replies)
                    )
                continue
            results[arm] = runner.evaluate(
                model_or_loader,
                loaded,
                protocol,
                out,
                model_id=identity,
                limit=limit,
                batch_tokens=batch_tokens,
                token_logprobs=token_logprobs,
                judge=grader,
                process=process,
                wait=wait,
                environment=versions,
                progress=counter,
                replies=replies,
            )
            if is_main_process():
                for benchmark, result in zip(loaded, results[arm], strict=True):
                    log.info(f"{arm}: {_headline(result)}")
                    _report_self_test(f"{arm}: {benchmark.name}", result.self_test)
                    _export_predictions(export_predictions, benchmark, out / benchmark.name, limit, arm, run)
    if shard is not None:
        log.info(
            f"shard {shard[0]}/{shard[1]}: the replies are stored; when all shards are finished, run the same command "
            "without shard=... to score the replies"
        )
    elif is_main_process():
        _print_scores(place, list(results), [benchmark.name for benchmark in loaded], baselines)
        if limit is not None:
            log.info(
                f"limit={limit}: the results for the first items are in {place} and are not included in reports; omit "
                "limit to score all items"
            )
    return results


# ------------------------------------------------------------------------------------------------------- what is scored


def _local(run: Path, model: Mapping[str, Any], arms: Sequence[str] | str, adapter: Sequence[str] | str | None) -> Any:
    """Yield two values for each arm: a function that loads the arm's model, and the identity of this model. The
    function is called only if a reply is missing.
    """
    from scramble.evaluation import runner

    settings = {k: v for k, v in model.items() if k not in ("name", "path", "revision", "dtype", "new", "device")}
    settings["adapter"] = None  # identify() uses the adapter's content, not its path
    models = _Models(model)
    for arm, paths in arms_of(run, model, arms, adapter).items():
        identity = runner.identify(
            paths["path"],
            adapter=paths.get("adapter"),
            revision=model.get("revision"),
            name=arm,
            dtype=model.get("dtype", "auto"),
            settings=settings,
        )
        yield models.loader(paths), identity


def _served(
    stack: ExitStack, out: Path, engine: Mapping[str, Any], arms: Sequence[str] | str, process: tuple[int, int]
) -> Any:
    from scramble.engines import ReplyStore, open_engine
    from scramble.evaluation import runner
    from scramble.evaluation.backends.server import EngineBackend

    opened = stack.enter_context(open_engine(**engine))
    (name,) = [arms] if isinstance(arms, str) else arms
    if name == "all":
        name = re.sub(r"[^\w.-]+", "_", opened.model).strip("_.")
    store = stack.enter_context(ReplyStore(out / name / "replies", process))
    return EngineBackend(opened, store), runner.identify_served(opened, engine["kind"], name=name)


class _Models:
    """Loads the models of arms. The base model is loaded once, and adapters are attached to the base model one at a
    time.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._options = {k: v for k, v in model.items() if k not in ("name", "path", "new", "adapter")}
        self._loaded: tuple[str, VLM] | None = None

    def loader(self, paths: Mapping[str, str]) -> Any:
        return lambda: self._load(paths)

    def _load(self, paths: Mapping[str, str]) -> VLM:
        import dataclasses

        from scramble.models import load_vlm
        from scramble.models.loading import device_or_gpu, load_adapter
        from scramble.training.weights import check_base, weights_key

        if self._loaded is None or self._loaded[0] != paths["path"]:
            device = device_or_gpu(self._options.get("device"))
            self._loaded = (paths["path"], load_vlm(paths["path"], **{**self._options, "device": device}))
        base = self._loaded[1]
        plain = base.backbone.model
        if hasattr(base.model, "unload"):
            plain = base.model.unload()
        if "adapter" in paths:
            check_base(paths["adapter"], weights_key(plain))
            plain = load_adapter(plain, paths["adapter"])
        plain.eval()
        self._loaded = (paths["path"], dataclasses.replace(base, model=plain))
        return self._loaded[1]


def arms_of(
    run: Path, model: Mapping[str, Any], arms: Sequence[str] | str, adapter: Sequence[str] | str | None
) -> dict[str, dict[str, str]]:
    """Return for each arm the ``path`` of its model and, if the arm has an adapter, the path of the ``adapter``."""
    finished = finished_arms(run)
    trials = [arm for arm in finished if is_trial(arm)]
    for note in incomplete_notes(run) if arms == "all" else ():
        log.info(note)
    if arms == "all" and trials:
        log.info(
            "arms=all does not include the trials of a study (number of trials: "
            f"{len(trials)}); to score trials, name them (arms=[base,{trials[0]}])"
        )
    default = [BASE, *(arm for arm in finished if arm not in trials)]
    selected = default if arms == "all" else [arms] if isinstance(arms, str) else list(arms)
    if unknown := [arm for arm in selected if arm != BASE and arm not in finished]:
        raise StageError(
            f"{run}/train has no finished arm {' or '.join(unknown)} (finished: {', '.join(finished) or 'none'}): "
            "train all selected arms first (scripts/train.py), or choose other arms (arms=[...])"
        )
    base = str(model["path"])
    models = {arm: arm_model(run, arm, base) for arm in selected}
    adapters = [adapter] if isinstance(adapter, str) else list(adapter or ())
    for path in [*adapters, *([model["adapter"]] if model.get("adapter") else [])]:
        name = Path(path).parent.name if Path(path).name == "adapter" else Path(path).name
        if models.setdefault(name, {"path": base, "adapter": path}).get("adapter") != path:
            raise StageError(f"two arms would have the name {name}: rename the folder of the adapter {path}")
    return models


def _judge(stack: ExitStack, run: Path, options: Mapping[str, Any]) -> Judge | None:
    from scramble.engines import ReplyStore, open_engine
    from scramble.evaluation.judge import Judge

    if options.get("engine") is None:
        return None
    rest = {k: v for k, v in options.items() if k != "engine" and v is not None}
    for key in [key for key in rest if key.endswith("_prompt")]:
        try:
            rest[key] = Path(rest[key]).read_text(encoding="utf-8")
        except OSError as error:
            raise StageError(
                f"judge.{key}={rest[key]} cannot be read ({error.strerror or error}): set judge.{key} to the path of a "
                "text file"
            ) from error
    engine = stack.enter_context(open_engine(**options["engine"]))
    return Judge(engine, stack.enter_context(ReplyStore(run / "judge")), **rest)


# -------------------------------------------------------------------------------------------------------------- results


def _headline(result: Result) -> str:
    overall = [(name, score) for name, score in result.scores.items() if "/" not in name]
    shown = ", ".join(f"{name} {score['value']:.1f}" for name, score in overall) or "no score"
    parts = [f"n = {result.rates['n']}", f"protocol {result.protocol['name']}"]
    if "grading" in result.protocol:
        parts.append(f"grading: {result.protocol['grading']}")
    return f"{result.benchmark['name']} {shown} ({', '.join(parts)})"


def _report_self_test(what: str, test: Mapping[str, Any] | None) -> None:
    """Log the result of the batch-invariance check. The terminal shows it only if scores may depend on the batch."""
    if test is None:
        return
    difference, texts = test["max_logprob_difference"], test["texts_differ"]
    count = f" of {test['texts']}" if "texts" in test else ""  # results of earlier versions do not have the number
    log.log(
        logging.INFO if difference > BATCH_TOLERANCE or texts else logging.DEBUG,
        f"{what}: batch-invariance check: max log-prob difference {difference:.1e} nats, {texts}{count} generations "
        "differ",
    )


def _export_predictions(
    formats: Sequence[str], benchmark: Benchmark, folder: Path, limit: int | None, arm: str, run: Path
) -> None:
    if not formats:
        return
    from scramble.evaluation.external import every_eval_ever, export_predictions
    from scramble.evaluation.items import limit_items
    from scramble.evaluation.scoring import results

    items = limit_items(benchmark.items, limit)
    for name in formats:
        outcomes = results.read_outcomes(folder)
        if name == "every_eval_ever":
            written = (folder / "result.json").stat().st_mtime
            result = results.read(folder)
            path: Path | None = every_eval_ever.write(
                run / results_folder(name, limit), result, items, outcomes, timestamp=written
            )
        else:
            path = export_predictions.write(name, folder, arm, benchmark.name, items, outcomes)
        written_to = path or "not written, because the format does not support these items"
        log.info(f"{arm}: predictions on {benchmark.name} in the format {name}: {written_to}")


def _print_scores(place: Path, arms: Sequence[str], benchmarks: Sequence[str], baselines: Sequence[str]) -> None:
    """Print the scores of arms. Baselines that an earlier command has evaluated in the same way are also printed."""
    from scramble.pipeline.report import print_rows
    from scramble.reporting import comparison
    from scramble.storage.arm_names import method_of

    folders = [place / arm / benchmark for arm in arms for benchmark in benchmarks]
    others = set(baselines) - {method_of(arm) for arm in arms}
    for arm in sorted(path.name for path in place.iterdir() if method_of(path.name) in others):
        earlier = ((place / arm / benchmark, place / arms[0] / benchmark) for benchmark in benchmarks)
        folders += [folder for folder, scored in earlier if _is_comparable(folder, scored)]
    print_rows(comparison.compare(comparison.by_method(folders), baselines), baselines)


def _is_comparable(earlier: Path, scored: Path) -> bool:
    """Return whether ``earlier`` contains a result that was measured in the same way as the result in ``scored``."""
    from scramble.evaluation.items import EvaluationError
    from scramble.evaluation.scoring import results
    from scramble.evaluation.scoring.paired import not_comparable

    if not (earlier / "result.json").is_file():
        return False
    try:
        return not_comparable(results.read(earlier), results.read(scored)) is None
    except EvaluationError:  # another version of this project wrote the earlier result
        return False
