"""Writes small valid files in the format of every benchmark that is read from files, for tests that damage the
files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image as Picture

BenchmarkFiles = tuple[Path, dict[str, Any]]
"""The root of a benchmark's files, and the options to load it with."""

PART = {"partial": True}
COUNT = 4


def draw(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (12, 8), (40 * number, 90, 30)).save(folder / name)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def winoground(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "id": n,
            "image_0": f"ex_{n}_img_0",
            "image_1": f"ex_{n}_img_1",
            "caption_0": f"a café, by table {n}",
            "caption_1": f"a table by the “café” {n}",
            "tag": "Noun, Verb",
            "num_main_preds": 1,
            "collapsed_tag": "Object",
        }
        for n in range(COUNT)
    ]
    draw(folder, *(f"images/ex_{n}_img_{i}.png" for n in range(COUNT) for i in (0, 1)))
    write_lines(folder / "examples.jsonl", rows)
    write_json(folder / "new_tag_assignments.json", {"0": ["NonCompositional"]})
    return folder, PART


def eqben_mini(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "image0": f"eqbenag/{n}/0.png",
            "image1": f"eqbenag/{n}/1.png",
            "caption0": f"naïve one {n}",
            "caption1": f"naïve two {n}",
        }
        for n in range(COUNT)
    ]
    draw(folder, *(f"images/eqbenag/{n}/{i}.png" for n in range(COUNT) for i in (0, 1)))
    write_json(folder / "all_select.json", rows)
    return folder, {}


def naturalbench_retrieval(folder: Path) -> BenchmarkFiles:
    rows = {
        str(n): {
            "index": n,
            "image_0": f"{n}/0.png",
            "image_1": f"{n}/1.png",
            "caption_0": f"über {n}",
            "caption_1": f"unter {n}",
        }
        for n in range(COUNT)
    }
    draw(folder, *(f"{n}/{i}.png" for n in range(COUNT) for i in (0, 1)))
    write_json(folder / "metadata.json", rows)
    return folder, {}


def cola(folder: Path) -> BenchmarkFiles:
    url = "https://images.example/VG_100K{}/{}.jpg"
    rows = [[url.format("", n), f"small café {n}", url.format("_2", n), f"large café {n}"] for n in range(COUNT)]
    draw(folder, *(f"VG_100K{part}/{n}.jpg" for n in range(COUNT) for part in ("", "_2")))
    write_json(folder / "COLA_multiobjects_matching_benchmark.json", rows)
    return folder, PART


def sugarcrepe(folder: Path) -> BenchmarkFiles:
    from scramble.evaluation.benchmarks.captions import KNOWN_COUNTS

    for split in KNOWN_COUNTS:
        entries = {
            str(3 * n): {"filename": f"{n:012d}.jpg", "caption": f"A café {n}.", "negative_caption": f"No café {n}."}
            for n in range(COUNT)
        }
        write_json(folder / f"{split}.json", entries)
    draw(folder, *(f"val2017/{n:012d}.jpg" for n in range(COUNT)))
    return folder, PART


def aro(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "image_path": f"VG_100K{part}/1.jpg",
            "true_caption": f"the dog is in the café{part}",
            "relation_name": "in",
            "false_caption": f"the café is in the dog{part}",
            "bbox_x": 1,
            "bbox_y": 1,
            "bbox_w": 9,
            "bbox_h": 6,
        }
        for part in ("", "_2")
    ]
    draw(folder, "VG_100K/1.jpg", "VG_100K_2/1.jpg")
    write_json(folder / "visual_genome_relation.json", rows)
    return folder, {}


def conme(folder: Path) -> BenchmarkFiles:
    for split in ("att", "obj", "rel"):
        rows = [
            {
                "id": n,
                "question": f"Which café, {n}?",
                "image": f"{n}.jpg",
                "text_options": "['a cat, small', 'a dog']",
                "correct": n % 2,
                "q_ind": 0,
            }
            for n in range(COUNT)
        ]
        write_csv(folder / f"replace-{split}_HUMAN_FILTER.csv", rows)
    draw(folder, *(f"{n}.jpg" for n in range(COUNT)))
    return folder, {}


