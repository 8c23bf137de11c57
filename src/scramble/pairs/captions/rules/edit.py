"""Apply changes to a parsed caption to create a negative, with correct articles, verb forms and capitals.

All changes refer to character offsets of the original text, so that overlapping changes are detected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from scramble.language.inflect import agree, article, capitalised, decapitalised
from scramble.language.parse import Phrase, Sentence
from scramble.pairs.base import Negative
from scramble.records import Edit

TextChange = tuple[int, int, str]  # start, end (characters), new text
_NAMES = frozenset({"tv", "suv", "wii", "frisbee", "jeep"})  # a replacement does not keep the capital of a name
_REPEATED = re.compile(r"\b([a-z]{3,})(?: and| or|,|,? and|,? or)? \1\b")


def is_title(s: Sentence, token: int) -> bool:
    """Return whether a token is capitalised although its word usually is not, as in a title."""
    return s.text[s.start[token]].isupper() and s.lower[token].removesuffix("s") not in _NAMES


def span_change(s: Sentence, first: int, last: int, new: str) -> TextChange:
    """Return the replacement of tokens ``first`` to ``last`` with words of the caption.

    A capital that the position requires is kept.
    """
    return s.start[first], s.end[last], capitalised(new) if first in s.opening else new


def word_change(s: Sentence, first: int, last: int, new: str) -> TextChange:
    """Return the replacement of tokens ``first`` to ``last`` with new words in the letter case of the old words."""
    old = s.span(first, last)
    if len(old) > 1 and old.isupper() and is_title(s, first):
        new = new.upper()
    elif first in s.opening or is_title(s, first):
        new = s.styled(capitalised(new))
    return s.start[first], s.end[last], new


def moved_text(s: Sentence, first: int, last: int) -> str:
    """Return the text of tokens without a capital that only their position in the caption requires."""
    text = s.span(first, last)
    if first not in s.opening:
        return text
    return decapitalised(text, keep=s.tag[first] in ("NNP", "NNPS") or len(s.lower[first]) >= s.headline)


def article_change(s: Sentence, token: int, next_word: str) -> list[TextChange]:
    """Return the change of "a" or "an" before ``token`` to agree with ``next_word``, or [] if it already agrees."""
    if token == 0 or s.lower[token - 1] not in ("a", "an"):
        return []
    right = article(next_word)
    return [] if right == s.lower[token - 1] else [word_change(s, token - 1, token - 1, right)]


def agreement_changes(s: Sentence, phrase: Phrase, to_plural: bool) -> list[TextChange] | None:
    """Return the changes that make finite verbs agree with a phrase that becomes plural or singular.

    Return None if the sentence is too complex to correct.
    """
    if s.reciprocal or s.pronoun:
        return None
    heads = (phrase.slot, phrase.last)
    governors = {s.head[i] for i in heads if s.dep[i] in ("nsubj", "nsubjpass")}
    for i, dep in enumerate(s.dep):
        if s.head[i] in heads and dep == "conj":
            return None
        if s.head[i] in heads and dep == "relcl":
            governors.add(i)
    changes = []
    for i, tag in enumerate(s.tag):
        finite = tag in ("VBZ", "VBP") or s.lower[i] in ("was", "were")
        if not finite:
            continue
        verb = s.head[i] if s.dep[i] in ("aux", "auxpass") else i
        if i in governors or verb in governors:
            new = agree(s.lower[i], to_plural)
            right = _shows_plural(s.lower[i], tag) == to_plural
            if right and not phrase.partitive:
                return None  # the dependency arcs contradict the word forms
            if not right and i > phrase.last and _joined_subject(s, phrase):
                return None
            if not right and new != s.lower[i]:
                changes.append(word_change(s, i, i, new))
        elif not any(s.head[j] in (i, verb) and s.dep[j] in ("nsubj", "nsubjpass", "csubj") for j in range(len(s.dep))):
            return None  # a verb whose subject is unknown
    return changes


def _joined_subject(s: Sentence, phrase: Phrase) -> bool:
    """Return whether a phrase ends a coordinated subject, with which the verb agrees: "a man and two dogs are"."""
    if not phrase.first or s.lower[phrase.first - 1] not in ("and", "or", "&"):
        return False
    return not any(tag[:1] == "V" for tag in s.tag[: phrase.first])


def _shows_plural(verb: str, tag: str) -> bool:
    return verb in ("are", "were", "have", "do") or (tag == "VBP" and verb not in ("is", "was", "has", "does"))


def apply_changes(s: Sentence, changes: Sequence[TextChange], kind: str, rule: str, weight: float) -> Negative | None:
    """Apply changes, in any order, to create a negative.

    Return None if the changes overlap, affect a negated word, do not change the text, or repeat a word around "and" or
    "or".
    """
    if s.negated and any(
        start < s.end[i] and s.start[i] < max(end, start + 1) for i in s.negated for start, end, _ in changes
    ):
        return None
    parts: list[str] = []
    edits: list[Edit] = []
    at = length = 0
    for start, end, new in sorted(changes):
        if start < at:
            return None
        keep = s.text[at:start]
        length += len(keep)
        edits.append(Edit((start, end), (length, length + len(new))))
        parts += (keep, new)
        length += len(new)
        at = end
    parts.append(s.text[at:])
    text = "".join(parts)
    old, new = s.text.casefold(), text.casefold()
    if new == old:
        return None
    if kind.startswith("swap") or " and " in new or " or " in new or "," in new:  # other texts skip the slow search
        repeated = _REPEATED.search(new)  # "orange and orange"
        if repeated and repeated[0] not in old:
            return None
    return Negative(text, kind, rule, tuple(edits), weight)
