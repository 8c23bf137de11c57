"""Replace one word of a caption with a word that cannot be true of the same object.

Nouns are replaced with co-hyponyms, adjectives with adjectives of the same class, and verbs and spatial relations with
mutually exclusive verbs and relations. A word is never replaced with a synonym, a hypernym, or a word with a similar
meaning. A new word is not used either if, in the user's captions, it is rare in the context of the old word or much
rarer in this context than the old word. Number words are not replaced, because "two dogs" is true of three dogs, and
larger numbers can be recognised without the image. The weight of a candidate is the frequency of its new word
(:mod:`scramble.language.lexicon`).
"""

from __future__ import annotations

from dataclasses import dataclass

from scramble.language.inflect import plural
from scramble.language.lexicon import SPELLINGS, Adjective, Lexicon, NounEntry
from scramble.language.parse import Phrase, Sentence
from scramble.pairs.base import Negative
from scramble.pairs.captions.rules.edit import apply_changes, article_change, word_change
from scramble.pairs.captions.rules.plausibility import SelectionalTables, spellings_in

_GENDERED = frozenset({"man", "woman", "boy", "girl"})
# A person can both stand and walk "on" or "near" something, but can only walk "down" or "through" it.
_STATIC = frozenset({"on", "in", "near", "next", "beside", "by", "behind", "under", "outside", "inside"})
# For birds, "sit" and "stand" have the same meaning.
_BIRDS = frozenset({"bird", "parrot", "pigeon", "seagull", "owl", "duck", "goose", "swan"})
_OPPOSITE = {"up": "down", "down": "up"}
_ONE_GENDER = frozenset({"pregnant", "bearded", "bikini"})


def replacements(
    s: Sentence,
    lexicon: Lexicon,
    tables: SelectionalTables | None,
    min_lift: float,
    min_odds: float,
) -> list[Negative]:
    """Return all replacements of a parsed caption.

    Args:
        tables: counts of the user's captions. A new word is not used if its log-lift in its place is below
            ``min_lift``, or if its log-odds relative to the old word are below ``min_odds``. With None, any new word
            can be used.
    """
    fits = _Plausibility(tables, min_lift, min_odds)
    negatives: list[Negative | None] = []
    lemmas = {p.noun.lemma for p in s.phrases if p.noun is not None}
    for index, phrase in enumerate(s.phrases):
        if phrase.proper:
            continue
        if phrase.noun is not None:
            negatives += _replace_object(s, phrase, phrase.noun, lemmas, lexicon, fits)
        negatives += _replace_attributes(s, phrase, lexicon, fits)
        negatives += _replace_relation(s, phrase, lexicon, fits)
        negatives += _replace_direction(s, phrase, lexicon, fits)
        before = s.phrases[index - 1] if index else None
        negatives += _replace_verb(s, phrase, before, lexicon, fits)
    return [negative for negative in negatives if negative is not None]


@dataclass(frozen=True, slots=True)
class _Plausibility:
    """Decides from counts of the user's captions whether a new word is plausible in its place and frequent enough."""

    tables: SelectionalTables | None
    min_lift: float
    min_odds: float

    def spelled(self, s: Sentence, word: str) -> str:
        """Return a word of the lexicon in the caption's spelling of this word, or else in the more frequent spelling.

        An unusual spelling would show which caption was edited.
        """
        if word not in SPELLINGS:
            return word
        both = (word, SPELLINGS[word])
        used = spellings_in(s).intersection(both)
        if len(used) == 1:
            return used.pop()
        return word if self.tables is None else self.tables.spelling(*both)

    def noun(self, s: Sentence, phrase: Phrase, noun: NounEntry) -> bool:
        if self.tables is None:
            return True
        if not self.tables.has_quantity(s, phrase, noun) or self.tables.noun_odds(s, phrase, noun) < self.min_odds:
            return False
        return self.tables.noun_lift(s, phrase, noun) >= self.min_lift

    def adjective(self, phrase: Phrase, old: Adjective, new: Adjective) -> bool:
        if self.tables is None:
            return True
        if phrase.noun is None:
            return new.word in ("large", "small")  # not "a leather pile" or "a tall skirt"
        return (
            self.tables.has_attribute(new, phrase.noun)
            and self.tables.attribute_odds(phrase, old.word, new.word) >= self.min_odds
            and self.tables.attribute_lift(new.word, phrase) >= self.min_lift
        )

    def relation(self, s: Sentence, first: int, last: int, words: str) -> bool:
        if self.tables is None:
            return True
        new = {first: words, **dict.fromkeys(range(first + 1, last + 1), "")}
        return self.tables.relation_odds(s, new) >= self.min_odds and self.tables.relation_lift(s, new) >= self.min_lift


