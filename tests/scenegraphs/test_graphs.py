"""Tests scene graphs: parsing, rejected and repaired defects, and sources."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from scramble.engines import Reply
from scramble.scenegraphs import GraphError, read_graph
from scramble.scenegraphs.captions import load_caption_parser, parse_captions
from scramble.scenegraphs.describe import read_reply
from scramble.scenegraphs.files import read_graphs

DOG = {"id": "1", "name": "Dog", "attributes": ["Brown", "brown"], "bbox": [0, 0, 5, 5]}
BENCH = {"id": "2", "name": "park bench", "attributes": []}


def test_a_graph_is_read_and_written_back() -> None:
    relations = [
        {"subject": "1", "predicate": "on", "object": "2"},
        {"subject": "2", "predicate": "under", "object": "1"},
    ]
    value = {"width": 9, "height": 8, "objects": [DOG, BENCH], "relations": relations}
    graph = read_graph(value)
    assert [node.label for node in graph.nodes] == ["brown dog", "park bench"]
    assert read_graph(graph.to_json()) == graph
    # In a graph with a cycle, the search for distances ends, and both ends are neighbours once.
    assert graph.distances(["1"]) == {"1": 0, "2": 1} and graph.neighbours["1"] == ("2",)
    assert graph.without("2").links == () and graph.degree("1") == 2


@pytest.mark.parametrize(
    ("objects", "relations", "reason"),
    [
        ([DOG, BENCH], [{"subject": "1", "predicate": "on", "object": "9"}], "dangling relation"),
        ([DOG, DOG], [], "duplicate id"),
        ([DOG, {**DOG, "id": "3"}], [], "duplicate object"),
        ([DOG, {"id": "4"}], [], "object without id or name"),
        ([DOG, BENCH], [{"subject": "1", "object": "2"}], "relation without subject, predicate or object"),
        ([DOG, BENCH], [{"subject": "1", "predicate": "on", "object": "1"}], "relation of an object to itself"),
        ([DOG, BENCH], [{"subject": "1", "predicate": "on", "object": "2"}] * 2, "duplicate relation"),
    ],
)
def test_defects_are_named_or_counted_and_left_out(objects: list, relations: list, reason: str) -> None:
    value = {"objects": objects, "relations": relations}
    with pytest.raises(GraphError, match=reason):
        read_graph(value)
    problems: Counter[str] = Counter()
    graph = read_graph(value, problems)
    assert problems == {reason: 1}
    assert "1" in graph.by_id and {k.object for k in graph.links} <= {"2"}


@pytest.mark.parametrize("value", [None, [], {"objects": 3}, {"objects": []}, {"objects": [{"id": 1}]}])
def test_values_that_are_not_graphs_are_rejected(value: object) -> None:
    with pytest.raises(GraphError):
        read_graph(value, Counter())


def test_a_relation_of_a_duplicate_goes_to_the_object_it_repeats() -> None:
    relations = [{"subject": "3", "predicate": "on", "object": "2"}]
    graph = read_graph({"objects": [DOG, {**DOG, "id": "3"}, BENCH], "relations": relations}, Counter())
    assert [(k.subject, k.object) for k in graph.links] == [("1", "2")]


# ---------------------------------------------------------------------------------------------------------------- files


def test_gqa_and_visual_genome_files(tmp_path: Path) -> None:
    gqa = {
        "7": {
            "width": 10,
            "height": 6,
            "objects": {
                "a": {
                    "name": "cat",
                    "x": 1,
                    "y": 2,
                    "w": 3,
                    "h": 4,
                    "attributes": ["black"],
                    "relations": [{"name": "on", "object": "b"}, {"name": "near", "object": "gone"}],
                },
                "b": {"name": "mat", "x": 0, "y": 0, "w": 9, "h": 5, "attributes": [], "relations": []},
            },
        },
        "8": {"width": 1},
    }
    (tmp_path / "gqa.json").write_text(json.dumps(gqa))
    graphs = dict(read_graphs(tmp_path / "gqa.json"))
    assert graphs["8"] is None
    problems: Counter[str] = Counter()
    graph = read_graph(graphs["7"], problems)
    assert problems == {"dangling relation": 1}
    assert graph.by_id["a"].box == (1, 2, 4, 6) and graph.by_id["a"].attributes == ("black",)
    assert [graph.say(("relation", k.subject, k.predicate, k.object)) for k in graph.links] == ["cat on mat"]

    genome = [
        {
            "image_id": 3,
            "objects": [
                {"object_id": 11, "names": ["man"], "attributes": ["tall"], "x": 0, "y": 0, "w": 2, "h": 2},
                {"object_id": 12, "name": "hat", "x": 0, "y": 0, "w": 1, "h": 1},
            ],
            "relationships": [
                {"subject_id": 11, "predicate": "WEARING", "object_id": 12, "synsets": []},
                {"subject": {"object_id": 12}, "predicate": "of", "object": {"object_id": 11}},
            ],
        },
        {"objects": []},
        "nonsense",
    ]
    (tmp_path / "vg.json").write_text(json.dumps(genome))
    graphs = dict(read_graphs(tmp_path / "vg.json"))
    assert graphs["entry 2"] is None and graphs["entry 3"] is None
    graph = read_graph(graphs["3"])
    facts = {graph.say(fact) for fact in graph.facts}
    assert facts == {"man", "hat", "man is tall", "man wearing hat", "hat of man"}

    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(GraphError, match=r"bad\.json"):
        list(read_graphs(tmp_path / "bad.json"))
    with pytest.raises(GraphError, match=r"none\.json"):
        list(read_graphs(tmp_path / "none.json"))


# ------------------------------------------------------------------------------------------------------------ captions

GOLDEN = [
    (
        "A brown dog and a black cat are sitting on a wooden bench.",
        ["brown dog", "black cat", "wooden bench"],
        ["dog sit on bench", "cat sit on bench"],
        [],
    ),
    (
        "The car that is parked near the house is red and shiny.",
        ["red shiny car", "house"],
        ["car park near house"],
        [],
    ),
    ("A ball is held by a young boy.", ["ball", "young boy"], ["boy hold ball"], []),
    ("The ball that the boy throws is red.", ["red ball", "boy"], ["boy throw ball"], []),
    ("Two men, who wear hats, ride horses.", ["two man", "hat", "horse"], ["man wear hat", "man ride horse"], []),
    ("A dog chasing a cat.", ["dog", "cat"], ["dog chase cat"], []),
    ("There is no person in the room.", ["room"], [], ["person"]),
    ("A man is not wearing a hat.", ["man"], [], ["hat", "wear"]),
    ("The sky is not blue.", ["sky"], [], ["blue"]),
    ("A man without a hat stands in front of a bus.", ["man", "bus"], ["man stand in front of bus"], ["hat", "with"]),
    ("The apple to the left of the plate is green.", ["green apple", "plate"], ["apple to the left of plate"], []),
    ("A group of people walking down a street.", ["person", "street"], ["person walk down street"], []),
    (
        "The dog is next to the chair. It is brown and it holds a ball.",
        ["brown dog", "chair", "ball"],
        ["dog next to chair", "dog hold ball"],
        [],
    ),
    (
        "The man is riding a horse and holding a flag.",
        ["man", "horse", "flag"],
        ["man ride horse", "man hold flag"],
        [],
    ),
    (
        "A table with a vase and two flowers on it.",
        ["table", "vase", "two flower"],
        ["table with vase", "table with flower", "flower on table"],
        [],
    ),
    ("A brown dog sits on a bench.", ["brown dog", "bench"], ["dog sit on bench"], []),
    ("Running quickly!", [], [], []),
    ("", [], [], []),
]


def test_captions_become_graphs(shared: Path) -> None:
    nlp = load_caption_parser(str(shared / "models" / "en_core_standin"))
    for (text, nodes, links, denied), parsed in zip(GOLDEN, parse_captions([g[0] for g in GOLDEN], nlp), strict=True):
        graph = parsed.graph
        assert [node.label for node in graph.nodes] == nodes, text
        assert [graph.say(("relation", k.subject, k.predicate, k.object)) for k in graph.links] == links, text
        assert [*parsed.absent, *(fact[2] for fact in parsed.denied)] == denied, text


# ---------------------------------------------------------------------------------------------------- a model's replies


@pytest.mark.parametrize(
    ("text", "nodes", "links", "problems"),
    [
        (
            'Sure! {"objects":[{"id":"o1","name":"Dog","attributes":["brown",]},{"id":"o2","name":"bench"}],'
            '"relations":[{"subject":"dog","predicate":"on","object":"bench"},{"subject":"o1","predicate":"on","object":"o9"}]}',
            ["brown dog", "bench"],
            1,
            {"relation by name": 1, "dangling relation": 1},
        ),
        (
            '{"objects":[{"id":"o1","name":"dog","attributes":["brown"],"bbox":[0,0,1,1]},{"id":"o2","na',
            ["brown dog"],
            0,
            {},
        ),
        (
            '{"objects":{"a":{"name":"cat"}},"relations":[1]}',
            ["cat"],
            0,
            {"relation without subject, predicate or object": 1},
        ),
    ],
)
def test_replies_are_repaired(text: str, nodes: list[str], links: int, problems: dict[str, int]) -> None:
    graphs: Counter[str] = Counter()
    graph = read_reply(Reply(text), graphs)
    assert [node.label for node in graph.nodes] == nodes and len(graph.links) == links
    assert graphs == problems


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("I see a dog."), "no JSON object"),
        (Reply('{"objects": []}'), "no objects"),
        (Reply("[1, 2]"), "no JSON object"),
        (Reply("", error="timeout (after 3 attempts)"), "no reply: timeout"),
    ],
)
def test_replies_without_a_graph_have_a_reason(reply: Reply, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        read_reply(reply, Counter())
