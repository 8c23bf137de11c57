"""Tests scores from replies without a model: hand-written replies, chance levels, constant answers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import (
    AnswerStyle,
    Benchmark,
    CaptionChoice,
    EvaluationError,
    Item,
    QueryReply,
    limit_items,
)
from scramble.evaluation.protocols import named_protocol, protocol_names, queries, resolve
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.answer_rules import RULES, UNSCORED
from scramble.evaluation.scoring.outcomes import outcome
from scramble.grading.open_answers import (
    edit_distance,
    extract_mathvista,
    mathvista_correct,
    mmmu_open_correct,
    parts_contained,
)
from scramble.project import CONFIGS
from scramble.records import YES_NO_PROMPT, Question, TwoByTwoItem


def benchmark(items, scoring="plain") -> Benchmark:
    return Benchmark("made", "1", tuple(items), {}, scoring)


def answer(item: Item, text: str, name: str = "standard"):
    return outcome(item, {item.item_id: QueryReply(text=text)}, named_protocol(name))


def test_chance_of_random_scores_through_the_whole_path():
    generator, n = np.random.default_rng(0), 4000
    protocol, outcomes = named_protocol("standard"), []
    for k in range(n):
        item = Item(TwoByTwoItem(str(k), (f"{k}a", f"{k}b"), ("one", "two")), "quad")
        item_queries = queries(item, protocol, benchmark([item]))
        replies = {q.query_id: QueryReply(tuple(generator.normal(size=2)), (1, 1)) for q in item_queries}
        outcomes.append(outcome(item, replies, protocol))
    table = scores("plain", outcomes)
    for name, chance in (("text", 25), ("image", 25), ("group", 100 / 6)):
        assert abs(table[name]["value"] - chance) < 3 * table[name]["standard_error"]


@pytest.mark.parametrize(
    ("kind", "replies", "expected"),
    [
        ("yes", {"/0/0": (-1, -9), "/0/1": (-2, -9), "/1/0": (-2, -9), "/1/1": (-1, -9)}, [[-1, -2], [-2, -1]]),
        ("yes_minus_no", {"/0/0": (-1, -3), "/0/1": (-1, -1), "/1/0": (-2, -1), "/1/1": (0, -9)}, [[2, 0], [-1, 9]]),
        ("caption", {"/0": (-4, -6), "/1": (-8, -2)}, [[-4, -6], [-8, -2]]),
        ("caption_debiased", {"/0": (-4, -6), "/1": (-8, -2), "/blind": (-1, -5)}, [[-3, -1], [-7, 3]]),
        (
            "two_choice",
            {"/0/order0": (-1, -3), "/0/order1": (-5, -1), "/1/order0": (-2, -2), "/1/order1": (-4, 0)},
            [[-1, -4], [-1, -3]],
        ),
    ],
)
def test_caption_scores_by_hand(kind, replies, expected):
    """two_choice averages the caption's letter over both orders: caption 0 of image 0 is A (-1), then B (-1)."""
    from scramble.evaluation.scoring.outcomes import caption_scores

    item = Item(TwoByTwoItem("q", ("a", "b"), ("one", "two")), "quad")
    protocol = named_protocol("standard", caption_score=kind)
    assert {q.query_id for q in queries(item, protocol, benchmark([item]))} == {f"q{key}" for key in replies}
    replies_by_id = {f"q{key}": QueryReply(value, (1,) * len(value)) for key, value in replies.items()}
    assert caption_scores(item, replies_by_id, protocol).tolist() == expected


def test_prompts_of_the_named_protocols():
    item = Item(CaptionChoice("c", ("i",), ("a cat", "a dog")), "captions")
    item_queries = {
        name: queries(item, named_protocol(name), benchmark([item]))[0].prompt for name in ("scramble", "vqascore_3.0")
    }
    assert item_queries["scramble"] == "Does the image show 'a cat'? Please answer yes or no."
    assert item_queries["vqascore_3.0"] == 'Does this figure show "a cat"? Please answer yes or no.'
    assert queries(item, named_protocol("scramble_molmo"), benchmark([item]))[0].image_px == 336


