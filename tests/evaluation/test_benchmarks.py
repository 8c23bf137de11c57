"""Test loaders on real samples of the files, synthetic copies of each schema, and hub layouts by ``datasets``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from scramble.evaluation.benchmarks import BENCHMARKS, load_benchmark
from scramble.evaluation.external import export_predictions
from scramble.evaluation.items import Benchmark, EvaluationError, QueryReply, limit_items
from scramble.evaluation.protocols import named_protocol, queries, resolve
from scramble.evaluation.scoring.aggregation import scores
from scramble.evaluation.scoring.outcomes import outcome
from scramble.records import ImageFile, ImageRecord, PreferencePair, Turn
from scramble.storage.tables import write_table
from tests.evaluation import benchmark_files
from tests.evaluation.benchmark_files import eqben_mini, sugarcrepe

SAMPLE = {"partial": True}


def draw(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Picture.new("RGB", (12, 8), "red").save(folder / name)


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_hub(folder: Path, split: str, rows: list[dict], images: tuple[str, ...]) -> Path:
    """Write a local folder in the layout that ``datasets`` uses for hub repositories:
    data/<split>-00000-of-00001.parquet.
    """
    from datasets import Dataset, Features, Image

    picture = Picture.new("RGB", (9, 7), "blue")
    data = Dataset.from_list([{**row, **{c: picture if row.get(c, True) else None for c in images}} for row in rows])
    features = Features({**data.features, **{c: Image() for c in images}})
    assert all(isinstance(features[c], Image) for c in images)
    (folder / "data").mkdir(parents=True)
    data.cast(features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


# ------------------------------------------------------------------------------------------------ files as published


def test_sugarcrepe_sample_with_gaps_in_its_keys(shared, tmp_path):
    folder = shared / "data" / "sugarcrepe_sample"
    names = {e["filename"] for f in folder.glob("*.json") for e in json.loads(f.read_text()).values()}
    draw(tmp_path, *names)
    benchmark = load_benchmark("sugarcrepe", folder, images=tmp_path, **SAMPLE)
    assert len(benchmark.items) == 280
    keys = [item.item_id for item in benchmark.items if item.kind == "swap_obj"][:3]
    assert keys == ["swap_obj/0", "swap_obj/3", "swap_obj/6"]
    assert benchmark.version == "sugarcrepe-partial-280"
    with pytest.raises(
        EvaluationError, match=r"sugarcrepe: the data has 40 items, but the benchmark has 692: finish the download"
    ):
        load_benchmark("sugarcrepe", folder, images=tmp_path)
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(EvaluationError, match=r"1 of \d+ images are missing below .*finish the download"):
        load_benchmark("sugarcrepe", folder, images=tmp_path, **SAMPLE)


def test_cola_list(shared, tmp_path):
    path = shared / "data" / "cola_multiobject_sample.json"
    entries = json.loads(path.read_text())
    draw(tmp_path, *{Path(url).name for a, _, b, _ in entries for url in (a, b)})
    benchmark = load_benchmark("cola", path, images=tmp_path, **SAMPLE)
    assert len(benchmark.items) == len(entries) == 30
    first = benchmark.items[0].record
    assert first.image_ids == ("2390970.jpg", "2388902.jpg")
    assert first.captions[1] == "brown giraffe behind tall white giraffe"


def test_pope_lines(shared, tmp_path):
    path = shared / "data" / "pope_adversarial_sample.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    draw(tmp_path, *{row["image"] for row in rows})
    benchmark = load_benchmark("pope", path, images=tmp_path, **SAMPLE)
    assert len(benchmark.items) == 60
    assert {item.record.answer for item in benchmark.items} == {"yes", "no"}
    assert {item.kind for item in benchmark.items} == {"adversarial"}


def test_winoground_mirror_with_tags(tmp_path):
    rows = [
        {
            "id": n,
            "image_0": f"ex_{n}_img_0",
            "image_1": f"ex_{n}_img_1",
            "caption_0": "a plant by a bulb",
            "caption_1": "a lightbulb surrounding some plants",
            "tag": "Adjective-Size, Verb",
            "secondary_tag": "",
            "num_main_preds": 1 + n,
            "collapsed_tag": "Object",
        }
        for n in range(2)
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(tmp_path / "images", *(f"ex_{n}_img_{i}.png" for n in range(2) for i in range(2)))
    write_json(tmp_path / "why_winoground_hard.json", {"0": ["NonCompositional"], "1": ["VisuallyDifficult"]})
    benchmark = load_benchmark("winoground", tmp_path, **SAMPLE)
    assert benchmark.items[1].tags == (
        "collapsed:Object",
        "2 main preds",
        "tag:Adjective-Size",
        "tag:Verb",
        "why-hard:VisuallyDifficult",
    )
    assert benchmark.images["ex_0_img_1"].open().size == (12, 8)
    assert benchmark.human["group"] == 85.5


def test_eqben_and_naturalbench_retrieval(tmp_path):
    draw(tmp_path / "images" / "eqbenag", "a.png", "b.png")
    pair = {"image0": "eqbenag/a.png", "image1": "eqbenag/b.png", "caption0": "one", "caption1": "two"}
    write_json(tmp_path / "eq" / "all_select.json", [pair])
    benchmark = load_benchmark("eqben_mini", tmp_path / "eq", images=tmp_path / "images")
    assert benchmark.items[0].kind == "eqbenag"
    assert benchmark.version == "n1"
    row = {"index": 7, "image_0": "a.png", "image_1": "b.png", "caption_0": "one", "caption_1": "two"}
    write_json(tmp_path / "nb" / "metadata.json", [row])
    benchmark = load_benchmark("naturalbench_retrieval", tmp_path / "nb", images=tmp_path / "images")
    assert benchmark.items[0].item_id == "7"


def test_conme_both_forms(tmp_path):
    draw(tmp_path / "coco", "1.jpg")
    for split in ("att", "obj", "rel"):
        row = {
            "id": 3,
            "question": "Which?",
            "image": "1.jpg",
            "text_options": "['a cat', 'a dog']",
            "correct": "1",
            "q_ind": 0,
        }
        write_csv(tmp_path / f"replace-{split}_HUMAN_FILTER.csv", [row])
        write_csv(
            tmp_path / f"replace-{split}.csv", [{"question": "Which? A. x B. y", "image": "1.jpg", "answer": "B"}]
        )
    benchmark = load_benchmark("conme", tmp_path, images=tmp_path / "coco")
    assert [item.record.answer for item in benchmark.items] == ["B"] * 3
    prompt = queries(benchmark.items[0], named_protocol("scramble"), benchmark)[0].prompt
    assert prompt == "Which?\nA. a cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    plain = load_benchmark("conme", tmp_path, images=tmp_path / "coco", human_filter=False)
    prompt = queries(plain.items[0], named_protocol("scramble"), plain)[0].prompt
    assert prompt == "Which? A. x B. y\nAnswer with the option's letter from the given choices directly."
    write_csv(tmp_path / "replace-att_HUMAN_FILTER.csv", [{**row, "correct": "seven"}])
    with pytest.raises(EvaluationError, match="replace-att row 0: correct='seven' matches none of the options"):
        load_benchmark("conme", tmp_path, images=tmp_path / "coco")


def mmvp_folder(folder: Path, count: int) -> Path:
    rows = [
        {
            "lndex": n,
            "Question": "Is the butterfly's wing open?",
            "Options": "(a) Open (b) Closed",
            "Correct Answer": "(a)" if n % 2 else "(b)",
        }
        for n in range(1, count + 1)
    ]
    draw(folder / "MMVP Images", *(f"{n}.jpg" for n in range(1, count + 1)))
    write_csv(folder / "Questions.csv", rows)
    return folder


def test_mmvp_labels_and_pairs(tmp_path):
    folder = mmvp_folder(tmp_path, 300)
    fixed, original = (load_benchmark("mmvp", folder, labels=labels) for labels in ("corrected", "original"))
    assert (fixed.version, original.version) == ("mmvp-corrected-300", "mmvp-original-300")
    changed = [
        a.item_id for a, b in zip(fixed.items, original.items, strict=True) if a.record.answer != b.record.answer
    ]
    assert changed == ["99", "100", "279", "280"]
    assert fixed.items[2].group == fixed.items[3].group == "pair-2"
    assert fixed.items[0].record.choices == ("Open", "Closed")
    assert len(limit_items(fixed.items, 3)) == 4  # the second pair is complete


def test_mmvp_without_a_question_names_the_pair(tmp_path):
    folder = mmvp_folder(tmp_path, 5)
    with pytest.raises(EvaluationError, match=r"mmvp: the data has 5 items, but the benchmark has 300"):
        load_benchmark("mmvp", folder)
    with pytest.raises(EvaluationError, match=r"1 of 3 groups do not have 2 items \(first: 'pair-3'\)"):
        load_benchmark("mmvp", folder, **SAMPLE)


def test_vqa_from_official_json(tmp_path):
    question = {"question_id": 1000, "image_id": 42, "question": "What colour?"}
    answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": k} for k in range(10)]
    note = {
        "question_id": 1000,
        "image_id": 42,
        "question_type": "what color",
        "answer_type": "other",
        "answers": answers,
        "multiple_choice_answer": "red",
    }
    write_json(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [question]})
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [note]})
    draw(tmp_path / "val2014", "COCO_val2014_000000000042.jpg")
    item = load_benchmark("vqav2", tmp_path, **SAMPLE).items[0]
    assert item.record.answers == ("red",) * 10
    assert item.tags == ("question:what color",)
    prompt = queries(load_benchmark("okvqa", tmp_path).items[0], named_protocol("standard"), None)[0].prompt
    assert prompt == (
        "What colour?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase."
    )
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(EvaluationError, match="vqav2: question 1000 has no answers"):
        load_benchmark("vqav2", tmp_path, **SAMPLE)


@pytest.mark.parametrize("says", [True, False], ids=["by content", "by name"])
def test_official_vqa_files_of_other_splits_are_left_alone(tmp_path, says):
    for split, key, image in (("train", 1, 41), ("val", 2, 42), ("test2015", 3, 43)):
        year = split if split == "test2015" else f"{split}2014"
        names = [f"{split}_questions.json", f"{split}_notes.json"] if not says else [f"q{key}.json", f"r{key}.json"]
        subtype = {"data_subtype": year} if says else {}
        asked = {"question_id": key, "image_id": image, "question": "What?"}
        write_json(tmp_path / names[0], {**subtype, "questions": [asked]})
        noted = {"question_id": key, "image_id": image, "answers": [{"answer": "red"}] * 10}
        write_json(tmp_path / names[1], {**subtype, "annotations": [noted]})
        draw(tmp_path, f"COCO_{year}_{image:012d}.jpg")
    assert [item.item_id for item in load_benchmark("vqav2", tmp_path, **SAMPLE).items] == ["2"]
    assert [item.item_id for item in load_benchmark("vqav2", tmp_path, split="test").items] == ["3"]


def test_questions_and_annotations_must_agree_on_the_image(tmp_path):
    write_json(tmp_path / "questions.json", {"questions": [{"question_id": 1, "image_id": 42, "question": "What?"}]})
    write_json(tmp_path / "notes.json", {"annotations": [{"question_id": 1, "image_id": 43, "answers": ["red"]}]})
    draw(tmp_path, "COCO_val2014_000000000042.jpg", "COCO_val2014_000000000043.jpg")
    with pytest.raises(
        EvaluationError, match=r"question 1 is about image 42 in questions.json and about image 43 in an"
    ):
        load_benchmark("vqav2", tmp_path, **SAMPLE)


def test_an_answer_that_is_no_number_is_refused(tmp_path):
    row = {"question_id": 5, "image_id": "abc", "question": "what Brand?", "answers": ["nokia", float("nan")]}
    write_json(tmp_path / "TextVQA_0.5.1_val.json", {"data": [row]})
    draw(tmp_path, "abc.jpg")
    with pytest.raises(
        EvaluationError, match="textvqa: question 5: an answer is nan, which is neither a string nor a number"
    ):
        load_benchmark("textvqa", tmp_path)


def test_a_pope_line_without_an_id_is_named_by_its_place(tmp_path):
    folder, options = benchmark_files.pope(tmp_path)
    file = folder / "coco_pope_random.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    del rows[1]["question_id"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvaluationError, match=r"pope: entry 1 of .*coco_pope_random.json has no question_id"):
        load_benchmark("pope", folder, **options)


@pytest.mark.parametrize(
    ("name", "file", "key", "other"),
    [
        ("winoground", "examples.jsonl", "caption_1", "caption_0"),
        ("winoground", "examples.jsonl", "image_1", "image_0"),
        ("sugarcrepe", "swap_obj.json", "negative_caption", "caption"),
    ],
)
def test_equal_captions_or_images_are_reported(name, file, key, other, tmp_path, caplog):
    folder, options = getattr(benchmark_files, name)(tmp_path)
    load_benchmark(name, folder, **options)
    assert not caplog.messages
    path = next(folder.rglob(file))
    lines = path.read_text(encoding="utf-8").splitlines()
    content = [json.loads(line) for line in lines] if file.endswith("l") else json.loads("".join(lines))
    row = content[0] if isinstance(content, list) else next(iter(content.values()))
    row[key] = row[other]
    text = "".join(json.dumps(r) + "\n" for r in content) if isinstance(content, list) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    count = len(load_benchmark(name, folder, **options).items)
    assert f"{name}: 1 of {count} items have two equal captions or images (first: " in caplog.text


def test_vqav2_test_has_no_answers_but_predictions(tmp_path):
    question = {"question_id": 7, "image_id": 42, "question": "What colour?"}
    write_json(tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": [question]})
    draw(tmp_path, "COCO_test2015_000000000042.jpg")
    with pytest.raises(
        EvaluationError, match=r"no questions of the split val, only of v2_OpenEnded_mscoco_test2015.*\(test\)"
    ):
        load_benchmark("vqav2", tmp_path, **SAMPLE)
    benchmark = load_benchmark("vqav2", tmp_path, split="test")
    assert benchmark.version == "vqav2-test-n1"
    reply = {"7": QueryReply(text="Red.")}
    outcomes = [outcome(benchmark.items[0], reply, named_protocol("standard"))]
    assert (outcomes[0].status, scores("plain", outcomes)) == ("unscored", {})
    path = export_predictions.write("evalai", tmp_path, "m", "vqav2", benchmark.items, outcomes)
    assert json.loads(path.read_text()) == [{"question_id": 7, "answer": "Red."}]
    with pytest.raises(EvaluationError, match=r"benchmark\.vqav2\.split='val' must be one of 'validation', 'test'"):
        load_benchmark("vqav2", tmp_path, split="val")


def test_textvqa_and_gqa_from_official_json(tmp_path):
    row = {"question_id": 5, "image_id": "abc", "question": "what Brand?", "answers": ["nokia"] * 10}
    write_json(tmp_path / "text" / "TextVQA_0.5.1_val.json", {"data": [row]})
    draw(tmp_path / "images", "abc.jpg", "n1.jpg")
    item = load_benchmark("textvqa", tmp_path / "text", images=tmp_path / "images").items[0]
    assert item.record.question == "What brand?"
    entry = {"question": "Is it red?", "imageId": "n1", "answer": "yes"}
    write_json(tmp_path / "gqa" / "testdev_balanced_questions.json", {"201": entry})
    item = load_benchmark("gqa", tmp_path / "gqa", images=tmp_path / "images").items[0]
    assert (item.item_id, item.record.answer, item.details["rule"]) == ("201", "yes", "exact")


def test_seed_image_part_only(tmp_path):
    base = {"choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4", "answer": "C", "question": "How many?"}
    rows = [
        {**base, "question_id": "q1", "data_type": "image", "data_id": "x_1", "question_type_id": 5},
        {**base, "question_id": "q2", "data_type": "video", "data_id": "v_1", "question_type_id": 10},
    ]
    write_json(tmp_path / "SEED-Bench.json", {"questions": rows})
    draw(tmp_path, "x_1.jpg")
    benchmark = load_benchmark("seed", tmp_path)
    assert [item.item_id for item in benchmark.items] == ["q1"]
    assert benchmark.items[0].record.choices == ("1", "2", "3", "4")


def test_mmvet(tmp_path):
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}
    write_json(tmp_path / "mm-vet.json", {"v1_0": row})
    draw(tmp_path / "images", "v1_0.png")
    benchmark = load_benchmark("mmvet", tmp_path, **SAMPLE)
    assert benchmark.items[0].tags == ("ocr", "math")
    assert queries(benchmark.items[0], named_protocol("standard"), benchmark)[0].max_new_tokens == 1024


def test_aro_crops_to_the_box(tmp_path):
    Picture.new("RGB", (40, 30), "green").save(tmp_path / "1.jpg")
    row = {
        "image_path": "1.jpg",
        "true_caption": "the dog is on the mat",
        "false_caption": "the mat is on the dog",
        "bbox_x": 5,
        "bbox_y": 6,
        "bbox_w": 20,
        "bbox_h": 10,
        "relation_name": "on",
    }
    write_json(tmp_path / "visual_genome_relation.json", [row])
    benchmark = load_benchmark("aro", tmp_path)
    item = benchmark.items[0]
    assert benchmark.images[item.image_ids[0]].open().size == (20, 10)
    assert item.kind == "on"


# ------------------------------------------------------------------------------------------------- resolving images


def colours(benchmark: Benchmark) -> list[Any]:
    return [benchmark.images[name].open().getpixel((4, 4)) for item in benchmark.items for name in item.image_ids]


def paint(folder: Path, **names: str) -> None:
    for colour, name in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (8, 8), colour).save(folder / name)


RED, BLUE, LIME, WHITE = (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255)


@pytest.mark.parametrize("images", ["images", "images/eqbenag", "."])
def test_images_are_found_by_their_relative_paths(tmp_path, images):
    """EqBen-mini has thousands of files named frame_0.png, and each row gets the file at its path."""
    paint(tmp_path / "images" / "eqbenag", red="A/0.png", blue="A/1.png", lime="B/0.png", white="B/1.png")
    rows = [
        {"image0": f"eqbenag/{part}/0.png", "image1": f"eqbenag/{part}/1.png", "caption0": "one", "caption1": "two"}
        for part in "AB"
    ]
    write_json(tmp_path / "all_select.json", rows)
    benchmark = load_benchmark("eqben_mini", tmp_path, images=tmp_path / images)
    assert colours(benchmark) == [RED, BLUE, LIME, WHITE]
    for row in rows:
        row.update({f"{key[:-1]}_{key[-1]}": value for key, value in row.items()})
    write_json(tmp_path / "metadata.json", {str(n): row for n, row in enumerate(rows)})
    assert colours(load_benchmark("naturalbench_retrieval", tmp_path, images=tmp_path / images)) == colours(benchmark)


def test_a_file_of_another_folder_is_never_taken(tmp_path):
    row = {"true_caption": "a", "false_caption": "b", "relation_name": "on"}
    write_json(
        tmp_path / "visual_genome_relation.json",
        [{**row, "image_path": "VG_100K/1.jpg"}, {**row, "image_path": "VG_100K_2/1.jpg"}],
    )
    paint(tmp_path, red="VG_100K_2/1.jpg")
    with pytest.raises(EvaluationError, match=r"1 of 2 images are missing .*first: VG_100K/1.jpg"):
        load_benchmark("aro", tmp_path)
    paint(tmp_path, blue="VG_100K/1.png")
    with pytest.raises(EvaluationError, match="1 of 2 images are missing"):
        load_benchmark("aro", tmp_path)
    paint(tmp_path, blue="VG_100K/1.jpg")
    benchmark = load_benchmark("aro", tmp_path)
    assert [benchmark.images[item.image_ids[0]].path for item in benchmark.items] == [
        str(tmp_path / "VG_100K" / "1.jpg"),
        str(tmp_path / "VG_100K_2" / "1.jpg"),
    ]
    paint(tmp_path / "flat", blue="1.jpg")
    with pytest.raises(EvaluationError, match=r"'VG_100K/1.jpg' and 'VG_100K_2/1.jpg' both match .*1.jpg"):
        load_benchmark("aro", tmp_path, images=tmp_path / "flat")


def test_an_ambiguous_base_name_is_an_error(tmp_path):
    sugarcrepe(tmp_path)
    paint(tmp_path, red="val2017_thumbs/000000000001.jpg")
    with pytest.raises(EvaluationError, match=r"'000000000001.jpg' matches 2 files .*benchmark\.sugarcrepe\.images"):
        load_benchmark("sugarcrepe", tmp_path, **SAMPLE)
    assert len(load_benchmark("sugarcrepe", tmp_path, images=tmp_path / "val2017", **SAMPLE).items) == 28
    paint(tmp_path, red="000000000001.jpg")  # the exact relative path takes precedence
    benchmark = load_benchmark("sugarcrepe", tmp_path, images=tmp_path, **SAMPLE)
    assert benchmark.images["000000000001.jpg"].path == str(tmp_path / "000000000001.jpg")


def test_cola_keeps_urls_with_one_file_name_apart(tmp_path):
    url = "https://cs.example/rak248/{}/1.jpg"
    write_json(tmp_path / "COLA_multiobjects_matching_benchmark.json", [[url.format("a"), "x", url.format("b"), "y"]])
    paint(tmp_path, red="rak248/a/1.jpg", blue="rak248/b/1.jpg")
    benchmark = load_benchmark("cola", tmp_path, **SAMPLE)
    assert [benchmark.images[name].path for name in benchmark.items[0].image_ids] == [
        str(tmp_path / "rak248" / part / "1.jpg") for part in "ab"
    ]


def test_names_without_a_suffix(tmp_path):
    paint(tmp_path, red="images/ex_0_img_0.png", blue="images/ex_0_img_1.jpg")
    row = {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "a", "caption_1": "b"}
    (tmp_path / "examples.jsonl").write_text(json.dumps(row) + "\n")
    assert colours(load_benchmark("winoground", tmp_path, **SAMPLE))[0] == RED
    paint(tmp_path, blue="images/ex_0_img_0.jpg")
    with pytest.raises(EvaluationError, match=r"'ex_0_img_0' matches 2 files .*benchmark\.winoground\.root"):
        load_benchmark("winoground", tmp_path, **SAMPLE)


@pytest.mark.parametrize("name", ["1.gif", "1.TIF"])
def test_images_in_less_common_formats(name, tmp_path):
    row = {"image_path": name, "true_caption": "a", "false_caption": "b", "relation_name": "on"}
    write_json(tmp_path / "visual_genome_relation.json", [row])
    paint(tmp_path / "images", red=name)
    benchmark = load_benchmark("aro", tmp_path)
    assert colours(benchmark) == [RED] and benchmark.chance["accuracy_macro"] == 50


# ------------------------------------------------------------------------------------------- odd and damaged files


def test_textvqa_ids_that_are_all_digits_are_file_names(tmp_path):
    names = ("0054c91397f2fe05", "1234567890123456", "0000000000000042", "17")
    write_json(
        tmp_path / "TextVQA_0.5.1_val.json",
        {
            "data": [
                {"question_id": n, "image_id": name, "question": "what?", "answers": ["nokia"] * 10}
                for n, name in enumerate(names)
            ]
        },
    )
    draw(tmp_path / "train_images", *(f"{name}.jpg" for name in names))
    benchmark = load_benchmark("textvqa", tmp_path)
    assert [item.image_ids[0] for item in benchmark.items] == list(names)
    assert benchmark.items[0].item_id == "0"


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\ufeff"])
def test_signs_in_json_lines(tmp_path, sign):
    """A text may contain line separators, and a byte-order mark may precede the first row."""
    draw(tmp_path, "1.jpg")
    row = {"question_id": 0, "image": "1.jpg", "text": f"Is there{sign} a dog?", "label": "yes"}
    mark = sign if sign == "\ufeff" else ""
    text = mark + json.dumps(row, ensure_ascii=False) + "\n" + json.dumps({**row, "question_id": 1}) + "\n"
    (tmp_path / "coco_pope_random.json").write_text(text, encoding="utf-8")
    benchmark = load_benchmark("pope", tmp_path, **SAMPLE)
    assert [item.item_id for item in benchmark.items] == ["random/0", "random/1"]
    assert benchmark.items[0].record.question == row["text"]


def test_one_line_of_json_lines_is_one_row(tmp_path):
    draw(tmp_path, "1.jpg")
    row = {"question_id": 0, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}
    (tmp_path / "coco_pope_random.json").write_text(json.dumps(row))
    assert len(load_benchmark("pope", tmp_path, **SAMPLE).items) == 1


def test_torn_and_keyless_winoground(tmp_path):
    row = {"id": 0, "image_0": "a", "image_1": "b", "caption_0": "x", "caption_1": "y"}
    paint(tmp_path, red="a.png", blue="b.png")
    listing = tmp_path / "examples.jsonl"
    listing.write_text(json.dumps(row) + "\n" + json.dumps(row)[:30])
    with pytest.raises(EvaluationError, match=r"winoground: .*examples.jsonl, line 2 is not JSON"):
        load_benchmark("winoground", tmp_path, **SAMPLE)
    listing.write_text(json.dumps({"id": 0, "caption_0": "x"}) + "\n")
    with pytest.raises(EvaluationError, match=r"row 0 of .*examples.jsonl has no image_0, image_1"):
        load_benchmark("winoground", tmp_path, **SAMPLE)
    listing.write_text("")
    with pytest.raises(EvaluationError, match=r"examples.jsonl is empty"):
        load_benchmark("winoground", tmp_path, **SAMPLE)


def test_other_encodings_and_shapes(tmp_path):
    eqben_mini(tmp_path / "eq")
    path = tmp_path / "eq" / "all_select.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(EvaluationError, match=r"eqben_mini: .*all_select.json: not valid UTF-8 in line \d+"):
        load_benchmark("eqben_mini", tmp_path / "eq")
    path.write_text(text, encoding="utf-16")
    assert len(load_benchmark("eqben_mini", tmp_path / "eq").items) == 4
    sugarcrepe(tmp_path / "sugar")
    write_json(tmp_path / "sugar" / "add_att.json", [{"filename": "1.jpg"}])
    with pytest.raises(
        EvaluationError, match=r"sugarcrepe: .*add_att.json contains a list, not an object that maps keys to entries"
    ):
        load_benchmark("sugarcrepe", tmp_path / "sugar", **SAMPLE)


def test_a_benchmarks_csv_is_read_strictly(tmp_path):
    folder = mmvp_folder(tmp_path, 2)
    path = folder / "Questions.csv"
    text = path.read_text()
    path.write_text(text.replace("Is the butterfly", "Is, the butterfly", 1))
    with pytest.raises(EvaluationError, match=r"Questions.csv, line 2 has 5 fields, but the header has 4"):
        load_benchmark("mmvp", folder, **SAMPLE)
    path.write_text(text.replace(",Is the", ',"Is the', 1))
    with pytest.raises(EvaluationError, match=r"Questions.csv, line 2 is not valid CSV \(unexpected end of data\)"):
        load_benchmark("mmvp", folder, **SAMPLE)


def test_rows_without_an_image_id_keep_their_own_images(tmp_path):
    rows = [{"question_id": n, "image_id": None, "question": "What?", "answers": ["red"] * 10} for n in range(3)]
    benchmark = load_benchmark("textvqa", write_hub(tmp_path / "t", "validation", rows, ("image",)))
    assert [item.image_ids[0] for item in benchmark.items] == ["0", "1", "2"]


# --------------------------------------------------------------------------------------------------------- hub layouts


def test_winoground_hub_layout(tmp_path):
    rows = [{"id": n, "caption_0": "a", "caption_1": "b", "tag": "Noun", "num_main_preds": 1} for n in range(400)]
    root = write_hub(tmp_path / "w", "test", rows, ("image_0", "image_1"))
    benchmark = load_benchmark("winoground", root)
    assert benchmark.version == "winoground-400"
    assert benchmark.images["399/1"].open().size == (9, 7)


def test_naturalbench_hub_layout(tmp_path):
    answers = {
        "Image_0_Question_0": "Yes",
        "Image_1_Question_0": "No",
        "Image_0_Question_1": "No",
        "Image_1_Question_1": "Yes",
    }
    rows = [
        {"Question_0": "Is it?", "Question_1": "Not?", "Question_Type": "yes_no", **answers},
        {
            "Question_0": "Which? Option A: x; Option B: y;",
            "Question_1": "And? Option A: x; Option B: y;",
            "Question_Type": "multiple_choice",
            **{k: "A" if v == "Yes" else "B" for k, v in answers.items()},
        },
    ]
    root = write_hub(tmp_path / "n", "train", rows, ("Image_0", "Image_1"))
    benchmark = load_benchmark("naturalbench", root, **SAMPLE)
    assert [item.item_id for item in benchmark.items[:4]] == ["0/q0_i0", "0/q0_i1", "0/q1_i0", "0/q1_i1"]
    assert [item.record.answer for item in benchmark.items] == ["yes", "no", "no", "yes", "A", "B", "B", "A"]
    chosen = resolve("default", benchmark)
    prompts = [queries(item, chosen, benchmark)[0].prompt for item in benchmark.items]
    assert prompts[0] == "Is it? Please answer Yes or No."
    assert prompts[-1].endswith("Option B: y; Please output the letter corresponding to the correct option.")


def test_vqa_pope_seed_hub_layouts(tmp_path):
    rows = [
        {"question_id": n, "question": "What?", "answers": [{"answer": "red"}] * 10, "answer_type": "other"}
        for n in range(3)
    ]
    item = load_benchmark("vqav2", write_hub(tmp_path / "v", "validation", rows, ("image",)), **SAMPLE).items[2]
    assert item.record.answers == ("red",) * 10
    rows = [
        {
            "question_id": str(k),
            "question": "Is there a dog in the image?",
            "answer": "yes",
            "image_source": "c1",
            "category": c,
        }
        for c in ("random", "popular")
        for k in range(2)
    ]
    benchmark = load_benchmark("pope", write_hub(tmp_path / "p", "test", rows, ("image",)), **SAMPLE)
    assert len(benchmark.images) == 1
    assert len(benchmark.items) == 4
    base = {"choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4", "answer": "D", "question": "How many?"}
    rows = [{**base, "question_id": "1", "data_type": "image", "question_type_id": 1}]
    assert len(load_benchmark("seed", write_hub(tmp_path / "s", "test", rows, ("image",))).items) == 1


def test_gqa_hub_layout(tmp_path):
    rows = [{"id": "1", "question": "Is it red?", "imageId": "n1", "answer": "no"}]
    write_hub(tmp_path / "testdev_balanced_instructions", "testdev", rows, ())
    write_hub(tmp_path / "testdev_balanced_images", "testdev", [{"id": "n1"}], ("image",))
    benchmark = load_benchmark("gqa", tmp_path)
    assert benchmark.images["n1"].open().size == (9, 7)


def test_mmmu_hub_layout(tmp_path):
    rows = [
        {
            "id": "validation_Art_Theory_1",
            "question": "<image 1> and <image 2>?",
            "options": "['x', 'y', 'z']",
            "answer": "C",
            "question_type": "multiple-choice",
            "image_2": True,
        },
        {
            "id": "validation_Math_2",
            "question": "<image 1>?",
            "options": "[]",
            "answer": "['0.5', '1/2']",
            "question_type": "open",
            "image_2": False,
        },
    ]
    benchmark = load_benchmark("mmmu", write_hub(tmp_path / "m", "validation", rows, ("image_1", "image_2")), **SAMPLE)
    two, one = benchmark.items
    assert (two.image_ids, two.kind) == (
        ("validation_Art_Theory_1/image_1", "validation_Art_Theory_1/image_2"),
        "Art_Theory",
    )
    assert one.record.answers == ("0.5", "1/2")
    assert len(one.image_ids) == 1


def test_mathvista_hub_layout(tmp_path):
    row = {
        "pid": "1",
        "question": "Area?",
        "choices": None,
        "unit": None,
        "precision": 1.0,
        "answer": "1.2",
        "question_type": "free_form",
        "answer_type": "float",
        "metadata": {"task": "geometry"},
        "query": "Hint: ...\nArea?",
    }
    benchmark = load_benchmark("mathvista", write_hub(tmp_path / "m", "testmini", [row], ("decoded_image",)), **SAMPLE)
    assert benchmark.items[0].kind == "geometry"
    assert queries(benchmark.items[0], named_protocol("standard"), benchmark)[0].prompt == "Hint: ...\nArea?"


def test_missing_and_gated_data_say_how_to_get_it(tmp_path):
    with pytest.raises(EvaluationError, match=r"winoground: .* does not exist: set benchmark\.winoground\.root"):
        load_benchmark("winoground", tmp_path / "nowhere")
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(
        EvaluationError, match=r"winoground: .*mine\.json is a file: set benchmark\.winoground\.root to a"
    ):
        load_benchmark("winoground", tmp_path / "mine.json")
    with pytest.raises(EvaluationError, match=r"winoground: facebook/winoground cannot be read .*hf auth login"):
        load_benchmark("winoground")
    root = write_hub(tmp_path / "w", "test", [{"id": 1, "caption_0": "a"}], ("image_0",))
    with pytest.raises(
        EvaluationError, match=r"winoground: the data set has no column image_1, caption_1, only id, caption_0, image_0"
    ):
        load_benchmark("winoground", root)


def test_duplicate_ids_are_named(tmp_path):
    draw(tmp_path, "1.jpg")
    row = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}
    (tmp_path / "coco_pope_random.json").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(EvaluationError, match="pope: item id 'random/1' appears twice"):
        load_benchmark("pope", tmp_path, **SAMPLE)


def test_every_benchmark_states_what_the_checklist_asks():
    """Each module's docstring gives the paper, counts, chance, human level and the comparison with the original."""
    import importlib

    for module, function in BENCHMARKS.values():
        loaded = importlib.import_module(f"scramble.evaluation.benchmarks.{module}")
        assert callable(getattr(loaded, function))
        for word in ("Paper", "Counts", "Chance", "Human", "compar"):
            assert word.lower() in (loaded.__doc__ or "").lower(), (module, word)


