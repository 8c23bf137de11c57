"""The hallucination and judged benchmarks: recorded outcomes, a tiny model from published files to scores with a judge,
and bad input."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.evaluation import judge, judge_tasks
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import EvaluationError, Item, Reply
from scramble.evaluation.protocols import named_protocol, queries
from scramble.evaluation.runner import evaluate, identify
from scramble.evaluation.scoring import mentions, results
from scramble.evaluation.scoring.aggregation import rates, ratios, scores
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.evaluation.scoring.paired import compare
from scramble.grading import amber, crpe, judge_replies, objects
from scramble.language import tokens
from scramble.language.singular import noun_lemma, singular
from scramble.records import Question
from tests.evaluation.benchmark_files import FILES, coco_annotations, draw, tiny_pipeline, write_json, write_lines
from tests.evaluation.test_tsv import GOLDEN, golden
from tests.loopback import Loopback

NEW = ("chair", "object_halbench", "amber", "hallusionbench", "crpe", "mmhal", "llava_bench")


def recorded(folder: Path, name: str) -> tuple[list[dict[str, Any]], Any]:
    """All recorded rows with their final metrics."""
    path = folder / "golden" / "scorers_2026"
    lines = (path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((path / f"{name}.aggregate.json").read_text())


def result(
    key: str, values: dict[str, float], kind: str = "", details: dict[str, Any] | None = None, **more: Any
) -> Outcome:
    fields = {"group": "", "tags": (), "cluster": key, "prediction": None, "target": "", "status": "ok", **more}
    return Outcome(key, kind, values=values, details=details or {}, **fields)


def table(scoring: str, outcomes: list[Outcome]) -> dict[str, float]:
    """Scores without their bootstrap errors, which take most of the time."""
    whole = {name: float(r.value(np.ones((1, len(r.clusters))))[0]) for name, r in ratios(scoring, outcomes).items()}
    return {name: 100 * value for name, value in whole.items()}


# ----------------------------------------------------------------------------------------------------- recorded words


def test_singular_forms_equal_the_original() -> None:
    rows = [json.loads(line) for line in (GOLDEN / "singularize.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 540
    vocabulary = objects.object_halbench()
    for row in rows:
        assert singular(row["word"]) == row["pattern_singularize"], row
        if row["wordnet_noun_lemma"] in vocabulary.category:
            assert vocabulary.base_form(row["word"]) == row["wordnet_noun_lemma"], row
    assert singular("mothers-in-law") == "mother-in-law" and singular("dogs'") == "dog's"
    assert noun_lemma("unknowns", {"cat"}) == "unknowns"


def test_tokens_of_the_penn_treebank() -> None:
    text = "A dog's bowl (the \"red\" one), at 3:30 p.m. It isn't here... Cannot see 1,000 cats' toys."
    assert tokens.words(text) == [
        *["A", "dog", "'s", "bowl", "(", "the", "``", "red", "''", "one", ")", ",", "at", "3:30", "p.m.", "It", "is"],
        *["n't", "here", "...", "Can", "not", "see", "1,000", "cats", "'", "toys", "."],
    ]


def check_captions(rows: list[dict[str, Any]]) -> tuple[list[Outcome], list[Outcome]]:
    """Compare the words of captions with the recorded ones; the outcomes of CHAIR and of Object HalBench's rule."""
    outcomes: tuple[list[Outcome], list[Outcome]] = ([], [])
    for number, row in enumerate(rows):
        for place, (vocabulary, name) in enumerate(
            ((objects.chair(), "original"), (objects.object_halbench(), "object_halbench_plain"))
        ):
            found = vocabulary.mentions(row["caption"])
            assert [word for word, _ in found] == row[name]["words"], row["caption"]
            assert [category for _, category in found] == row[name]["node_words"], row["caption"]
            values, details = mentions.of_mentions(found, row["gt_objects"])
            outcomes[place].append(result(str(number), values, details=details))
        assert outcomes[0][-1].values["chair_s"] == row["original"]["CHAIRs"]
        assert outcomes[0][-1].details["hallucinated"] == [word for word, _ in row["original"]["hallucinated"]]
    return outcomes