def test_letters_yes_no_and_unparsed_rates():
    question = Item(Question("m", ("i",), "Which?", "B", choices=("cat", "dog")), "letter")
    assert answer(question, "B. dog").values == {"accuracy": 1.0}
    unread = answer(question, "hmm")
    refused = answer(question, "Neither (1) nor (2) fits.")
    assert (unread.status, refused.status) == ("unparsed", "refused")
    assert rates([unread, refused, answer(question, "B")])["unparsed_rate"] == pytest.approx(1 / 3)
    always_a = [answer(question, "A"), answer(Item(Question("n", ("i",), "?", "A", choices=("x", "y")), "letter"), "A")]
    assert scores("plain", always_a)["accuracy"]["value"] == 50


def pope_items(n: int) -> list[Item]:
    return [
        Item(Question(f"{c}/{k}", (f"i{k // 6}",), "Is there?", "yes" if k % 2 else "no", c), "yes_no")
        for c in ("random", "popular", "adversarial")
        for k in range(n)
    ]


def test_pope_always_yes():
    table = scores("pope", [answer(item, "Yes") for item in pope_items(60)])
    assert table["accuracy"]["value"] == 50
    assert table["recall/random"]["value"] == 100
    assert table["f1_mean"]["value"] == pytest.approx(200 / 3)
    assert table["yes_ratio"]["value"] == 100
    assert [table[name]["n"] for name in ("f1", "f1/random", "f1_mean")] == [180, 60, 180]
    assert table["f1_mean"]["low"] == pytest.approx(200 / 3) == table["f1_mean"]["high"]  # each image is balanced


def test_pope_confusion_of_llava():
    """LLaVA issue 626: TP 1183, FP 31, TN 1379, FN 317 of 2,910 questions give F1 0.8718 (old random file)."""
    replies = [("Yes", "yes")] * 1183 + [("Yes", "no")] * 31 + [("No", "no")] * 1379 + [("No", "yes")] * 317
    items = [Item(Question(str(k), (str(k),), "?", label, "random"), "yes_no") for k, (_, label) in enumerate(replies)]
    table = scores("pope", [answer(item, text) for item, (text, _) in zip(items, replies, strict=True)])
    assert round(table["f1"]["value"] / 100, 4) == 0.8718
    assert table["accuracy"]["value"] == pytest.approx(100 * (1183 + 1379) / 2910)
    assert table["precision"]["value"] == pytest.approx(100 * 1183 / 1214)
    assert table["f1"]["low"] < table["f1"]["value"] < table["f1"]["high"]


def test_pope_unparsed_is_neither_yes_nor_no():
    table = scores("pope", [answer(item, "") for item in pope_items(12)])
    assert {table[name]["value"] for name in ("f1", "f1_mean", "recall", "precision", "yes_ratio")} == {0}


def test_pope_empty_replies_differ_by_parser():
    """POPE's own rule reads an empty reply as yes; under the word rule it is unparsed, and wrong."""
    items = pope_items(12)
    assert scores("pope", [answer(i, "", "scramble") for i in items])["accuracy"]["value"] == 50
    assert scores("pope", [answer(i, "") for i in items])["accuracy"]["value"] == 0


def test_pairs_and_natural_bench_units():
    items = [
        Item(Question(str(k), (str(k),), "?", "A", choices=("x", "y")), "letter", group=f"p{k // 2}") for k in range(4)
    ]
    table = scores("pairs", [answer(i, t) for i, t in zip(items, ("A", "A", "A", "B"), strict=True)])
    assert (table["accuracy"]["value"], table["pair_accuracy"]["value"]) == (75, 50)
    four = [
        Item(Question(f"0/q{q}_i{i}", (f"0/{i}",), "?", "yes" if q == i else "no", "yes_no"), "yes_no", group="0")
        for q in (0, 1)
        for i in (0, 1)
    ]
    replies = ("Yes", "No", "No", "No")
    outcomes = [answer(item, text, "naturalbench") for item, text in zip(four, replies, strict=True)]
    table = scores("natural_bench", outcomes)
    assert {k: v["value"] for k, v in table.items()} == {"acc": 75, "q_acc": 50, "i_acc": 50, "g_acc": 0}
    with pytest.raises(EvaluationError, match="group '0' is incomplete"):
        scores("natural_bench", outcomes[:3])


