"""Read the letters of one or several options from a reply, and compare them as sets (LogicVista)."""

from __future__ import annotations

import re

from scramble.grading import final_answers

# "A" at the start of a sentence is the article if it is followed by a lower-case word that can follow an article ("A
# cat", but not "A is"). "I" before a lower-case word is the pronoun.
_NO_NOUN = r"(?:is|are|was|and|or|nor|but|has|have|because|since|as|to|than|with|does|do|can|cannot|could|must)\b"
_LETTER = rf"(?<![\w'’&-])(?:[B-H]|A(?:(?<=[a-z,] A)|(?!\s+(?!{_NO_NOUN})[a-z]))|I(?!['’]|\s+[a-z]))(?![\w'’&-])"
# A comma joins two letters only within a list. It does not join them in "The answer is B, A is too small".
_COMMA = rf",(?=\s*[(\[]?{_LETTER}[)\]]?\s*(?:$|[.,&\n]|and\b|or\b))"
_LETTERS = rf"{_LETTER}(?:[)\]]?\s*(?:(?:,\s*)?\b(?:and|or)\b|&|{_COMMA})\s*[(\[]?{_LETTER})*"

# Adjacent repetitions match disjoint sets of characters, so that a long run of one punctuation mark takes linear time.
_LISTED = re.compile(r"\W*(?:(?:option|choice|figure|set)s?\W+)?([A-I](?:[^\w/|]+(?:and\W+)?[A-I])*)\W*", re.IGNORECASE)
_STATED = re.compile(
    r"\b(?:answer|choice|option)(s?)\b(?:\s+(?:\w+\s+)?(?:is|are|would be|should be)\b)?"
    rf"\W*({_LETTERS}|(?<=\()[a-h](?=\))|[b-h](?=\W*$|[.,;\n]))"
)
_BRACKETED = re.compile(r"[(\[]\s*([A-I])\s*[)\]]")
_LEADING = re.compile(r"\W*([A-I])(?:\s*[.):\]]|\s*$|\n)")
_LABEL = re.compile(r"(?<![A-Z'’])([A-I])(?:\s*[.):](?=\s*[^\s*_)\]])|\n)")
_CLAUSE_END = re.compile(
    r"([.,;:)\]\n]+(?!\s*(?:is|are|was|were|does|do|did|cannot be (?:right|correct)|and|or)\b)"
    r"|\b(?:but|so|because|since|as|while|whereas)\b)"
)
_REJECTION = re.compile(
    r"\b(?:(?:can)?not|neither|nor|never|except|instead|rather|wrong|incorrect|impossible|eliminated?|excluded?"
    r"|ruled? out)\b|n['’]t\b",
    re.IGNORECASE,
)


def read_letters(text: str) -> str:
    """Return the letters that a reply names as its answer, sorted and in upper case ("BD"), or "" if none can be read.

    This rule was written for this project, because LogicVista uses a language model to read the letters. The first of
    these forms that occurs is used:

    - a marked final answer that consists of letters, or an unmarked reply that consists of letters
    - letters after "answer" or a similar word
    - letters in brackets
    - a letter at the start
    - single capital letters

    For all forms except the first, clauses that reject something ("B is wrong", "not C") are removed before the search.
    The rule returns no letter if the reply names different letters, only lists the options, or joins letters with "or".
    """
    text = final_answers.after_thought(text)
    marked = final_answers.find(text)
    tail = re.split(r"\banswers?\s*:", text if marked is None else marked, flags=re.IGNORECASE)[-1]
    if digit := re.fullmatch(r"\W*([1-9])\W*", tail):  # one question has numbered options
        return digit[1]
    if listed := _LISTED.fullmatch(tail.strip()):
        return _letters(listed[1])
    text = "".join(part for part in _CLAUSE_END.split(text) if not _REJECTION.search(part))
    if stated := _STATED.findall(text):
        return _agreed({_stated(letters, bool(plural)) for plural, letters in stated})
    if bracketed := _BRACKETED.findall(text):
        return _agreed(set(bracketed))
    if leading := _LEADING.match(text):
        return _agreed({leading[1], *_LABEL.findall(text)})
    return _agreed(set(re.findall(_LETTER, text)))


def _stated(letters: str, is_plural: bool) -> str:
    """Return the letters that a statement names. Return "" if the letters are alternatives, or if the statement is
    plural but only one letter was found."""
    if re.search(r"\bor\b", letters):
        return ""
    named = _letters(letters)
    return "" if is_plural and len(named) < 2 else named


def _agreed(readings: set[str]) -> str:
    """Return the only reading, or "" if there are several readings or none."""
    return readings.pop() if len(readings) == 1 else ""


def judged_letters(text: str) -> str | None:
    """Apply VLMEvalKit's rule to a judge's reply: return the reply if it consists of upper-case letters, else None."""
    return text if text.isalpha() and text.isupper() else None


def same_letters(letters: str, answer: str) -> bool:
    """Return whether ``letters`` ("DB") are the letters of ``answer`` ("B, D"), in any order and case. Each letter must
    occur equally often in both.
    """
    truth = sorted(re.findall(r"\w", answer.lower()))
    return bool(truth) and sorted(letters.lower()) == truth


def _letters(text: str) -> str:
    """Return the sorted letters in a list. Return "" for three or more consecutive letters that start with A, because
    this list probably repeats the options."""
    letters = "".join(sorted(set(re.findall(r"\b[A-I]\b", text.upper()))))
    return "" if len(letters) > 2 and "ABCDEFGHI".startswith(letters) else letters
