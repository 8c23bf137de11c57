"""Rules for replies to CRPE's questions. They take the right letter as argument, because one of them accepts almost any
text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Reading = tuple[bool, str | None]
"""Whether a reply is right, and the option that it names (None: none of them)."""


def official(text: str, answer: str, options: Mapping[str, str]) -> Reading:
    """Return the authors' rule: the reply is the letter and nothing else, not even a full stop."""
    return text == answer, text if text in options else None


def vlmevalkit(text: str, answer: str, options: Mapping[str, str]) -> Reading:
    """VLMEvalKit's rule: the first character, if it is one of A to D or the whole reply. Any other reply is right if it
    contains the answer without its first four characters: if the answer is ``B``, every such reply is right."""
    letter = text[:1]
    if len(text) == 1 or letter in ("A", "B", "C", "D"):
        return letter == answer[:1], letter if letter in options else None
    return bool(text) and answer[4:].lower() in text.lower(), None


def lmms_eval(text: str, answer: str, options: Mapping[str, str]) -> Reading:
    """lmms-eval's rule: the option whose text occurs first in the reply without punctuation; else the whole reply is
    the letter, in any case."""
    cleaned = re.sub(r"[^\w\s]", "", text).strip()
    letters = {option.strip(): letter for letter, option in options.items()}
    found = re.search("|".join(map(re.escape, letters)), cleaned)
    read = letters[found.group()] if found else cleaned
    return read.lower() == answer.lower(), read.upper() if read.upper() in options else None


RULES: dict[str, Callable[[str, str, Mapping[str, str]], Reading]] = {
    "official": official,
    "vlmevalkit": vlmevalkit,
    "lmms_eval": lmms_eval,
}