def test_macro_and_micro_differ():
    items = [Item(CaptionChoice(str(k), (str(k),), ("t", "f"), 0, "a" if k < 3 else "b"), "captions") for k in range(4)]
    protocol = named_protocol("standard")
    outcomes = []
    for k, item in enumerate(items):
        replies = {
            f"{k}/0/0": QueryReply((-1.0, -2.0), (1, 1)),
            f"{k}/0/1": QueryReply((-2.0 if k < 3 else 0.0, -2.0), (1, 1)),
        }
        outcomes.append(outcome(item, replies, protocol))
    table = scores("macro", outcomes)
    assert (table["accuracy"]["value"], table["accuracy_macro"]["value"]) == (75, 50)
    assert (table["accuracy/a"]["value"], table["accuracy/b"]["value"]) == (100, 0)


def test_a_tie_between_captions_is_right_only_in_the_authors_scorer():
    item = Item(CaptionChoice("c", ("i",), ("a cat", "a dog")), "captions")
    even = {f"c/0/{k}": QueryReply((-1.0, -2.0), (1, 1)) for k in (0, 1)}
    values = {name: outcome(item, even, named_protocol(name)) for name in ("standard", "scramble")}
    assert {name: o.values["accuracy"] for name, o in values.items()} == {"standard": 0, "scramble": 1}
    assert values["scramble"].ties == 1


def test_cola_has_its_own_accuracy_the_image_score():
    draws = np.log(np.random.default_rng(2).random((50, 2, 2)))
    outcomes = []
    for n, scores_2x2 in enumerate(draws):
        item = Item(TwoByTwoItem(str(n), (f"{n}a", f"{n}b"), ("x", "y")), "quad")
        replies = {f"{n}/{i}/{c}": QueryReply((scores_2x2[i, c], -1.0), (1, 1)) for i in (0, 1) for c in (0, 1)}
        outcomes.append(outcome(item, replies, named_protocol("standard")))
    table = scores("cola", outcomes)
    assert table["cola_official"] == table["image"]
    assert table["image"]["value"] != table["text"]["value"]


def test_chain_of_thought_is_read_after_final_answer():
    question = Item(Question("m", ("i",), "Which?", "B", choices=("cat", "dog")), "letter")
    assert answer(question, "A looks likely at first. Final answer: B", "cot").values == {"accuracy": 1.0}


def test_limit_keeps_groups_whole_and_says_what_is_wrong():
    items = tuple(Item(Question(str(k), (), "?", "a"), "short", group=f"g{k // 4}") for k in range(12))
    assert len(limit_items(items, 5)) == 8
    with pytest.raises(EvaluationError, match="at least 1"):
        limit_items(items, 0)