def conme_unfiltered(folder: Path) -> BenchmarkFiles:
    for split in ("att", "obj", "rel"):
        rows = [{"question": f"Which, “{n}”?\nA. x B. y", "image": f"{n}.jpg", "answer": "B. y"} for n in range(COUNT)]
        write_csv(folder / f"replace-{split}.csv", rows)
    draw(folder, *(f"{n}.jpg" for n in range(COUNT)))
    return folder, {"human_filter": False}


def mmvp(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "lndex": n,
            "Question": f"Is the café open, or is it {n}?",
            "Options": "(a) Open (b) Closed",
            "Correct Answer": "(a)" if n % 2 else "(b)",
        }
        for n in range(1, COUNT + 1)
    ]
    draw(folder, *(f"MMVP Images/{n}.jpg" for n in range(1, COUNT + 1)))
    write_csv(folder / "Questions.csv", rows)
    return folder, PART


def vqav2(folder: Path) -> BenchmarkFiles:
    questions = [{"question_id": n, "image_id": n, "question": f"What café is {n}?"} for n in range(COUNT)]
    notes = [
        {
            "question_id": n,
            "image_id": n,
            "question_type": "what",
            "answer_type": "other",
            "answers": [{"answer": "red", "answer_id": k} for k in range(10)],
            "multiple_choice_answer": "red",
        }
        for n in range(COUNT)
    ]
    write_json(folder / "questions.json", {"questions": questions})
    write_json(folder / "annotations.json", {"annotations": notes})
    draw(folder, *(f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(COUNT)))
    return folder, PART


def textvqa(folder: Path) -> BenchmarkFiles:
    names = ("0054c91397f2fe05", "1234567890123456", "0000000000000042", "x")
    rows = [
        {"question_id": n, "image_id": name, "question": f"what café is {n}?", "answers": ["nokia"] * 10}
        for n, name in enumerate(names)
    ]
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": rows})
    draw(folder, *(f"train_images/{name}.jpg" for name in names))
    return folder, {}


def gqa(folder: Path) -> BenchmarkFiles:
    rows = {str(n): {"question": f"Is café {n} red?", "imageId": f"n{n}", "answer": "yes"} for n in range(COUNT)}
    write_json(folder / "testdev_balanced_questions.json", rows)
    draw(folder, *(f"images/n{n}.jpg" for n in range(COUNT)))
    return folder, {}


def pope(folder: Path) -> BenchmarkFiles:
    for part in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": f"COCO_val2014_{n:012d}.jpg", "text": f"Is there a café {n}?", "label": "yes"}
            for n in range(COUNT)
        ]
        write_lines(folder / f"coco_pope_{part}.json", rows)
    draw(folder, *(f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(COUNT)))
    return folder, PART


def seed(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "choice_a": "1",
            "choice_b": "2",
            "choice_c": "3",
            "choice_d": "4",
            "answer": "C",
            "question_type_id": 0,
            "question": f"How many cafés are {n}?",
            "question_id": n,
            "data_type": "image",
            "data_id": f"x_{n}",
        }
        for n in range(COUNT)
    ]
    write_json(folder / "SEED-Bench.json", {"questions": rows})
    draw(folder, *(f"images/x_{n}.jpg" for n in range(COUNT)))
    return folder, {}


def mmvet(folder: Path) -> BenchmarkFiles:
    rows = {
        f"v1_{n}": {
            "imagename": f"v1_{n}.png",
            "question": f"What is café {n}?",
            "answer": "-1<AND>-5",
            "capability": ["ocr", "math"],
        }
        for n in range(COUNT)
    }
    write_json(folder / "mm-vet.json", rows)
    draw(folder, *(f"images/v1_{n}.png" for n in range(COUNT)))
    return folder, PART


