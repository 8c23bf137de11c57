"""Tests generation through an engine, with a scripted server and with an in-process model."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from scramble.engines import EngineError, ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.engines.transformers_local import TransformersEngine
from scramble.evaluation.backends.server import EngineBackend
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.evaluation.runner import evaluate, identify, identify_served
from scramble.records import ImageFile, Question
from scramble.storage.jsonl import read_jsonl


def picture(seed: int, file_format: str = "PNG", size: tuple[int, int] = (48, 48)) -> ImageFile:
    stream = io.BytesIO()
    Image.effect_noise(size, 40 + seed).convert("RGB").save(stream, file_format)
    return ImageFile(bytes=stream.getvalue())


def questions(*faults: str) -> Benchmark:
    """Return yes/no questions, two per image. The text of a question contains the response of the scripted server."""
    items = tuple(
        Item(Question(f"q{k}", (f"i{k // 2}",), f"Is it {k}? | faults={f} | reply=Yes.\n", "yes", "random"), "yes_no")
        for k, f in enumerate(faults)
    )
    images = {f"i{k}": picture(k) for k in range((len(faults) + 1) // 2)}
    return Benchmark("pope", "test", items, images, "pope")


def run(server, folder, benchmark, protocol="standard", **options):
    engine = OpenAIServer("m", server.url, concurrency=2, backoff=0.01, timeout=5, attempts=3, **options)
    with engine, ReplyStore(folder / "replies") as store:
        identity = identify_served(engine, "openai", name="m")
        return evaluate(EngineBackend(engine, store), [benchmark], protocol, folder, model_id=identity)[0]


def test_faults_pass_and_every_question_is_answered_once(server, tmp_path):
    benchmark = questions("", "500", "cut", "malformed", "429:0", "")
    result = run(server, tmp_path, benchmark)
    assert result.scores["accuracy"]["value"] == 100
    assert result.model["engine"] == "openai"
    assert result.self_test is None
    counts = Counter(server.asked)
    again = run(server, tmp_path, benchmark)
    assert (again.scores, server.asked) == (result.scores, counts)
    payload = server.payloads[0]
    assert payload["temperature"] == 0
    assert payload["max_tokens"] == 32
    url = payload["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == benchmark.images["i0"].bytes  # the unchanged file
    assert len(list(read_jsonl(tmp_path / "pope" / "responses.jsonl"))) == 6


def test_a_refused_question_is_named_and_the_others_are_kept(server, tmp_path):
    benchmark = questions("", "", "", "400:context+is+too+long")
    with pytest.raises(EvaluationError, match=r"item q3: no answer from m \(.*context is too long"):
        run(server, tmp_path, benchmark)
    before = dict(server.asked)
    whole = replace(benchmark, items=benchmark.items[:3])
    run(server, tmp_path, whole)
    assert dict(server.asked) == before  # three answers were stored


def test_no_server_is_said_at_once(server, tmp_path):
    server_url, server = server.url, type("Gone", (), {"url": "http://127.0.0.1:9/v1"})
    assert server_url != server.url
    with pytest.raises(EngineError, match=r"no server at http://127\.0\.0\.1:9/v1"):
        run(server, tmp_path, questions("", ""))


def test_likelihoods_are_not_available(server, tmp_path, world):
    with pytest.raises(EvaluationError, match=r"asks for the likelihood of given answers.*a generative protocol"):
        run(server, tmp_path, load_benchmark("world_winoground", world))
    assert not server.asked


def test_images_are_resized_and_converted_where_they_must_be(server, tmp_path):
    benchmark = questions("", "")
    odd = replace(benchmark, images={"i0": picture(1, "BMP", (40, 30))})
    run(server, tmp_path, odd)
    run(server, tmp_path / "small", odd, {"name": "standard", "image_px": 24})
    sizes = []
    for payload in (server.payloads[0], server.payloads[-1]):
        url = payload["messages"][0]["content"][0]["image_url"]["url"]
        assert url.startswith("data:image/png")
        sizes.append(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size)
    assert sizes == [(40, 30), (24, 24)]


def test_an_engine_in_this_process_says_what_the_model_says(vlm, model_folder, tmp_path):
    """transformers' generate behind the engine gives the same greedy replies as generation on a shared prefix."""
    benchmark = questions("", "", "")
    own = evaluate(vlm, [benchmark], "standard", tmp_path / "own", model_id=identify(model_folder))[0]
    engine = TransformersEngine(model_folder, dtype="float32")
    with engine, ReplyStore(tmp_path / "replies") as store:
        identity = identify_served(engine, "transformers", name="tiny")
        evaluate(EngineBackend(engine, store), [benchmark], "standard", tmp_path / "served", model_id=identity)
    texts = [
        {row["id"]: row["text"] for row in read_jsonl(tmp_path / name / "pope" / "responses.jsonl")}
        for name in ("own", "served")
    ]
    assert texts[0] == texts[1]
    assert own.rates["n"] == 3
