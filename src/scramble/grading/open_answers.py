"""Grade open answers without a judge, by the rules of MMMU, MathVista and VLMEvalKit.

The official MathVista script extracts answers with a language model. :func:`extract_mathvista` extracts them by rule,
and the results record this as ``extraction: rule``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from scramble.grading import final_answers

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?%?|-?\.\d+")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")

# ---------------------------------------------------------------------------------------------------------------- MMMU


def mmmu_open_correct(response: str, answers: Sequence[str]) -> bool:
    """Apply MMMU's rule for open questions: an accepted text must occur in a prediction, or two numbers must be equal.

    The predictions are the key parts of the response and the numbers in these parts. A key part is the end of a
    sentence that announces an answer. Texts are lower-cased, and numbers are rounded to two decimals.
    """
    predicted = [value for part in _key_parts(response) for value in (_normal(part), *_numbers(part))]
    for answer in answers:
        expected = _normal(answer)
        if isinstance(expected, float):
            if any(isinstance(p, float) and p == expected for p in predicted):
                return True
        elif any(isinstance(p, str) and expected in p for p in predicted):
            return True
    return False


def _key_parts(response: str) -> list[str]:
    response = response.strip().strip(".").lower()
    parts = []
    for number, sentence in enumerate(sentences := re.split(r"\.\s(?=[a-z])|\n", response)):
        indicators = [*_INDICATORS, "="] if number == len(sentences) - 1 else list(_INDICATORS)
        tails = [sentence.split(mark)[-1].strip() for mark in indicators if mark in sentence]
        if tails and (shortest := min(tails, key=len)) not in ("", ":", ",", ".", "!", "?", ";", "'"):
            parts.append(shortest)
    return parts or [response]


def _numbers(text: str) -> list[float]:
    return [round(float(number.rstrip("%").replace(",", "")), 2) for number in _NUMBER.findall(text)]


def _normal(text: str) -> str | float:
    """Return a number rounded to two decimals, or any other text in lower case. A single character is
    surrounded by spaces, so that it does not match inside words.
    """
    stripped = text.strip()
    try:
        return round(float(stripped.replace(",", "")), 2)
    except ValueError:
        lowered = stripped.lower()
        return f" {lowered} " if len(lowered) == 1 else lowered


# ----------------------------------------------------------------------------------------------------------- MathVista


def mathvista_correct(
    response: str, answer: str, choices: Sequence[str], details: Mapping[str, Any]
) -> tuple[bool, str]:
    """Return whether the answer that is extracted by rule from a response equals the right answer, and the extracted
    answer in its normalised form.
    """
    extraction = extract_mathvista(response, choices, str(details["answer_type"]))
    normal = normalise_mathvista(extraction, choices, details)
    return normal is not None and normal == answer, "" if normal is None else normal


def extract_mathvista(response: str, choices: Sequence[str], answer_type: str) -> str:
    """Return the short answer in a response: an option's letter or text, the text after "answer is", or the last
    number.
    """
    text = response.strip()
    stated = re.findall(r"answer(?: is)?\s*:?\s*\**\s*([^\n]+)", text, re.IGNORECASE)
    tail = final_answers.unwrap(stated[-1].strip().rstrip(".").strip("*$ ") if stated else text)
    if choices:
        if stated and (named := final_answers.letter(tail, dict(zip(ascii_uppercase, choices, strict=False)))):
            return f"({named})"
        letter = re.search(r"\(([A-Z])\)|^([A-Z])(?:[.):]|$)", tail)
        if letter:
            return f"({letter.group(1) or letter.group(2)})"
        listed = [choice for choice in choices if choice.lower() in tail.lower()]
        return max(listed, key=len) if listed else tail
    if answer_type in ("integer", "float"):
        numbers = _NUMBER.findall(tail) or _NUMBER.findall(text)
        return numbers[-1].rstrip("%").replace(",", "") if numbers else tail
    if answer_type == "list" and (lists := re.findall(r"\[[^\]]*\]", tail)):
        return lists[-1]
    return tail


def normalise_mathvista(extraction: str, choices: Sequence[str], details: Mapping[str, Any]) -> str | None:
    """Normalise an extracted answer by the official rules.

    For multiple choice, the letter of an option is converted to the text of the option, and any other answer to the
    nearest option by edit distance. Integers are truncated, and floats are rounded to the question's precision. Return
    None if the answer to a multiple-choice question is empty, or if an answer should be a number but is not.
    """
    if details.get("question_type") == "multi_choice":
        if not extraction:
            return None
        if letter := re.match(r"\(([a-zA-Z])\)", extraction):
            extraction = letter.group(1)
        letters = [chr(ord("A") + k) for k in range(len(choices))]
        if extraction.upper() in letters:
            return choices[letters.index(extraction.upper())]
        return min(choices, key=lambda choice: edit_distance(extraction, choice))
    try:
        if details["answer_type"] == "integer":
            return str(int(float(extraction)))
        if details["answer_type"] == "float":
            return str(round(float(extraction), int(float(details.get("precision") or 0))))
    except (ValueError, OverflowError):
        return None
    return extraction


def edit_distance(a: str, b: str) -> int:
    """Return the Levenshtein distance between two texts."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


