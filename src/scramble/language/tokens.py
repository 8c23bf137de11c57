"""Split an English text into words and punctuation marks as in the Penn Treebank.

On ordinary sentences, the result equals the result of ``nltk.word_tokenize``. One rule replaces NLTK's sentence
splitter: a full stop before a space ends a sentence, unless the full stop belongs to an abbreviation.
"""

from __future__ import annotations

import re

_ABBREVIATION = r"(?:\b(?:mr|mrs|ms|dr|st|vs|etc|jr|sr|prof|no|fig)|\b\w|\.\w+)"
_CLITICS = r"n't|'(?:s|m|d|ll|re|ve)"
_STEPS = [
    (re.compile(pattern, re.IGNORECASE), form)
    for pattern, form in (
        (r"[«“‘„»”’\u2012-\u2015]|`+", r" \g<0> "),
        (r'(^|[\s(\[{<])(?:"|\'\')', r"\1 `` "),
        (r"\"|''", " '' "),
        # A quotation mark before a word opens a quotation, unless it starts a clitic.
        (r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        (r"\.{2,}|--|[;@#$%&?!*\[\](){}<>]", r" \g<0> "),
        (r"[:,](?!\d)", r" \g<0> "),
        (r"(?<!\.)\.(?=[\]\)}>\"'»”’ ]*$)", " . "),
        (r"(?<![\s.])\.(?=[\]\)}>\"'»”’]*\s)", "\x00"),
        (rf"({_ABBREVIATION})\x00", r"\1."),
        (r"\x00", " . "),
        (rf"(?<=[^\s'])({_CLITICS}|')(?=\s|$)", r" \1"),
        (r"\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(wan)(na)\b", None),
    )
]


def words(text: str) -> list[str]:
    """Return the tokens of a text."""
    for pattern, form in _STEPS:
        text = pattern.sub(_halves if form is None else form, text)
    return text.split()


def _halves(match: re.Match[str]) -> str:
    """Separate the two halves of a contraction with a space."""
    return " ".join(part for part in match.groups() if part)
