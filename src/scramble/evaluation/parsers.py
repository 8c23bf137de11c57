"""Reading yes/no replies and option letters by the rules that published numbers were computed with.

The rules disagree (a lower-case letter, ``**B**``, "I think it is B, not A"), so a result names its parser. Parsers
return None for what they cannot read; none guesses at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Options = Mapping[str, str]
"""Option letter -> option text, in letter order."""

# ------------------------------------------------------------------------------------------------------------- yes, no


def pope_official(text: str) -> str | None:
    """POPE's own rule: the first sentence says no if ``No``, ``not`` or ``no`` is one of its words, else yes.

    There is no unparsed class: an empty reply, ``Maybe`` and ``NO`` are all yes.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def exact(text: str) -> str | None:
    """lmms-eval's rule: the whole reply is ``yes`` or ``no``, in any case."""
    stripped = text.lower().strip()
    return stripped if stripped in ("yes", "no") else None


def words(text: str) -> str | None:
    """VLMEvalKit's rule: one of the words ``yes`` and ``no`` occurs, and the other does not."""
    from scramble.evaluation.vqa_accuracy import strip_punctuation

    found = set(strip_punctuation(text.lower()).split()) & {"yes", "no"}
    return found.pop() if len(found) == 1 else None


def first_match(text: str) -> str | None:
    """NaturalBench's rule: whichever of the words ``yes`` and ``no`` comes first."""
    match = re.search(r"\b(yes|no)\b", text, re.IGNORECASE)
    return match.group(1).lower() if match else None


YES_NO: dict[str, Callable[[str], str | None]] = {
    "pope_official": pope_official, "exact": exact, "words": words, "first_match": first_match,
}  # fmt: skip

# ------------------------------------------------------------------------------------------------------------- letters

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED = "Z"


def can_infer(text: str, options: Options) -> str | None:
    """VLMEvalKit's rules without its judge: a lone letter among the last five words, else a lone option text."""
    letter = _can_infer_letter(text, options) or _can_infer_text(text, options)
    return None if letter == REFUSED else letter


def _can_infer_letter(text: str, options: Options) -> str | None:
    if any(sentence in text for sentence in _REFUSALS):
        return REFUSED
    tokens = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    present = [letter for letter in options if letter in tokens]
    if len(present) == 1:
        if tokens.index(present[0]) > len(tokens) - 5:
            return present[0]
    elif not present and REFUSED in tokens:
        return REFUSED
    return None


def _can_infer_text(text: str, options: Options) -> str | None:
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    found = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return found[0] if len(found) == 1 else None


def startswith(text: str, options: Options) -> str | None:
    """SCRAMBLe's rule for ConMe and SEED: the letter that the upper-cased reply starts with."""
    return next((letter for letter in options if text.upper().startswith(letter.upper())), None)


def first_char(text: str, options: Options) -> str | None:
    """lmms-eval's rule for SEED-Bench: the first character of the stripped reply, if it is an option's letter."""
    first = text.strip()[:1]
    return first if first in options else None


def naturalbench_ab(text: str, options: Options) -> str | None:
    """NaturalBench's rule: whichever of the words ``A`` and ``B`` comes first, in any case."""
    match = re.search(r"\b([ab])\b", text, re.IGNORECASE)
    return match.group(1).upper() if match else None


def llava_sqa(text: str, options: Options) -> str | None:
    """LLaVA's rule for ScienceQA: a letter; ``X. ...``; or exactly one "The answer is X."."""
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    found = re.findall(r"The answer is ([A-Z])\.", text)
    return found[0] if len(found) == 1 and found[0] in options else None


LETTER: dict[str, Callable[[str, Options], str | None]] = {
    "can_infer": can_infer, "startswith": startswith, "first_char": first_char, "naturalbench_ab": naturalbench_ab,
    "llava_sqa": llava_sqa, "priority": can_infer,
}  # fmt: skip

# ------------------------------------------------------------------------------------------- before and after parsing

_REFUSES = re.compile(
    r"\b(cannot|can't|can not|unable to|not able to) (determine|answer|tell|see|help|process|identify)\b"
    r"|\b(neither|none) of (the|them|these)\b|\bneither \(?\w\)? nor\b|\bi('m| am) sorry\b|\bas an ai\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether an unparsed reply declines to answer ("I cannot determine", "None of the above", an apology)."""
    return _REFUSES.search(text) is not None


def final_answer(text: str) -> str:
    """What follows the last "Final answer:" of a chain of thought; the whole reply if it has none."""
    match = re.split(r"final answer\s*:?", text, flags=re.IGNORECASE)
    return match[-1].strip().strip("*$ ").strip() if len(match) > 1 else text