@pytest.mark.parametrize("name", protocol_names())
def test_hydra_and_python_read_the_same_protocol(name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("evaluate", [f"protocol={name}"]).protocol
        half = compose("evaluate", [f"protocol={name}", "protocol.tie_policy=half"]).protocol
    assert OmegaConf.to_container(composed) == dataclasses.asdict(named_protocol(name))
    assert resolve(OmegaConf.to_container(half), benchmark([])).name == f"{name}[tie_policy=half]"  # type: ignore[arg-type]


def test_protocol_errors_and_marks():
    assert named_protocol("standard").yes_template == YES_NO_PROMPT  # the prompt that the world's models are trained on
    assert named_protocol("scramble", tie_policy="half").name == "scramble[tie_policy=half]"
    assert named_protocol("scramble", tie_policy="wrong").name == "scramble"
    for overrides, message in (
        ({"tie_polcy": "half"}, "did you mean tie_policy"),
        ({"letter_parser": "can_infr"}, "did you mean can_infer"),
        ({"yes_template": "Is it?"}, "yes_template='Is it.' must contain {caption}"),
    ):
        with pytest.raises(EvaluationError, match=message):
            named_protocol("standard", **overrides)
    with pytest.raises(EvaluationError, match=r"unknown protocol 'scrambel' \(did you mean scramble"):
        named_protocol("scrambel")
    own = Benchmark("b", "1", (), {}, "plain", default_protocol="naturalbench")
    assert resolve("default", own).yes_no_parser == "first_match"
    assert resolve({"name": "default", "max_new_tokens": 5}, own).max_new_tokens == 5


# Response, answers, right: MMMU's rule for open questions.
OPEN = [
    ("The total is 12.50 dollars, so the answer is 12.5", ("12.5",), True),
    ("So the result is 1,234", ("1234",), True),
    ("It is Impressionism.", ("impressionism",), True),
    ("It is cubism.", ("impressionism",), False),
    ("x = 3.14159", ("3.14",), True),
    ("The answer is 7", ("8", "7"), True),
    ("", ("7",), False),
]


@pytest.mark.parametrize(("response", "answers", "right"), OPEN)
def test_mmmu_open(response, answers, right):
    assert mmmu_open_correct(response, answers) is right


def test_free_answers_without_a_judge():
    item = Item(Question("v", ("i",), "What is x?", "-1<AND>-5<OR>minus one and minus five"), "free")
    graded = outcome(
        item, {"v": QueryReply(text="It is -1, I think.")}, named_protocol("standard", free_grader="contains")
    )
    assert (graded.status, graded.values) == ("ok", {"score": 0.5})
    assert parts_contained("minus one and minus five.", "-1<AND>-5<OR>minus one and minus five") == 1
    assert parts_contained("the cathedral", "cat") == 0
    assert parts_contained("", "cat") == 0
    assert outcome(item, {"v": QueryReply(text="-1")}, named_protocol("standard")).status == "judge"


def test_answers_that_are_not_public_get_no_score():
    item = Item(Question("7", ("i",), "What?", ""), "short", details={"rule": "unscored"})
    outcomes = [answer(item, "red")]
    assert (outcomes[0].status, outcomes[0].prediction) == ("unscored", "red")
    assert scores("plain", outcomes) == {}
    assert rates(outcomes)["unscored"] == 1


@pytest.mark.parametrize(
    ("style", "details", "message"),
    [
        ("letter", {"rule": "lettres"}, r"the style 'letter' has no rule 'lettres' \(did you mean letters"),
        ("free", {"rule": "mentoins"}, r"the style 'free' has no rule 'mentoins' \(choose one of amber, chair, "),
        ("short", {"rule": "letters"}, "the style 'short' has no rule 'letters'"),
        ("rationale", {"rule": "exact"}, r"the style 'rationale' has no rule 'exact' \(omit details"),
        ("leter", {}, r"the style 'leter' is unknown \(did you mean letter"),
    ],
)
def test_an_unknown_style_or_rule_is_refused_when_items_are_checked_and_scored(style, details, message):
    item = Item(Question("7", ("i",), "Which?", "A", choices=("x", "y")), style, details=details)
    with pytest.raises(EvaluationError, match=f"^mine: item 7: {message}"):
        check_items("mine", [item])
    with pytest.raises(EvaluationError, match=f"^item 7: {message}"):
        answer(item, "A")


def test_the_guide_lists_every_style_and_rule():
    guide = Path(__file__).parents[2].joinpath("docs/extending.md").read_text(encoding="utf-8")
    for style, rules in RULES.items():
        row = next(line for line in guide.splitlines() if line.startswith(f"| `{style}` |"))
        assert set(re.findall(r"`(\w+)`", row.split("|")[4])) == set(rules) - {UNSCORED}
    assert set(RULES) == set(get_args(AnswerStyle))


def test_mathvista_rules():
    number = {"answer_type": "float", "precision": 1.0, "question_type": "free_form"}
    assert mathvista_correct("The area is 3.24 so the answer is 1.17 m", "1.2", (), number) == (True, "1.2")
    whole = {"answer_type": "integer", "question_type": "free_form"}
    assert mathvista_correct("The answer is 14.0", "14", (), whole)[0]
    assert mathvista_correct("no idea", "14", (), whole) == (False, "")
    choice = {"answer_type": "text", "question_type": "multi_choice"}
    assert mathvista_correct("Answer: (B)", "blue", ("red", "blue"), choice) == (True, "blue")
    assert mathvista_correct("It must be bluish", "blue", ("red", "blue"), choice)[0]
    assert extract_mathvista("values [1, 2]", (), "list") == "[1, 2]"
    assert edit_distance("kitten", "sitting") == 3
