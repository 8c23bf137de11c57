"""Run benchmarks: send the queries without a stored reply to the model, store every reply, and compute the scores.

Replies are written chunk by chunk, so an interrupted run can resume. The chunks, and therefore the scores, do not
depend on the number of processes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from scramble.engines import Engine
from scramble.evaluation import responses
from scramble.evaluation.items import Benchmark, EvaluationError, Item, ModelBackend, Query, Reply, limit_items
from scramble.evaluation.judge import Judge, grading, judged_scores
from scramble.evaluation.protocols import Protocol, queries, resolve
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.evaluation.scoring.results import Result
from scramble.records import ImageFile, RecordError
from scramble.storage.files import read_json
from scramble.storage.hashing import content_key, file_key
from scramble.storage.jsonl import JsonLines

if TYPE_CHECKING:
    from scramble.models import VLM

log = logging.getLogger(__name__)

Model: TypeAlias = "VLM | ModelBackend"
Progress = Callable[[int, int], None]
"""Callback that receives the number of answered queries and the number of all queries in this process's share of the
work.
"""


@dataclass(frozen=True)
class ModelId:
    """The identity of the evaluated model. ``key`` is a content key of the weights, the processor and the adapter. For
    a model behind an engine, ``engine`` is the kind of engine, and ``key`` is a content key of the model's name. If the
    name is a local folder, the key covers the content of this folder too.
    """

    path: str
    key: str
    revision: str | None = None
    adapter: str | None = None
    name: str = ""
    dtype: str = "auto"
    engine: str | None = None


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
    return ModelId(str(path), key, revision, None if adapter is None else str(adapter), name, dtype)


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
            f"{path} is not a folder, and the hub cache cannot be read ({error}): check {setting} and HF_HOME"
        ) from error
    if str(path) not in cached:
        raise EvaluationError(f"{path} is neither a folder nor a downloaded hub model: check {setting}")
    name = revision or "main"
    for commit in cached[str(path)].revisions:
        if commit.commit_hash == name or name in commit.refs:
            return commit.commit_hash
    raise EvaluationError(f"model {path}: revision {name!r} has not been downloaded: check model.revision")


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
    score: bool = True,
    replies: str | Path | None = None,
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
            free answers are not graded.
        process: rank of this process, and the number of processes that share the work.
        wait: barrier of these processes.
        test_groups: number of image groups in the batch-invariance self-test; 0 skips it.
        environment: package versions and hardware, to be recorded in the result.
        progress: function that returns the progress callback for the benchmark of a given name.
        score: if False, the replies are generated and stored, but no scores are computed. Compute the scores when all
            processes or shares of the work have finished.
        replies: folder of the stored replies, with one sub-folder ``<benchmark>/`` per benchmark (default:
            ``out_folder``).

    Returns:
        One result per benchmark, in order. Only rank 0 writes the results.
    Raises:
        EvaluationError, RecordError: an item or image cannot be used; the message names it. Replies that were received
            earlier remain stored.
    """
    backend = _LazyBackend(model, batch_tokens, token_logprobs)
    scored = []
    for benchmark in benchmarks:
        resolved = resolve(protocol, benchmark)
        folder = Path(out_folder) / benchmark.name
        replies_folder = folder if replies is None else Path(replies) / benchmark.name
        items = limit_items(benchmark.items, limit)
        report = progress(benchmark.name) if progress else None
        started = time.perf_counter()
        work = _answer(backend, items, benchmark, resolved, replies_folder, model_id, process, test_groups, report)
        wait()
        if not score:
            continue
        result, outcomes = score_replies(
            benchmark,
            resolved,
            replies_folder,
            model_id=model_id,
            limit=limit,
            judge=judge if process[0] == 0 else None,
            environment=environment,
        )
        seconds = time.perf_counter() - started
        result.times = {**work.times, "other_seconds": seconds - work.times["model_seconds"]}
        result.self_test = (
            work.self_test or _earlier_self_test(folder, model_id) or _earlier_self_test(replies_folder, model_id)
        )
        if process[0] == 0:
            results.write(folder, result, outcomes)
        scored.append(result)
    return scored


