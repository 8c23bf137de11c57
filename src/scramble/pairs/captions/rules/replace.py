"""Replacements: one word of the caption is replaced by a word that cannot be true of the same object.

Objects are replaced by co-hyponyms, attributes by others of their class, verbs and spatial relations by ones that
exclude them, and number words by other numbers. A word is never replaced by a synonym, a hypernym, or a word with a
similar meaning, or by one that the user's captions hardly ever have in such a place. A candidate's weight is the
frequency of its new word, see :mod:`scramble.language.lexicon`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scramble.language.inflect import plural
from scramble.language.lexicon import Adjective, Lexicon, Noun
from scramble.language.parse import Phrase, Sentence
from scramble.pairs.base import Negative
from scramble.pairs.captions.rules.edit import article_change, build, word_change
from scramble.pairs.captions.rules.plausibility import MIN_REPLACEMENT_LIFT, SelectionalTables

_NUMBERS = {"two": 200.0, "three": 54.0, "four": 15.0, "five": 5.0, "six": 3.0}
_GENDERED = frozenset({"man", "woman", "boy", "girl"})
_ONE_GENDER = frozenset({"pregnant", "bearded", "bikini"})


def replacements(
    s: Sentence, lexicon: Lexicon, tables: SelectionalTables | None = None, min_lift: float = MIN_REPLACEMENT_LIFT
) -> list[Negative]:
    """All replacement candidates of a parsed caption.

    Args:
        tables: counts of the user's captions. A new word with a lower log-lift than ``min_lift`` in its place is not
            used. With None all are used.
    """
    fits = _Fits(tables, min_lift)
    negatives: list[Negative | None] = []
    lemmas = {p.noun.lemma for p in s.phrases if p.noun is not None}
    for index, phrase in enumerate(s.phrases):
        if phrase.proper:
            continue
        if phrase.noun is not None:
            negatives += _replace_object(s, phrase, phrase.noun, lemmas, lexicon, fits)
        negatives += _replace_attributes(s, phrase, lexicon, fits)
        negatives += _replace_number(s, phrase)
        negatives += _replace_relation(s, phrase, lexicon, fits)
        before = s.phrases[index - 1] if index else None
        negatives += _replace_verb(s, phrase, before, lexicon, fits)
    return [negative for negative in negatives if negative is not None]


@dataclass(frozen=True, slots=True)
class _Fits:
    """Whether a new word is plausible in its place according to the user's captions."""

    tables: SelectionalTables | None
    min_lift: float

    def noun(self, s: Sentence, phrase: Phrase, noun: Noun) -> bool:
        return self.tables is None or self.tables.noun_lift(s, phrase, noun) >= self.min_lift

    def adjective(self, phrase: Phrase, adjective: Adjective) -> bool:
        if self.tables is None:
            return True
        if phrase.noun is None:
            return adjective.cls != "state"  # "rocky conditions"
        return (
            self.tables.has_attribute(adjective, phrase.noun)
            and self.tables.attribute_lift(adjective.word, phrase) >= self.min_lift
        )

    def relation(self, s: Sentence, first: int, last: int, words: str) -> bool:
        new = {first: words, **dict.fromkeys(range(first + 1, last + 1), "")}
        return self.tables is None or self.tables.relation_lift(s, new) >= self.min_lift


def _replace_object(
    s: Sentence, phrase: Phrase, noun: Noun, lemmas: set[str], lexicon: Lexicon, fits: _Fits
) -> list[Negative | None]:
    others = lexicon.noun_swaps.get(noun.lemma, [])
    first = phrase.last
    if not others or (noun.lemma in _GENDERED and (s.pronoun or not _ONE_GENDER.isdisjoint(s.lower))):
        return []
    if phrase.nominal < phrase.last:
        if f"{s.lower[first - 1]} {s.lower[first]}" not in lexicon.nouns:
            return []  # a compound that is not in the lexicon: the valid replacements of its head are unknown
        first -= 1
        if first > phrase.nominal:
            return []
    if first > 0 and f"{s.lower[first - 1]} {s.lower[first]}" in lexicon.phrases["frozen"]:
        return []
    bare = not phrase.plural and not phrase.opener and phrase.number < 0
    negatives: list[Negative | None] = []
    present = set(s.lower)
    before = s.lower[phrase.first - 1] if phrase.first else ""
    if noun.lemma == "sheep" and phrase.number < 0 and not phrase.partitive and phrase.opener in ("the", ""):
        return []  # "the sheep" may be singular or plural
    if before == "at" and noun.category == "furniture":
        return []  # people sit at a table, not at a chair
    for other in others:
        if before in ("in", "inside", "into") and other.lemma in lexicon.phrases["flat"]:
            continue
        if before in ("on", "onto", "atop") and other.lemma in lexicon.phrases["deep"]:
            continue
        if not lemmas.isdisjoint(lexicon.alike.get(other.lemma, ())):
            continue
        if other.lemma in lemmas or {other.lemma, plural(other.lemma)} & present or (phrase.plural and not other.count):
            continue
        if (bare and not other.mass) or (phrase.opener in ("a", "an") and not other.count):
            continue
        if not fits.noun(s, phrase, other):
            continue
        new = plural(other.lemma) if phrase.plural else other.lemma
        changes = [word_change(s, first, phrase.last, new), *article_change(s, first, new)]
        negatives.append(build(s, changes, "replace-object", "replace.object", other.weight))
    return negatives


