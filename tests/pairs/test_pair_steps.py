"""Tests steps on the pairs of every method, and SCRAMBLe's data pipeline with tiny random models, killed and
resumed.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble import world
from scramble.pairs.base import CandidateSet, Skip
from scramble.pairs.captions.chain_of_thought import MARKER
from scramble.pairs.method import PairMethodError, collect
from scramble.pairs.registry import make_method
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.files import StoreError
from scramble.storage.tables import read_table, write_table
from tests.loopback import Loopback

COLOURS = ("red", "green", "blue", "white", "black", "brown", "pink", "gray")
TINY: dict[str, Any] = {"path": "unused", "device": "cpu", "new": {}}


def make_images(folder: Path, count: int = 8) -> Path:
    """Write a training split with images of one colour and two captions per image, of which the first one has a
    typo.
    """
    records = []
    for number, colour in enumerate(COLOURS[:count]):
        file = folder / "files" / f"{colour}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 32), colour).save(file)
        captions = (f"a {colour} dog chase a small cat", f"A {colour} dog runs behind a small cat on the grass.")
        records.append(ImageRecord(f"{number:012d}", ImageFile(path=str(file)), captions))
    write_table(folder / "train", ImageRecord, records)
    return folder / "train"


def language_model(prompt: str) -> str:
    """Reply as a server that corrects typos, abstains on pink dogs, and swaps the two animals."""
    if prompt.startswith("Correct the spelling"):
        return json.dumps({"caption": prompt.rpartition("Caption: ")[2].strip().replace("chase a", "chases a")})
    caption = prompt.rpartition("Input Caption: ")[2].partition("\n")[0]
    swapped = caption.replace("dog", "#").replace("cat", "dog").replace("#", "cat")
    return f"1. ...\n{MARKER}\n{'NA' if 'pink' in caption else swapped}"


def scramble(server: Loopback, pipeline: Path, **steps: Any) -> dict[str, Any]:
    """Return the section ``pairs`` of SCRAMBLe's pipeline with tiny random scorers."""
    server.answer = language_model
    engine = {"kind": "openai", "model": "m", "base_url": server.url, "concurrency": 2}
    return {
        "method": "cot",
        "captions_per_image": "clip",
        "similarity": TINY,
        "engine": engine,
        "options": {"cleaner": engine, "pipeline": str(pipeline)},
        "scores": {"grammar": TINY, "plausibility": TINY, "likelihood": None, "similarity": None},
        "filters": [{"column": "length_ratio", "min": 0.7, "max": 1.2}, {"column": "near_duplicate", "max": 0}],
        "balance": {"gaps": ("grammar", "plausibility")},
        **steps,
    }


def run(section: dict[str, Any], split: Path) -> tuple[list[PreferencePair], list[Skip], dict[str, Any]]:
    with make_method(section, seed=0) as method:
        pairs, skips = collect(method.pairs(split))
        return pairs, skips, method.totals()


@pytest.fixture
def pipeline(shared: Path) -> Path:
    return shared / "models" / "en_core_standin"


def test_scrambles_pipeline_is_killed_and_resumed(server: Loopback, pipeline: Path, tmp_path: Path) -> None:
    section = scramble(server, pipeline)
    whole, skips, totals = run(section, make_images(tmp_path / "whole"))
    assert totals["steps"] == {
        "images": 8,
        "captions": 8,
        "negatives": 7,
        "scored": 7,
        "filtered": 7,
        "balanced": len(whole),
    }
    assert [skip.reason for skip in skips] == ["abstained"]
    assert totals["engine"]["captions"]["used"] == 7 and totals["engine"]["captions"].get("abstained") == 1
    assert whole
    columns = {f"{name}.{side}" for name in ("grammar", "plausibility") for side in ("chosen", "rejected")}
    for pair in whole:
        assert pair.scores.keys() >= columns | {"similarity.chosen", "length_ratio", "near_duplicate"}
        assert "chase a" not in pair.chosen

    split, num_requests = make_images(tmp_path / "killed"), len(server.payloads)
    assert num_requests == 8 + 8
    with pytest.raises(KeyboardInterrupt), make_method(section | {"balance": None}, seed=0) as method:
        for number, _ in enumerate(method.pairs(split)):
            if number == 3:
                raise KeyboardInterrupt
    server.payloads.clear()
    resumed, _, totals = run(section, split)
    assert resumed == whole and totals["scores"]["grammar"] == {"computed": 0, "reused": 14}
    assert len(server.payloads) < num_requests
    server.payloads.clear()
    again, _, _ = run(section, split)
    assert again == whole and not server.payloads


