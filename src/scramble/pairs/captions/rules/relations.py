"""Find the relations of a caption, which are verbs and prepositions between noun phrases."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from scramble.language.parse import Phrase, Sentence

_SKIPPED = frozenset({"DT", "PRP$", "PDT", "RB", "RBR", "MD", "WDT", "WP", "EX", "CD", "JJ", "PRP", "POS"})
AUXILIARY = frozenset({"is", "are", "was", "were", "be", "been", "being", "has", "have", "'s", "that", "which", "who"})
# Parts of prepositions, which taggers often tag as adverbs or adjectives.
_RELATIONAL = frozenset(
    {"next", "away", "out", "off", "above", "below", "behind", "inside", "outside", "front", "top", "under"}
)
_ENDING = re.compile(r"(?:ing|ed|es|s|e)$")
_SUBJECTS = frozenset({"nsubj", "nsubjpass"})

CaptionRelation = tuple[Phrase | None, str, Phrase | None]
# ("left" or "right", words of a relation) or ("adjective", "partitive" or "quantity", word)
Place = tuple[str, str]


def caption_relations(s: Sentence, new: Mapping[int, str] = MappingProxyType({})) -> Iterator[CaptionRelation]:
    """Yield the relations of a caption: the phrase before, the words (verb stems, prepositions), and the phrase after.

    The words of a relation are between two consecutive phrases. The phrase before is the phrase on which the first of
    these words depends, if any: in "a man in a hat riding a horse", the man rides. Coordinations are not relations.

    Args:
        new: words that replace tokens of the caption. "" removes a token.
    """
    owner = {i: p for p in s.phrases for i in range(p.first, p.last + 1)}
    for index, phrase in enumerate(s.phrases):
        following = s.phrases[index + 1] if index + 1 < len(s.phrases) else None
        end = following.first if following is not None else len(s.tag)
        tokens = [i for i in range(phrase.last + 1, end) if i not in owner and _relates(s, i)]
        if tokens and s.tag[tokens[0]] != "CC":
            words = " ".join(filter(None, (_stem(s, i, new.get(i, s.lower[i])) for i in tokens if s.tag[i] != "CC")))
            yield _governor(s, tokens[0], phrase, owner), words, following


def _relates(s: Sentence, i: int) -> bool:
    if s.lower[i] in _RELATIONAL:
        return True
    return s.tag[i][0].isalpha() and s.tag[i] not in _SKIPPED and s.lower[i] not in AUXILIARY


def _stem(s: Sentence, i: int, word: str) -> str:
    if not s.tag[i].startswith("V"):
        return word
    stem = _ENDING.sub("", word) or word
    return stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "sl" else stem


def verb_stem(s: Sentence, i: int, word: str) -> str:
    """Return "to" and the stem of a verb, so that the verb cannot be confused with a noun such as "herd"."""
    return f"to {_stem(s, i, word)}"


def _governor(s: Sentence, first: int, nearest: Phrase, owner: dict[int, Phrase]) -> Phrase:
    """Return the phrase that governs a verb or preposition in the parse, or else the nearest phrase before it."""
    token = first
    for _ in range(4):
        if s.tag[token].startswith("V"):
            subjects = [i for i, dep in enumerate(s.dep) if s.head[i] == token and dep in _SUBJECTS and i in owner]
            if subjects:
                return owner[subjects[0]]
        head = s.head[token]
        if head == token or head > first:
            break
        if head in owner:
            return owner[head] if owner[head].last < first else nearest
        token = head
    return nearest


def nearest_place(place: Place) -> Place:
    """Return the place with only the word of the relation that is nearest to the noun.

    To the right of a relation that ends with "of" or "to", the last two words are used ("next to").
    """
    side, words = place
    if side in ("adjective", "partitive"):
        return place
    if side == "left":
        return "nearest left", words.split(" ")[0]
    last = words.split(" ")[-2:]
    return "nearest right", " ".join(last if last[-1] in ("of", "to") else last[-1:])