def score_replies(
    benchmark: Benchmark,
    protocol: Protocol | str | Mapping[str, Any],
    folder: str | Path,
    *,
    model_id: ModelId,
    limit: int | None = None,
    judge: Judge | None = None,
    environment: Mapping[str, Any] | None = None,
) -> tuple[Result, list[Outcome]]:
    """Score stored replies without the model, for example with a different parser, normaliser, tie policy or caption
    score for the same prompts.

    Raises EvaluationError if a reply is missing, for example because the protocol has different prompts.
    """
    resolved = resolve(protocol, benchmark)
    items = limit_items(benchmark.items, limit)
    stored = responses.read(folder)
    outcomes = []
    for item in items:
        replies: dict[str, Reply] = {}
        for query in queries(item, resolved, benchmark):
            key = responses.query_key(model_id.key, query, benchmark.image_hashes)
            if key not in stored:
                raise EvaluationError(
                    f"{benchmark.name}: {folder} has no reply to {query.query_id} under protocol {resolved.name}: "
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
    data = {
        "name": benchmark.name,
        "version": benchmark.version,
        "scoring": benchmark.scoring,
        "items": len(items),
        "limit": limit,
    }
    settings = dataclasses.asdict(resolved) | grading(items, resolved, judge)
    model = dataclasses.asdict(model_id)
    return Result(data, model, settings, table, rates(outcomes), environment=dict(environment or {})), outcomes


def _with_tokens(scored: Outcome, replies: Mapping[str, Reply]) -> Outcome:
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


@dataclass
class _Work:
    times: dict[str, Any]
    self_test: dict[str, Any] | None


class _LazyBackend:
    """The model's backend. It is built at the first call, so that no model is loaded if all replies are stored."""

    def __init__(self, model: Model | Callable[[], Model], batch_tokens: int | None, token_logprobs: bool) -> None:
        self._model, self._batch_tokens, self.token_logprobs = model, batch_tokens, token_logprobs
        self._backend: ModelBackend | None = None

    def __call__(self) -> ModelBackend:
        if self._backend is None:
            model = self._model() if callable(self._model) else self._model
            if not isinstance(model, ModelBackend):
                # torch and transformers take seconds to import
                from scramble.evaluation.backends.local import LocalBackend

                model = LocalBackend(model, self._batch_tokens, token_logprobs=self.token_logprobs)
            self._backend = model
        return self._backend


def _answer(
    backend: _LazyBackend,
    items: Sequence[Item],
    benchmark: Benchmark,
    protocol: Protocol,
    folder: Path,
    model_id: ModelId,
    process: tuple[int, int],
    test_groups: int,
    report: Progress | None,
) -> _Work:
    """Send the queries without a stored reply to the model, and append the replies to the stored replies."""
    all_queries = [query for item in items for query in queries(item, protocol, benchmark)]
    key_of = {q.query_id: responses.query_key(model_id.key, q, benchmark.image_hashes) for q in all_queries}
    # Several items may contain the same question, for example in POPE's splits. The model gets each question once.
    unique: dict[str, Query] = {}
    for query in all_queries:
        unique.setdefault(key_of[query.query_id], query)
    groups = responses.group_by_images(unique.values(), benchmark.image_hashes)
    done = {
        key
        for key, reply in responses.read(folder).items()
        if reply.token_logprobs or not reply.logprobs or not backend.token_logprobs
    }
    missing = [query for key, query in unique.items() if key not in done]
    times = {"queries": len(all_queries), "scored_now": 0, "model_seconds": 0.0}
    if not missing:
        return _Work(times, None)

    answering = backend()
    answering.check(missing)
    readable = (group for group in groups if not _broken_images([group], benchmark.images))
    first = list(islice(readable, max(1, test_groups)))
    size = answering.chunk_size(first[0], benchmark.images) if first else len(groups)
    chunks = [groups[start : start + size] for start in range(0, len(groups), size)][process[0] :: process[1]]
    tested = answering.self_test(first, benchmark.images) if first and test_groups and process[0] == 0 else None
    name = "responses.jsonl" if process[1] == 1 else f"responses-{process[0]}.jsonl"
    share = [key_of[query.query_id] for chunk in chunks for group in chunk for query in group]
    finished = sum(key in done for key in share)
    broken: dict[str, str] = {}
    with JsonLines(folder / name) as file:
        for chunk in chunks:
            if all(key_of[query.query_id] in done for group in chunk for query in group):
                continue
            clock = time.perf_counter()
            answered, replies_of = _replies(answering, chunk, benchmark.images, broken)
            times["model_seconds"] += time.perf_counter() - clock
            rows = [
                responses.row(key_of[query.query_id], query, reply)
                for group, replies in zip(answered, replies_of, strict=True)
                for query, reply in zip(group, replies, strict=True)
                if key_of[query.query_id] not in done
            ]
            file.extend(rows)
            times["scored_now"] += len(rows)
            finished += len(rows)
            if report:
                report(finished, len(share))
    if broken:
        image, fault = next(iter(broken.items()))
        raise RecordError(
            f"{benchmark.name}: {len(broken)} of {len(benchmark.image_hashes)} images cannot be used (first: "
            f"{image!r}: {fault}): download the image{'s' * (len(broken) > 1)} again and repeat the command. The "
            "replies about all other images are stored"
        )
    return _Work(times, tested)


def _replies(
    backend: ModelBackend,
    chunk: Sequence[Sequence[Query]],
    images: Mapping[str, ImageFile],
    broken: dict[str, str],
) -> tuple[Sequence[Sequence[Query]], list[list[Reply]]]:
    """Return the groups of a chunk whose images can be decoded, and the replies. Images that cannot be decoded are
    added to ``broken``.

    Images are decoded again only after an error, because decoding takes a noticeable share of the time on a fast GPU.
    """
    try:
        return chunk, list(backend.reply(chunk, images))
    except (EvaluationError, RecordError):
        faults = _broken_images(chunk, images)
        if not faults:
            raise
    for image_id, fault in faults.items():
        log.warning(f"image {image_id!r} cannot be used ({fault}); questions about this image are skipped")
    broken |= faults
    readable = [group for group in chunk if faults.keys().isdisjoint(group[0].image_ids)]
    return readable, list(backend.reply(readable, images)) if readable else []


def _broken_images(groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> dict[str, str]:
    """Return a dictionary from the ids of the images that cannot be decoded to the reasons."""
    faults = {}
    for image_id in dict.fromkeys(image_id for group in groups for image_id in group[0].image_ids):
        try:
            images[image_id].open()
        except (EvaluationError, RecordError) as error:  # EvaluationError: a crop is outside the image
            faults[image_id] = str(error)
    return faults