# ---------------------------------------------------------------------------------------------------------- VLMEvalKit


def chartqa_relaxed(response: str, answer: str) -> float:
    """Compute ChartQA's relaxed accuracy as VLMEvalKit does.

    A number may differ from the ground truth by at most 5 %. All other answers must equal the ground truth,
    regardless of case. Unlike :func:`scramble.grading.rules.relaxed`, this function compares numbers with a thousands
    separator as texts. If the ground truth is zero, answers are compared as texts.
    """
    response, answer = response.strip(), answer.strip()
    value, truth = _plain_number(response), _plain_number(answer)
    if value is not None and truth:
        return float(abs(value - truth) / abs(truth) <= 0.05)
    return float(response.lower() == answer.lower())


def _plain_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def vlmevalkit_anls(response: str, answer: str) -> float:
    """Compute ANLS as VLMEvalKit does.

    Leading, trailing and repeated white space counts towards the length of a text, but not towards the edit distance.
    """
    a, b = (" ".join(text.lower().split()) for text in (response, answer))
    length = max(len(response), len(answer))
    distance = edit_distance(a, b) / length if length else 0.0
    return 0.0 if 1 - distance < 0.5 else 1 - distance


def equal_texts(response: str, answer: str) -> float:
    """Return 1 if two texts are equal regardless of case and of leading and trailing white space, else 0."""
    return float(response.strip().lower() == answer.strip().lower())


VLMEVALKIT_RULES: dict[str, Callable[[str, str], float]] = {
    "relaxed": chartqa_relaxed,
    "anls": vlmevalkit_anls,
    "accuracy": equal_texts,
}
"""VLMEvalKit's rules, which compare a response with one accepted answer.

The highest score over all accepted answers counts.
"""


# ------------------------------------------------------------------------------------------------- without a judge


def parts_contained(response: str, truth: str) -> float:
    """Return the share in [0, 1] of the parts of a ground truth that a response contains as whole words.

    ``<AND>`` separates the parts, and ``<OR>`` separates alternatives, of which the best one counts. This score
    replaces the grade of MM-Vet's judge if no judge is configured, but the two scores are not comparable.
    """
    words = " ".join(re.findall(r"\w+(?:[.,]\d+)?", response.lower()))
    shares = []
    for alternative in truth.split("<OR>"):
        parts = [" ".join(re.findall(r"\w+(?:[.,]\d+)?", part.lower())) for part in alternative.split("<AND>")]
        required = [part for part in parts if part]
        shares.append(sum(f" {part} " in f" {words} " for part in required) / len(required) if required else 0.0)
    return max(shares)