def vismin(folder: Path) -> BenchmarkFiles:
    for split in ("object", "attribute", "relation", "counting"):
        paths = {"image_path": f"/{split}/1.png", "edited_image_path": f"/{split}/2.png"}
        rows = [{**paths, "caption": f"a café, {n}", "edited_caption": f"no café {n}", "edit_id": n} for n in range(2)]
        draw(folder, f"original_images/{split}/1.png", f"edited_images/{split}/2.png")
        write_csv(folder / f"{split}.csv", rows)
    return folder, PART


def sugarcrepe_pp(folder: Path) -> BenchmarkFiles:
    for split in ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel"):
        captions = {"caption": "A café.", "caption2": "There is a café.", "negative_caption": "A dog."}
        write_json(folder / f"{split}.json", [{"id": n, "filename": f"{n:012d}.jpg", **captions} for n in (0, 3)])
    draw(folder, *(f"val2017/{n:012d}.jpg" for n in (0, 3)))
    return folder, PART


def whatsup(folder: Path) -> BenchmarkFiles:
    names = [f"mug_{place}_table" for place in ("left_of", "right_of", "on", "under")]
    captions = ["A mug left of a café table", "A mug right of it", "A mug on it", "A mug under it"]
    rows = [{"image_path": f"data/controlled_images/{name}.jpeg", "caption_options": captions} for name in names]
    write_json(folder / "controlled_images_dataset.json", rows)
    write_json(folder / "coco_qa_two_obj.json", [[397133, "a dog above a café", "a dog below a café"]])
    draw(folder, *(f"controlled_images/{name}.jpeg" for name in names), "val2017/000000397133.jpg")
    return folder, {}


def vsr(folder: Path) -> BenchmarkFiles:
    rows = [
        {"image": f"{n:012d}.jpg", "caption": f"The café is under {n}.", "label": n % 2, "relation": "under"}
        for n in range(COUNT)
    ]
    write_lines(folder / "test.jsonl", rows)
    draw(folder, *(f"train2017/{n:012d}.jpg" for n in range(COUNT)))
    return folder, PART


def m3cot(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "image": f"images/{n}.png",
            "hint": "A café." * (n % 2),
            "question": f"Which, {n}?",
            "choices": ["a cat", "a dog"],
        }
        for n in range(COUNT)
    ]
    draw(folder, *(str(row["image"]) for row in rows))
    write_lines(folder / "test.jsonl", [{**row, "answer": n % 2} for n, row in enumerate(rows)])
    return folder, PART


def mathvision(folder: Path) -> BenchmarkFiles:
    drawn, written = ["A", "B", "C", "D", "E"], ["$1$", "$2$", "$3$", "$4$", r"$\frac{1}{2}$"]
    rows = [
        {
            "id": str(n),
            "question": f"How many cafés, {n}? <image1>",
            "options": (drawn, [], written)[n % 3],
            "answer": "7" if n % 3 == 1 else "E",
            "level": 1 + n,
            "subject": "logic",
            "image": f"images/{n}.jpg",
        }
        for n in range(COUNT)
    ]
    draw(folder, *(str(row["image"]) for row in rows))
    write_lines(folder / "test.jsonl", rows)
    return folder, PART


def wemath(folder: Path) -> BenchmarkFiles:
    keys = [f"{n}steps_{step}" for n in (2, 3) for step in (*range(1, n + 1), "multi")]
    rows = [
        {
            "ID": f"{key[0]}steps_1",
            "key": key,
            "knowledge concept": "Area",
            "question": f"Which café, {key}?",
            "option": "A. 1;B. 2; C. No correct answer",
            "answer": "B",
            "image_path": f"{key}.png",
        }
        for key in keys
    ]
    draw(folder, *(str(row["image_path"]) for row in rows))
    write_json(folder / "testmini.json", rows)
    write_json(folder / "knowledge_structure_nodes.json", [{"root2": "Plane", "full node": "Measurement_Plane_Area"}])
    return folder, PART


def logicvista(folder: Path) -> BenchmarkFiles:
    rows = {
        f"v1_{n}": {
            "imagename": f"v1_{n}.png",
            "question": f"Which café, {n}? Select from A, B, and C.",
            "answer": "A, C" if n else "B",
            "skill": ["spatial"],
        }
        for n in range(COUNT)
    }
    rows["v1_382"] = {**rows["v1_0"], "question": "", "answer": ""}
    write_json(folder / "dataset.json", rows)
    draw(folder, *(f"images/v1_{n}.png" for n in range(COUNT)))
    return folder, PART


