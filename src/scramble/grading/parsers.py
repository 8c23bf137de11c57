"""Parse yes/no replies and option letters by the rules with which published numbers were computed.

The rules disagree (on a lower-case letter, ``**B**``, "I think it is B, not A"), so a result records its parser.
Parsers return None for replies that they cannot parse; no parser guesses at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from scramble.grading import final_answers

Options = Mapping[str, str]
"""Option letter -> option text, in letter order."""

# ------------------------------------------------------------------------------------------------------------- yes, no


def pope_official(text: str) -> str | None:
    """POPE's own rule: ``no`` if ``No``, ``not`` or ``no`` is a word of the first sentence, else ``yes``.

    Every reply is parsed: an empty reply, ``Maybe`` and ``NO`` are all read as yes.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def exact(text: str) -> str | None:
    """lmms-eval's rule: the whole reply is ``yes`` or ``no``, in any case."""
    stripped = text.lower().strip()
    return stripped if stripped in ("yes", "no") else None


def exact_case(text: str) -> str | None:
    """AMBER's rule: the reply is ``Yes`` or ``No``, with nothing before or after it."""
    return text.lower() if text in ("Yes", "No") else None


def words(text: str) -> str | None:
    """VLMEvalKit's rule: exactly one of the words ``yes`` and ``no`` occurs."""
    from scramble.grading.vqa_accuracy import strip_punctuation

    answers = set(strip_punctuation(text.lower()).split()) & {"yes", "no"}
    return answers.pop() if len(answers) == 1 else None


def first_match(text: str) -> str | None:
    """NaturalBench's rule: the first of the words ``yes`` and ``no``."""
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
REFUSED = "Z"


def can_infer(text: str, options: Options) -> str | None:
    """VLMEvalKit's rules without its judge: a single letter among the last five words, else a single option text."""
    letter = _can_infer_letter(text, options) or _can_infer_text(text, options)
    return None if letter == REFUSED else letter


def _tokens(text: str) -> list[str]:
    return re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()


def _can_infer_letter(text: str, options: Options) -> str | None:
    if any(sentence in text for sentence in _REFUSALS):
        return REFUSED
    tokens = _tokens(text)
    present = [letter for letter in options if letter in tokens]
    if len(present) == 1:
        if tokens.index(present[0]) > len(tokens) - 5:
            return present[0]
    elif not present and REFUSED in tokens:
        return REFUSED
    stated = re.search(r"answer\s+is\s+\**([A-D])", text, re.IGNORECASE)
    return stated.group(1).upper() if stated and stated.group(1).upper() in options else None


def _can_infer_text(text: str, options: Options) -> str | None:
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    letters = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return letters[0] if len(letters) == 1 else None


def lmms_hrbench(text: str, options: Options) -> str | None:
    """lmms-eval's rule for HR-Bench, without its judge: a single letter at any place, else a single option text."""
    if any(sentence in text for sentence in _REFUSALS):
        return None
    tokens = set(_tokens(text))
    if len(named := [letter for letter in options if letter in tokens]) == 1:
        return named[0]
    if not named and REFUSED in tokens:
        return None
    letters = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return letters[0] if len(letters) == 1 else None


