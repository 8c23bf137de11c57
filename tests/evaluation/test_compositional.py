"""Tests group matching, BiVLC, ColorSwap, VisMin, SugarCrepe++, What'sUp and VSR: recorded outcomes, chance, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scramble.evaluation.benchmarks import load_benchmark, vsr, whatsup
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item, QueryReply
from scramble.evaluation.protocols import named_protocol, queries
from scramble.evaluation.scoring import metrics
from scramble.evaluation.scoring.aggregation import scores
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.grading import parsers, two_choices
from scramble.records import Question, TwoByTwoItem
from tests.evaluation.benchmark_files import draw, write_csv, write_json, write_lines
from tests.evaluation.test_benchmarks import write_hub
from tests.evaluation.test_tsv import golden

PART = {"partial": True}


def quad(key: str, kind: str = "", tags: tuple[str, ...] = ()) -> Item:
    return Item(TwoByTwoItem(key, (f"{key}a", f"{key}b"), ("one", "two"), kind, tags), "quad", tags=tags)


def scored(item: Item, matrix: Any, name: str = "world") -> Outcome:
    """Return the outcome of an item whose captions have these scores, per image."""
    replies = {f"{item.item_id}/{n}": QueryReply(tuple(row), (1,) * len(row)) for n, row in enumerate(matrix)}
    return outcome(item, replies, named_protocol(name))


def table(outcomes: list[Outcome], scoring: str = "plain") -> dict[str, float]:
    return {name: score["value"] for name, score in scores(scoring, outcomes).items()}


def by_images(row: dict[str, Any]) -> list[list[float]]:
    return [[row["c0_i0"], row["c1_i0"]], [row["c0_i1"], row["c1_i1"]]]


# ---------------------------------------------------------------------------------------------------- recorded outcomes


def test_group_matching_equals_the_original() -> None:
    rows, aggregate = golden("groupmatch")
    quads = [scored(quad(str(n)), row["scores"]) for n, row in enumerate(rows) if row["shape"] == [2, 2]]
    recorded = [row for row in rows if row["shape"] == [2, 2]]
    for name in ("text", "image", "group", "group_match"):
        assert [100 * o.values[name] for o in quads] == [row[f"{name}_score"] for row in recorded]
        assert table(quads)[name] == pytest.approx(aggregate["2x2"][f"{name}_score"])
    for row in rows:
        if row["shape"] != [2, 2]:  # for one image, group matching is the choice of a caption
            assert 100 * metrics.choice(row["scores"][0], 0)[0] == row["individual_match_score"]


def test_ties_of_group_matching() -> None:
    values = {policy: metrics.two_by_two(np.ones((1, 2, 2)), policy).group_match[0] for policy in metrics.TIE_POLICIES}
    assert values == {"wrong": 0, "half": 0.5, "first": 1}


def test_chance_of_random_scores() -> None:
    n, generator = 100_000, np.random.default_rng(0)
    result = metrics.two_by_two(generator.random((n, 2, 2)))
    for name, chance in metrics.TWO_BY_TWO_CHANCE.items():
        share = chance / 100
        assert abs(getattr(result, name).mean() - share) < 3 * np.sqrt(share * (1 - share) / n)
    triples = [metrics.two_true_captions(row)[0] for row in generator.random((n, 3))]
    for name, share in (("itt", 1 / 3), ("first_caption", 1 / 2), ("second_caption", 1 / 2)):
        assert abs(np.mean([row[name] for row in triples]) - share) < 3 * np.sqrt(share * (1 - share) / n)


def test_bivlc_equals_the_original() -> None:
    rows, aggregate = golden("bivlc")
    items = [quad(str(n), f"{r['type']}-{r['subtype']}", (r["type"],)) for n, r in enumerate(rows)]
    measured = table([scored(i, by_images(r)) for i, r in zip(items, rows, strict=True)], "bivlc")
    names = {"text": "I2T", "image": "T2I", "group": "group_score"}
    names |= dict(zip(metrics.ONE_WAY, ("Ipos_2T", "Ineg_2T", "Tpos_2I", "Tneg_2I"), strict=True))
    for part, recorded in aggregate.items():
        for ours, theirs in names.items():
            assert measured[ours if part == "overall" else f"{ours}/{part}"] == pytest.approx(recorded[theirs])


def test_sugarcrepe_pp_equals_the_original() -> None:
    rows, aggregate = golden("sugarcrepe_pp")
    outcomes = []
    for n, row in enumerate(rows):
        choice = CaptionChoice(str(n), (str(n),), ("p1", "p2", "negative"), 0, row["subset"])
        item = Item(choice, "captions", details={"true_captions": 2})
        outcomes.append(scored(item, [[row["cos_p1"], row["cos_p2"], row["cos_neg"]]]))
        assert outcomes[-1].values == {
            "itt": row["ITT"],
            "first_caption": row["image_p1"],
            "second_caption": row["image_p2"],
        }
    measured = table(outcomes)
    for part, recorded in aggregate.items():
        suffix = "" if part == "all" else f"/{part}"
        assert measured[f"itt{suffix}"] == pytest.approx(100 * recorded["ITT"])
        assert measured[f"first_caption{suffix}"] == pytest.approx(100 * recorded["image_p1"])
    half = metrics.two_true_captions([1, 1, 1], "half")
    assert half == ({"itt": pytest.approx(1 / 3), "first_caption": 0.5, "second_caption": 0.5}, 2)


def test_whatsup_equals_the_original() -> None:
    """Ties with the first caption count as right, so the protocol is ``whatsup``."""
    rows, aggregate = golden("whatsup")
    outcomes = []
    for n, row in enumerate(rows):
        kind, captions = row["set"].lower(), row["caption_options"]
        if kind in whatsup.CONTROLLED:
            item = whatsup._controlled(kind, n, row, "original")
        else:
            item = whatsup._question(kind, n, [row["image_path"], *captions])
        outcomes.append(
            outcome(
                item,
                {f"{item.item_id}/0": QueryReply(tuple(row["scores"]), (1,) * len(captions))},
                named_protocol("whatsup", caption_score="caption"),
            )
        )
        assert outcomes[-1].values["accuracy"] == row["correct"]
    measured = table(outcomes, "whatsup")
    for part, recorded in aggregate.items():
        kind = part.lower()
        names = {"individual": "accuracy", "accuracy": "accuracy", "pair": "pair_accuracy", "set": "set_accuracy"}
        for theirs, ours in names.items():
            if theirs in recorded:
                assert measured[f"{ours}/{kind}"] == pytest.approx(recorded[theirs])
        for preposition, (share, count) in recorded["by_preposition"].items():
            tagged = [o for o in outcomes if f"{kind}/{preposition}" in o.tags]
            assert len(tagged) == count and measured[f"accuracy/{kind}/{preposition}"] == pytest.approx(100 * share)


def test_vsr_equals_the_original() -> None:
    rows, aggregate = golden("vsr")
    answers = []
    for n, row in enumerate(rows):
        item = vsr._item(n, {"image": f"{n}.jpg", "caption": "The cat is on it.", **row})
        says = ("No", "Yes")[row["prediction"]]
        answers.append(outcome(item, {str(n): QueryReply(text=says)}, named_protocol("standard")))
        assert answers[-1].values["accuracy"] == row["correct"]
        parsed = parsers.words(row["reply"])
        assert row["vlmevalkit_extracted"] == ("Unknown" if parsed is None else parsed.capitalize())
    measured = table(answers)
    assert measured["accuracy"] == pytest.approx(100 * aggregate["accuracy"])
    for key, mark in (("by_relation", ""), ("by_meta_category", "category:")):
        for name, (share, _) in aggregate[key].items():
            assert measured[f"accuracy/{mark}{name}"] == pytest.approx(100 * share, abs=0.01)


def test_vismin_replies_and_scores_equal_the_original() -> None:
    rows, aggregate = golden("vismin")
    labels = {"text": two_choices.CAPTION_LABELS, "image": two_choices.IMAGE_LABELS}
    for row in rows:
        assert (row["label"] in two_choices.vismin(row["reply"], labels[row["type"]], ())) == row["match"]
    parts = {part: [row for row in rows if row["type"] == part] for part in labels}
    outcomes = []
    for k in range(aggregate["items"]):
        item, right = quad(str(k)), {}
        for part, found in parts.items():
            for n, row in enumerate(found[2 * k : 2 * k + 2]):
                right[f"{k}/{part}{n}"] = QueryReply(text=labels[part][n] if row["match"] else "?")
        outcomes.append(outcome(item, right, named_protocol("vismin")))
    for name, value in aggregate["mllm"]["accuracy"].items():
        assert table(outcomes)[name.removesuffix("_score")] == pytest.approx(value)
    rows, aggregate = golden("vismin_scores")
    measured = table([scored(quad(str(n)), by_images(row)) for n, row in enumerate(rows)])
    for name, value in aggregate.items():
        assert round(measured[name.removesuffix("_score")], 2) == value


def test_colorswap_replies_equal_the_original() -> None:
    rows, aggregate = golden("colorswap")
    for task, labels in (("text", two_choices.CAPTION_LABELS), ("image", two_choices.IMAGE_LABELS)):
        asked = [row for row in rows if row["task"] == task]
        read = [two_choices.colorswap(row["reply"], labels, row["options"]) for row in asked]
        assert [(labels_read or [None])[0] for labels_read in read] == [
            row["chosen"] and (row["chosen"] if task == "text" else row["chosen"].capitalize()) for row in asked
        ]
        assert sum(not labels_read for labels_read in read) == aggregate[task]["none"]


def test_questions_about_a_set_of_two() -> None:
    item = Item(TwoByTwoItem("7", ("a", "b"), ("a {red} cup", "a blue cup")), "quad")
    made = Benchmark("made", "1", (item,), {}, "bivlc")
    asked = queries(item, named_protocol("colorswap"), made)
    assert [(q.query_id, q.image_ids) for q in asked] == [
        ("7/text0", ("a",)),
        ("7/text1", ("b",)),
        ("7/image0", ("a", "b")),
        ("7/image1", ("a", "b")),
    ]
    assert asked[0].prompt == (
        "Does this image present (A) a {red} cup, or (B) a blue cup? Note, you must choose one of the two options"
    )
    assert asked[3].prompt.startswith("Which image better aligns with the description a blue cup? The first image")
    texts = ("(A)", "B) a blue cup", "The first image", "both")
    replies = {q.query_id: QueryReply(text=text) for q, text in zip(asked, texts, strict=True)}
    result = outcome(item, replies, named_protocol("colorswap"))
    assert result.values == {"text": 1.0, "image": 0.0, "group": 0.0} and result.details["unread"] == 1
    assert table([result], "bivlc")["text"] == 100
    one_image = Item(CaptionChoice("c", ("i",), ("a", "b")), "captions")
    with pytest.raises(EvaluationError, match=r"item c does not consist of two images with one caption each, .*vismin"):
        queries(one_image, named_protocol("vismin"), made)


# ----------------------------------------------------------------------------------------------------- published files


def test_bivlc_and_colorswap_hub_layouts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"caption": f"a cat {n}", "negative_caption": f"a dog {n}", "type": "replace", "subtype": s}
        for n, s in enumerate(("obj", "rel", "obj"))
    ]
    root = write_hub(tmp_path / "bivlc", "test", rows, ("image", "negative_image"))
    loaded = load_benchmark("bivlc", root, **PART)
    assert loaded.items[1].kind == "replace-rel" and loaded.items[1].tags == ("replace",)
    assert loaded.items[0].image_ids == ("0/0", "0/1") and loaded.images["0/1"].open().size
    with pytest.raises(EvaluationError, match=r"bivlc: the data has 3 items, but the benchmark has 2933"):
        load_benchmark("bivlc", root)
    rows[1]["caption"] = " "
    root = write_hub(tmp_path / "torn", "test", rows, ("image", "negative_image"))
    with pytest.raises(EvaluationError, match=r"bivlc: 1 of 3 rows of .*: row 1: caption is empty"):
        load_benchmark("bivlc", root)
    assert [item.item_id for item in load_benchmark("bivlc", root, **PART).items] == ["0", "2"]

    swaps = [
        {"id": n, "caption_1": f"red cup {n}", "caption_2": f"blue cup {n}", "image_source": "midjourney"}
        for n in range(2)
    ]
    root = write_hub(tmp_path / "colorswap", "test", swaps, ("image_1", "image_2"))
    loaded = load_benchmark("colorswap", root, **PART)
    assert loaded.items[0].image_ids == ("0/1", "0/2") and loaded.items[0].tags == ("image:midjourney",)


def test_vismin_files(tmp_path: Path) -> None:
    for split in ("object", "attribute", "relation", "counting"):
        rows = [
            {
                "image_path": f"/{split}/1.png",
                "caption": "a, b",
                "edited_image_path": f"/{split}/1.png",
                "edited_caption": "b",
                "edit_id": 5,
            }
        ]
        draw(tmp_path, f"original_images/{split}/1.png", f"edited_images/{split}/1.png")
        write_csv(tmp_path / f"{split}.csv", rows)
    loaded = load_benchmark("vismin", tmp_path, **PART)
    assert [item.kind for item in loaded.items] == ["object", "attribute", "relation", "counting"]
    first = loaded.items[0]
    assert loaded.images[first.image_ids[0]].path == str(tmp_path / "original_images/object/1.png")
    assert loaded.images[first.image_ids[1]].path == str(tmp_path / "edited_images/object/1.png")
    assert loaded.human["group/counting"] == 86.41


def test_sugarcrepe_pp_files(tmp_path: Path) -> None:
    rows = [
        {"id": n, "filename": f"{n:012d}.jpg", "caption": "a", "caption2": "b", "negative_caption": "c"} for n in (0, 3)
    ]
    for split in ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel"):
        write_json(tmp_path / f"{split}.json", rows)
    draw(tmp_path, *(f"val2017/{n:012d}.jpg" for n in (0, 3)))
    loaded = load_benchmark("sugarcrepe_pp", tmp_path, **PART)
    assert len(loaded.items) == 10
    item = loaded.items[1]
    assert item.item_id == "swap_obj/3"
    assert queries(item, named_protocol("world"), loaded)[0].candidates == ("a", "b", "c")
    with pytest.raises(
        EvaluationError,
        match=r"sugarcrepe_pp: swap_obj: the data has 2 items, .* benchmark.sugarcrepe_pp.partial",
    ):
        load_benchmark("sugarcrepe_pp", tmp_path)


def test_whatsup_files(tmp_path: Path) -> None:
    with pytest.raises(
        EvaluationError, match=r"whatsup: none of controlled_images_dataset.json.*benchmark.whatsup.root"
    ):
        load_benchmark("whatsup", tmp_path)
    names = [f"pillow_{p}_chair" for p in ("left_of", "right_of", "on", "under")]
    captions = ["A pillow left", "A pillow right", "A pillow on", "A pillow under"]
    rows: list[Any] = [
        {"image_path": f"data/controlled_images/{name}.jpeg", "caption_options": captions} for name in names
    ]
    write_json(tmp_path / "controlled_images_dataset.json", rows)
    draw(tmp_path, *(f"controlled_images/{name}.jpeg" for name in names))
    write_json(tmp_path / "coco_qa_two_obj.json", [[397133, "a dog above a cat", "a dog below a cat"]])
    write_json(tmp_path / "vg_qa_one_obj.json", [[2319788, "a dog on the left", "a dog on the right"]])
    draw(tmp_path, "val2017/000000397133.jpg", "vg_images/2319788.jpg")
    loaded = load_benchmark("whatsup", tmp_path)
    tags = {tag for item in loaded.items for tag in item.tags}
    assert {"controlled_a/on", "coco_qa_two_obj/above", "vg_qa_one_obj/left"} <= tags
    assert {item.group for item in loaded.items[:4]} == {"controlled_a/pillow/chair"}
    # The published images of two items are swapped.
    corrected, original = (load_benchmark("whatsup", tmp_path, labels=name) for name in ("corrected", "original"))
    assert corrected.items[0].image_ids == original.items[1].image_ids and corrected.version != original.version
    assert loaded.chance["accuracy/coco_qa_two_obj/above"] == 50 and loaded.chance["accuracy/controlled_a"] == 25
    write_json(tmp_path / "controlled_images_dataset.json", [*rows[:3], {"image_path": "x.png"}])
    with pytest.raises(EvaluationError, match=r"1 of 4 rows .*caption_options is not a list of four captions"):
        load_benchmark("whatsup", tmp_path)
    write_json(tmp_path / "controlled_images_dataset.json", {"a": 1})
    with pytest.raises(EvaluationError, match="whatsup: "):
        load_benchmark("whatsup", tmp_path)


def test_vsr_files(tmp_path: Path) -> None:
    rows = [
        {"image": f"{n}.jpg", "caption": "The cat is under the bed.", "label": n, "relation": "under"} for n in (0, 1)
    ]
    write_lines(tmp_path / "test.jsonl", rows)
    draw(tmp_path, "train2017/0.jpg", "train2017/1.jpg")
    loaded = load_benchmark("vsr", tmp_path, **PART)
    record = loaded.items[0].record
    assert isinstance(record, Question) and record.answer == "no" and loaded.items[0].tags == ("category:Projective",)
    assert record.question == "Is this statement true of the image? The cat is under the bed."
    write_lines(tmp_path / "test.jsonl", [*rows, {**rows[0], "label": 2}])
    with pytest.raises(EvaluationError, match=r"vsr: 1 of 3 rows of .*label is '2', which is not one of 0, 1"):
        load_benchmark("vsr", tmp_path)


def test_relations_with_a_category() -> None:
    assert vsr.CATEGORY["among"] == "Unallocated" and len(set(vsr.CATEGORY.values())) == 7