def tsv(folder: Path) -> BenchmarkFiles:
    draw(folder, "a.png")
    image = base64.b64encode((folder / "a.png").read_bytes()).decode()
    rows = [
        {"index": n, "question": f"Which “café”,\t{n}?", "A": "x", "B": "1", "answer": "A", "image": n and 0}
        for n in range(COUNT)
    ]
    write_csv(folder / "x.tsv", [{**rows[0], "image": image}, *rows[1:]])
    return folder / "x.tsv", {}


def tiny_pipeline(folder: Path) -> str:
    """Write a spaCy pipeline in which every word is a noun, with the lemmas of a few words."""
    import spacy

    nlp = spacy.blank("en")
    tags: Any = nlp.add_pipe("attribute_ruler", name="tagger")
    tags.add(patterns=[[{"IS_ALPHA": True}]], attrs={"TAG": "NN"})
    lemmas: Any = nlp.add_pipe("attribute_ruler", name="lemmatizer")
    for word, lemma in {"a": "a", "dog": "dog", "dogs": "dog", "hot": "hot", "cat": "cat", "tree": "tree"}.items():
        lemmas.add(patterns=[[{"LOWER": word}]], attrs={"LEMMA": lemma})
    lemmas.add(patterns=[[{"LOWER": "a"}]], attrs={"TAG": "DT"})
    path = folder.with_name(f"{folder.name}-pipeline")
    nlp.to_disk(path)
    return str(path)


def coco_annotations(folder: Path, *ids: int) -> None:
    """Write COCO's two files of annotations: a dog in every image, and a caption that mentions a cat."""
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in ids]
    notes = [{"image_id": n, "category_id": 18, "segmentation": [[1.0, 2.0]], "bbox": [1, 2, 3, 4]} for n in ids]
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}]
    instances = {"images": images, "annotations": notes, "categories": categories}
    write_json(folder / "instances_val2014.json", instances)
    captions = [{"image_id": n, "id": n, "caption": "A café with cats."} for n in ids]
    write_json(folder / "captions_val2014.json", {"images": images, "annotations": captions})


def chair(folder: Path) -> BenchmarkFiles:
    coco_annotations(folder, *range(COUNT))
    draw(folder, *(f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(COUNT)))
    return folder, {}


def object_halbench(folder: Path) -> BenchmarkFiles:
    coco_annotations(folder, *range(COUNT))
    draw(folder, "a.png")
    image = base64.b64encode((folder / "a.png").read_bytes()).decode()
    rows = [{"org_idx": n, "image_id": n, "question": f"Describe café {n}.", "image": image} for n in range(COUNT)]
    write_lines(folder / "obj_halbench_300_with_image.jsonl", rows)
    return folder, {**PART, "extraction": "plain"}


def amber(folder: Path) -> BenchmarkFiles:
    types = ("generative", "discriminative-hallucination", "discriminative-attribute-state", "relation")
    queries = ("Describe this image.", "Is there a café?", "Is the café red?", "Is there contact?")
    rows = [{"id": n + 1, "image": "AMBER_1.jpg", "query": query} for n, query in enumerate(queries)]
    notes: list[dict[str, Any]] = [{"id": n + 1, "type": kind, "truth": "no"} for n, kind in enumerate(types)]
    notes[0] |= {"truth": ["dog"], "hallu": ["cat"]}
    write_json(folder / "query" / "query_all.json", rows)
    write_json(folder / "annotations.json", notes)
    write_json(folder / "relation.json", {"dog": ["puppy"], "cat": [], "tree": ["bush"]})
    (folder / "safe_words.txt").write_text("line\nsign", encoding="utf-8")
    draw(folder, "image/AMBER_1.jpg")
    return folder, {**PART, "pipeline": tiny_pipeline(folder)}


