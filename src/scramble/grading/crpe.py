"""Grade replies to CRPE's questions.

The rules take the right letter as an argument, because VLMEvalKit's rule can accept a reply that names no option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Reading = tuple[bool, str | None]
"""Whether a reply is right, and the letter of the option that the reply names (None if it names no option)."""


def official(text: str, answer: str, options: Mapping[str, str]) -> Reading:
    """Apply the authors' rule: a right reply is the letter and nothing else, not even a full stop."""
    return text == answer, text if text in options else None


def vlmevalkit(text: str, answer: str, options: Mapping[str, str]) -> Reading:
    """Apply VLMEvalKit's rule: the first character is the answer if it is one of A to D or the whole reply.

    Any other reply is right if it contains what remains of the right answer after its first four characters. If the
    right answer is ``B``, nothing remains, so any other reply is right unless it is empty.
    """
    letter = text[:1]
    if len(text) == 1 or letter in ("A", "B", "C", "D"):
        return letter == answer[:1], letter if letter in options else None
    return bool(text) and answer[4:].lower() in text.lower(), None


def lmms_eval(text: str, answer: str, options: Mapping[str, str]) -> Reading:
    """Apply lmms-eval's rule: the answer is the option whose text occurs first in the reply without punctuation. If no
    option's text occurs, the whole reply must be a letter, regardless of case."""
    cleaned = re.sub(r"[^\w\s]", "", text).strip()
    letters = {option.strip(): letter for letter, option in options.items()}
    match = re.search("|".join(map(re.escape, letters)), cleaned)
    read = letters[match.group()] if match else cleaned
    return read.lower() == answer.lower(), read.upper() if read.upper() in options else None


RULES: dict[str, Callable[[str, str, Mapping[str, str]], Reading]] = {
    "official": official,
    "vlmevalkit": vlmevalkit,
    "lmms_eval": lmms_eval,
}