def test_chair_equals_the_original() -> None:
    lines = (GOLDEN / "chair.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    check_captions(rows)
    assert len(rows) == 51


def test_chair_and_object_halbench_rates_equal_the_original(shared: Path) -> None:
    rows, aggregate = recorded(shared, "chair")
    by_chair, by_rule = check_captions(rows)
    measured = table("chair", by_chair)
    expected = aggregate["standalone_with_recall"]
    assert measured["chair_i"] == pytest.approx(100 * expected["CHAIRi"])
    assert measured["recall"] == pytest.approx(100 * expected["Recall"])
    assert scores("chair", by_chair)["chair_s"]["value"] == pytest.approx(100 * expected["CHAIRs"])
    check_halbench(by_rule, aggregate["object_halbench_plain"])


def check_halbench(outcomes: list[Outcome], expected: dict[str, float]) -> None:
    measured = table("object_halbench", outcomes)
    names = {"response_rate": "CHAIRs_refine", "mention_rate": "CHAIRi", "chair_s": "CHAIRs", "recall": "obj_rec"}
    assert measured == {ours: pytest.approx(100 * expected[theirs]) for ours, theirs in names.items()}


def test_object_halbench_equals_the_original() -> None:
    rows, aggregate = golden("object_halbench")
    vocabulary = objects.object_halbench()
    outcomes = []
    for number, row in enumerate(rows):
        if row["kind"] == "double_words":
            assert objects.joined(row["lemmas"], vocabulary.pairs, only_pairs=True) == row["double_words"]
        elif row["kind"] == "judge_reply":
            try:
                parsed = objects.parse_object_list(row["judge_text"])
            except ValueError:
                parsed = "error"
            assert parsed == row["parsed"], row
        else:
            found = vocabulary.among(row["objs"])
            assert [list(mention) for mention in found] == row["coco_objects"]
            values, details = mentions.of_mentions(found, row["gt_objects"])
            assert values["chair_s"] == row["CHAIRs"]
            outcomes.append(result(str(number), values, details=details))
    check_halbench(outcomes, aggregate)


def test_objects_that_a_judge_names(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path / "x")
    assert objects.named_objects(["hot dogs", "dogs", "cat", "dog"], pipeline) == ["hot dog", "dog", "cat"]
    with pytest.raises(EvaluationError, match=r"object_halbench: spaCy pipeline .*benchmark.object_halbench.pipeline"):
        load_benchmark("object_halbench", tmp_path, pipeline="none")


# -------------------------------------------------------------------------------------------------------------- AMBER


def lexicon_of(shared: Path) -> amber.Lexicon:
    samples = shared / "golden" / "scorers_2026" / "samples"
    safe = (samples / "amber_safe_words.txt").read_text().split("\n")
    return amber.Lexicon(json.loads((samples / "amber_relation.json").read_text()), frozenset(safe))


@pytest.mark.parametrize("variant", ["no_similarity", "en_core_web_md"])
def test_amber_descriptions_equal_the_original(shared: Path, variant: str) -> None:
    rows, aggregate = recorded(shared, "amber_generative")
    lexicon, outcomes = lexicon_of(shared), []
    for row in rows:
        pairs = {tuple(pair) for pair in row["similar_pairs_md"]}
        similar = None if variant == "no_similarity" else lambda one, other, pairs=pairs: (one, other) in pairs
        counts = amber.count(row["nouns"], row["truth"], row["hallu"], lexicon, similar)
        hal = float(counts.hallucinated > 0)
        outcomes.append(result(str(row["id"]), {"hal": hal}, details={"amber": list(dataclasses.astuple(counts))}))
        single = table("amber", outcomes[-1:])
        expected = row[f"outcome_{variant}"]
        assert [round(single[name], 1) for name in ("chair", "cover", "cog")] == [
            expected[name] for name in ("CHAIR", "Cover", "Cog")
        ]
        # The original's Hal of one response is 0.1 or 100, because its denominator starts at 0.001.
        assert hal == (expected["Hal"] == 100)
    measured = table("amber", outcomes)
    for name, theirs in (("chair", "CHAIR"), ("cover", "Cover"), ("cog", "Cog")):
        assert round(measured[name], 1) == aggregate[variant][theirs]
    assert scores("amber", outcomes)["hal"]["value"] == pytest.approx(aggregate[variant]["Hal"])
    assert "amber_score" not in measured


def test_nouns_of_descriptions(shared: Path) -> None:
    """The tagger differs from the original's, so most nouns agree, but not all."""
    rows, _ = recorded(shared, "amber_generative")
    lexicon, pipeline = lexicon_of(shared), str(shared / "models" / "en_core_standin")
    differ = 0
    for row in rows:
        kept = [[n for n in nouns if n in lexicon.vocabulary] for nouns in (row["nouns"],)]
        differ += [n for n in amber.nouns(row["response"], pipeline, lexicon) if n in lexicon.vocabulary] != kept[0]
    assert differ <= 0.15 * len(rows)
    assert amber.similar(pipeline) is None  # no word vectors


def test_similarity_of_words_by_vectors(tmp_path: Path) -> None:
    import spacy

    nlp = spacy.load(tiny_pipeline(tmp_path / "x"))
    for word, vector in {"dog": (1, 0), "puppy": (1, 0.1), "cat": (0, 1)}.items():
        values: Any = np.array(vector, dtype=np.float32)
        nlp.vocab.set_vector(word, values)
    nlp.to_disk(tmp_path / "vectors")
    similar = amber.similar(str(tmp_path / "vectors"))
    assert similar is not None
    assert similar("dog", "puppy") and not similar("dog", "cat") and not similar("dog", "unknown")


def question(row: dict[str, Any], text: str) -> Outcome:
    from scramble.evaluation.benchmarks.amber import KINDS

    kind, tags = KINDS[row["type"]]
    item = Item(Question(str(row["id"]), (row["image"],), row["query"], row["truth"], kind), "yes_no", tags=tags)
    protocol = named_protocol("amber", yes_no_form="generate")
    return outcome(item, {item.item_id: Reply(text=text)}, protocol)


@pytest.mark.parametrize(("key", "part"), [("response", "official"), ("vlmevalkit_extracted", "official_on_extracted")])
def test_amber_questions_equal_the_original(shared: Path, key: str, part: str) -> None:
    rows, aggregate = recorded(shared, "amber_discriminative")
    outcomes = [question(row, row[key]) for row in rows]
    if part == "official":
        assert [bool(o.values["accuracy"]) for o in outcomes] == [row["official_correct"] for row in rows]
    measured = table("amber", outcomes) | {k: s["value"] for k, s in scores("amber", outcomes).items()}
    names = {"Descriminative Task": "", "Exsitence": "/existence"}
    names |= {name.capitalize(): f"/{name}" for name in ("attribute", "state", "number", "action", "relation")}
    for theirs, suffix in names.items():
        for score, value in aggregate[part][theirs].items():
            assert round(measured[f"{score.lower()}{suffix}"], 1) == value, (theirs, score)
    if part == "official_on_extracted":
        assert measured["accuracy_macro"] == pytest.approx(aggregate["vlmevalkit"]["Avg ACC"])
        assert measured["accuracy/existence"] == pytest.approx(aggregate["vlmevalkit"]["Existence"])


# ----------------------------------------------------------------------------------------------------- HallusionBench


def hallusion(rows: list[dict[str, Any]], values: list[float]) -> dict[str, float]:
    outcomes = []
    for row, value in zip(rows, values, strict=True):
        parts = [row[k] for k in ("category", "subcategory", "set_id", "figure_id", "question_id")]
        group = "/".join(parts[:3])
        outcomes.append(
            result(
                "/".join(parts), {"accuracy": value}, parts[0], tags=(row["subcategory"],), group=group, cluster=group
            )
        )
    return table("hallusionbench", outcomes)


def test_hallusionbench_equals_the_originals(shared: Path) -> None:
    rows, aggregate = recorded(shared, "hallusionbench")
    right = []
    for row in rows:
        images = () if row["visual_input"] == "0" else ("i",)
        item = Item(Question("x", images, "?", "yes", row["category"]), "free")
        values, _ = judge_tasks.TASKS["hallusionbench"].measure([int(row["judge_label"])], 0, item)
        right.append(values["accuracy"])
    assert right == [row["official_correct"] for row in rows]
    measured = hallusion(rows, right)
    for part, expected in aggregate["official_from_judge_labels"].items():
        suffix = "" if part == "all" else f"/{part}"
        for ours, theirs in (("a_acc", "aAcc"), ("q_acc", "qAcc"), ("f_acc", "fAcc")):
            if theirs in expected:
                top, bottom = expected[theirs]
                assert measured[f"{ours}{suffix}"] == pytest.approx(100 * top / bottom)
    shown = [row for row in rows if row["visual_input"] != "0"]
    by_rule = []
    for row in shown:
        item = Item(Question("x", ("i",), "?", ("no", "yes")[int(row["gt_answer"])]), "yes_no")
        read = outcome(item, {"x": Reply(text=row["reply"])}, named_protocol("vlmevalkit_prompts"))
        by_rule.append(read.values["accuracy"])
    assert by_rule == [row["vlmevalkit_correct"] for row in shown]
    by_category = hallusion(shown, by_rule)
    # VLMEvalKit's groups have no category: sets of the same number in VD-ocr and VS-ocr are one set there.
    merged = hallusion([{**row, "category": "V"} for row in shown], by_rule)
    measured = merged | {name: value for name, value in by_category.items() if name.endswith(("/VD", "/VS"))}
    for expected in aggregate["vlmevalkit_image_rows_only"]:
        suffix = "" if expected["split"] == "Overall" else f"/{expected['split']}"
        for ours, theirs in (("a_acc", "aAcc"), ("q_acc", "qAcc"), ("f_acc", "fAcc")):
            assert measured[f"{ours}{suffix}"] == pytest.approx(expected[theirs]), (suffix, theirs)


# --------------------------------------------------------------------------------------- CRPE, MMHal-Bench, LLaVA-Bench


def test_crpe_equals_the_originals() -> None:
    rows, aggregate = golden("crpe")
    outcomes: dict[str, list[Outcome]] = {rule: [] for rule in crpe.RULES}
    for row in rows:
        options = dict(zip("ABCD", row["options"], strict=True))
        answer, key = row["correct_option"], f"{row['group']}/{row['rotation']}"
        long_answer = crpe.vlmevalkit(row["reply"], f"{answer}. {options[answer]}", options)[0]
        assert long_answer == (row["vlmevalkit_long_answer"] is True)
        for rule, column in (("official", "official"), ("vlmevalkit", "vlmevalkit"), ("lmms_eval", "lmms")):
            item = Item(
                Question(key, ("i",), row["question"], answer, row["category"], choices=tuple(row["options"])),
                "letter",
                group=str(row["group"]),
                details={"rule": rule},
            )
            read = outcome(item, {key: Reply(text=row["reply"])}, named_protocol("standard"))
            assert read.values["accuracy"] == (row[column] is True), (rule, row["reply"])
            outcomes[rule].append(read)
    for rule, part in (("official", "official"), ("vlmevalkit", "vlmevalkit")):
        measured = {k: s["value"] for k, s in scores("crpe", outcomes[rule]).items()}
        for kind in ("subject", "predicate", "object", "exist"):
            expected = aggregate[part][kind]
            value = expected["acc"] if rule == "official" else 100 * expected
            assert measured[f"circular_accuracy/{kind}"] == pytest.approx(value, abs=0.005)
        assert measured["overall"] == pytest.approx(
            np.mean([measured[f"circular_accuracy/{kind}"] for kind in ("subject", "predicate", "object")])
        )
    assert measured["circular_accuracy"] == pytest.approx(100 * aggregate["vlmevalkit"]["total"])
    lmms = scores("crpe", outcomes["lmms_eval"])["accuracy"]["value"]
    assert lmms == pytest.approx(100 * aggregate["lmms_exact_match_mean"])


def graded(task: str, texts: list[str], kinds: list[str], **details: Any) -> list[Outcome]:
    """The outcomes of items whose judge replied with these texts."""
    items = [
        Item(Question(str(n), ("i",), "?", "a", kind), "free", details={"judge": task, **details})
        for n, kind in enumerate(kinds)
    ]
    waiting = [result(item.item_id, {}, item.kind, prediction="x", status="judge") for item in items]
    return judge_tasks.judged(
        waiting,
        {item.item_id: item for item in items},
        lambda requests: texts,
        lambda prompt, **fields: prompt,
        {name: entry.prompt for name, entry in judge_tasks.TASKS.items()},
        1,
        0.0,
    )


def test_mmhal_equals_the_original() -> None:
    rows, aggregate = golden("mmhal")
    for number, expected in enumerate(aggregate):
        part = [row for row in rows if row["set"] == number]
        texts, kinds = [row["judge_text"] for row in part], [str(row["question_type"]) for row in part]
        outcomes = graded("mmhal", texts, kinds)
        for o, row in zip(outcomes, part, strict=True):
            assert o.status == ("ok" if row["readable"] else "unread")
            assert round(100 * o.values["official_score"]) == row["score"]
            assert o.values["official_hallucination_rate"] == row["hallucination"]
        measured = table("mmhal", outcomes)
        assert round(measured["official_score"], 2) == expected["average_score"]
        assert round(measured["official_hallucination_rate"] / 100, 2) == expected["hallucination_rate"]
        by_type = [round(measured[f"official_score/{kind}"], 2) for kind in range(8)]
        assert by_type == expected["average_per_type"]
        assert rates(outcomes)["unread"] == expected["unreadable"]
        read = [row["score"] for row in part if row["readable"]]
        assert measured["score"] == pytest.approx(np.mean(read))  # unread ratings are left out
        assert scores("mmhal", outcomes)["score"]["n"] == len(read)


def test_llava_bench_equals_the_originals() -> None:
    rows, aggregate = golden("llava_bench")
    for row in rows:
        for kit, read in (
            ("llava", judge_replies.llava_pair),
            ("vlmevalkit", judge_replies.llava_pair),
            ("lmms_eval", judge_replies.lmms_eval_pair),
        ):
            expected = None if None in row[kit] or row[kit] == [-1, -1] else tuple(row[kit])
            assert read(row["judge_text"]) == expected, (kit, row["judge_text"])
    used = [row for row in rows if None not in row["llava"]]
    texts, kinds = [row["judge_text"] for row in used], [row["category"] for row in used]
    outcomes = graded("llava_bench", texts, kinds, reader="llava")
    measured = table("llava_bench", outcomes)
    for part, suffix in (("all", ""), *((f"llava_bench_{kind}", f"/{kind}") for kind in set(kinds))):
        assert round(measured[f"official_score{suffix}"], 1) == aggregate["llava"][part][0]
    unread = sum(row["llava"] == [-1, -1] for row in used)
    assert rates(outcomes)["unread"] == unread > 0
    readable = [row["llava"] for row in used if row["llava"] != [-1, -1]]
    reference, candidate = np.mean(readable, axis=0)
    assert measured["score"] == pytest.approx(100 * candidate / reference)
    assert (measured["reference"], measured["candidate"]) == pytest.approx((10 * reference, 10 * candidate))
    by_lmms = table("llava_bench", graded("llava_bench", texts, kinds, reader="lmms_eval"))
    assert round(by_lmms["official_score"], 1) == aggregate["lmms_eval_all"]


# ----------------------------------------------------------------------------------- from published files to a result


def judging(text: str) -> str:
    """A judge of all four benchmarks. It gives no readable reply about item 1."""
    if "café 1" in text:
        return "I cannot say."
    if "Rating: n" in text:
        return "The answer is wrong.\n\nRating: 2"
    if "Answer 1" in text:
        return "8 6\nAnswer 1 is better."
    return '["dogs", "cat", "tree"]' if "JSON list" in text else "correct"


JUDGED: dict[str, dict[str, Any]] = {
    "object_halbench": {"extraction": "judge"},
    "hallusionbench": {"grading": "judge"},
    "mmhal": {},
    "llava_bench": {},
}
EXPECTED: dict[str, tuple[str, ...]] = {
    "chair": ("chair_s", "chair_i", "recall"),
    "object_halbench": ("response_rate", "mention_rate", "recall", "chair_s"),
    "amber": ("hal", "accuracy", "chair", "cover", "cog", "precision", "recall", "f1", "amber_score"),
    "hallusionbench": ("a_acc", "q_acc", "f_acc", "a_acc/chart"),
    "crpe": ("circular_accuracy", "overall", "accuracy"),
    "mmhal": ("score", "hallucination_rate", "official_score", "score/attribute"),
    "llava_bench": ("score", "candidate", "reference", "official_score", "score/conv"),
}


@pytest.mark.parametrize("name", NEW)
def test_from_published_files_to_scores(
    name: str, vlm: Any, model_folder: Path, server: Loopback, tmp_path: Path
) -> None:
    server.answer = judging
    root, options = FILES[name](tmp_path / "data")
    options = {**options, **JUDGED.get(name, {})}
    if name == "object_halbench":
        options["pipeline"] = tiny_pipeline(tmp_path / "data")
    benchmark = load_benchmark(name, root, **options)
    protocol = {"name": "default", "free_max_new_tokens": 4, "max_new_tokens": 4}
    settings: dict[str, Any] = {"model_id": identify(model_folder), "test_groups": 0}
    unjudged = evaluate(vlm, [benchmark], protocol, tmp_path / "unjudged", **settings)[0]
    with OpenAIServer("m", server.url) as engine, ReplyStore(tmp_path / "judge") as store:
        grader = judge.Judge(engine, store, gradings=2)
        replies = tmp_path / "unjudged"
        made = evaluate(vlm, [benchmark], protocol, tmp_path / "judged", judge=grader, replies=replies, **settings)[0]
    assert set(EXPECTED[name]) <= set(made.scores)
    assert all(0 <= score["value"] <= 100 for score in made.scores.values())
    if name not in JUDGED:
        assert unjudged.scores == made.scores
        return
    assert not unjudged.scores and unjudged.rates["judge"] == len(benchmark.items)
    assert unjudged.protocol["grading"] == "none yet (the answers need a judge)"
    assert "by m, " in made.protocol["grading"] and "own prompt" in made.protocol["grading"]
    if name != "hallusionbench":
        assert (
            made.rates["unread"] == 1 and made.scores["recall" if "hal" in name and name != "mmhal" else "score"]["n"]
        )
    outcomes = results.read_outcomes(tmp_path / "judged" / name)
    assert all("judged" in o.details for o in outcomes)
    if name == "mmhal":
        assert made.scores["score"]["value"] == pytest.approx(2) and made.scores["score"]["n"] == 3
        assert made.scores["official_score"]["value"] == pytest.approx(1.5)
        assert outcomes[0].details["judged"] == [2, 2]
    test = compare(tmp_path / "judged" / name, tmp_path / "judged" / name)
    assert set(test) == set(made.scores) and all(row["difference"] == 0 for row in test.values())


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(message: str, name: str, root: Path, **options: Any) -> None:
    with pytest.raises(EvaluationError, match=message) as raised:
        load_benchmark(name, root, **options)
    assert "\n" not in str(raised.value)


def test_captions_without_ground_truth(tmp_path: Path) -> None:
    """Images that a caption file names, but that the annotations do not contain."""
    root, _ = FILES["chair"](tmp_path)
    caption_file = {"overall": {}, "imgToEval": {"1": {"image_id": 1, "caption": "a"}, "99": {"image_id": 99}}}
    write_json(tmp_path / "captions.json", caption_file)
    options: dict[str, Any] = {"selection": tmp_path / "captions.json"}
    refused(
        r"chair: row 1 of .*captions.json: image_id 99 has no ground truth in .*benchmark.chair.root",
        "chair",
        root,
        **options,
    )
    assert [item.item_id for item in load_benchmark("chair", root, **options, partial=True).items] == ["1"]
    write_lines(tmp_path / "rows.jsonl", [{"image_id": 2}, {"caption": "a dog"}])
    refused(r"row 1 of .*rows.jsonl: image_id is None", "chair", root, selection=tmp_path / "rows.jsonl")
    refused(r"chair: no file .*; check benchmark.chair.selection", "chair", root, selection=tmp_path / "none.json")
    refused(r"chair: no instances_\*.json below", "chair", tmp_path / "val2014")
    notes = json.loads((tmp_path / "captions_val2014.json").read_text())
    write_json(tmp_path / "captions_val2014.json", {"annotations": notes["annotations"][1:]})
    refused(r"chair: the annotations: image_id 0 has no reference captions in", "chair", root)
    write_json(tmp_path / "captions_val2014.json", {"annotations": [{"image_id": 1}]})
    refused(r"captions_val2014.json is not a file of COCO annotations \(an entry lacks 'caption'\)", "chair", root)


def test_options_and_rows_are_named(tmp_path: Path) -> None:
    for name, option in (
        ("crpe", "rule"),
        ("amber", "part"),
        ("hallusionbench", "grading"),
        ("object_halbench", "extraction"),
        ("llava_bench", "reader"),
    ):
        refused(rf"{name}: .*benchmark.{name}.{option} is 'x', which is not one of", name, tmp_path, **{option: "x"})
    folders = {name: FILES[name](tmp_path / name)[0] for name in NEW if name != "chair"}
    for name, file, change, message in (
        (
            "crpe",
            "crpe_relation.jsonl",
            {"correct_option": "E"},
            r"row 0: correct_option is 'E', which is not one of A, B, C, D",
        ),
        ("crpe", "crpe_relation.jsonl", {"text": "What?"}, r"row 0: text has no lines with the options"),
        ("mmhal", "response_template.json", {"image_content": "dog"}, r"row 0: image_content is 'dog', not a list"),
        ("llava_bench", "questions.jsonl", {"image": "9.jpg"}, r"row 0: image '9.jpg' is not in context.jsonl"),
        ("hallusionbench", "HallusionBench.json", {"gt_answer": "2"}, r"row 0: gt_answer is '2', which is not one of"),
        (
            "amber",
            "annotations.json",
            {"truth": ["wall"]},
            r"annotation 1: truth has 'wall', which is not in relation.json",
        ),
        ("amber", "annotations.json", {"type": "x"}, r"annotation 1: type is 'x', which is not one of generative"),
        (
            "object_halbench",
            "obj_halbench_300_with_image.jsonl",
            {"image_id": 9},
            r"row 0: image_id 9 has no ground truth",
        ),
        (
            "object_halbench",
            "obj_halbench_300_with_image.jsonl",
            {"image": "QUJD" * 200},
            r"row 0: the image cannot be",
        ),
    ):
        (path,) = folders[name].rglob(file)
        before = path.read_text(encoding="utf-8")
        rows = json.loads(before) if file.endswith(".json") else [json.loads(line) for line in before.splitlines()]
        (write_json if file.endswith(".json") else write_lines)(path, [{**rows[0], **change}, *rows[1:]])
        options = {"pipeline": FILES["amber"](tmp_path / "again")[1]["pipeline"]} if name == "amber" else {}
        options |= {"extraction": "plain"} if name == "object_halbench" else {}
        refused(rf"{name}: 1 of \d+ rows of .*{message}", name, folders[name], **options)
        path.write_text(before, encoding="utf-8")


def test_a_question_with_a_missing_rotation(tmp_path: Path) -> None:
    root, _ = FILES["crpe"](tmp_path)
    rows = [json.loads(line) for line in (root / "crpe_relation.jsonl").read_text().splitlines()]
    write_lines(root / "crpe_relation.jsonl", rows[:3])
    refused(r"crpe: 1 of 2 groups do not have 4 items \(first: 'subject/0'\)", "crpe", root)
    assert {item.kind for item in load_benchmark("crpe", root, partial=True).items} == {"exist"}


def test_answers_outside_the_options_and_single_items() -> None:
    """Unread answers are wrong where a rule reads them; a category of one item has a score without an interval."""
    details = {"rule": "official", "options_in_question": True, "suffix": ""}
    item = Item(Question("q", ("i",), "?", "A", "subject", choices=("x", "y")), "letter", group="g", details=details)
    odd = outcome(item, {"q": Reply(text="E")}, named_protocol("standard"))
    assert (odd.values, odd.prediction, odd.status) == ({"accuracy": 0.0}, None, "unparsed")
    made = scores("crpe", [odd])
    assert made["overall"]["value"] == 0 and made["overall"]["standard_error"] is None and made["overall"]["n"] == 1
    assert scores("crpe", [dataclasses.replace(odd, kind="exist")]).keys() == {"accuracy", "circular_accuracy"}
    lone = hallusion(
        [dict.fromkeys(("subcategory", "set_id", "figure_id", "question_id"), "1") | {"category": "VD"}], [1.0]
    )
    assert lone == dict.fromkeys(("a_acc", "q_acc", "f_acc", "a_acc/1", "q_acc/1", "f_acc/1"), 100)


def test_a_judge_that_is_never_read_gives_no_score(tmp_path: Path) -> None:
    for task, details in (("mmhal", {}), ("llava_bench", {"reader": "llava"}), ("hallusionbench", {})):
        outcomes = graded(task, ["I like it."] * 3, ["a", "a", "b"], **details)
        assert rates(outcomes)["unread"] == 3 and all(o.status == "unread" for o in outcomes)
        counted = scores(task, outcomes)
        assert all(s["n"] == 0 for name, s in counted.items() if not name.startswith("official"))
    short = graded("object_halbench", [], ["a"], pipeline=tiny_pipeline(tmp_path / "x"), truth=frozenset())
    assert short[0].details["judged"] == [[]] and short[0].status == "ok"  # a reply of one word mentions nothing
    named = [judge_replies.hallusion_verdict(text) for text in ("Incorrect.", "correct or incorrect", "Unclear!", "")]
    assert named == [0, None, 2, None]


# ------------------------------------------------------------------------------------------------- load at full count


def full_counts(folder: Path) -> dict[str, tuple[Path, dict[str, Any], int]]:
    """Files with the published number of items: root, options, items."""
    draw(folder, "1.jpg", "2.jpg")
    base = {name: FILES[name](folder / name) for name in NEW}

    def repeated(name: str, file: str, count: int, change: Any) -> None:
        (path,) = base[name][0].rglob(file)
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        made = [{**rows[n % len(rows)], **change(n)} for n in range(count)]
        (write_json if file.endswith(".json") else write_lines)(path, made)

    coco_annotations(folder / "chair", *range(40504))
    captions = json.loads((folder / "chair" / "captions_val2014.json").read_text())
    captions["annotations"] = [
        {**row, "caption": f"Two dogs and {row['image_id']} cats on a bench near a bus number {k}."}
        for row in captions["annotations"]
        for k in range(5)
    ]
    write_json(folder / "chair" / "captions_val2014.json", captions)
    write_lines(folder / "500.jsonl", [{"image_id": n} for n in range(500)])
    draw(folder / "chair", *(f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(500)))
    coco_annotations(folder / "object_halbench", *range(300))
    repeated("object_halbench", "obj_halbench_300_with_image.jsonl", 300, lambda n: {"image_id": n})
    repeated("amber", "query_all.json", 15220, lambda n: {"id": n + 1})
    notes = json.loads((folder / "amber" / "annotations.json").read_text())
    kinds = [notes[0]] * 1004 + [notes[1 + n % 3] for n in range(14216)]
    write_json(folder / "amber" / "annotations.json", [{**note, "id": n + 1} for n, note in enumerate(kinds)])
    repeated("hallusionbench", "HallusionBench.json", 1129, lambda n: {"set_id": str(n)})
    repeated("crpe", "crpe_relation.jsonl", 7576, lambda n: {"question_id": n})
    repeated("mmhal", "response_template.json", 96, lambda n: {})
    repeated("llava_bench", "questions.jsonl", 60, lambda n: {"question_id": n})
    write_lines(folder / "llava_bench" / "answers_gpt4.jsonl", [{"question_id": n, "text": "A."} for n in range(60)])
    counts = {
        "object_halbench": 300,
        "amber": 15220,
        "hallusionbench": 1129,
        "crpe": 7580,
        "mmhal": 96,
        "llava_bench": 60,
    }
    loads = {name: (base[name][0], {**base[name][1], "partial": False}, count) for name, count in counts.items()}
    return {**loads, "chair": (folder / "chair", {"selection": folder / "500.jsonl"}, 500)}


@pytest.mark.full
def test_published_counts_load(tmp_path: Path) -> None:
    for name, (root, options, count) in full_counts(tmp_path).items():
        started = time.perf_counter()
        benchmark = load_benchmark(name, root, **options)
        seconds = time.perf_counter() - started
        tracemalloc.start()
        load_benchmark(name, root, **options)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        protocol = named_protocol(benchmark.default_protocol)
        asked = [query for item in benchmark.items for query in queries(item, protocol, benchmark)]
        print(f"{name}: {count} items loaded in {seconds:.2f} s, peak {peak:.0f} MiB")
        assert len(benchmark.items) == len(asked) == count
        assert "partial" not in benchmark.version
