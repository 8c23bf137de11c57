"""Counts the words of texts in any script, and defines patterns that split texts into words.

Chinese, Japanese, Thai, Lao, Burmese and Khmer have no spaces between words. In these scripts, each character counts as
a word, so that n-grams of words are n-grams of characters.
"""

from __future__ import annotations

import re

UNSPACED = (
    r"\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai, without digits and punctuation
    r"\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    r"\u1000-\u103f\u1050-\u109f"  # Burmese
    r"\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    r"\u3005-\u3007\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    r"\u3105-\u312f\u31a0-\u31bf"  # bopomofo
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
)
"""The characters of scripts without spaces between words, as the content of a character class (``[...]``)."""
MARKS = (
    r"\u0300-\u036f"  # combining accents
    r"\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670"  # vowel points of Hebrew and Arabic
    r"\u0900-\u0963\u0966-\u0dff"  # Devanagari to Sinhala, whose vowel signs do not match \w
)
"""Characters within words that ``\\w`` does not match, as the content of a character class."""

SPACED_WORD = rf"[^\W{UNSPACED}]+(?:[{MARKS}]+[^\W{UNSPACED}]*)*"
"""Pattern of a word in a script with spaces between words. In English texts, it matches the same words as ``\\w+``."""

_UNSPACED = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}]|{SPACED_WORD}")


def is_unspaced(text: str) -> bool:
    """Return whether a text contains a character of a script without spaces between words."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def word_count(text: str) -> int:
    """Return the number of words.

    Words are separated by white space. In scripts without spaces between words, each character counts as a word.
    """
    return len(_WORD.findall(text)) if is_unspaced(text) else len(text.split())