def hallusionbench(folder: Path) -> BenchmarkFiles:
    places = [(figure, question) for figure in "01" for question in "01"]
    rows = [
        {
            "category": "VS",
            "subcategory": "chart",
            "visual_input": figure,
            "set_id": "0",
            "figure_id": figure,
            "sample_note": "café",
            "question_id": question,
            "question": f"Is the café {question} higher?",
            "gt_answer_details": "The café is higher.",
            "gt_answer": question,
            "filename": "./VS/chart/0_1.png" if figure == "1" else None,
        }
        for figure, question in places
    ]
    write_json(folder / "HallusionBench.json", rows)
    draw(folder, "images/VS/chart/0_1.png")
    return folder, PART


def crpe(folder: Path) -> BenchmarkFiles:
    options = ["café", "dog", "cat", "sky"]
    for name, category in (("crpe_relation", "subject"), ("crpe_exist", "exist")):
        rows = []
        for n in range(4):
            turned = options[n:] + options[:n]
            lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", turned, strict=True))
            text = f"What is on the table?\n{lines}\nPlease answer with the letter."
            answer = "ABCD"[turned.index("café")]
            image = "coco/val2017/000000000001.jpg" if n else "abnormal_images/1.jpg"
            row = {"question_id": n, "image": image, "text": text, "category": category, "correct_option": answer}
            rows.append(row)
        write_lines(folder / f"{name}.jsonl", rows)
    draw(folder, "coco/val2017/000000000001.jpg", "abnormal_images/1.jpg")
    return folder, {}


def mmhal(folder: Path) -> BenchmarkFiles:
    rows = [
        {
            "question_type": ("attribute", "adversarial")[n % 2],
            "question_topic": "outdoor",
            "image_id": f"id{n}",
            "image_src": f"https://images.example/8/72_{n}_o.jpg",
            "image_content": ["Café", "Table"],
            "question": f"What colour is café {n}?",
            "gt_answer": "Red.",
            "model_answer": "",
        }
        for n in range(COUNT)
    ]
    write_json(folder / "response_template.json", rows)
    draw(folder, *(f"images/72_{n}_o.jpg" for n in range(COUNT)))
    return folder, PART


def llava_bench(folder: Path) -> BenchmarkFiles:
    kinds = ("conv", "detail", "complex", "conv")
    rows = [
        {"question_id": n, "image": f"00{n // 2}.jpg", "text": f"What about café {n}?", "category": kind}
        for n, kind in enumerate(kinds)
    ]
    write_lines(folder / "questions.jsonl", rows)
    write_lines(folder / "context.jsonl", [{"image": f"00{n}.jpg", "caption": "A café."} for n in range(2)])
    write_lines(
        folder / "answers_gpt4.jsonl", [{"question_id": n, "answer_id": n, "text": "A café."} for n in range(4)]
    )
    draw(folder, "images/000.jpg", "images/001.jpg")
    return folder, PART


FILES: dict[str, Callable[[Path], BenchmarkFiles]] = {
    "winoground": winoground,
    "eqben_mini": eqben_mini,
    "naturalbench_retrieval": naturalbench_retrieval,
    "cola": cola,
    "sugarcrepe": sugarcrepe,
    "aro": aro,
    "conme": conme,
    "conme/unfiltered": conme_unfiltered,
    "mmvp": mmvp,
    "vqav2": vqav2,
    "okvqa": lambda folder: (vqav2(folder)[0], {}),
    "textvqa": textvqa,
    "gqa": gqa,
    "pope": pope,
    "seed": seed,
    "mmvet": mmvet,
    "vismin": vismin,
    "sugarcrepe_pp": sugarcrepe_pp,
    "whatsup": whatsup,
    "vsr": vsr,
    "m3cot": m3cot,
    "mathvision": mathvision,
    "wemath": wemath,
    "logicvista": logicvista,
    "tsv": tsv,
    "chair": chair,
    "object_halbench": object_halbench,
    "amber": amber,
    "hallusionbench": hallusionbench,
    "crpe": crpe,
    "mmhal": mmhal,
    "llava_bench": llava_bench,
}
"""For each benchmark, the function that writes its files. A name after a slash is another layout of the same
benchmark.
"""


