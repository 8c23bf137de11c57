"""Compare rules and scores of the hallucination and judged benchmarks with recorded outcomes of the original code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scramble.evaluation import judge_tasks
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import EvaluationError, Item, QueryReply
from scramble.evaluation.protocols import named_protocol
from scramble.evaluation.scoring import mentions
from scramble.evaluation.scoring.aggregation import rates, ratios, scores
from scramble.evaluation.scoring.hallucination import CAUSES, cause_of_error
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.grading import amber, crpe, judge_replies, objects
from scramble.language import tokens
from scramble.language.singular import noun_lemma, singular
from scramble.records import Question
from tests.evaluation.benchmark_files import tiny_pipeline
from tests.evaluation.test_tsv import GOLDEN, golden


def recorded(folder: Path, name: str) -> tuple[list[dict[str, Any]], Any]:
    """Return all recorded rows with their final metrics."""
    path = folder / "golden" / "scorers_2026"
    lines = (path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((path / f"{name}.aggregate.json").read_text())


def result(
    key: str, values: dict[str, float], kind: str = "", details: dict[str, Any] | None = None, **more: Any
) -> Outcome:
    fields = {"group": "", "tags": (), "cluster": key, "prediction": None, "target": "", "status": "ok", **more}
    return Outcome(key, kind, values=values, details=details or {}, **fields)


def table(scoring: str, outcomes: list[Outcome]) -> dict[str, float]:
    """Compute scores without their bootstrap errors, which take most of the time."""
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
    assert tokens.words("a 'stop' sign\u2014red") == ["a", "'", "stop", "'", "sign", "\u2014", "red"]


def check_captions(rows: list[dict[str, Any]]) -> tuple[list[Outcome], list[Outcome]]:
    """Compare the words of captions, and the outcomes of CHAIR and of Object HalBench's rule, with the recorded
    ones."""
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


def lexicon_of(shared: Path) -> amber.AmberVocabulary:
    samples = shared / "golden" / "scorers_2026" / "samples"
    safe = (samples / "amber_safe_words.txt").read_text().split("\n")
    return amber.AmberVocabulary(json.loads((samples / "amber_relation.json").read_text()), frozenset(safe))


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
    from scramble.evaluation.benchmarks.amber import ANNOTATION_TYPES

    kind, tags = ANNOTATION_TYPES[row["type"]]
    item = Item(Question(str(row["id"]), (row["image"],), row["query"], row["truth"], kind), "yes_no", tags=tags)
    protocol = named_protocol("amber", yes_no_form="generate")
    return outcome(item, {item.item_id: QueryReply(text=text)}, protocol)


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
                "/".join(parts),
                {"accuracy": value},
                parts[0],
                tags=(row["subcategory"], "hard" if row.get("visual_input") == "2" else "easy"),
                group=group,
                cluster=group,
                target=("no", "yes")[int(row.get("gt_answer", 1))],
                prediction=row.get("prediction"),
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
    whole = aggregate["official_from_judge_labels"]["all"]
    for part in ("easy", "hard"):  # the authors' "easy aAcc" is an accuracy of pairs of questions
        assert measured[f"q_acc/{part}"] == pytest.approx(100 * whole[part][0] / whole[part][1])
    for part in ("inconsistent", "wrong"):
        assert measured[f"f_{part}"] == pytest.approx(100 * whole["figure"][part] / whole["fAcc"][1])
    bias = aggregate["official_from_judge_labels"]["yes_no_bias"]
    assert measured["yes_difference"] == pytest.approx(100 * bias["pct_diff"])
    assert measured["false_positive_ratio"] == pytest.approx(100 * bias["fp_ratio"])
    shown = [row for row in rows if row["visual_input"] != "0"]
    by_rule = []
    for row in shown:
        item = Item(Question("x", ("i",), "?", ("no", "yes")[int(row["gt_answer"])]), "yes_no")
        read = outcome(item, {"x": QueryReply(text=row["reply"])}, named_protocol("vlmevalkit_prompts"))
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


def hallusion_key(row: dict[str, Any], figure: str | None = None) -> str:
    return "/".join(
        (row["category"], row["subcategory"], row["set_id"], figure or row["figure_id"], row["question_id"])
    )


def test_causes_of_hallusionbench_errors_equal_the_originals(shared: Path) -> None:
    """The causes equal the original's with the recorded labels. They also equal those of the authors' code on yes/no
    replies, from which labels and agreement are read.
    """
    rows, aggregate = recorded(shared, "hallusionbench")
    label = {hallusion_key(row): int(row["judge_label"]) for row in rows}
    for part, expected in aggregate["official_from_judge_labels"].items():
        if part == "yes_no_bias":
            continue
        causes = [
            cause_of_error(
                row["category"],
                row["figure_id"] == "0",
                row["visual_input"] == "2",
                label[hallusion_key(row)],
                label[hallusion_key(row, "0")],
                row["same"] == "1",
            )
            for row in rows
            if part in ("all", row["category"])
        ]
        assert [causes.count(name) for name in CAUSES] == [expected["LH"], expected["VI"], expected["Mix"]], part
    read = [{"Yes": "yes", "No": "no"}.get(row["vlmevalkit_extracted"]) for row in rows]
    right = [float(word == ("no", "yes")[int(row["gt_answer"])]) for word, row in zip(read, rows, strict=True)]
    measured = hallusion([{**row, "prediction": word} for row, word in zip(rows, read, strict=True)], right)
    assert [measured[name] for name in CAUSES] == pytest.approx([100 * n / 182 for n in (7, 162, 13)])


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
            read = outcome(item, {key: QueryReply(text=row["reply"])}, named_protocol("standard"))
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
    """Return the outcomes of items whose judge replied with these texts."""
    items = [
        Item(Question(str(n), ("i",), "?", "a", kind), "free", details={"judge": task, **details})
        for n, kind in enumerate(kinds)
    ]
    waiting = [result(item.item_id, {}, item.kind, prediction="x", status="judge") for item in items]
    return judge_tasks.judged(
        waiting,
        {item.item_id: item for item in items},
        lambda requests: texts,
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
        assert measured["score"] == pytest.approx(np.mean(read))  # unread ratings are excluded
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
