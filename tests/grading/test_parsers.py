"""Compare parsers and normalisers with outputs of the original scorers and published tables of disagreements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scramble.grading import parsers, reasoned_answers, vqa_accuracy

GOLDEN = Path(__file__).parents[1] / "golden" / "scorers"
OPTIONS = {"A": "cat", "B": "dog", "C": "bird", "D": "fish"}
NAMES = {"yes": "yes", "Yes": "yes", "no": "no", "No": "no", "wrong": None, "Unknown": None, "none": None}


def rows(folder: Path, name: str) -> list[dict]:
    result = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    assert len(result) >= 100
    return result


def check_normalisers(folder: Path) -> None:
    normalisers = {name: getattr(vqa_accuracy, name) for name in ("official", "evalai", "vlmevalkit")}
    normalisers["molmo"] = vqa_accuracy.official
    for row in rows(folder, "normalisers"):
        for name, normalise in normalisers.items():
            assert normalise(row["text"]) == row[name], (name, row["text"])


def check_accuracies(folder: Path) -> None:
    for row in rows(folder, "vqa_accuracy"):
        for name in row.keys() - {"answers", "prediction"}:
            result = vqa_accuracy.vqa_accuracy(row["prediction"], row["answers"], name)
            assert round(result, 2) == pytest.approx(row[name]), (name, row)


def check_yes_no(folder: Path) -> None:
    for row in rows(folder, "yes_no"):
        for name in parsers.YES_NO.keys() & row.keys():
            assert parsers.YES_NO[name](row["text"]) == NAMES[row[name]], (name, row["text"])


def check_letters(folder: Path) -> None:
    for row in rows(folder, "multiple_choice"):
        for name in ("can_infer", "priority", "mmvp", "naturalbench_ab"):
            assert (parsers.LETTER[name](row["text"], row["options"]) or "-") == row[name], (name, row["text"])


@pytest.mark.parametrize("check", [check_normalisers, check_accuracies, check_yes_no, check_letters])
def test_golden_sample(check):
    check(GOLDEN)


@pytest.mark.parametrize("check", [check_normalisers, check_accuracies, check_yes_no, check_letters])
def test_all_golden_vectors(check, shared):
    check(shared / "golden" / "scorers")


def ten(**counts: int) -> list[str]:
    return [answer for answer, count in counts.items() for _ in range(count)]


# annotators, prediction, official_2021, official_2017, always_normalise, evalai, vlmevalkit; by the original code.
VQA = [
    ({"yes": 10}, "yes", 100, 100, 100, 100, 100),
    ({"yes": 10}, "Yes", 0, 100, 100, 100, 100),
    ({"yes": 10}, "yes.", 0, 100, 100, 100, 100),
    ({"two": 10}, "2", 0, 0, 100, 100, 100),
    ({"yes": 9, "no": 1}, "Yes.", 100, 100, 100, 100, 100),
    ({"2": 5, "two": 5}, "two", 100, 100, 100, 100, 100),
    ({"2": 9, "3": 1}, "2.", 100, 100, 100, 100, 0),
    ({"the dog": 4, "dog": 6}, "a dog", 100, 100, 100, 100, 100),
    ({"red": 1, "blue": 9}, "red", 30, 30, 30, 30, 30),
    ({"red": 2, "blue": 8}, "red", 60, 60, 60, 60, 60),
    ({"red": 3, "blue": 7}, "red", 90, 90, 90, 90, 90),
    ({"it's raining": 9, "rain": 1}, "its raining", 0, 0, 0, 0, 0),
    ({"t-shirt": 5, "tshirt": 5}, "t shirt", 100, 100, 100, 100, 100),
    ({"10,000": 9, "1": 1}, "10000", 100, 100, 100, 100, 100),
    ({"none": 9, "zero": 1}, "0", 100, 0, 100, 100, 100),
    ({"": 10}, "", 100, 100, 100, 100, 100),
    ({"black and white": 8, "b&w": 2}, "black, white", 0, 0, 0, 0, 0),
    ({"men's": 9, "men": 1}, "mens", 0, 0, 0, 0, 0),
]


@pytest.mark.parametrize(("counts", "prediction", "by_2021", "by_2017", "always", "evalai", "vlmevalkit"), VQA)
def test_vqa_table(counts, prediction, by_2021, by_2017, always, evalai, vlmevalkit):
    names = ("official_2021", "official_2017", "always_normalise", "evalai", "vlmevalkit")
    result = [vqa_accuracy.vqa_accuracy(prediction, ten(**counts), name) for name in names]
    assert result == pytest.approx([by_2021, by_2017, always, evalai, vlmevalkit])


def test_molmo_counts_without_leaving_one_out():
    """One, two and three of ten matches give 1/3, 2/3 and 1, while the official rule gives .3, .6 and .9."""
    for matches, percent in ((1, 100 / 3), (2, 200 / 3), (3, 100)):
        answers = ten(red=matches, blue=10 - matches)
        assert vqa_accuracy.vqa_accuracy("red", answers, "molmo") == pytest.approx(percent)


# reply, POPE's rule, exact, words, first match; by the original code.
YES_NO = """
Yes|yes|yes|yes|yes
yes.|yes|-|yes|yes
Yes, there is a dog|yes|-|yes|yes
No|no|no|no|no
no.|no|-|no|no
No, there is not|no|-|no|no
There is no dog in the image.|no|-|no|no
I am not sure|no|-|-|-
NO|yes|no|no|no
|yes|-|-|-
Yes. There is not a cat though|yes|-|yes|yes
The answer is yes|yes|-|yes|yes
Yes and no|no|-|-|yes
nope|yes|-|-|-
Yes, there are no cats|no|-|-|yes
Not really|yes|-|-|-
Maybe|yes|-|-|-
"""


@pytest.mark.parametrize("line", YES_NO.strip("\n").split("\n"))
def test_yes_no_table(line):
    text, *expected = line.split("|")
    names = ("pope_official", "exact", "words", "first_match")
    assert [parsers.YES_NO[name](text) or "-" for name in names] == expected


# reply, can_infer, priority, MMMU official, MMVP, NaturalBench A/B; by the original code ("?": random there).
LETTERS = """
B|B|B|B|B|B
B.|B|B|B|B|B
(B)|B|B|B|B|B
b|-|-|?|B|B
B. dog|B|B|?|B|B
B: dog|B|B|?|B|B
B) dog|B|B|?|B|B
**B**|B|B|?|-|B
The answer is B.|B|B|B|B|B
The correct answer is (B) dog.|B|B|B|B|B
Answer: B|B|B|B|B|B
dog|B|-|?|-|-
It is a dog.|B|-|?|A|A
A dog is in the image|B|A|A|A|A
I think it is B, not A|-|A|A|A|B
A or B|-|A|B|A|A
Both A and B|-|B|B|A|A
The animal in the picture is clearly a dog and not a cat|-|-|A|A|A
Option B is correct because the animal barks|-|B|B|B|B
|-|-|?|-|-
None of the above|-|-|?|-|-
\\boxed{B}|B|B|?|-|B
<think>A?</think>B|-|B|?|B|A
B@Explanation: A is wrong|-|B|A|B|B
DOG|B|D|?|-|-
The answer is A cat|A|A|A|A|A
Final answer: $B$|-|B|?|-|B
I cannot determine|-|-|?|-|-
"""


@pytest.mark.parametrize("line", LETTERS.strip("\n").split("\n"))
def test_letter_table(line):
    text, *expected = line.replace("@", "\n").replace("\\\\", "\\").split("|")
    names = ("can_infer", "priority", "mmmu_official", "mmvp", "naturalbench_ab")
    result = [parsers.LETTER[name](text, OPTIONS) or "-" for name in names]
    # Where the original guesses at random, our parser returns None.
    assert result == ["-" if e == "?" else e for e in expected]


def test_prefix_rules():
    assert parsers.startswith("b) dog", OPTIONS) == "B"
    assert parsers.startswith("The answer is B", OPTIONS) is None
    assert parsers.first_char("(B)", OPTIONS) is None
    assert parsers.llava_sqa("B. dog", OPTIONS) == "B"
    assert parsers.llava_sqa("It barks. The answer is B.", OPTIONS) == "B"
    assert parsers.llava_sqa("The answer is B. The answer is A.", OPTIONS) is None


def test_refusals_are_distinguished_from_unparsable_replies():
    assert parsers.is_refusal("I cannot determine which caption fits.")
    assert parsers.is_refusal("Neither (1) nor (2) describes the image.")
    assert not parsers.is_refusal("woof")


def test_final_answer_of_a_chain_of_thought():
    assert reasoned_answers.final_answer("A first. Final answer: B\nno. Final answer: **C**") == "C"
    assert reasoned_answers.final_answer("just a dog") == "just a dog"


def test_bad_input():
    with pytest.raises(ValueError, match="at least one annotated answer"):
        vqa_accuracy.vqa_accuracy("yes", [])
    with pytest.raises(ValueError, match="unknown VQA accuracy protocol"):
        vqa_accuracy.vqa_accuracy("yes", ["yes"], "official_1999")