def test_a_config_for_every_benchmark():
    root = Path(__file__).parents[2] / "configs"
    assert {p.stem for p in (root / "benchmark").glob("*.yaml")} == set(BENCHMARKS)


def test_heldout_pairs_are_scored_under_their_own_prompts(tmp_path: Path) -> None:
    """Each rejected answer counts as one pair."""
    write_table(tmp_path, ImageRecord, [ImageRecord("i", ImageFile(bytes=b"x"))])
    turns = (Turn("user", "Hello.", 1), Turn("assistant", "Hello."))
    pairs = [
        PreferencePair("a", ("i",), "Which colour?", "red", "blue", "qa"),
        PreferencePair("b", ("i",), "Describe.", "a circle", "a square", "swap", other_rejected=("a line",)),
        PreferencePair("c", ("i",), "Which?", "red", "blue", "qa", history=turns),
        PreferencePair("d", (), "Describe.", "a circle", "a square", "swap"),
    ]
    write_table(tmp_path, PreferencePair, pairs)
    benchmark = load_benchmark("heldout_pairs", tmp_path)
    asked = [query for item in benchmark.items for query in queries(item, resolve("default", benchmark), benchmark)]
    assert [(query.prompt, query.candidates, query.image_ids, query.history) for query in asked] == [
        ("Which colour?", ("red", "blue"), ("i",), ()),
        ("Describe.", ("a circle", "a square"), ("i",), ()),
        ("Describe.", ("a circle", "a line"), ("i",), ()),
        ("Which?", ("red", "blue"), ("i",), turns),
        ("Describe.", ("a circle", "a square"), (), ()),
    ]
