"""Tests graphs and rewritten rationales from models, with good replies of a scripted server and replies of a random
model.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from scramble.engines import ReplyStore, open_engine
from scramble.pairs.method import collect
from scramble.pairs.rationales.assemble_rationales import rationale_pairs
from scramble.pairs.rationales.cases import RationaleCase, Settings
from scramble.pairs.rationales.graph_edits import Cooccurrence
from scramble.pairs.rationales.interventions.language_model import EngineInterventions
from scramble.pairs.rationales.rationale_method import graphs_of_captions
from scramble.records import ImageFile, ImageRecord
from scramble.scenegraphs import read_graph
from scramble.scenegraphs.describe import PROMPT, graphs_of_model
from tests.loopback import Loopback


def picture(colour: str) -> ImageFile:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), colour).save(buffer, "PNG")
    return ImageFile(buffer.getvalue())


IMAGES = [ImageRecord("a", picture("red")), ImageRecord("b", picture("blue"))]


def test_a_server_describes_images_once(tmp_path: Path) -> None:
    graph = {
        "objects": [{"id": "o1", "name": "dog", "attributes": ["brown"], "bbox": [0, 0, 500, 500]}],
        "relations": [{"subject": "o1", "predicate": "on", "object": "o7"}],
    }
    server = Loopback(answer=lambda text: json.dumps(graph))
    try:
        for num_requests in (2, 0):  # the second time all replies are stored
            problems: Counter[str] = Counter()
            with (
                open_engine("openai", model="m", base_url=server.url) as engine,
                ReplyStore(tmp_path) as store,
            ):
                graphs = [image.graph for image in graphs_of_model(IMAGES, engine, store, problems)]
                assert engine.totals.num_requests == num_requests
            assert [read_graph(graph).nodes[0].label for graph in graphs if graph] == ["brown dog", "brown dog"]
            assert problems == {"dangling relation": 2}
    finally:
        server.close()
    content = server.payloads[0]["messages"][-1]["content"]
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,") and content[1]["text"] == PROMPT
    assert server.payloads[0]["response_format"]["type"] == "json_schema"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scramble.models.tiny import save_tiny_internvl

    return save_tiny_internvl(tmp_path_factory.mktemp("models") / "internvl", [PROMPT, "a dog on a bench"], seed=0)


def test_replies_of_a_random_model_are_rejected(tiny: Path, english_cases: list[RationaleCase], tmp_path: Path) -> None:
    problems: Counter[str] = Counter()
    with open_engine("transformers", path=str(tiny), batch_size=2) as engine, ReplyStore(tmp_path) as store:
        assert list(graphs_of_model(IMAGES, engine, store, problems, max_tokens=6)) == IMAGES
        interventions = EngineInterventions(
            Settings(kinds={"replace": 1.0}), Cooccurrence([["dog", "man"]]), engine, store, max_tokens=6
        )
        pairs, skips = collect(rationale_pairs(english_cases[:2], interventions))
        skipped = Counter(skip.reason for skip in skips)
        assert interventions.totals()["rewriter"]["num_requests"] == 4
    assert problems.total() == 2 and set(problems) <= {"no JSON object in the reply"}
    assert pairs == [] and skipped.total() == 2
    assert set(skipped) <= {"reply truncated at the token limit", "no steps in the reply"}


def test_images_without_graphs_get_one_from_their_captions_or_a_model(shared: Path, tmp_path: Path) -> None:
    images = [
        ImageRecord("a", picture("red"), ("A brown dog sits on a bench.", "The dog wears a hat.")),
        ImageRecord("b", picture("blue")),
        ImageRecord("c", picture("green"), graph={"objects": [{"id": "x", "name": "cat"}]}),
    ]
    parsed = list(graphs_of_captions(images, str(shared / "models" / "en_core_standin")))
    graph = read_graph(parsed[0].graph)
    assert {graph.say(fact) for fact in graph.facts} == {
        "dog",
        "bench",
        "hat",
        "dog is brown",
        "dog sit on bench",
        "dog wear hat",
    }
    assert parsed[1].graph is None and parsed[2].graph == images[2].graph

    server = Loopback(answer=lambda text: '{"objects": [{"id": "o", "name": "bus"}], "relations": []}')
    try:
        with open_engine("openai", model="m", base_url=server.url) as engine, ReplyStore(tmp_path) as store:
            seen = list(graphs_of_model(images, engine, store, Counter()))
    finally:
        server.close()
    assert [record.image_id for record in seen] == ["a", "b", "c"]
    assert [record.graph["objects"][0]["name"] for record in seen if record.graph] == ["bus", "bus", "cat"]
