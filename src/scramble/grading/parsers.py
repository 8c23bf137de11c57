"""Parse yes/no replies and option letters by the rules with which published numbers were computed.

The rules disagree, for example on a lower-case letter, on ``**B**`` and on "I think it is B, not A". Each result
therefore records the parser that was used. Parsers return None for replies that they cannot parse. No parser guesses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from scramble.grading.vqa_accuracy import strip_punctuation

Options = Mapping[str, str]
"""Mapping from the letters of the options, in order, to their texts."""

# ------------------------------------------------------------------------------------------------------------- yes, no


def pope_official(text: str) -> str | None:
    """Apply POPE's rule: return ``no`` if ``No``, ``not`` or ``no`` is a word of the first sentence, else ``yes``.

    Every reply is parsed. For example, an empty reply, ``Maybe`` and ``NO`` are read as yes.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def exact(text: str) -> str | None:
    """Apply lmms-eval's rule: the whole reply must be ``yes`` or ``no``, regardless of case."""
    stripped = text.lower().strip()
    return stripped if stripped in ("yes", "no") else None


def exact_case(text: str) -> str | None:
    """Apply AMBER's rule: the whole reply must be ``Yes`` or ``No``."""
    return text.lower() if text in ("Yes", "No") else None


def words(text: str) -> str | None:
    """Apply VLMEvalKit's rule: exactly one of the words ``yes`` and ``no`` must occur."""
    answers = set(strip_punctuation(text.lower()).split()) & {"yes", "no"}
    return answers.pop() if len(answers) == 1 else None


def first_match(text: str) -> str | None:
    """Apply NaturalBench's rule: return the word ``yes`` or ``no`` that occurs first."""
    match = re.search(r"\b(yes|no)\b", text, re.IGNORECASE)
    return match.group(1).lower() if match else None


YES_NO: dict[str, Callable[[str], str | None]] = {
    "pope_official": pope_official,
    "exact": exact,
    "exact_case": exact_case,
    "words": words,
    "first_match": first_match,
}

# ------------------------------------------------------------------------------------------------------------- letters

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED_LETTER = "Z"


def can_infer(text: str, options: Options) -> str | None:
    """Apply VLMEvalKit's rules without its judge.

    Return the only option whose letter is a word, if the letter is among the last four words. Otherwise return the
    letter after "answer is", or else the only option whose text occurs in a short reply.
    """
    letter = _can_infer_letter(text, options) or _can_infer_text(text, options)
    return None if letter == REFUSED_LETTER else letter


def _tokens(text: str) -> list[str]:
    return re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()


def _can_infer_letter(text: str, options: Options) -> str | None:
    if any(sentence in text for sentence in _REFUSALS):
        return REFUSED_LETTER
    tokens = _tokens(text)
    present = [letter for letter in options if letter in tokens]
    if len(present) == 1:
        if tokens.index(present[0]) > len(tokens) - 5:
            return present[0]
    elif not present and REFUSED_LETTER in tokens:
        return REFUSED_LETTER
    stated = re.search(r"answer\s+is\s+\**([A-D])", text, re.IGNORECASE)
    return stated.group(1).upper() if stated and stated.group(1).upper() in options else None


def _can_infer_text(text: str, options: Options) -> str | None:
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    return _only(_letters_by_text(text, options))


def _letters_by_text(text: str, options: Options) -> list[str]:
    return [letter for letter, option in options.items() if option.lower() in text.lower()]


def _only(letters: list[str]) -> str | None:
    return letters[0] if len(letters) == 1 else None