def _replace_attributes(s: Sentence, phrase: Phrase, lexicon: Lexicon, fits: _Fits) -> list[Negative | None]:
    negatives: list[Negative | None] = []
    present = {s.lower[i] for i in range(phrase.first, phrase.last + 1)}
    category = phrase.noun.category if phrase.noun else ""
    for a in phrase.attributes:
        word = a.adjective.word
        if a.first != a.last or any(b.adjective.cls == a.adjective.cls and b is not a for b in phrase.attributes):
            continue
        if (category == "person") != (a.adjective.cls == "age"):
            continue
        following = lexicon.adjectives.get(s.lower[a.last + 1])
        if a.adjective.cls == "state" and following is not None and following.cls == "colour":
            continue  # "bright blue"
        if a.adjective.cls in ("age", "size") and s.lower[phrase.last] in lexicon.phrases["children"]:
            continue
        if category in ("scene", "") and a.adjective.cls == "colour":
            continue
        for other in lexicon.adjective_swaps.get(word, []):
            if other.word in present or f"{other.word} {s.lower[a.last + 1]}" in lexicon.phrases["frozen"]:
                continue
            if not fits.adjective(phrase, other):
                continue
            changes = [word_change(s, a.first, a.last, other.word), *article_change(s, a.first, other.word)]
            negatives.append(build(s, changes, "replace-attribute", f"replace.{a.adjective.cls}", other.weight))
    return negatives


def _replace_number(s: Sentence, phrase: Phrase) -> list[Negative | None]:
    if phrase.number < 0 or not phrase.plural or s.lower[phrase.number] not in _NUMBERS or phrase.opener:
        return []
    if phrase.first != phrase.number or (phrase.partitive and phrase.slot < phrase.number):
        return []
    if phrase.number and s.lower[phrase.number - 1] in ("or", "and", "to", "about", "-", "at", "least"):
        return []
    number = s.lower[phrase.number]
    return [
        build(s, [word_change(s, phrase.number, phrase.number, other)], "replace-number", "replace.number", weight)
        for other, weight in _NUMBERS.items()
        if other != number
    ]


def _replace_relation(s: Sentence, phrase: Phrase, lexicon: Lexicon, fits: _Fits) -> list[Negative | None]:
    """Replace the spatial relation whose second argument is the phrase."""
    if phrase.noun is None or phrase.first == 0 or s.reciprocal:
        return []
    for words in (3, 2, 1):
        first = phrase.first - words
        if first < 1:
            continue
        relation = " ".join(s.lower[first : phrase.first])
        others = lexicon.relations.get((relation, phrase.noun.category))
        if others is None:
            continue
        if s.tag[first] in ("RP", "TO") or s.lower[first - 1] in ("up", "down", "out", "to", "from", "at", "upside"):
            return []
        return [
            build(s, [word_change(s, first, phrase.first - 1, other)], "replace-relation", "replace.preposition", w)
            for other, w in others
            if fits.relation(s, first, phrase.first - 1, other)
        ]
    return []


def _replace_verb(
    s: Sentence, phrase: Phrase, before: Phrase | None, lexicon: Lexicon, fits: _Fits
) -> list[Negative | None]:
    """Replace the verb right before a phrase (its object), or right after it (an intransitive verb)."""
    negatives: list[Negative | None] = []
    if before is not None and phrase.noun is not None and phrase.first > before.last + 1:
        negatives += _verb(s, phrase.first - 1, phrase.noun.category, lexicon, fits)
    after = phrase.last + 1
    if phrase.noun is not None and phrase.noun.category in ("person", "animal"):
        if after < len(s.tag) and s.lower[after] in ("is", "are", "that", "who", "was", "were"):
            after += 1 + (after + 1 < len(s.tag) and s.lower[after + 1] in ("is", "are"))
        ends = after + 1 >= len(s.tag) or s.tag[after + 1] in ("IN", ".", "RB") or s.lower[after + 1] == "next"
        if ends:
            negatives += _verb(s, after, "-", lexicon, fits)
    return negatives


def _verb(s: Sentence, token: int, category: str, lexicon: Lexicon, fits: _Fits) -> list[Negative | None]:
    if token >= len(s.tag) or not s.tag[token].startswith("V") or (token and s.lower[token - 1] == "-"):
        return []  # "half-eaten"
    return [
        build(s, [word_change(s, token, token, new)], "replace-relation", "replace.verb", weight)
        for tag, new, weight in lexicon.verbs.get((category, s.lower[token]), [])
        if tag == s.tag[token] and fits.relation(s, token, token, new)
    ]
