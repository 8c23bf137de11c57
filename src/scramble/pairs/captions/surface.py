"""Normalise the form of both sides of a pair, and detect texts that are not captions.

The generators of earlier data sets changed case or spacing only in the negatives, and a classifier that used only case
and spacing recognised nine of ten negatives. Therefore :func:`normalise` is applied to both sides.
"""

from __future__ import annotations

import re
import unicodedata

from scramble.language.inflect import word_set

MIN_WORDS, MAX_WORDS = 3, 60  # minimum and maximum number of words of a usable caption

_SPACES = re.compile(r"\s+")
_BEFORE_PUNCTUATION = re.compile(r"\s+([,.;:!?)\]])")
_IRREGULAR = re.compile(r"[^ -~]|  | [,.;:!?)\]]|[\s,;:.\-!?][.!?]$")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SENTENCE = re.compile(r"[.!?]['\")]? +['\"(]?[a-z]")
_DANGLING = re.compile(r"[\s,;:.\-]+$")
_URL = re.compile(r"(?:https?://|www\.)\S|\b\w+\.(?:com|org|net|jpg|png)\b", re.IGNORECASE)
_HTML = re.compile(r"<[a-zA-Z/!][^>]*>|&[a-z]+;")
_TOKEN = re.compile(r"<\|[^<>|]*\|>|\[/?INST\]")  # chat markup, which a tokenizer encodes as special tokens
_ENGLISH = word_set("""
    a an the of on in with and is are to at by for from near that two some several his her its their sits
    standing sitting man woman people there next front while has group people this
    above below beside behind beneath between through across around along beyond against into onto down inside outside
    and not she they who which these those both each three four
    green blue white black brown yellow grey gray small big little old young short
""")


def normalise(text: str) -> str:
    """Return a caption in a common form: single spaces, an initial capital, and a final punctuation mark.

    The words and their order do not change. Other capitals change only if all letters of the text are capitals. The
    function is idempotent: ``normalise(normalise(x)) == normalise(x)``.
    """
    if text[:1].isupper() and text[-1] in ".!?" and not _IRREGULAR.search(text) and not text.isupper():
        return text
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text).replace("’", "'").replace("“", '"').replace("”", '"'))
    text = _BEFORE_PUNCTUATION.sub(r"\1", text.strip())
    final = text[-1:] if text[-1:] in "!?" else "."
    text = _DANGLING.sub("", text.rstrip("!?")) + final
    letters = [c for c in text if c.isalpha()]
    if len(letters) > 8 and all(c.isupper() for c in letters):
        text = _SENTENCE.sub(lambda match: match[0].upper(), text.lower())
    return text[:1].upper() + text[1:]


def problem(text: str) -> str:
    """Return the reason why a text cannot be used as an English caption, or "" if it can be used."""
    words = re.findall(r"[^\W\d_]+(?:'\w+)?", text)
    if not text.strip():
        return "empty"
    if _CONTROL.search(text) or (not text.isascii() and _has(text, ("Cc", "Cf", "Cs", "Co"))):
        return "control characters"
    if _URL.search(text):
        return "contains a URL"
    if _TOKEN.search(text):
        return "contains a control token"
    if _HTML.search(text):
        return "contains HTML"
    if not words:
        return "no words"
    if not text.isascii() and _has(text, ("So",)):
        return "contains emoji or symbols"
    if text.rstrip().endswith("?"):
        return "a question"
    if len(words) > MAX_WORDS:
        return f"more than {MAX_WORDS} words"
    if len(words) < MIN_WORDS:
        return f"fewer than {MIN_WORDS} words"
    if len({w.lower() for w in words}) == 1:
        return "one word repeated"
    return "" if _looks_english(text, words) else "not English"


def _has(text: str, categories: tuple[str, ...]) -> bool:
    return any(unicodedata.category(c) in categories and c not in "\n\t\r" for c in text)


def _looks_english(text: str, words: list[str]) -> bool:
    if not text.isascii():
        letters = [c for c in text if c.isalpha()]
        if sum(c.isascii() for c in letters) < 0.9 * len(letters):
            return False
    return any(w.lower() in _ENGLISH for w in words)
