"""Estimate how plausible a word is in a context (its *place*) of a caption, from the user's captions.

"A woman holding a phone" can be changed to "a phone holding a woman", which is so absurd that a language model can
reject it without the image. :class:`SelectionalTables` counts how often a noun occurs before and after a relation
("holding", "sitting on", "with"), with an adjective, and in one caption with another noun or verb. The lift of a noun
in a place is its probability in this place divided by its overall probability (selectional association; Resnik 1996).
The counts include the caption that is edited, in which the new words do not occur in their new places. Therefore a
log-lift is too low by at most log(6 / 5).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from scramble.language.lexicon import SPELLINGS, Adjective, NounEntry
from scramble.language.parse import Phrase, Sentence
from scramble.pairs.captions.rules.relations import AUXILIARY, Place, caption_relations, nearest_place, verb_stem

_NATURAL = frozenset({"animal", "food", "nature"})  # categories whose nouns have typical colours
# Swaps and replacements with a lower log-lift are dropped. docs/results/negatives.md shows the effect of both
# thresholds. The threshold of replacements is higher, because a caption has many replacements and few swaps.
MIN_LIFT = -2.0
MIN_REPLACEMENT_LIFT = -0.5
# A replacement is dropped if the log-odds of the new word relative to the old word in its place are below this value. A
# much rarer word nearly always belongs to the rejected text, so refinement would drop most of these pairs.
MIN_REPLACEMENT_ODDS = -2.0
# A number or an attribute is not moved to another noun if the log-odds of the swap relative to the caption are below
# this value. Refinement would drop most of these swaps.
MIN_SWAP_ODDS = -2.0
UNMOVED = frozenset({"person", "part", "scene", "sport"})  # no colour is moved to nouns of these categories
# A distribution with fewer observations than this depends more on its back-off than on its counts.
_STRENGTH = 5.0
_COMPANY = 0.5  # added to the observed and to the expected number of captions with two words
_PRIOR = (0.5, 10.0)  # pseudo-counts of a noun: occurrences with an adjective, all occurrences
_ATTESTED = 2  # minimum number of captions in which a noun has an adjective that is possible for few nouns


def spellings_in(s: Sentence) -> set[str]:
    """Return the words of a caption that have an American and a British spelling, in the singular."""
    return {word.removesuffix("s") for word in s.lower} & {*SPELLINGS, *SPELLINGS.values()}


class SelectionalTables:
    """Counts of nouns by their places in captions.

    A distribution over nouns backs off from the whole relation ("sit on") to the word of the relation that is nearest
    to the noun ("sit" for a noun on the left, "on" for a noun on the right), and from the noun to its category in the
    lexicon.
    """

    def __init__(self, sentences: Iterable[Sentence] = ()) -> None:
        self._nouns: Counter[tuple[Place, str]] = Counter()
        self._categories: Counter[tuple[Place, str]] = Counter()
        self._places: Counter[Place] = Counter()
        self._frequency: Counter[str] = Counter()
        self._by_category: Counter[str] = Counter()
        self._numbers: Counter[tuple[str, bool]] = Counter()  # (lemma or place after a relation, is plural)
        self._positions: Counter[tuple[bool, Place]] = Counter()  # (is in the first phrase, quantity or adjective)
        self._triples: Counter[tuple[str, str, str]] = Counter()
        self._category_triples: Counter[tuple[str, str, str]] = Counter()
        self._company: Counter[tuple[str, str]] = Counter()
        self._words: Counter[str] = Counter()
        self._captions = 0
        self._spellings: Counter[str] = Counter()  # number of captions with each spelling of SPELLINGS
        for sentence in sentences:
            self.add(sentence)

    def add(self, s: Sentence) -> None:
        """Count the nouns of a caption."""
        self._spellings.update(spellings_in(s))
        for index, phrase in enumerate(s.phrases):
            if phrase.noun is None:
                continue
            self._positions.update((index == 0, place) for place in _positioned(s, phrase))
            self._frequency[phrase.noun.lemma] += 1
            self._by_category[phrase.noun.category] += 1
            self._numbers[phrase.noun.lemma, phrase.plural] += 1
            for attribute in phrase.attributes:
                self._count(phrase.noun, ("adjective", attribute.adjective.word))
            if phrase.partitive:
                self._count(phrase.noun, ("partitive", s.lower[phrase.slot].removesuffix("s")))
        for left, words, right in caption_relations(s):
            if left is not None and left.noun is not None:
                self._count(left.noun, ("left", words))
            if right is not None and right.noun is not None:
                self._count(right.noun, ("right", words))
                self._numbers[_number_place(left, words), right.plural] += 1
            if left is None or right is None or left.noun is None or right.noun is None:
                continue
            self._triples[left.noun.lemma, words, right.noun.lemma] += 1
            for relation in {words, nearest_place(("right", words))[1]}:
                for first in ("", left.noun.category):
                    for last in ("", right.noun.category):
                        self._category_triples[first, relation, last] += 1

        self._captions += 1
        content = self._content(s)
        self._words.update(content)
        nouns = {phrase.noun.lemma for phrase in s.phrases if phrase.noun is not None}
        self._company.update((noun, word) for noun in nouns for word in content if word != noun)

    def spelling(self, american: str, british: str) -> str:
        """Return the spelling that occurs in more captions, or the American spelling if both are equally frequent."""
        return british if self._spellings[british] > self._spellings[american] else american

    @staticmethod
    def _content(s: Sentence, without: Phrase | None = None) -> set[str]:
        """Return the nouns and verbs of a caption. Nouns of the lexicon are replaced by their lemmas."""
        heads = {p.last: p.noun.lemma for p in s.phrases if p.noun is not None}
        changed = range(without.nominal, without.last + 1) if without is not None else ()
        return {
            verb_stem(s, i, s.lower[i]) if tag[0] == "V" else heads.get(i, s.lower[i].removesuffix("s"))
            for i, tag in enumerate(s.tag)
            if tag[0] in "NV" and i not in changed and s.lower[i] not in AUXILIARY
        }

    def _company_lift(self, noun: str, word: str) -> float:
        """Return the log of the ratio between the observed and the expected number of captions that contain a noun and
        another word.
        """
        expected = self._words[noun] * self._words[word] / max(1, self._captions)
        return math.log((self._company[noun, word] + _COMPANY) / (expected + _COMPANY))

    def _count(self, noun: NounEntry, place: Place) -> None:
        for context in {place, nearest_place(place)}:
            self._places[context] += 1
            self._nouns[context, noun.lemma] += 1
            self._categories[context, noun.category] += 1

    def swap_lift(self, s: Sentence, u: Phrase, v: Phrase, *, heads: bool = False) -> float:
        """Return the lowest log-lift of the two nouns in each other's places.

        Args:
            heads: whether the attributes stay in place, so that the nouns must also fit each other's adjectives.
        """
        lowest = self._relations_lift(s, {id(u): v, id(v): u})
        if heads:
            for phrase, other in ((u, v), (v, u)):
                for attribute in phrase.attributes:
                    lowest = min(lowest, self._lift(other, ("adjective", attribute.adjective.word)))
        return lowest

    def noun_lift(self, s: Sentence, phrase: Phrase, noun: NounEntry) -> float:
        """Return the lowest log-lift of a noun in the place of a phrase.

        The minimum is taken over the relations and adjectives of the phrase, and over the other nouns and verbs of the
        caption ("a girl brushing her teeth with a book").
        """
        new = replace(phrase, noun=noun)
        lowest = self._relations_lift(s, {id(phrase): new})
        for attribute in phrase.attributes:
            lowest = min(lowest, self._lift(new, ("adjective", attribute.adjective.word)))
        for word in self._content(s, phrase):
            lowest = min(lowest, self._company_lift(noun.lemma, word))
        return lowest

    def noun_odds(self, s: Sentence, phrase: Phrase, noun: NounEntry) -> float:
        """Return the log-odds of a noun in the place of a phrase relative to the noun of the phrase."""
        if phrase.noun is None:
            return 0.0
        odds = math.log((self._frequency[noun.lemma] + _COMPANY) / (self._frequency[phrase.noun.lemma] + _COMPANY))
        new = replace(phrase, noun=noun)
        places: list[Place] = [("adjective", attribute.adjective.word) for attribute in phrase.attributes]
        for left, words, right in caption_relations(s):
            places += [("left", words)] if left is phrase else [("right", words)] if right is phrase else []
        return odds + sum(self._lift(new, place) - self._lift(phrase, place) for place in places)

    def attribute_odds(self, phrase: Phrase, old: str, new: str) -> float:
        """Return the log-odds of a new adjective of a phrase relative to the old adjective."""
        old_place, new_place = ("adjective", old), ("adjective", new)
        odds = math.log((self._places[new_place] + _COMPANY) / (self._places[old_place] + _COMPANY))
        return odds + self._lift(phrase, new_place) - self._lift(phrase, old_place)

    def relation_odds(self, s: Sentence, words: Mapping[int, str]) -> float:
        """Return the log-odds of the changed relations relative to the original ones. ``words`` maps tokens to new
        words.
        """
        odds = 0.0
        for (left, old, right), (_, new, _) in zip(caption_relations(s), caption_relations(s, words), strict=True):
            if new == old:
                continue
            for phrase, side in ((left, "left"), (right, "right")):
                if phrase is not None:
                    odds += self._lift(phrase, (side, new)) - self._lift(phrase, (side, old))
            side = "left" if right is None else "right"
            odds += math.log((self._places[side, new] + _COMPANY) / (self._places[side, old] + _COMPANY))
        return odds

    def relation_lift(self, s: Sentence, words: Mapping[int, str]) -> float:
        """Return the lowest log-lift of the nouns around a verb or preposition that replaces tokens of a caption.

        The lifts of the new verb with all nouns are included ("cooking an apple between her fingers").

        Args:
            words: the new words by token. "" removes a token.
        """
        verbs = [verb_stem(s, i, word) for i, word in words.items() if s.tag[i].startswith("V")]
        nouns = {phrase.noun.lemma for phrase in s.phrases if phrase.noun is not None}
        company = (self._company_lift(noun, verb) for noun in nouns for verb in verbs)
        return min(self._relations_lift(s, {}, words), *company, math.inf)

    def _relations_lift(
        self, s: Sentence, phrases: Mapping[int, Phrase], words: Mapping[int, str] | None = None
    ) -> float:
        """Return the lowest log-lift of the relations that change.

        ``phrases`` maps the ``id`` of an old phrase to the new phrase, and ``words`` maps tokens to new words.
        """
        lowest = math.inf
        for (left, old, right), (_, new, _) in zip(
            caption_relations(s), caption_relations(s, words or {}), strict=True
        ):
            new_left, new_right = (phrases.get(id(p), p) for p in (left, right))
            if new_left is left and new_right is right and new == old:
                continue
            if new_left and new_right and new_left.noun and new_right.noun:
                if self._triples[new_left.noun.lemma, new, new_right.noun.lemma]:
                    continue  # the nouns occur with this relation in a caption
                lowest = min(lowest, self._category_lift(new_left.noun.category, new, new_right.noun.category))
            for before, after, side in ((left, new_left, "left"), (right, new_right, "right")):
                if after is not None and (after is not before or new != old):
                    lowest = min(lowest, self._lift(after, (side, new)))
        return lowest

    def attribute_lift(self, adjective: str, phrase: Phrase) -> float:
        """Return the log-lift of a noun with an adjective. For example, the log-lift of "green dog" is low."""
        return self._lift(phrase, ("adjective", adjective))

    def has_attribute(self, adjective: Adjective, noun: NounEntry) -> bool:
        """Return whether a noun can have an adjective.

        Most things can have any colour and be large or small. Animals, food and plants have typical colours, and
        few nouns can have a material, a state or a length. These combinations are accepted only if they occur at least
        :data:`_ATTESTED` times in the captions.
        """
        has_typical_colours = adjective.cls in ("colour", "pattern") and noun.category in _NATURAL
        if has_typical_colours or adjective.cls in ("material", "state") or adjective.word in ("tall", "long", "short"):
            return self._nouns[("adjective", adjective.word), noun.lemma] >= _ATTESTED
        return True

    def has_quantity(self, s: Sentence, phrase: Phrase, noun: NounEntry) -> bool:
        """Return whether a phrase has no quantity word, or whether a noun occurs after its quantity word at least
        :data:`_ATTESTED` times ("slice of soup" does not occur).
        """
        if not phrase.partitive:
            return True
        return self._nouns[("partitive", s.lower[phrase.slot].removesuffix("s")), noun.lemma] >= _ATTESTED

    def number_lift(self, s: Sentence, u: Phrase, v: Phrase) -> float:
        """Return the log-odds of two nouns with exchanged numbers relative to the nouns with their own numbers.

        Captions seldom mention several skies, one grape, or a man who rides several horses. The result is the lower of
        two sums of log-odds: over the nouns, and over their relations.
        """
        return min(self._number_odds(s, u, v))

    def number_odds(self, s: Sentence, u: Phrase, v: Phrase) -> float:
        """Return the log-odds of a caption with exchanged numbers relative to the original caption.

        The log-odds of the nouns, the relations and the positions of the quantities are summed. The position matters,
        because "two" is six times as frequent in the first phrase of a COCO caption as in a later phrase.
        """
        odds = sum(self._number_odds(s, u, v))
        if u.plural != v.plural and u is s.phrases[0]:
            to_later, to_first = (("quantity", _quantity(s, phrase)) for phrase in (u, v))
            odds += self._position_odds(to_later) - self._position_odds(to_first)
        return odds

    def move_odds(self, s: Sentence, adjective: str, giver: Phrase, receiver: Phrase) -> float:
        """Return the log-odds of a caption with an adjective moved to another noun relative to the original caption.

        The log-odds depend on how often each of the two nouns has the adjective in other captions, and on how often the
        first phrase and later phrases have the adjective.
        """
        if giver.noun is None or receiver.noun is None:
            return 0.0
        place, odds = ("adjective", adjective), 0.0
        for noun, sign, in_caption in ((receiver.noun, 1, 0), (giver.noun, -1, 1)):  # without the caption itself
            count = max(0, self._nouns[place, noun.lemma] - in_caption) + _PRIOR[0]
            odds += sign * math.log(count / (max(0, self._frequency[noun.lemma] - in_caption) + _PRIOR[1]))
        if s.phrases[0] in (giver, receiver):
            odds += self._position_odds(place) * (1 if giver is s.phrases[0] else -1)
        return odds

    def _position_odds(self, place: Place) -> float:
        """Return the log-odds of a quantity or adjective in later phrases of captions relative to first phrases."""
        later, first = (
            (self._positions[is_first, place] + 1) / (self._positions[is_first, (place[0], "")] + 1)
            for is_first in (False, True)
        )
        return math.log(later / first)

    def _number_odds(self, s: Sentence, u: Phrase, v: Phrase) -> tuple[float, float]:
        """Return the log-odds of exchanged numbers, summed over the relations and summed over the nouns."""
        if u.noun is None or v.noun is None or u.plural == v.plural:
            return 0.0, 0.0
        other = {id(u): v, id(v): u}
        odds = 0.0
        for left, words, right in caption_relations(s):
            new_left, new_right = (other.get(id(p), p) for p in (left, right))
            if right is not None and new_right is not None and (new_left is not left or new_right is not right):
                old = self._numbers[_number_place(left, words), right.plural]
                odds += math.log((self._numbers[_number_place(new_left, words), new_right.plural] + 1) / (old + 1))
        nouns = [
            (self._numbers[p.noun.lemma, not p.plural], self._numbers[p.noun.lemma, p.plural]) for p in (u, v) if p.noun
        ]
        return odds, sum(math.log((new + 1) / (old + 1)) for new, old in nouns)

    def _lift(self, phrase: Phrase, place: Place) -> float:
        if phrase.noun is None:
            return 0.0
        lemma, category = phrase.noun.lemma, phrase.noun.category
        total, nouns = sum(self._by_category.values()), self._by_category[category]
        if not total or not nouns or not self._frequency[lemma]:
            return 0.0
        share = nouns / total
        for context in dict.fromkeys((nearest_place(place), place)):
            share = (self._categories[context, category] + _STRENGTH * share) / (self._places[context] + _STRENGTH)
        inside = self._frequency[lemma] / nouns
        probability = share * inside
        for context in dict.fromkeys((nearest_place(place), place)):
            probability = (self._nouns[context, lemma] + _STRENGTH * probability) / (self._places[context] + _STRENGTH)
        return math.log(probability * total / self._frequency[lemma])

    def _category_lift(self, left: str, words: str, right: str) -> float:
        """Return the log-probability of two categories around a relation, relative to independent categories."""
        counts = self._category_triples
        lift = 1.0
        for context in (nearest_place(("right", words))[1], words):
            total = counts["", context, ""]
            expected = counts[left, context, ""] * counts["", context, right] / total if total else 0.0
            lift = (counts[left, context, right] + _STRENGTH * lift) / (expected + _STRENGTH)
        return math.log(lift)


def _positioned(s: Sentence, phrase: Phrase) -> Iterator[Place]:
    """Yield the places of a phrase's quantity and adjectives.

    The places ("quantity", "") and ("adjective", "") are also yielded, to count phrases. For phrases to which no colour
    can move, only the places of the quantity are yielded.
    """
    yield from (("quantity", _quantity(s, phrase)), ("quantity", ""))
    if phrase.noun is not None and phrase.noun.category not in UNMOVED:
        yield "adjective", ""
        yield from (("adjective", attribute.adjective.word) for attribute in phrase.attributes)


def _quantity(s: Sentence, phrase: Phrase) -> str:
    if not phrase.plural:
        return "one"
    if phrase.partitive:
        return s.lower[phrase.slot]
    return s.lower[phrase.number] if phrase.number >= 0 else phrase.opener or "bare"


def _number_place(left: Phrase | None, words: str) -> str:
    """Return the place after a relation, which includes the number of the phrase before the relation."""
    number = "" if left is None else "several " if left.plural else "one "
    return f"{number}{words}"