_VSTAR_FORMS = (
    r"^([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


def lmms_vstar(text: str, options: Options) -> str | None:
    """lmms-eval's rule for V*: a letter of A to D in the first of five forms that the upper-cased reply has ("a cat" is
    A), or the only such letter."""
    text = text.strip().upper()
    found = next((match.group(1) for form in _VSTAR_FORMS if (match := re.search(form, text))), None)
    if found is None and len(letters := re.findall(r"[A-D]", text)) == 1:
        found = letters[0]
    return found if found in options else None


def lmms_blink(text: str, options: Options) -> str | None:
    """lmms-eval's rule for BLINK: the first letter of the reply, in any case ("The cat" is T, not an option)."""
    match = re.match(r"[(\s]*([A-Z])", text.strip(), re.IGNORECASE)
    return match.group(1).upper() if match and match.group(1).upper() in options else None


def lmms_scienceqa(text: str, options: Options) -> str | None:
    """lmms-eval's rule for ScienceQA: a letter in any case, or a capital letter with a full stop at the start."""
    text = text.strip()
    letter = text.upper() if len(text) == 1 else text[0] if re.match(r"[A-Z]\.", text) else None
    return letter if letter in options else None


def startswith(text: str, options: Options) -> str | None:
    """SCRAMBLe's rule for ConMe and SEED: the letter that the upper-cased reply starts with."""
    return next((letter for letter in options if text.upper().startswith(letter.upper())), None)


def first_char(text: str, options: Options) -> str | None:
    """lmms-eval's rule for SEED-Bench: the first character of the stripped reply, if it is an option's letter."""
    first = text.strip()[:1]
    return first if first in options else None


def naturalbench_ab(text: str, options: Options) -> str | None:
    """NaturalBench's rule: the first of the words ``A`` and ``B``, in any case."""
    match = re.search(r"\b([ab])\b", text, re.IGNORECASE)
    return match.group(1).upper() if match else None


def llava_sqa(text: str, options: Options) -> str | None:
    """LLaVA's rule for ScienceQA: a letter; ``X. ...``; or exactly one "The answer is X."."""
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    letters = re.findall(r"The answer is ([A-Z])\.", text)
    return letters[0] if len(letters) == 1 and letters[0] in options else None


# Forms in which a letter is likely to be the answer, by decreasing weight; 9 (at the end) is tested separately.
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
    """lmms-eval's rule for MMStar and static MMBench: the letter in the form of highest weight; of several such
    letters, the last one.

    Only upper-case letters count. The weights are 10 at the start, 9 at the end, 7 anywhere after "answer is" or a
    similar phrase, 6 in parentheses, 5 before a full stop, 4 before a colon, 3 before a right parenthesis, and 2 before
    a space. If no form occurs, letters count anywhere, even inside words.
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
    # Among letters of equal weight and place, the one that is listed first wins, as with a stable sort.
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
    """lmms-eval's rule for MMVP: A or B in any case, in the first of six forms that matches."""
    text = text.strip()
    for form in _MMVP_FORMS:
        if match := re.search(form, text, re.IGNORECASE):
            return match.group(1).upper()
    return None


def mmmu_official(text: str, options: Options) -> str | None:
    """MMMU's rule without its random guess: ``(A)``, else `` A ``, else (in more than five words) an option's text.

    Of several candidates the last one counts.
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
    """M3CoT's rule: the last letter in brackets, else the last option whose text occurs, else the last option whose
    letter is a word, as a capital letter or else as a small one.

    "Last" means last in the text for brackets and last in the list of options for the other forms. Only the part after
    ``[Answer]`` counts, up to ``[Rationale]`` or ``[Context]``. If the last bracketed letter is not an option, the
    reply is unparsed.
    """
    if "[Answer]" in text:
        text = text.split("[Answer]")[-1].split("[Rationale]")[0].split("[Context]")[0]
    if bracketed := re.findall(r"\(([A-Za-z])\)", text):
        letter = bracketed[-1].upper()
        return letter if letter in options else None
    words = re.sub(r"[\n.,!?]", " ", text).split(" ")
    for named in (
        [letter for letter, option in options.items() if option.lower() in text.lower()],
        [letter for letter in options if letter in words],
        [letter for letter in options if letter.lower() in words],
    ):
        if named:
            return named[-1]
    return None


def internvl(text: str, options: Options) -> str | None:
    """InternVL's rule for ScienceQA and M3CoT, with which MPO's numbers were computed: a letter at the start ("A dog"
    is A), else the first option whose text occurs (case-sensitive), else a bracketed letter at the start."""
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
    """We-Math's rule: the first character, a letter of A to H, after the last ``Answer`` and the signs ``<>:.``"""
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

# ------------------------------------------------------------------------------------------- before and after parsing

_REFUSES = re.compile(
    r"\b(cannot|can't|can not|unable to|not able to) (determine|answer|tell|see|help|process|identify)\b"
    r"|\b(neither|none) of (the|them|these)\b|\bneither \(?\w\)? nor\b|\bi('m| am) sorry\b|\bas an ai\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return whether an unparsed reply declines to answer ("I cannot determine", "None of the above", an apology)."""
    return _REFUSES.search(text) is not None


COT_ANSWERS = ("marked", "internvl", "reply")
"""Where the answer of a chain of thought is read: after the mark of a final answer in any of the usual forms, by
InternVL's rule, or in the whole reply."""


def final_answer(text: str) -> str:
    """Return the unwrapped final answer of a chain of thought; the whole reply if no answer is marked."""
    answer = final_answers.find(text)
    return text if answer is None else answer


def internvl_answer(text: str) -> str:
    """InternVL's rule for a chain of thought: the rest of the line after the first ``Final answer:`` or ``Answer:``;
    the whole reply if there is none."""
    match = re.search(r"(?:final answer:|answer:)\s*(.*)", text, re.IGNORECASE)
    return match[1].strip() if match else text


def final_yes_no(text: str, parser: str) -> str | None:
    """``yes`` or ``no`` in the final answer of a chain of thought; an ambiguous answer is left to the parser."""
    answer = final_answers.find(text)
    result = final_answers.yes_no(answer) if answer is not None else None
    return result or YES_NO[parser](final_answers.after_thought(text) if answer is None else answer)


def final_letter(text: str, options: Options, parser: str) -> str | None:
    """Return the option in the final answer of a chain of thought; an ambiguous answer is left to the parser."""
    answer = final_answers.find(text)
    result = final_answers.letter(answer, options) if answer is not None else None
    return result or LETTER[parser](final_answers.after_thought(text) if answer is None else answer, options)
