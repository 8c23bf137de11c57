"""Tests the embedded world: determinism, drawing, grammar and judge, splits, questions, 2x2 items."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from scramble.records import ImageRecord, Question, TwoByTwoItem
from scramble.storage.hashing import file_key
from scramble.storage.tables import read_table
from scramble.world import GrammarError, WorldError, build_world, holds, parse_clauses
from scramble.world.captions import CAPTION_STYLES, captions, draw_clauses
from scramble.world.drawing import draw
from scramble.world.grammar import CountClause, Exists, Noun, Relation, render
from scramble.world.graphs import scene_graph
from scramble.world.questions import QUESTION_KINDS, ask
from scramble.world.scenes import HELD_OUT, Scene, Thing, draw_scene, overlap

ARGUMENTS: dict[str, Any] = {"n_train": 60, "n_val": 20, "n_test": 20, "quads_val": 4, "quads_test": 8}

# A red circle on the left, a large blue square to its right and slightly lower, and a red star below the circle.
SCENE = Scene(
    (
        Thing("circle", "red", "small", 0.2, 0.2, 0.1),
        Thing("square", "blue", "large", 0.7, 0.5, 0.15),
        Thing("star", "red", "small", 0.2, 0.8, 0.1),
    )
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    counts = build_world(folder, seed=3, **ARGUMENTS)
    return folder, counts


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(world, tmp_path):
    folder, _ = world
    build_world(tmp_path / "again", seed=3, **ARGUMENTS)
    build_world(tmp_path / "other", seed=4, **ARGUMENTS)
    assert file_key(tmp_path / "again") == file_key(folder)
    assert file_key(tmp_path / "other") != file_key(folder)


def test_the_test_split_does_not_depend_on_the_size_of_the_training_split(world, tmp_path):
    folder, _ = world
    build_world(tmp_path, seed=3, **(ARGUMENTS | {"n_train": 5}))
    assert file_key(tmp_path / "test") == file_key(folder / "test")


def test_counts_are_those_of_the_tables(world):
    folder, counts = world
    for split in ("train", "val", "test"):
        assert counts[split]["images"] == len(list(read_table(folder / split, ImageRecord)))
        assert counts[split]["questions"] == len(list(read_table(folder / split, Question)))
    assert counts["val"]["quads"] == 3 * 4  # three kinds
    assert counts["test"]["quads"] == 3 * 3 * 8  # three kinds, three tags


def test_splits_share_no_scene(world):
    folder, _ = world

    def looks(split):
        graphs = [record.graph for record in read_table(folder / split, ImageRecord)]
        signatures = set()
        for graph in graphs:
            words = {o["id"]: (o["name"], *o["attributes"]) for o in graph["objects"]}
            facts = sorted((words[r["subject"]], r["predicate"], words[r["object"]]) for r in graph["relations"])
            signatures.add((tuple(sorted(words.values())), tuple(facts)))
        return signatures

    train, val, test = (looks(split) for split in ("train", "val", "test"))
    assert not train & val and not train & test and not val & test


def test_training_never_shows_a_held_out_combination(world):
    folder, _ = world
    seen = {
        (thing["attributes"][0], thing["name"])
        for split in ("train", "val")
        for record in read_table(folder / split, ImageRecord)
        for thing in record.graph["objects"]
    }
    assert not seen & HELD_OUT
    unseen = [q for q in read_table(folder / "test", TwoByTwoItem) if "unseen" in q.tags]
    assert len(unseen) == 3 * 8
    for quad in unseen:
        nouns = [f"{colour} {shape}" for colour, shape in HELD_OUT]
        assert any(noun in caption for caption in quad.captions for noun in nouns)


def test_captions_and_reasoning_steps_are_true_of_their_image(world):
    folder, _ = world
    for split in ("train", "val", "test"):
        graphs = {record.image_id: record.graph for record in read_table(folder / split, ImageRecord)}
        for record in read_table(folder / split, ImageRecord):
            assert all(holds(record.graph, caption) for caption in record.captions)
            assert len(set(record.captions)) == len(record.captions)
        for question in read_table(folder / split, Question):
            assert question.rationale
            assert all(holds(graphs[question.image_ids[0]], step) for step in question.rationale)


def test_each_quad_caption_is_true_of_its_own_image_only(world):
    folder, _ = world
    for split in ("val", "test"):
        graphs = {record.image_id: record.graph for record in read_table(folder / split, ImageRecord)}
        for quad in read_table(folder / split, TwoByTwoItem):
            true = [holds(graphs[image], caption) for image in quad.image_ids for caption in quad.captions]
            assert true == [True, False, False, True]
            assert sorted(quad.captions[0].replace("an ", "a ").split()) == sorted(
                quad.captions[1].replace("an ", "a ").split()
            )


@pytest.mark.parametrize("size", [48, 64, 100])
def test_a_drawn_object_has_its_colour_inside_its_box_and_the_ground_outside(size):
    image = draw(SCENE, size)
    assert image.size == (size, size)
    red, green, blue = np.array(image)[round(0.2 * size), round(0.2 * size)]
    assert red > 150 > max(green, blue)
    red, green, blue = np.array(image)[round(0.5 * size), round(0.7 * size)]
    assert blue > 150 > max(red, green)
    assert image.getpixel((size - 1, 0)) == (235, 235, 235)  # 0.92 * 255


def test_edges_are_smooth():
    levels = np.unique(np.array(draw(Scene((Thing("circle", "blue", "large", 0.5, 0.5, 0.16),)), 48))[..., 0])
    assert len(levels) > 5  # a hard edge has two


def test_too_few_pixels_or_too_many_objects_are_refused(tmp_path):
    with pytest.raises(WorldError, match="image_size must be at least 48 pixels, not 32"):
        build_world(tmp_path, image_size=32, **ARGUMENTS)
    with pytest.raises(WorldError, match=r"data.objects must be .* not \[2, 9\]"):
        build_world(tmp_path, objects=(2, 9), **ARGUMENTS)
    with pytest.raises(WorldError, match="unknown kinds of questions \\['colr'\\]"):
        build_world(tmp_path, question_kinds=["colr"], **ARGUMENTS)
    with pytest.raises(WorldError, match="unknown caption styles \\['poem'\\]"):
        build_world(tmp_path, styles={"poem": 1.0}, **ARGUMENTS)


def test_no_caption_styles_means_the_default_styles(tmp_path):
    assert build_world(tmp_path, styles=None, **ARGUMENTS)["train"]["images"] == ARGUMENTS["n_train"]


def test_objects_never_overlap_and_the_share_of_look_alikes_is_configurable():
    def alike(share):
        rng = random.Random(0)
        scenes = [draw_scene(rng, objects=(4, 4), lookalikes=share) for _ in range(100)]
        for scene in scenes:
            things = scene.things
            assert not any(overlap(a, b) for i, a in enumerate(things) for b in things[i + 1 :])
        return sum(len({t.shape for t in s.things}) + len({t.colour for t in s.things}) < 7 for s in scenes)

    assert alike(1.0) > alike(0.0)


def test_the_graph_lists_every_relation_both_ways():
    graph = scene_graph(SCENE, 100)
    assert graph["objects"][1] == {
        "id": "o1",
        "name": "square",
        "attributes": ["blue", "large"],
        "bbox": [55.0, 35.0, 85.0, 65.0],
    }
    facts = {(r["subject"], r["predicate"], r["object"]) for r in graph["relations"]}
    assert facts == {
        ("o0", "left of", "o1"),
        ("o1", "right of", "o0"),
        ("o0", "above", "o1"),
        ("o1", "below", "o0"),
        ("o0", "above", "o2"),
        ("o2", "below", "o0"),
        ("o2", "left of", "o1"),
        ("o1", "right of", "o2"),
        ("o2", "below", "o1"),
        ("o1", "above", "o2"),
    }


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a red circle left of a blue square", True),
        ("a blue square left of a red circle", False),
        ("there is a blue square to the right of a red circle", True),
        ("over a small red star is a red circle", True),
        ("a red circle left of a blue square and above a red star", True),
        ("a red circle above a blue square and left of a red star", False),
        ("a red circle, a blue square and a red star", True),
        ("a red circle and a red circle", False),
        ("a red object left of a large object", True),
        ("there are two red objects", True),
        ("there are no rings, and the picture shows one square", True),
        ("there are two red objects, and a red circle below a red star", False),
    ],
)
def test_judge(caption, true):
    assert holds(SCENE, caption) is true
    assert holds(scene_graph(SCENE, 48), caption) is true


@pytest.mark.parametrize(
    "text", ["", "a dog on a sofa", "a red circle left of", "red circle", "a red circle, and so on"]
)
def test_a_text_outside_of_the_grammar_is_an_error_that_quotes_it(text):
    with pytest.raises(GrammarError, match="is not a caption of the embedded world"):
        holds(SCENE, text)


def test_parsing_reads_back_what_was_rendered():
    rng = random.Random(1)
    for wording in ("train", "new"):
        for _ in range(300):
            scene = draw_scene(rng, objects=(2, 4))
            for style in CAPTION_STYLES:
                clauses = draw_clauses(scene, rng, style, with_size=rng.random() < 0.5)
                if clauses:
                    assert parse_clauses(render(clauses, rng, wording)) == clauses


def test_parsing_by_hand():
    assert parse_clauses("the picture shows an orange ring under a small square") == (
        Relation(Noun("ring", "orange"), (("below", Noun("square", size="small")),)),
    )
    assert parse_clauses("there are two crosses, and a red star, a ring and a green object") == (
        CountClause(2, Noun("cross")),
        Exists((Noun("star", "red"), Noun("ring"), Noun(colour="green"))),
    )


def test_new_wordings_are_not_those_of_training():
    rng = random.Random(2)
    scene = draw_scene(rng, objects=(3, 3))
    clauses = [draw_clauses(scene, rng, style) for style in ("relation", "chain", "list", "count")]
    for clause in clauses:
        old = {render(clause, rng, "train") for _ in range(200)}
        new = {render(clause, rng, "new") for _ in range(200)}
        assert not old & new


def test_a_scene_has_a_limited_number_of_captions():
    lonely = Scene((Thing("circle", "red", "small", 0.2, 0.2, 0.1),))
    with pytest.raises(WorldError, match="fewer than 40 captions of a scene were found"):
        captions(lonely, random.Random(0), 40)


def test_answers_agree_with_the_scene():
    """All kinds of questions occur. Their answers are checked with the scene, independently of the question's code."""
    rng, kinds = random.Random(5), set()
    for _ in range(200):
        scene = draw_scene(rng, objects=(2, 4))
        for kind in QUESTION_KINDS:
            question = ask(scene, rng, kind)
            if question is None:
                continue
            kinds.add(kind)
            words = question.question.rstrip("?.").replace("'", "").split()
            if kind in ("colour", "shape", "size") and len(words) == 5:  # What colour is the circle
                (thing,) = [t for t in scene.things if words[4] in (t.shape, t.colour)]
                assert question.answer == getattr(thing, kind)
            if kind == "relation":
                assert holds(
                    scene,
                    f"a {words[2]} {words[3]} {question.answer} a {words[-2]} {words[-1]}".replace(
                        "a orange", "an orange"
                    ),
                )
            if kind == "yes-no":
                caption = question.question.split("'")[1]
                assert question.answer == ("Yes" if holds(scene, caption) else "No")
            if kind == "count" and words[2] == "objects":
                assert question.answer == str(len(scene.things))
            if kind == "existence":
                assert question.answer == ("Yes" if holds(scene, f"{words[2]} {words[3]} {words[4]}") else "No")
    assert kinds == set(QUESTION_KINDS)
