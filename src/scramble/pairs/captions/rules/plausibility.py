"""How plausible a noun is in a place of a caption, learned from the user's own captions.

"A woman holding a phone" can be swapped to "a phone holding a woman", which is false but absurd: a language model
rejects it without the image. :class:`SelectionalTables` counts which nouns occur before and after each relation
("holding", "sitting on", "with") and with each adjective. The lift of a noun in a place is its probability there
divided by its probability anywhere (selectional association; Resnik 1996).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from scramble.language.lexicon import Noun
from scramble.language.parse import Phrase, Sentence

_SKIPPED = frozenset({"DT", "PRP$", "PDT", "RB", "RBR", "MD", "WDT", "WP", "EX", "CD", "JJ", "PRP", "POS"})
_AUXILIARY = frozenset({"is", "are", "was", "were", "be", "been", "being", "has", "have", "'s", "that", "which", "who"})
_ENDING = re.compile(r"(?:ing|ed|es|s|e)$")
_SUBJECTS = frozenset({"nsubj", "nsubjpass"})
_CLAUSES = frozenset({"acl", "relcl"})
MIN_LIFT = -1.0  # log-lift below which a swap is dropped; docs/results/negatives.md has the curve
# A distribution with fewer observations than this follows its back-off more than its own counts.
_STRENGTH = 5.0

Place = tuple[str, str]  # side of a relation ("left", "right") or "adjective", and the relation's or adjective's words


class SelectionalTables:
    """Counts of nouns by their places in captions.

    A distribution over nouns backs off from the whole relation ("sit on") to its nearest word ("sit" on the left, "on"
    on the right), and from the noun to its category in the lexicon.
    """

    def __init__(self, sentences: Iterable[Sentence] = ()) -> None:
        self._nouns: Counter[tuple[Place, str]] = Counter()
        self._categories: Counter[tuple[Place, str]] = Counter()
        self._places: Counter[Place] = Counter()
        self._frequency: Counter[str] = Counter()
        self._by_category: Counter[str] = Counter()
        self._numbers: Counter[tuple[str, bool]] = Counter()
        self._triples: Counter[tuple[str, str, str]] = Counter()
        self._category_triples: Counter[tuple[str, str, str]] = Counter()
        for sentence in sentences:
            self.add(sentence)

    def add(self, s: Sentence) -> None:
        """Count the nouns of a caption."""
        for phrase in s.phrases:
            if phrase.noun is None:
                continue
            self._frequency[phrase.noun.lemma] += 1
            self._by_category[phrase.noun.category] += 1
            self._numbers[phrase.noun.lemma, phrase.plural] += 1
            for attribute in phrase.attributes:
                self._count(phrase.noun, ("adjective", attribute.adjective.word))
        for left, words, right in relations(s):
            if left is not None and left.noun is not None:
                self._count(left.noun, ("left", words))
            if right is not None and right.noun is not None:
                self._count(right.noun, ("right", words))
                self._numbers[f"after {words}", right.plural] += 1
            if left is None or right is None or left.noun is None or right.noun is None:
                continue
            self._triples[left.noun.lemma, words, right.noun.lemma] += 1
            for relation in {words, _nearest(("right", words))[1]}:
                for first in ("", left.noun.category):
                    for last in ("", right.noun.category):
                        self._category_triples[first, relation, last] += 1

    def _count(self, noun: Noun, place: Place) -> None:
        for known in {place, _nearest(place)}:
            self._places[known] += 1
            self._nouns[known, noun.lemma] += 1
            self._categories[known, noun.category] += 1

    def swap_lift(self, s: Sentence, u: Phrase, v: Phrase, *, heads: bool = False) -> float:
        """The lowest log-lift of the two nouns in each other's places.

        Args:
            heads: the attributes stay in place, so that the nouns must also fit each other's adjectives.
        """
        lowest = math.inf
        swapped = {id(u): v, id(v): u}
        for left, words, right in relations(s):
            new_left, new_right = (swapped.get(id(p), p) for p in (left, right))
            if new_left is left and new_right is right:
                continue
            if new_left and new_right and new_left.noun and new_right.noun:
                if self._triples[new_left.noun.lemma, words, new_right.noun.lemma]:
                    continue  # captions say this of other images
                lowest = min(lowest, self._category_lift(new_left.noun.category, words, new_right.noun.category))
            for old, new, side in ((left, new_left, "left"), (right, new_right, "right")):
                if new is not old and new is not None:
                    lowest = min(lowest, self._lift(new, (side, words)))
        if heads:
            for phrase, other in ((u, v), (v, u)):
                for attribute in phrase.attributes:
                    lowest = min(lowest, self._lift(other, ("adjective", attribute.adjective.word)))
        return lowest

    def attribute_lift(self, adjective: str, phrase: Phrase) -> float:
        """The log-lift of a noun with an adjective: dogs are seldom green."""
        return self._lift(phrase, ("adjective", adjective))

    def number_lift(self, s: Sentence, u: Phrase, v: Phrase) -> float:
        """The log-odds of the numbers that two nouns exchange ("some dogs" and "a cat"), relative to those they have.

        Captions seldom speak of several skies, of one grape, or of riding several horses. The lower of two sums counts:
        that over the nouns, and that over their places as objects of a relation.
        """
        if u.noun is None or v.noun is None or u.plural == v.plural:
            return 0.0
        places = [(f"after {words}", p) for _, words, p in relations(s) if p is u or p is v]
        nouns = [(p.noun.lemma, p) for p in (u, v) if p.noun is not None]
        return min(sum(self._number_odds(key, p.plural) for key, p in keys) for keys in (nouns, places))

    def _number_odds(self, key: str, plural: bool) -> float:
        return math.log((self._numbers[key, not plural] + 1) / (self._numbers[key, plural] + 1))

    def _lift(self, phrase: Phrase, place: Place) -> float:
        if phrase.noun is None:
            return 0.0
        lemma, category = phrase.noun.lemma, phrase.noun.category
        total, nouns = sum(self._by_category.values()), self._by_category[category]
        if not total or not nouns or not self._frequency[lemma]:
            return 0.0
        share = nouns / total
        for known in dict.fromkeys((_nearest(place), place)):
            share = (self._categories[known, category] + _STRENGTH * share) / (self._places[known] + _STRENGTH)
        inside = self._frequency[lemma] / nouns
        probability = share * inside
        for known in dict.fromkeys((_nearest(place), place)):
            probability = (self._nouns[known, lemma] + _STRENGTH * probability) / (self._places[known] + _STRENGTH)
        return math.log(probability * total / self._frequency[lemma])

    def _category_lift(self, left: str, words: str, right: str) -> float:
        """The log-probability of two categories around a relation, relative to independent categories."""
        counts = self._category_triples
        lift = 1.0
        for known in (_nearest(("right", words))[1], words):
            total = counts["", known, ""]
            expected = counts[left, known, ""] * counts["", known, right] / total if total else 0.0
            lift = (counts[left, known, right] + _STRENGTH * lift) / (expected + _STRENGTH)
        return math.log(lift)


def relations(s: Sentence) -> Iterator[tuple[Phrase | None, str, Phrase | None]]:
    """The relations of a caption: the phrase before, the words (stems of verbs, prepositions), and the phrase after.

    The words are those between two phrases that follow each other. The phrase before is the one that the first of these
    words depends on, if it is one: in "a man in a hat riding a horse" the man rides. Coordinations are no relations.
    """
    owner = {i: p for p in s.phrases for i in range(p.first, p.last + 1)}
    for index, phrase in enumerate(s.phrases):
        following = s.phrases[index + 1] if index + 1 < len(s.phrases) else None
        end = following.first if following is not None else len(s.tag)
        tokens = [i for i in range(phrase.last + 1, end) if i not in owner and _relates(s, i)]
        if tokens and s.tag[tokens[0]] != "CC":
            words = " ".join(_stem(s, i) for i in tokens if s.tag[i] != "CC")
            yield _governor(s, tokens[0], phrase, owner), words, following


def _relates(s: Sentence, i: int) -> bool:
    return s.tag[i][0].isalpha() and s.tag[i] not in _SKIPPED and s.lower[i] not in _AUXILIARY


def _stem(s: Sentence, i: int) -> str:
    if not s.tag[i].startswith("V"):
        return s.lower[i]
    stem = _ENDING.sub("", s.lower[i]) or s.lower[i]
    return stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "sl" else stem


def _governor(s: Sentence, first: int, nearest: Phrase, owner: dict[int, Phrase]) -> Phrase:
    """The phrase that a verb or preposition is about: by dependency arcs, and otherwise the nearest one before it."""
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


def _nearest(place: Place) -> Place:
    """The place with only the word of its relation that is nearest to the noun."""
    side, words = place
    if side == "adjective":
        return place
    return f"nearest {side}", words.split(" ")[0 if side == "left" else -1]
