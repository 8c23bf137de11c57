"""Run benchmarks: answer the queries that have no stored reply, and compute the scores from the stored replies."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scramble.engines import Engine
from scramble.evaluation import responses
from scramble.evaluation.answering import Answerer, LazyBackend, Model, Progress
from scramble.evaluation.items import Benchmark, EvaluationError, QueryReply, limit_items
from scramble.evaluation.judge import Judge, grading, judged_scores
from scramble.evaluation.protocols import Protocol, ignored_conversations, queries, resolve
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.earlier import check_earlier
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.evaluation.scoring.results import Result
from scramble.storage.files import read_json
from scramble.storage.hashing import content_key, file_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelId:
    """The identity of the evaluated model. ``key`` is a content key of the weights, the processor and the adapter. For
    a model behind an engine, ``engine`` is the kind of engine, and ``key`` is a content key of the model's name. If the
    name is a local folder, the key covers the content of this folder too. ``settings`` are the loading options that can
    change scores.
    """

    path: str
    key: str
    revision: str | None = None
    adapter: str | None = None
    name: str = ""
    dtype: str = "auto"
    engine: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def identify(
    path: str | Path,
    *,
    revision: str | None = None,
    adapter: str | Path | None = None,
    name: str = "",
    dtype: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> ModelId:
    """Identify a model by its content: the bytes of local folders, or the commit of a hub id. ``settings`` are loading
    options that can change scores, such as the number of tiles.

    Raises EvaluationError if ``path`` is neither a folder nor a hub id whose revision has been downloaded.
    """
    adapter_content = None if adapter is None else _content(adapter, None, "adapter")
    key = content_key([_content(path, revision, "model.path"), adapter_content, dtype, settings or {}])
    return ModelId(
        str(path), key, revision, None if adapter is None else str(adapter), name, dtype, settings=dict(settings or {})
    )


def identify_served(engine: Engine, kind: str, *, name: str = "") -> ModelId:
    """Identify a model behind an engine by the name that the engine uses and, if this name is a local folder, by the
    content of the folder.
    """
    content = file_key(engine.model) if Path(engine.model).is_dir() else None
    key = content_key("engine", kind, engine.model, content)
    return ModelId(engine.model, key, name=name or engine.model, dtype="", engine=kind)


def _content(path: str | Path, revision: str | None, setting: str) -> str:
    if Path(path).exists():
        return file_key(path)
    from huggingface_hub import scan_cache_dir

    try:
        cached = {repo.repo_id: repo for repo in scan_cache_dir().repos}
    except Exception as error:  # huggingface_hub raises CacheNotFound and several others for a broken cache
        raise EvaluationError(
            f"{path} is not a folder, and the hub cache cannot be read ({error}): correct {setting} or HF_HOME"
        ) from error
    if str(path) not in cached:
        raise EvaluationError(
            f"{path} is neither a folder nor a downloaded hub model: correct {setting} or download the model"
        )
    name = revision or "main"
    for commit in cached[str(path)].revisions:
        if commit.commit_hash == name or name in commit.refs:
            return commit.commit_hash
    raise EvaluationError(
        f"{setting}={path}: the revision {name!r} has not been downloaded: download it with "
        "'hf download', or choose another revision"
    )


def evaluate(
    model: Model | Callable[[], Model],
    benchmarks: Sequence[Benchmark],
    protocol: Protocol | str | Mapping[str, Any],
    out_folder: str | Path,
    *,
    model_id: ModelId,
    limit: int | None = None,
    batch_tokens: int | None = None,
    token_logprobs: bool = False,
    judge: Judge | None = None,
    process: tuple[int, int] = (0, 1),
    wait: Callable[[], None] = lambda: None,
    test_groups: int = 4,
    environment: Mapping[str, Any] | None = None,
    progress: Callable[[str], Progress] | None = None,
    replies: Sequence[str | Path] = (),
) -> list[Result]:
    """Score a model on benchmarks. Replies and results are written below ``out_folder/<benchmark>/``.

    Args:
        model: the loaded model, a model behind an engine (:class:`scramble.evaluation.backends.server.EngineBackend`),
            or a function that returns either. The function is called only if a reply is missing.
        protocol: a protocol, its name, or a mapping with its name and changed settings; ``default`` selects each
            benchmark's default protocol.
        model_id: identity of the model (:func:`identify`), which is part of the key of every reply.
        limit: maximum number of items per benchmark, exceeded if necessary to keep groups complete.
        batch_tokens: number of positions in one forward pass (default: 1,024 on a CPU, 8,192 on a GPU). Different
            values can change scores by rounding errors.
        token_logprobs: store the log-probability of each token of the candidates; replies that were stored without
            these log-probabilities are computed again.
        judge: grades or extracts answers that rules cannot handle (:mod:`scramble.evaluation.judge`). Without a judge,
            free answers are graded only if the protocol sets ``free_grader=contains``.
        process: rank of this process, and the number of processes that share the work.
        wait: barrier of these processes.
        test_groups: number of image groups in the batch-invariance self-test; 0 skips it.
        environment: package versions and hardware, to be recorded in the result.
        progress: function that returns the progress callback of a benchmark, given the benchmark's name.
        replies: folders of stored replies, each with one sub-folder ``<benchmark>/`` per benchmark (default:
            ``out_folder``). New replies are written to the first folder.

    Returns:
        One result per benchmark, in order. Only rank 0 writes the results.
    Raises:
        EvaluationError: a folder contains scores that were measured in another way (:func:`check_earlier_results`).
        EvaluationError, RecordError: an item or image cannot be used; the message names the item or image. Replies that
            were received earlier remain stored.
    """
    backend = LazyBackend(model, batch_tokens, token_logprobs)
    answerer = Answerer(backend, model_id.key, limit, process, test_groups, progress)
    if process[0] == 0:
        check_earlier_results(benchmarks, protocol, out_folder, model_id=model_id, limit=limit, judge=judge)
    scored = []
    for benchmark in benchmarks:
        resolved = resolve(protocol, benchmark)
        folder = Path(out_folder) / benchmark.name
        stored = [Path(each) / benchmark.name for each in replies or [out_folder]]
        started = time.perf_counter()
        if (count := ignored_conversations(benchmark, resolved)) and process[0] == 0:
            log.warning(
                f"{benchmark.name}: protocol {resolved.name} asks about each answer as a caption of an image, and "
                f"ignores the conversations of {count} items: omit protocol=... to score the answers in context"
            )
        work = answerer.answer(benchmark, resolved, *stored)
        wait()
        result, outcomes = score_replies(
            benchmark,
            resolved,
            *stored,
            model_id=model_id,
            limit=limit,
            judge=judge if process[0] == 0 else None,
            environment=environment,
        )
        seconds = time.perf_counter() - started
        result.times = {**work.times, "other_seconds": seconds - work.times["model_seconds"]}
        earlier = (_earlier_self_test(each, model_id) for each in (folder, *stored))
        result.self_test = work.self_test or next(filter(None, earlier), None)
        if process[0] == 0:
            results.write(folder, result, outcomes)
        scored.append(result)
    return scored


def check_earlier_results(
    benchmarks: Sequence[Benchmark],
    protocol: Protocol | str | Mapping[str, Any],
    out_folder: str | Path,
    *,
    model_id: ModelId | None = None,
    limit: int | None = None,
    judge: Judge | None = None,
) -> None:
    """Raise EvaluationError if :func:`evaluate`, called with these arguments, would replace scores that were measured
    in another way (:func:`scramble.evaluation.scoring.earlier.check_earlier`). Models are compared if ``model_id`` is
    given.
    """
    for benchmark in benchmarks:
        header = _header(benchmark, resolve(protocol, benchmark), model_id, limit, judge)
        check_earlier(Path(out_folder) / benchmark.name, header)


def score_replies(
    benchmark: Benchmark,
    protocol: Protocol | str | Mapping[str, Any],
    *folders: str | Path,
    model_id: ModelId,
    limit: int | None = None,
    judge: Judge | None = None,
    environment: Mapping[str, Any] | None = None,
) -> tuple[Result, list[Outcome]]:
    """Score the replies in folders without the model, for example with a different parser, normaliser, tie policy or
    caption score for the same prompts.

    Raises EvaluationError if a reply is missing, for example because the protocol has different prompts.
    """
    resolved = resolve(protocol, benchmark)
    items = limit_items(benchmark.items, limit)
    stored = responses.read(*folders)
    outcomes = []
    for item in items:
        replies: dict[str, QueryReply] = {}
        for query in queries(item, resolved, benchmark):
            key = responses.query_key(model_id.key, query, benchmark.image_hashes)
            if key not in stored:
                raise EvaluationError(
                    f"{benchmark.name}: {folders[0]} has no reply to {query.query_id} under protocol {resolved.name}: "
                    "run the model with this protocol first"
                )
            replies[query.query_id] = stored[key]
        outcomes.append(_with_tokens(outcome(item, replies, resolved), replies))
    if judge is not None:
        outcomes = judge(outcomes, items, benchmark.images)
    table = judged_scores(scores(benchmark.scoring, outcomes), outcomes)
    for name, score in table.items():
        metric = name.partition("/")[0]
        score["chance"] = benchmark.chance.get(name, benchmark.chance.get(metric))
        score["human"] = benchmark.human.get(name)
    result = _header(benchmark, resolved, model_id, limit, judge)
    result.scores, result.rates, result.environment = table, rates(outcomes), dict(environment or {})
    return result, outcomes


def _header(
    benchmark: Benchmark, protocol: Protocol, model_id: ModelId | None, limit: int | None, judge: Judge | None
) -> Result:
    """Return a result without scores: what is measured, and how."""
    items = limit_items(benchmark.items, limit)
    data = {
        "name": benchmark.name,
        "version": benchmark.version,
        "scoring": benchmark.scoring,
        "items": len(items),
        "limit": limit,
    }
    settings = dataclasses.asdict(protocol) | grading(items, protocol, judge)
    return Result(data, {} if model_id is None else dataclasses.asdict(model_id), settings, {}, {})


def _with_tokens(scored: Outcome, replies: Mapping[str, QueryReply]) -> Outcome:
    """Add the stored log-probabilities of tokens to an outcome's details, by query id."""
    tokens = {query_id: reply.token_logprobs for query_id, reply in replies.items() if reply.token_logprobs}
    details = scored.details | ({"token_logprobs": tokens} if tokens else {})
    return dataclasses.replace(scored, details=details)


def data_parallel() -> tuple[tuple[int, int], Callable[[], None]]:
    """Return (rank, number of processes) and the barrier of the processes under ``accelerate launch`` or torchrun.
    Otherwise return (0, 1) and a function that does nothing.

    Pass the two values to :func:`evaluate` as ``process`` and ``wait``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return (0, 1), lambda: None
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return (state.process_index, state.num_processes), state.wait_for_everyone


def _earlier_self_test(folder: Path, model_id: ModelId) -> dict[str, Any] | None:
    """Return the self-test that the result in ``folder`` records, or None if the folder contains no result of this
    model. A run that computes all scores from stored replies performs no self-test.
    """
    path = folder / "result.json"
    earlier = read_json(path) if path.exists() else {}
    return earlier.get("self_test") if earlier.get("model", {}).get("key") == model_id.key else None
