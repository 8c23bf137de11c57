r"""Grade answers to MATH-Vision and MathVerse.

For MATH-Vision (Wang et al., arXiv 2402.14804, ``evaluation/``), :func:`extract_mathvision` extracts the answer from a
reply. :func:`mathvision_correct` compares the extracted answer with the right answer. In a multiple-choice question,
both the letter and the text of the right option are accepted. Both functions follow the official rules. Like these
rules, they cannot parse ``Answer: B``, ``**B**`` or ``4 \text{ cm}``.

MathVerse (Zhang et al., arXiv 2403.14624) uses a language model to extract and compare answers. The only rule in its
code is that equal strings are equal answers. :func:`extract_mathverse` and :func:`mathverse_equal` are the rules of
this project for use without a judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from scramble.grading import final_answers
from scramble.grading.latex_value import value
from scramble.grading.rules import quantities

# --------------------------------------------------------------------------------------------------------- MATH-Vision

_BOX = "oxed{"
_PHRASES = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_REPLACED: tuple[tuple[str, str], ...] = ((" ", ""), (r"\,", ""), ("∞", r"\infty"), (r"+\infty", r"\infty"))
_DELETED = (
    *("\n", r"\text", r"\mbox", r"\left", r"\right", r"^{\circ}", r"^\circ"),
    *("{m}^3", "m^3", "{units}", "units", "{km}", "km", r"\!"),
)


def mathvision_correct(response: str, answer: str, choices: Sequence[str]) -> tuple[bool, str]:
    """Return whether a response is right by MATH-Vision's rule, and the extracted answer.

    Args:
        answer: the letter of the right option, or the answer to a free-form question.
        choices: the options. A free-form question has none.
    """
    extracted = extract_mathvision(response)
    accepted = [answer]
    if choices:
        accepted.append(choices[ord(answer) - ord("A")])
    return any(equal_mathvision(truth, extracted) for truth in accepted), extracted


def extract_mathvision(response: str) -> str:
    r"""Return the answer in a response in lower case, with normalised LaTeX. For example, ``\dfrac`` becomes ``\frac``,
    and degree signs are removed.
    """
    text = response.strip()
    for letter in "ABCDE":
        at_end = (f" {letter}.", f" ({letter}).")
        at_start = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if text.endswith(at_end) or text.startswith(at_start):
            text = letter
    last = text.split("is ")[-1].rstrip(".")
    if _is_number(last):
        text = last
    boxes = text.count(_BOX)
    if boxes == 0:
        for phrase in (form for low in _PHRASES for form in (low, low.capitalize())):
            if phrase in text:
                text = text.split(phrase)[-1].strip().split("\n")[0].split(". ")[0]
            text = text.strip()
    elif boxes > 1:
        text = rf"\b{_BOX}{text.split(_BOX)[-1]}"
    text = _without_markup(_content(text.lower()))
    for letter in "abcde":
        text = text.replace(f"({letter})", letter)
    for letter in "abcde":
        text = text.replace(f"{{{letter}}}", letter)
    return text.rstrip(".").lstrip(":").strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _content(text: str) -> str:
    """Return the content of ``\\boxed{}``, or the whole text if there is no such command.

    The result begins after the last equals sign or approximation sign, and ends before a closing brace that precedes
    every opening brace.
    """
    text = text.replace("{}", "")
    begin, end = text.find("oxed{") + len("oxed{"), text.rfind("}")
    text = text[begin:end] if len("oxed{") <= begin <= end else text
    closing, opening = text.find("}"), text.find("{")
    if closing >= 0 and (opening < 0 or closing < opening):
        text = text[:closing]
    return text.split("=")[-1].split(r"\approx")[-1]


def _without_markup(text: str) -> str:
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = text.replace("\\\\", "\\")
    for part in _DELETED:
        text = text.replace(part, "")
    text = text.replace("bmatrix", "pmatrix").replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    # The deletions above can form new commands.
    for part in (r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$", "$", r"\%"):
        text = text.replace(part, "")
    text = text.replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    if "sqrt" in text:
        text = _braced_fractions(re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text))
    if text == "0.5":
        return r"\frac{1}{2}"
    if fraction := re.fullmatch(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", text, re.ASCII):
        return rf"\frac{{{fraction[1]}}}{{{fraction[2]}}}"
    return text


def _braced_fractions(text: str) -> str:
    """Write ``\\frac12`` as ``\\frac{1}{2}``. If fewer than two characters follow a fraction, the text is unchanged."""
    head, *parts = text.split(r"\frac")
    fixed = [head]
    for part in parts:
        if part.startswith("{"):
            fixed.append(part)
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            fixed.append(f"{{{part[0]}}}{part[1:]}")
        else:
            fixed.append(f"{{{part[0]}}}{{{part[1]}}}{part[2:]}")
    return r"\frac".join(fixed)


def equal_mathvision(truth: str, answer: str) -> bool:
    """Return whether two answers are equal as texts, or as tuples or values that are rounded to two decimals."""
    truth, answer = truth.lower(), answer.lower()
    if not truth.replace(" ", "") or not answer.replace(" ", ""):
        return False
    if truth.strip() == answer.strip():
        return True
    truth, answer = _rounded_tuple(truth), _rounded_tuple(answer)
    if truth == answer:
        return True
    a, b = _rounded(truth), _rounded(answer)
    return a is not None and a == b


def _rounded(text: str) -> int | float | None:
    number = value(text)
    try:
        return None if number is None else round(number, 2)
    except (OverflowError, ValueError):  # the value is infinite or not a number
        return None


def _rounded_tuple(text: str) -> str:
    """Round the elements of a tuple or list, except ``infty``, ``a`` and ``-a``. If any other element cannot be
    evaluated, return the text unchanged."""
    elements = text[1:-1].split(",")
    if len(elements) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    parts = []
    for element in elements:
        number = None if "infty" in element or element in ("a", "-a") else _rounded(element)
        if number is None and "infty" not in element and element not in ("a", "-a"):
            return text
        parts.append(element if number is None else str(number))
    return f"{text[0]}{','.join(parts)}{text[-1]}"


# ----------------------------------------------------------------------------------------------------------- MathVerse


def extract_mathverse(response: str, letters: Sequence[str]) -> str:
    """Extract the short answer from a response by this project's rule. The answer is the letter of an option, or the
    text that the response marks as its answer (the whole response if there is no mark).

    Args:
        letters: the letters of the options. A free-form question has none.
    """
    text = final_answers.find(response)
    if text is None:
        # One blank at the end is sufficient, and the next pattern takes cubic time for many blanks.
        end = len(response.rstrip())
        blank = " " if response[end:].strip("\n") else response[end : end + 1]
        stated = re.findall(r"answer(?: is)?\s*:?\s*\**\s*([^\n]+)", response[:end] + blank, re.IGNORECASE)
        text = stated[-1] if stated else response
    plain = final_answers.forms(text.strip())[-1] if text.strip() else ""
    if not letters:
        return plain
    named = final_answers.letter(text, dict.fromkeys(letters, ""))
    if named is None:
        text = re.sub(r"\n\s+", "\n", text)  # so that the next pattern takes linear time
        matches = re.findall(r"\(([A-Z])\)|(?:^|\n)\s*([A-Z])(?:[.):]|\s*$)", text)
        listed = [first or second for first, second in matches if (first or second) in letters]
        named = listed[-1] if listed else None
    return plain if named is None else named


def mathverse_equal(extraction: str, answer: str) -> bool:
    """Return whether an extracted answer and the right answer are equal texts, quantities or values.

    If only the extracted answer is an equation ("AB = 12"), its right side is compared with the right answer.
    """
    if "=" in extraction and "=" not in answer:
        extraction = extraction.rpartition("=")[2]
    a, b = (" ".join(final_answers.plain(text).split()).rstrip(".") for text in (extraction, answer))
    if a == b:
        return True
    if (x := quantities(a)) and (y := quantities(b)) and len(x) == len(y):
        return all(one.same(other, 1e-3) for one, other in zip(x, y, strict=True))
    first, second = value(extraction), value(answer)
    return first is not None and second is not None and abs(first - second) <= 1e-3 * max(1.0, abs(second))
