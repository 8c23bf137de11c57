"""Compute VQA accuracy by the rule sets with which published numbers were computed. The rule sets disagree, so each one
has a name.

The official rule set comes from the repository GT-Vision-Lab/VQA (Antol et al. 2015; Goyal et al. 2017).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The official pattern was meant to keep a full stop after a digit as well. Its look-behind has a typo, so only a digit
# after the full stop has an effect.
_STOP_NO_DIGIT_AFTER = re.compile(r"\.(?!\d)")
_STOP_NO_DIGIT_AROUND = re.compile(r"(?<!\d)\.(?!\d)")
_MOST_STOPS = 32  # the official call passes re.UNICODE (32) as the maximum number of substitutions

_CONTRACTIONS_WITH_ONE_MARK = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_CONTRACTIONS_WITH_TWO = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've you'd've y'all'll
"""


def _contraction_map() -> dict[str, str]:
    """Return the official dictionary, with its irregularities. It maps contractions without one of their apostrophes to
    the full contractions."""
    table = {}
    for full in (_CONTRACTIONS_WITH_ONE_MARK + _CONTRACTIONS_WITH_TWO).split():
        for k, mark in enumerate(full):
            if mark == "'":
                table[full[:k] + full[k + 1 :]] = full
    for full in ("'ow's'at", "y'all'd've"):
        for k, mark in enumerate(full):
            if mark == "'":
                table[full[:k] + full[k + 1 :]] = full
    table["somebody'd"] = "somebodyd"
    return table


_CONTRACTIONS = _contraction_map()


def strip_punctuation(text: str, stop: re.Pattern[str] = _STOP_NO_DIGIT_AFTER) -> str:
    """Remove each punctuation mark that occurs next to a space anywhere in the text; replace the others with spaces.

    If a number in the text contains a comma, all marks are removed. Full stops are removed if ``stop`` matches them.
    """
    drop_all = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        result = result.replace(mark, "" if drop_all or f"{mark} " in text or f" {mark}" in text else " ")
    return stop.sub("", result, count=_MOST_STOPS)


def _words(text: str) -> str:
    """Lower-case, convert number words to digits, drop articles, and restore the apostrophes of contractions."""
    words = (NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _clean(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def official(text: str) -> str:
    """Normalise an answer as the official code does."""
    return _words(strip_punctuation(_clean(text)))


def evalai(text: str) -> str:
    """Normalise an answer like EvalAI's answer processor, which LLaVA, InternVL and lmms-eval use.

    Unlike the official code, this function removes ``,`` and ``?`` without inserting a space, and separates ``'s`` from
    words.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(strip_punctuation(_clean(text)))


def vlmevalkit(text: str) -> str:
    """Normalise an answer as VLMEvalKit does. A full stop next to a digit is kept."""
    return _words(strip_punctuation(_clean(text), _STOP_NO_DIGIT_AROUND))


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Return the official accuracy in [0, 1]: the mean over annotators of min(matches with other annotators / 3, 1)."""
    matches = sum(answer == prediction for answer in answers)
    scores = [min((matches - (answer == prediction)) / 3, 1.0) for answer in answers]
    return sum(scores) / len(scores)


def _official_2021(prediction: str, answers: Sequence[str]) -> float:
    prediction, cleaned = _clean(prediction), [_clean(a) for a in answers]
    if len(set(cleaned)) > 1:  # unanimous answers are compared unchanged
        prediction, cleaned = _words(strip_punctuation(prediction)), [_words(strip_punctuation(a)) for a in cleaned]
    return leave_one_out(prediction, cleaned)


def _official_2017(prediction: str, answers: Sequence[str]) -> float:
    processed = list(answers)
    if len(set(processed)) > 1:
        processed = [strip_punctuation(a) for a in processed]
    return leave_one_out(official(prediction), processed)


def _always(normalise: Callable[[str], str]) -> Callable[[str, Sequence[str]], float]:
    return lambda prediction, answers: leave_one_out(normalise(prediction), [normalise(a) for a in answers])


def _molmo(prediction: str, answers: Sequence[str]) -> float:
    normalised = official(prediction)
    return min(sum(official(a) == normalised for a in answers) / 3, 1.0)


PROTOCOLS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "always_normalise": _always(official),
    "official_2021": _official_2021,
    "official_2017": _official_2017,
    "evalai": _always(evalai),
    "vlmevalkit": _always(vlmevalkit),
    "molmo": _molmo,
}


def vqa_accuracy(prediction: str, answers: Sequence[str], protocol: str = "always_normalise") -> float:
    """Return the accuracy in percent of a prediction against the annotators' answers.

    VQAv2, OK-VQA and TextVQA have ten answers per question. The protocols are:

    - ``always_normalise`` (default): :func:`official` on both sides and :func:`leave_one_out`
    - ``official_2021``: as ``always_normalise``, but texts are normalised only if the annotators' answers differ
    - ``official_2017``: as ``always_normalise``, but only the punctuation of the annotators' answers is removed, and
      only if the answers differ
    - ``evalai`` and ``vlmevalkit``: as ``always_normalise``, but with :func:`evalai` or :func:`vlmevalkit`
    - ``molmo``: :func:`official` on both sides, and min(matches / 3, 1) over all annotators

    Raises:
        ValueError: there are no answers, or the protocol is unknown.
    """
    if not answers:
        raise ValueError("a VQA accuracy needs at least one annotated answer")
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown VQA accuracy protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return 100 * PROTOCOLS[protocol](prediction, answers)


def exact_match(prediction: str, answer: str) -> bool:
    """Return whether two answers are equal regardless of case and punctuation, as lmms-eval computes it for GQA."""
    strip = re.compile(r"[^\w\s]")
    return " ".join(strip.sub("", prediction.lower()).split()) == " ".join(strip.sub("", answer.lower()).split())