def lmms_hrbench(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for HR-Bench without its judge: return the only option whose letter is a word, else the
    only option whose text occurs."""
    if any(sentence in text for sentence in _REFUSALS):
        return None
    tokens = set(_tokens(text))
    present = [letter for letter in options if letter in tokens]
    if not present and REFUSED_LETTER in tokens:
        return None
    return _only(present) or _only(_letters_by_text(text, options))


_VSTAR_FORMS = (
    r"^([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


def lmms_vstar(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for V*: return the letter, from A to D, in the first of five forms that matches the
    upper-cased reply ("a cat" is read as A). If no form matches, return the only letter from A to D."""
    text = text.strip().upper()
    letter = next((match.group(1) for form in _VSTAR_FORMS if (match := re.search(form, text))), None)
    letter = letter or _only(re.findall(r"[A-D]", text))
    return letter if letter in options else None


def lmms_blink(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for BLINK: the letter at the start of the reply must be an option, regardless of case. A
    reply such as "The cat" starts with T and is therefore not parsed."""
    match = re.match(r"[(\s]*([A-Z])", text.strip(), re.IGNORECASE)
    return match.group(1).upper() if match and match.group(1).upper() in options else None


def lmms_scienceqa(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for ScienceQA: the reply must be an option's letter in upper or lower case, or start with
    the upper-case letter of an option and a full stop."""
    text = text.strip()
    letter = text.upper() if len(text) == 1 else text[0] if re.match(r"[A-Z]\.", text) else None
    return letter if letter in options else None


def startswith(text: str, options: Options) -> str | None:
    """Apply SCRAMBLe's rule for ConMe and SEED: return the letter with which the upper-cased reply starts."""
    return next((letter for letter in options if text.upper().startswith(letter.upper())), None)


def first_char(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for SEED-Bench: the stripped reply must start with the letter of an option."""
    first = text.strip()[:1]
    return first if first in options else None


def naturalbench_ab(text: str, options: Options) -> str | None:
    """Apply NaturalBench's rule: return the word ``A`` or ``B`` that occurs first, regardless of case."""
    match = re.search(r"\b([ab])\b", text, re.IGNORECASE)
    return match.group(1).upper() if match else None


def llava_sqa(text: str, options: Options) -> str | None:
    """Apply LLaVA's rule for ScienceQA: the reply must be a letter, start with a letter, a full stop and a space, or
    contain exactly one "The answer is X."."""
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    letter = _only(re.findall(r"The answer is ([A-Z])\.", text))
    return letter if letter in options else None


# Forms in which a letter is likely to be the answer, by decreasing weight. The weights 10, 9 and 7 are not listed here.
_PRIORITIES = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))
_PHRASES = (
    "answer is",
    "correct option is",
    "best option is",
    "choice is",
    "i choose",
    "i select",
    "i pick",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
)


def priority(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for MMStar and static MMBench: return the letter in the form with the highest weight.

    Only upper-case letters count. If several letters have the highest weight, the last of them is returned.

    ====== =====================================================
    weight form
    ====== =====================================================
    10     at the start
    9      at the end
    7      anywhere after "answer is" or a similar phrase
    6      in parentheses
    5      before a full stop
    4      before a colon
    3      before a right parenthesis
    2      before a space
    0      anywhere, even inside a word, if no other form occurs
    ====== =====================================================
    """
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    core, text = text.strip(), f" {text} "
    candidates: list[tuple[int, int, str]] = []
    for letter in options:
        if core.startswith(letter) and not core[1:2].isalpha():
            candidates.append((10, 0, letter))
        if core.endswith(letter) and not core[-2:-1].isalpha():
            candidates.append((9, len(text), letter))
        for phrase in _PHRASES:
            _, separator, rest = text.lower().partition(phrase)
            place = text.find(letter, len(text) - len(rest)) if separator else -1
            if place >= 0:
                candidates.append((7, place, letter))
        candidates.extend(
            (weight, text.rfind(form.format(letter)), letter)
            for weight, form in _PRIORITIES
            if form.format(letter) in text
        )
    candidates = candidates or [(0, text.rfind(letter), letter) for letter in options if letter in text]
    # If letters have equal weights and places, the option that is listed first wins, as with a stable sort.
    return max(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None


_MMVP_FORMS = (
    r"^\(?([ab])\)?\.?$",  # only the letter
    r"^\(?([ab])\)?[.\s]",  # at the start
    r"answer\s+is\s+\(?([ab])",
    r"option\s+\(?([ab])",
    r"([ab])\)?(?:\s|$)",  # at the end of any word
    r"^([ab])",
)


def mmvp(text: str, options: Options) -> str | None:
    """Apply lmms-eval's rule for MMVP: return A or B from the first of six forms that matches, regardless of case."""
    text = text.strip()
    for form in _MMVP_FORMS:
        if match := re.search(form, text, re.IGNORECASE):
            return match.group(1).upper()
    return None


def mmmu_official(text: str, options: Options) -> str | None:
    """Apply MMMU's rule without its random guess: return a letter in parentheses, else a letter between spaces, else,
    in a reply of more than five words, an option whose text occurs.

    If there are several candidates, the one that occurs last is returned.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", " {} "):
        places = {letter: text.rfind(form.format(letter)) for letter in options}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(text.split()) <= 5:
        return None
    places = {letter: text.lower().rfind(option.lower()) for letter, option in options.items()}
    return max(places, key=lambda letter: places[letter]) if max(places.values()) >= 0 else None


def m3cot(text: str, options: Options) -> str | None:
    """Apply M3CoT's rule: return the option in the first of these forms that occurs.

    - the last letter in parentheses
    - the text of an option
    - the capital letter of an option, as a word
    - the small letter of an option, as a word

    If several options occur in one of the last three forms, the option that is listed last is returned. Only the part
    after ``[Answer]`` and before ``[Rationale]`` or ``[Context]`` counts. If the last letter in parentheses is not an
    option, the reply is not parsed.
    """
    if "[Answer]" in text:
        text = text.split("[Answer]")[-1].split("[Rationale]")[0].split("[Context]")[0]
    if bracketed := re.findall(r"\(([A-Za-z])\)", text):
        letter = bracketed[-1].upper()
        return letter if letter in options else None
    words = re.sub(r"[\n.,!?]", " ", text).split(" ")
    for named in (
        _letters_by_text(text, options),
        [letter for letter in options if letter in words],
        [letter for letter in options if letter.lower() in words],
    ):
        if named:
            return named[-1]
    return None


def internvl(text: str, options: Options) -> str | None:
    """Apply InternVL's rule for ScienceQA and M3CoT, with which MPO's numbers were computed.

    Return the letter at the start ("A dog" is read as A), else the first option whose text occurs in the same case,
    else the letter in parentheses at the start.
    """
    text = text.strip()
    if text[:1] in options:
        return text[:1]
    if len(text) > 1:
        for letter, option in options.items():
            if option in text:
                return letter
    bracketed = re.match(r"\((.)\)", text)
    return bracketed[1] if bracketed and bracketed[1] in options else None


def wemath(text: str, options: Options) -> str | None:
    """Apply We-Math's rule: the first character after the last ``Answer``, without the signs ``<>:.``, must be a letter
    from A to H."""
    answer = re.sub(r"[<>:.]", "", text.split("Answer")[-1].strip()).strip()
    return answer[:1] if answer[:1] and answer[:1] in "ABCDEFGH" else None


LETTER: dict[str, Callable[[str, Options], str | None]] = {
    "can_infer": can_infer,
    "priority": priority,
    "startswith": startswith,
    "first_char": first_char,
    "mmvp": mmvp,
    "mmmu_official": mmmu_official,
    "naturalbench_ab": naturalbench_ab,
    "llava_sqa": llava_sqa,
    "lmms_hrbench": lmms_hrbench,
    "lmms_vstar": lmms_vstar,
    "lmms_blink": lmms_blink,
    "lmms_scienceqa": lmms_scienceqa,
    "m3cot": m3cot,
    "internvl": internvl,
    "wemath": wemath,
}

# ------------------------------------------------------------------------------------------------------------ refusals

_REFUSES = re.compile(
    r"\b(cannot|can't|can not|unable to|not able to) (determine|answer|tell|see|help|process|identify)\b"
    r"|\b(neither|none) of (the|them|these)\b|\bneither \(?\w\)? nor\b|\bi('m| am) sorry\b|\bas an ai\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return whether an unparsed reply declines to answer ("I cannot determine", "None of the above", an apology)."""
    return _REFUSES.search(text) is not None