def _hub_rows() -> dict[str, tuple[str, list[dict[str, Any]], tuple[str, ...]]]:
    """Return the split, the rows and the image columns of each benchmark on the hub."""
    answers = [{"answer": "red"}] * 10
    four = {"choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4"}
    cells = [f"Image_{i}_Question_{q}" for i in (0, 1) for q in (0, 1)]
    return {
        "winoground": (
            "test",
            [
                {"id": n, "caption_0": f"café {n}", "caption_1": f"x {n}", "tag": "Noun", "num_main_preds": 1}
                for n in range(COUNT)
            ],
            ("image_0", "image_1"),
        ),
        "naturalbench": (
            "train",
            [
                {
                    "Question_0": f"Is it {n}?",
                    "Question_1": "Not?",
                    "Question_Type": "yes_no",
                    **dict.fromkeys(cells, "Yes"),
                }
                for n in range(COUNT)
            ],
            ("Image_0", "Image_1"),
        ),
        "vqav2": (
            "validation",
            [
                {"question_id": n, "question": f"What {n}?", "answers": answers, "answer_type": "other"}
                for n in range(COUNT)
            ],
            ("image",),
        ),
        "pope": (
            "test",
            [
                {
                    "question_id": str(n),
                    "question": f"Is café {n} there?",
                    "answer": "yes",
                    "image_source": f"c{n}",
                    "category": "random",
                }
                for n in range(COUNT)
            ],
            ("image",),
        ),
        "seed": (
            "test",
            [
                {
                    **four,
                    "answer": "D",
                    "question": f"How many {n}?",
                    "question_id": str(n),
                    "data_type": "image",
                    "question_type_id": 0,
                }
                for n in range(COUNT)
            ],
            ("image",),
        ),
        "mmmu": (
            "validation",
            [
                {
                    "id": f"validation_Art_{n}",
                    "question": f"<image 1> {n}?",
                    "answer": "C",
                    "options": "['x', 'y', 'z']",
                    "question_type": "multiple-choice",
                }
                for n in range(COUNT)
            ],
            ("image_1",),
        ),
        "mathvista": (
            "testmini",
            [
                {
                    "pid": str(n),
                    "question": f"Area {n}?",
                    "choices": None,
                    "unit": None,
                    "precision": 1.0,
                    "answer": "1.2",
                    "question_type": "free_form",
                    "answer_type": "float",
                    "metadata": {"task": "geometry"},
                    "query": f"Hint\n{n}",
                }
                for n in range(COUNT)
            ],
            ("decoded_image",),
        ),
        "m3cot": (
            "test",
            [
                {
                    "id": f"physics-{n}",
                    "question": f"Which café, {n}?",
                    "choices": ["a cat", "a dog", "a bird"][: 2 + n % 2],
                    "context": "",
                    "answer": "AB"[n % 2],
                    "domain": ("science", "commonsense")[n % 2],
                    "topic": "topic",
                }
                for n in range(COUNT)
            ],
            ("image",),
        ),
        "mathvision": (
            "test",
            [
                {
                    "id": str(n),
                    "question": f"How many cafés, {n}?",
                    "options": list("12345") if n else [],
                    "answer": "B" if n else r"\frac{1}{2}",
                    "level": 1 + n % 5,
                    "subject": "logic",
                }
                for n in range(COUNT)
            ],
            ("decoded_image",),
        ),
        "mathverse": (
            "testmini",
            [
                {
                    "sample_index": str(n),
                    "problem_version": "Vision Only",
                    "question": "",
                    "question_for_eval": f"How long is AB, {n}?",
                    "query_wo": "Give the answer.",
                    "query_cot": "Reason first.",
                    "answer": "C" if n % 2 else "2.5",
                    "question_type": "multi-choice" if n % 2 else "free-form",
                    "metadata": "{'subject': 'Solid Geometry', 'subfield': \"Euler's\"}",
                }
                for n in range(COUNT)
            ],
            ("image",),
        ),
    }


HUB = _hub_rows()
