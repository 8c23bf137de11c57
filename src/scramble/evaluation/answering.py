"""Let the model answer all queries that have no stored reply, and store every reply.

Replies are written chunk by chunk, so an interrupted run can resume. The chunks, and therefore the scores, do not
depend on the number of processes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from scramble.evaluation import responses
from scramble.evaluation.items import Benchmark, EvaluationError, ModelBackend, Query, QueryReply, limit_items
from scramble.evaluation.protocols import Protocol, queries
from scramble.records import ImageFile, RecordError
from scramble.storage.image_table import replace_image
from scramble.storage.jsonl import JsonLines

if TYPE_CHECKING:
    from scramble.models import VLM

log = logging.getLogger(__name__)

Model: TypeAlias = "VLM | ModelBackend"
Progress = Callable[[int, int], None]
"""Callback that receives the number of answered queries and the number of all queries in this process's share of the
work.
"""


class LazyBackend:
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


@dataclass
class Work:
    """The work done for one benchmark: the counts and times that the result records, and the outcome of the
    batch-invariance self-test (None if the self-test was not run).
    """

    times: dict[str, Any]
    self_test: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answerer:
    """Answers the queries of benchmarks with one model. :func:`scramble.evaluation.runner.evaluate` describes the
    attributes; ``model_key`` is the key of the model's identity.
    """

    backend: LazyBackend
    model_key: str
    limit: int | None
    process: tuple[int, int]
    test_groups: int
    progress: Callable[[str], Progress] | None

    def answer(self, benchmark: Benchmark, protocol: Protocol, *folders: Path) -> Work:
        """Answer this process's share of the queries of a benchmark that have no reply in ``folders``, and append the
        replies to the files in the first folder.
        """
        items, images = limit_items(benchmark.items, self.limit), benchmark.images
        report = self.progress(benchmark.name) if self.progress else None
        all_queries = [query for item in items for query in queries(item, protocol, benchmark)]
        work = Work({"queries": len(all_queries), "scored_now": 0, "model_seconds": 0.0})
        # Several items may contain the same question, for example in POPE's splits. The model gets each question once.
        unique: dict[str, Query] = {}
        for query in all_queries:
            unique.setdefault(responses.query_key(self.model_key, query, benchmark.image_hashes), query)
        stored = self._stored(folders)
        missing = {query.query_id: key for key, query in unique.items() if key not in stored}
        if not missing:
            return work
        backend = self.backend()
        refusals = backend.check(query for query in unique.values() if query.query_id in missing or query.history)
        accepted = [query for query in unique.values() if query.query_id not in refusals]
        groups = responses.group_by_images(accepted, benchmark.image_hashes)
        readable = (group for group in groups if not _broken_images([group], images))
        first = list(islice(readable, max(1, self.test_groups)))
        size = backend.chunk_size(first[0], images) if first else max(1, len(groups))
        if first and self.test_groups and self.process[0] == 0:
            work.self_test = backend.self_test(first, images)
        if refusals and self.process[0] == 0:
            self._store_refusals(refusals, unique, missing, benchmark, folders[0])
        chunks = [groups[start : start + size] for start in range(0, len(groups), size)]
        rank, processes = self.process
        self._store_replies(chunks[rank::processes], missing, benchmark, folders[0], work, report)
        return work

    def _store_refusals(
        self,
        refusals: Mapping[str, str],
        unique: Mapping[str, Query],
        missing: Mapping[str, str],
        benchmark: Benchmark,
        folder: Path,
    ) -> None:
        """Store why the model cannot answer some of the queries. The items of these queries get no score."""
        first, reason = next(iter(refusals.items()))
        log.warning(
            f"{benchmark.name}: {len(refusals)} of {len(unique)} queries are not scored (first: {first}): {reason}"
        )
        with JsonLines(folder / self._file_name) as file:
            file.extend(
                responses.row(missing[query.query_id], query, QueryReply(refusal=refusals[query.query_id]))
                for query in unique.values()
                if query.query_id in refusals and query.query_id in missing
            )

    @property
    def _file_name(self) -> str:
        rank, processes = self.process
        return "responses.jsonl" if processes == 1 else f"responses-{rank}.jsonl"

    def _stored(self, folders: Sequence[Path]) -> set[str]:
        """Return the keys of the stored replies that need not be computed again."""
        return {
            key
            for key, reply in responses.read(*folders).items()
            if reply.token_logprobs or not reply.logprobs or not self.backend.token_logprobs
        }

    def _store_replies(
        self,
        chunks: Sequence[Sequence[Sequence[Query]]],
        missing: Mapping[str, str],
        benchmark: Benchmark,
        folder: Path,
        work: Work,
        report: Progress | None,
    ) -> None:
        """Answer the queries in this process's chunks, and append the replies whose queries are in ``missing``, which
        maps query ids to keys of replies.

        Raises RecordError after the last chunk if images cannot be decoded.
        """
        share = [query.query_id for chunk in chunks for group in chunk for query in group]
        already_stored = done = sum(query_id not in missing for query_id in share)
        broken: dict[str, str] = {}

        def advance(group: Sequence[Query]) -> None:
            nonlocal done
            done += sum(query.query_id in missing for query in group)
            if report:
                report(done, len(share))

        with JsonLines(folder / self._file_name) as file:
            for chunk in chunks:
                if not any(query.query_id in missing for group in chunk for query in group):
                    continue
                started = time.perf_counter()
                replies = _replies(self.backend(), chunk, benchmark.images, broken, advance)
                work.times["model_seconds"] += time.perf_counter() - started
                rows = [
                    responses.row(missing[query.query_id], query, reply)
                    for query, reply in replies
                    if query.query_id in missing
                ]
                file.extend(rows)
                work.times["scored_now"] += len(rows)
                done = already_stored + work.times["scored_now"]
        if broken:
            image, fault = next(iter(broken.items()))
            raise RecordError(
                f"{benchmark.name}: {len(broken)} of {len(benchmark.image_hashes)} images cannot be used (first: "
                f"{image!r}: {fault}): {replace_image(benchmark.images, image)}. The replies about all other images "
                "are stored"
            )


def _replies(
    backend: ModelBackend,
    chunk: Sequence[Sequence[Query]],
    images: Mapping[str, ImageFile],
    broken: dict[str, str],
    advance: Callable[[Sequence[Query]], None],
) -> list[tuple[Query, QueryReply]]:
    """Return the queries of a chunk whose images can be decoded, with their replies. Images that cannot be decoded are
    added to ``broken``. ``advance`` is called after each group, but not again if the chunk is
    repeated after an error.

    Images are checked separately only after an error, because decoding takes a noticeable share of the time on a fast
    GPU.
    """
    try:
        return _paired(chunk, backend.reply(chunk, images), advance)
    except (EvaluationError, RecordError):
        faults = _broken_images(chunk, images)
        if not faults:
            raise
    for image_id, fault in faults.items():
        log.warning(f"image {image_id!r} cannot be used ({fault}); questions about this image are skipped")
    broken |= faults
    readable = [group for group in chunk if faults.keys().isdisjoint(group[0].image_ids)]
    return _paired(readable, backend.reply(readable, images), lambda group: None) if readable else []


def _paired(
    groups: Sequence[Sequence[Query]],
    replies: Iterable[Sequence[QueryReply]],
    advance: Callable[[Sequence[Query]], None],
) -> list[tuple[Query, QueryReply]]:
    pairs: list[tuple[Query, QueryReply]] = []
    for group, answers in zip(groups, replies, strict=True):
        pairs += zip(group, answers, strict=True)
        advance(group)
    return pairs


def _broken_images(groups: Sequence[Sequence[Query]], images: Mapping[str, ImageFile]) -> dict[str, str]:
    """Return a dictionary from the ids of the images that cannot be decoded to the reasons."""
    faults = {}
    for image_id in dict.fromkeys(image_id for group in groups for image_id in group[0].image_ids):
        try:
            images[image_id].open()
        except (EvaluationError, RecordError) as error:  # EvaluationError: a crop is outside the image
            faults[image_id] = str(error)
    return faults
