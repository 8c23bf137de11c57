"""Read the letters of one or several options from a reply, and compare them as sets (LogicVista)."""

from __future__ import annotations

import re

from scramble.grading import final_answers

_LISTED = re.compile(
    r"\W*(?:option|choice|figure|set)?s?\W*([A-I](?:\W+(?:and\W+|or\W+|&\W*)?[A-I])*)\W*", re.IGNORECASE
)
_STATED = re.compile(
    r"\b(?:answer|choice|option)s?\b(?:\s+(?:is|are|would be|should be)|\s*:|\s+\w+\s+is)?"
    r"\s*:?\s*\W*([A-I])\b(?!\s+[a-z])"
)
_BRACKETED = re.compile(r"[(\[]\s*([A-I])\s*[)\]]")
_LEADING = re.compile(r"\W*([A-I])(?:\s*[.):\]]|\s*$|\n)")
_ALONE = re.compile(r"(?<![\w'’-])([B-H]|A(?!\s+[a-z])|I(?!['’]|\s+[a-z]))(?![\w'’-])")


def read_letters(text: str) -> str:
    """The letters that a reply names as its answer, sorted and in upper case ("BD"); "" if none can be read.

    This rule is our own, because LogicVista uses a language model to read the letters. The first of these forms that a
    reply contains is used: a marked final answer, a reply that consists of letters, letters after "answer" or a similar
    word, letters in brackets, a letter at the start, single capital letters. If several options are named without a
    mark, none is read.
    """
    marked = final_answers.find(text)
    tail = re.split(r"\banswers?\s*:", text if marked is None else marked, flags=re.IGNORECASE)[-1]
    if digit := re.fullmatch(r"\W*([1-9])\W*", tail):  # one question has numbered options
        return digit[1]
    if listed := _LISTED.fullmatch(tail.strip()):
        return _sorted(re.findall(r"\b[A-I]\b", listed[1].upper()))
    for pattern in (_STATED, _BRACKETED):
        if found := set(pattern.findall(text)):
            return found.pop() if len(found) == 1 else ""
    if leading := _LEADING.match(text):
        return leading[1]
    found = set(_ALONE.findall(text))
    return found.pop() if len(found) == 1 else ""


def judged_letters(text: str) -> str | None:
    """The letters in a judge's reply, by VLMEvalKit's rule: upper-case letters and nothing else; None if unreadable."""
    return text if text.isalpha() and text.isupper() else None


def same_letters(letters: str, answer: str) -> bool:
    """Whether letters ("DB") are those of an answer ("B, D"), in any order and case; a repeated letter is an error."""
    truth = sorted(re.findall(r"\w", answer.lower()))
    return bool(truth) and sorted(letters.lower()) == truth


def _sorted(letters: list[str]) -> str:
    return "".join(sorted(set(letters)))