def _replace_object(
    s: Sentence, phrase: Phrase, noun: NounEntry, lemmas: set[str], lexicon: Lexicon, fits: _Plausibility
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
        new = fits.spelled(s, other.lemma)
        new = plural(new) if phrase.plural else new
        changes = [word_change(s, first, phrase.last, new), *article_change(s, first, new)]
        negatives.append(apply_changes(s, changes, "replace-object", "replace.object", other.weight))
    return negatives


def _replace_attributes(s: Sentence, phrase: Phrase, lexicon: Lexicon, fits: _Plausibility) -> list[Negative | None]:
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
            new = fits.spelled(s, other.word)
            if new in present or f"{new} {s.lower[a.last + 1]}" in lexicon.phrases["frozen"]:
                continue
            if not fits.adjective(phrase, a.adjective, other):
                continue
            changes = [word_change(s, a.first, a.last, new), *article_change(s, a.first, new)]
            negatives.append(apply_changes(s, changes, "replace-attribute", f"replace.{a.adjective.cls}", other.weight))
    return negatives


def _replace_relation(s: Sentence, phrase: Phrase, lexicon: Lexicon, fits: _Plausibility) -> list[Negative | None]:
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
        if s.tag[first - 1] == "DT":
            return []  # "the inside of a bus"
        return [
            apply_changes(
                s, [word_change(s, first, phrase.first - 1, other)], "replace-relation", "replace.preposition", w
            )
            for other, w in others
            if fits.relation(s, first, phrase.first - 1, other)
        ]
    return []


def _replace_direction(s: Sentence, phrase: Phrase, lexicon: Lexicon, fits: _Plausibility) -> list[Negative | None]:
    """Change "skiing down a slope" to "skiing up a slope".

    The phrase must name a slope, because "up" and "down" have the same meaning on a level street.
    """
    token = phrase.first - 1
    if token < 1 or s.lower[token] not in _OPPOSITE or phrase.partitive:
        return []
    if _OPPOSITE.keys() <= set(s.lower):
        return []  # "walking up and down the stairs"
    new = _OPPOSITE[s.lower[token]]
    if s.lower[phrase.last] not in lexicon.phrases["slopes"] or not fits.relation(s, token, token, new):
        return []
    return [apply_changes(s, [word_change(s, token, token, new)], "replace-relation", "replace.direction", 1.0)]


def _replace_verb(
    s: Sentence, phrase: Phrase, before: Phrase | None, lexicon: Lexicon, fits: _Plausibility
) -> list[Negative | None]:
    """Replace the transitive verb directly before a phrase, and the intransitive verb after the phrase."""
    negatives: list[Negative | None] = []
    if before is not None and phrase.noun is not None and phrase.first > before.last + 1:
        negatives += _verb(s, phrase.first - 1, phrase.noun.category, lexicon, fits)
    after = phrase.last + 1
    if phrase.noun is not None and phrase.noun.category in ("person", "animal"):
        if after < len(s.tag) and s.lower[after] in ("is", "are", "that", "who", "was", "were"):
            after += 1 + (after + 1 < len(s.tag) and s.lower[after + 1] in ("is", "are"))
        ends = after + 1 >= len(s.tag) or s.tag[after + 1] in ("IN", ".", "RB") or s.lower[after + 1] == "next"
        if ends and not (
            phrase.noun.lemma in _BIRDS and s.lower[min(after, len(s.tag) - 1)].startswith(("sit", "stand"))
        ):
            negatives += _verb(s, after, "-", lexicon, fits)
            if after + 2 < len(s.tag) and s.lower[after + 1] in _STATIC and s.tag[after + 2] != ".":
                negatives += _verb(s, after, "place", lexicon, fits)
    return negatives


def _verb(s: Sentence, token: int, category: str, lexicon: Lexicon, fits: _Plausibility) -> list[Negative | None]:
    if token >= len(s.tag) or not s.tag[token].startswith("V") or (token and s.lower[token - 1] == "-"):
        return []  # "half-eaten"
    return [
        apply_changes(s, [word_change(s, token, token, new)], "replace-relation", "replace.verb", weight)
        for tag, new, weight in lexicon.verbs.get((category, s.lower[token]), [])
        if tag == s.tag[token] and fits.relation(s, token, token, new)
    ]
