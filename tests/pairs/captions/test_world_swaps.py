"""Tests the world's swap and replace negatives: false according to the judge, exact edits, equal lengths."""

from __future__ import annotations

import random

import pytest

from scramble.pairs.base import Caption
from scramble.pairs.captions.world_swaps import WorldNegatives, candidates
from scramble.world import GrammarError, holds
from scramble.world.captions import captions
from scramble.world.graphs import scene_graph
from scramble.world.scenes import draw_scene


def _texts(caption, kind):
    return {negative.text for negative in candidates(caption) if negative.kind == kind}


def test_swaps_by_hand():
    caption = "the picture shows an orange ring left of a small blue square"
    assert _texts(caption, "swap-object") == {"the picture shows a small blue square left of an orange ring"}
    assert _texts(caption, "swap-attribute") == {"the picture shows a blue ring left of a small orange square"}
    assert _texts(caption, "replace-relation") == {"the picture shows an orange ring right of a small blue square"}
    assert "the picture shows an orange star left of a small blue square" in _texts(caption, "replace-object")
    assert "the picture shows an orange ring left of a large blue square" in _texts(caption, "replace-attribute")


def test_what_has_no_order_has_no_object_swap():
    assert _texts("a red circle and a blue square", "swap-object") == set()
    assert _texts("a red circle and a blue square", "swap-attribute") == {"a blue circle and a red square"}


def test_relations_change_places_within_a_chain():
    caption = "a red ring under a blue star and to the left of a red cross"
    assert _texts(caption, "swap-relation") == {"a red ring to the left of a blue star and under a red cross"}


def test_numbers():
    assert _texts("there are two red objects", "replace-number") == {"there are three red objects"}
    assert _texts("there is one red object", "replace-number") == set()


def test_edits_rebuild_the_negative():
    for negative in candidates("over an orange ring is a small blue square, and a red star and an orange ring"):
        text, at = "", 0
        source = "over an orange ring is a small blue square, and a red star and an orange ring"
        for edit in negative.edits:
            text += source[at : edit.chosen[0]] + negative.text[slice(*edit.rejected)]
            assert negative.text[slice(*edit.rejected)] != source[slice(*edit.chosen)]
            at = edit.chosen[1]
        assert text + source[at:] == negative.text


def test_negatives_are_false_of_their_image_and_true_ones_are_counted():
    rng = random.Random(0)
    inputs = []
    for index in range(200):
        scene = draw_scene(rng, objects=(2, 4), lookalikes=0.5)
        graph = scene_graph(scene, 48)
        texts = captions(scene, rng, 3)
        inputs += [Caption(f"i{index}", k, text, graph) for k, text in enumerate(texts)]
    strict, lax = WorldNegatives(), WorldNegatives(check=False)
    for (caption, remaining), (_, all_of_them) in zip(strict.negatives(inputs), lax.negatives(inputs), strict=True):
        assert not any(holds(caption.graph, negative.text) for negative in remaining)
        assert len(all_of_them) - len(remaining) == sum(holds(caption.graph, n.text) for n in all_of_them)
        assert all(abs(len(n.text.split()) - len(caption.text.split())) == 0 for n in remaining)
    assert strict.true_of_image == lax.true_of_image
    # With full names in a world of distinct objects, a swap of two objects is never true.
    assert strict.judged["swap-object"] > 200 and strict.true_of_image["swap-object"] == 0


def test_without_a_graph_all_candidates_stay_and_kinds_can_be_chosen():
    generator = WorldNegatives(["swap-object"])
    ((_, negatives),) = generator.negatives([Caption("i", 0, "a red circle left of a blue square")])
    assert [negative.kind for negative in negatives] == ["swap-object"]
    assert not generator.judged


def test_other_text_is_an_error():
    with pytest.raises(GrammarError, match="a dog"):
        list(WorldNegatives().negatives([Caption("i", 0, "a dog on a sofa")]))