def test_each_step_can_be_left_out(server: Loopback, pipeline: Path, tmp_path: Path) -> None:
    bare = scramble(server, pipeline, scores=None, filters=[], balance=None, captions_per_image="one", similarity=None)
    bare["options"] = bare["options"] | {"cleaner": None}
    pairs, _, totals = run(bare, make_images(tmp_path, 3))
    assert totals["steps"] == {"images": 3, "captions": 3, "negatives": 3} and all(not pair.scores for pair in pairs)
    assert not (tmp_path / "train" / "scores").exists() and not (tmp_path / "new_scorers").exists()
    both = {**bare, "scores": {"similarity": TINY}, "filters": [{"column": "similarity.gap", "max": 2}]}
    for pair in run(both, tmp_path / "train")[0]:
        assert pair.scores.keys() == {"similarity.chosen", "similarity.rejected"}


def test_shards_store_replies_and_scores(server: Loopback, pipeline: Path, tmp_path: Path) -> None:
    section, split = scramble(server, pipeline), make_images(tmp_path)
    items = []
    for number in range(2):
        with make_method(section, seed=0, shard=(number, 2)) as method:
            items.append(method.store_replies(split))
    assert sum(items) == 8 and len(server.payloads) == 8 + 8
    pairs, _, totals = run(section, split)
    assert pairs and len(server.payloads) == 8 + 8
    assert totals["scores"] == {name: {"computed": 0, "reused": 14} for name in ("grammar", "plausibility")}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a split of the embedded world, with pairs that come with the data."""
    folder = tmp_path_factory.mktemp("world")
    world.build_world(
        folder,
        seed=0,
        n_train=12,
        n_val=1,
        n_test=1,
        image_size=48,
        objects=(2, 3),
        lookalikes=0.5,
        captions_per_image=1,
        sized=0.5,
        questions_per_image=2,
        question_kinds=["colour", "count"],
        quads_val=0,
        quads_test=0,
    )
    images = list(read_table(folder / "train", ImageRecord))
    given = [
        PreferencePair(f"p{n}", (image.image_id,), "?", image.captions[0], "A ring.", "k", scores={"given.score": n})
        for n, image in enumerate(images)
    ]
    write_table(folder / "train", PreferencePair, given)
    return folder / "train"


METHODS: dict[str, dict[str, Any]] = {
    "world": {"method": "world", "surface": False},
    "scenealign": {"method": "scenealign"},
    "given": {"method": "given"},
    "mix": {"method": "mix", "parts": {"a": {"method": "world", "surface": False}, "b": {"method": "given"}}},
}


@pytest.mark.parametrize("name", METHODS)
def test_filters_and_excluded_images_work_for_every_method(name: str, scenes: Path, tmp_path: Path) -> None:
    everything, _, _ = run(METHODS[name], scenes)
    ratios = [len(pair.rejected.split()) / len(pair.chosen.split()) for pair in everything]
    most = sorted(ratios)[len(ratios) // 2] - 0.01 if len(set(ratios)) > 1 else 0.99
    remaining, skips, totals = run(
        METHODS[name] | {"filters": [{"column": "length_ratio", "max": most}, {"column": "usable", "min": 0}]}, scenes
    )
    dropped = [skip for skip in skips if skip.reason == "filter length_ratio"]
    assert len(remaining) + len(dropped) == len(everything) and dropped
    assert all(pair.scores["length_ratio"] <= most and "usable" in pair.scores for pair in remaining)
    assert totals["dropped"] == {"length_ratio": len(dropped)} and totals["steps"]["filtered"] == len(remaining)

    record = next(iter(read_table(scenes, ImageRecord)))
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "renamed.png").write_bytes(record.image.read())
    clean, skips, totals = run(METHODS[name] | {"exclude_benchmarks": {"mine": str(tmp_path / "bench")}}, scenes)
    assert any(record.image_id in pair.image_ids for pair in everything)
    assert not any(record.image_id in pair.image_ids for pair in clean)
    assert [skip for skip in skips if skip.reason == "image of mine"] == [
        Skip("image of mine", {"image_id": record.image_id})
    ]
    assert totals["excluded_images"] == {"mine": 1}


def test_other_images_have_the_same_candidates_if_images_are_excluded(scenes: Path, tmp_path: Path) -> None:
    first = next(iter(read_table(scenes, ImageRecord)))
    (tmp_path / "first.png").write_bytes(first.image.read())
    section = METHODS["world"] | {"form": "yes-no"}
    with make_method(section, seed=0) as method:
        everything = [item for item in method.candidates(scenes) if isinstance(item, CandidateSet)]
    with make_method(section | {"exclude_benchmarks": {"mine": str(tmp_path)}}, seed=0) as method:
        skip, *items = method.candidates(scenes)
        pair = everything[-1].pairs[-1]
        assert [yes_no.chosen for yes_no in method.expand(pair)] == ["Yes", "No"]
    assert skip == Skip("image of mine", {"image_id": first.image_id})
    candidates = [item for item in items if isinstance(item, CandidateSet)]
    assert candidates == [item for item in everything if item.pairs[0].image_ids != (first.image_id,)]
    assert any(len(item.pairs) > 1 for item in candidates) and len(candidates) == len(everything) - 1


def test_a_mix_counts_the_items_of_its_parts(scenes: Path) -> None:
    section = METHODS["mix"] | {"parts": {"a": METHODS["world"], "b": METHODS["scenealign"]}}
    with make_method(section, seed=0) as method:
        collect(method.pairs(scenes))
        assert method.num_items == 12 + 24  # images and questions


def test_a_benchmarks_coco_ids_are_excluded_before_a_model_is_asked(
    server: Loopback, pipeline: Path, tmp_path: Path
) -> None:
    split = make_images(tmp_path, 4)  # with the ids 0 to 3
    pope = tmp_path / "pope.jsonl"
    pope.write_text('{"image": "COCO_val2014_000000000001.jpg", "text": "Is there a dog?"}\n')
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "items.json").write_text('[["https://x/vg_gqa_images/2390970.jpg", "a", "b", "c"]]')
    (tmp_path / "cola" / "image_data.json").write_text('[{"image_id": 2390970, "coco_id": 3, "url": "VG_100K/5.jpg"}]')
    excluded = {"pope": str(pope), "cola": str(tmp_path / "cola")}
    section = scramble(server, pipeline, exclude_benchmarks=excluded, scores=None, filters=[], balance=None)
    with make_method(section, seed=0) as method:
        assert method.store_replies(split) == 2
    pairs, _, totals = run(section, split)
    assert {pair.image_ids[0] for pair in pairs} == {"000000000000", "000000000002"}
    assert totals["excluded_images"] == {"pope": 1, "cola": 1} and totals["steps"]["images"] == 2
    assert not any("green" in str(payload["messages"]) for payload in server.payloads)
    with (
        pytest.raises(StoreError, match=r"nothing: .* does not exist"),
        make_method(section | {"exclude_benchmarks": {"nothing": str(tmp_path / "nothing")}}, seed=0) as method,
    ):
        method.prepare()


def test_images_in_parquet_files_of_a_benchmark_are_found(scenes: Path) -> None:
    pairs, _, totals = run(
        METHODS["given"] | {"exclude_benchmarks": {"itself": str(scenes / "images.parquet")}}, scenes
    )
    assert pairs == [] and totals["excluded_images"] == {"itself": 12}


def test_images_in_a_tsv_file_of_a_benchmark_are_found(scenes: Path, tmp_path: Path) -> None:
    record = next(iter(read_table(scenes, ImageRecord)))
    row = ["1", base64.b64encode(record.image.read()).decode(), "How many rings?", "1", "2", "A"]
    header = "index image question A B answer".replace(" ", "\t")
    (tmp_path / "MMStar.tsv").write_text(header + "\n" + "\t".join(row) + "\n")
    excluded = {"exclude_benchmarks": {"mmstar": str(tmp_path / "MMStar.tsv")}}
    assert run(METHODS["world"] | excluded, scenes)[2]["excluded_images"] == {"mmstar": 1}


def test_balanced_gaps_are_symmetric(scenes: Path, tmp_path: Path) -> None:
    """Twice as many pairs have positive gaps of both scores as negative ones: a third is dropped."""
    write_table(tmp_path / "train", ImageRecord, [])
    pairs = []
    for number in range(30):
        gap = 0.31 if number % 3 else -0.31
        scores = {f"{name}.{side}": gap * (side == "chosen") for name in "ab" for side in ("chosen", "rejected")}
        pairs.append(PreferencePair(f"p{number}", ("1",), "?", "A cat.", "A dog.", "k", scores=scores))
    write_table(tmp_path / "train", PreferencePair, pairs)
    balanced, _, totals = run({"method": "given", "balance": {"gaps": ("a", "b")}}, tmp_path / "train")
    signs = Counter(pair.scores["a.chosen"] > 0 for pair in balanced)
    assert signs == {True: 10, False: 10} and totals["steps"] == {"pairs": 30, "balanced": 20}
    pairs[0].scores["a.chosen"] = 7.0
    write_table(tmp_path / "train", PreferencePair, pairs)
    with pytest.raises(PairMethodError, match=r"pairs\.balance\.gaps=\[a,b\]: pair p0"):
        run({"method": "given", "balance": {"gaps": ("a", "b")}}, tmp_path / "train")
