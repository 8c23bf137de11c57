"""Swap words of a caption, so that the caption describes another scene.

The attributes of two nouns are exchanged, or an attribute is moved to another noun. Two noun phrases, or two heads
without their attributes, are exchanged. A number word or a plural is moved to another noun. Arrangements with the same
meaning are skipped: coordinations, symmetric relations ("next to", "with"), and the two nouns of a partitive. The
taxonomy is from ARO (Yuksekgonul et al. 2023) and SugarCrepe (Hsieh et al. 2023).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from scramble.language.inflect import article, capitalised
from scramble.language.lexicon import Lexicon
from scramble.language.parse import PRONOUNS, Attribute, Phrase, Sentence
from scramble.pairs.base import Negative
from scramble.pairs.captions.rules.edit import (
    TextChange,
    agreement_changes,
    apply_changes,
    article_change,
    moved_text,
    span_change,
)
from scramble.pairs.captions.rules.number_swaps import inflected_head, swap_numbers
from scramble.pairs.captions.rules.plausibility import UNMOVED, SelectionalTables
from scramble.pairs.captions.rules.swap_conditions import (
    JOINERS,
    have_equal_roles,
    in_title,
    is_bound,
    is_generic,
    is_mounted,
    keeps_meaning,
    must_be_plural,
    swap_weight,
    tokens_between,
)

_RARE = frozenset({"red", "black", "yellow", "orange", "pink", "purple"})  # colours that are rare for scenes
# A brown pole is rare in captions but not absurd, so the log-lift of an adjective may be lower by this number.
_RARE_ATTRIBUTE = 4.0
_SORTS = frozenset({"type", "kind", "sort", "style"})
_HAS = frozenset({"has", "have", "had", "having", "with"})


def swaps(
    s: Sentence,
    lexicon: Lexicon,
    tables: SelectionalTables | None,
    min_lift: float,
    min_odds: float,
) -> list[Negative]:
    """Return all swaps of a parsed caption.

    Args:
        tables: counts of nouns in the user's captions. A swap of phrases or heads is dropped if a noun has a log-lift
            below ``min_lift`` in its new place. The threshold for whole phrases of different categories is at least 0.
            The log-odds of exchanged numbers must be at least ``min_lift``, and the log-lift of attributes must be at
            least ``min_lift`` minus :data:`_RARE_ATTRIBUTE`. A number or an attribute is not moved if the log-odds of
            the swap relative to the caption are below ``min_odds``. None disables these tests.
    """
    negatives: list[Negative | None] = []
    phrases = [p for p in s.phrases if p.noun is not None and not p.proper and not in_title(s, p, lexicon)]
    lemmas = Counter(p.noun.lemma for p in phrases if p.noun is not None)
    likely = _AttributePlausibility(s, lexicon.phrases["children"], tables, min_lift - _RARE_ATTRIBUTE, min_odds)
    for u, v in combinations(phrases, 2):
        if u.noun is None or v.noun is None:
            continue
        joints = tokens_between(s, u, v)
        words = [s.lower[i] for i in joints]
        linked = not keeps_meaning(s, u, v, joints, words, lexicon)
        if max(lemmas[u.noun.lemma], lemmas[v.noun.lemma]) <= 2:
            negatives += _swap_attributes(s, u, v, linked, likely)
        if u.noun.lemma == v.noun.lemma or lemmas[u.noun.lemma] > 1 or lemmas[v.noun.lemma] > 1:
            continue
        if not (
            JOINERS.issuperset(words) or words == ["of"] or is_mounted(s, u, v)
        ):  # "the orange handles of scissors"
            negatives += _move_attribute(s, u, v, lexicon, likely)
        if is_bound(s, u, lexicon) or is_bound(s, v, lexicon):
            continue
        if u.plural != v.plural and (must_be_plural(s, u) or must_be_plural(s, v)):
            continue  # "in between a child"
        numbers = swap_numbers(s, u, v, lexicon)
        if numbers and (
            tables is None or (tables.number_lift(s, u, v) >= min_lift and tables.number_odds(s, u, v) >= min_odds)
        ):
            negatives += numbers
        weight = swap_weight(u.noun, v.noun)
        if weight and not is_generic(u.noun, v.noun, lexicon):
            whole = _swap_phrases(s, u, v, linked, weight) if have_equal_roles(u.noun, v.noun) else []
            equal = u.noun.category == v.noun.category
            part = equal and u.noun.category == "structure" and not _HAS.isdisjoint(words)  # "a building with a tower"
            heads = _swap_heads(s, u, v, linked, weight) if weight == 1.0 and not part else []
            if whole and (tables is None or tables.swap_lift(s, u, v) >= (min_lift if equal else max(min_lift, 0.0))):
                negatives += whole
            if heads and (tables is None or tables.swap_lift(s, u, v, heads=True) >= min_lift):
                negatives += heads
    return [negative for negative in negatives if negative is not None]


# ------------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, slots=True)
class _AttributePlausibility:
    """Decides whether a noun can have an adjective, by a rule on age and by counts from the user's captions."""

    s: Sentence
    children: frozenset[str]
    tables: SelectionalTables | None
    min_lift: float
    min_odds: float

    def can_move(self, attribute: Attribute, giver: Phrase, receiver: Phrase) -> bool:
        """Return whether an attribute is frequent enough with its new noun that text alone hardly reveals the swap."""
        word = attribute.adjective.word
        return self.tables is None or self.tables.move_odds(self.s, word, giver, receiver) >= self.min_odds

    def __call__(self, phrase: Phrase, attribute: Attribute) -> bool:
        if attribute.adjective.cls == "age" and self.s.lower[phrase.last] in self.children:
            return False  # "an old puppy"
        if self.tables is None:
            return True
        if phrase.noun is not None and not self.tables.has_attribute(attribute.adjective, phrase.noun):
            return False
        return self.tables.attribute_lift(attribute.adjective.word, phrase) >= self.min_lift


def _swap_attributes(
    s: Sentence, u: Phrase, v: Phrase, linked: bool, likely: _AttributePlausibility
) -> list[Negative | None]:
    negatives: list[Negative | None] = []
    if u.noun is None or v.noun is None:
        return negatives
    if u.noun.lemma == v.noun.lemma and (not linked or JOINERS.issuperset(s.lower[u.last + 1 : v.first])):
        return negatives  # "a small vase and a large vase of flowers"
    for a in u.attributes:
        for b in v.attributes:
            if a.adjective.word == b.adjective.word or s.lower[a.first] == s.lower[b.first]:
                continue
            same = a.adjective.cls == b.adjective.cls
            if not same and "colour" not in (a.adjective.cls, b.adjective.cls):
                continue
            if not (likely(u, b) and likely(v, a)):
                continue
            if not (_can_have(u, b) and _can_have(v, a)) or (
                not same and (len(u.attributes) > 1 or len(v.attributes) > 1)
            ):
                continue
            changes = [
                span_change(s, a.first, a.last, moved_text(s, b.first, b.last)),
                span_change(s, b.first, b.last, moved_text(s, a.first, a.last)),
                *article_change(s, a.first, s.lower[b.first]),
                *article_change(s, b.first, s.lower[a.first]),
            ]
            negatives.append(apply_changes(s, changes, "swap-attribute", "swap.attributes", 2.0 if same else 1.0))
    return negatives


def _can_have(phrase: Phrase, attribute: Attribute) -> bool:
    """Return whether a noun can have an attribute.

    Colours of people are excluded, because colour words for people are ambiguous.
    """
    if (
        phrase.noun is None
        or phrase.noun.category in ("scene", "sport")
        or (phrase.noun.mass and not phrase.noun.count)
    ):
        return False
    if attribute.adjective.cls == "state":
        return False
    if phrase.noun.category == "person":
        return attribute.adjective.cls in ("age", "size", "pattern")
    return attribute.adjective.cls != "age" or phrase.noun.category == "animal"


def _move_attribute(
    s: Sentence, u: Phrase, v: Phrase, lexicon: Lexicon, likely: _AttributePlausibility
) -> list[Negative | None]:
    """Change "a black cat on a couch" to "a cat on a black couch".

    Only colours and patterns are moved. With a material, the negative would often be true ("a metal pole").
    """
    negatives: list[Negative | None] = []
    for giver, receiver in ((u, v), (v, u)):
        if giver.noun is None or receiver.noun is None or giver.noun.lemma == receiver.noun.lemma or receiver.partitive:
            continue
        if giver.noun.category in ("person", "scene") or len(giver.attributes) != 1:
            continue
        a = giver.attributes[0]
        if s.lower[a.last + 1] in _SORTS:
            continue  # "orange type food"
        if receiver.noun.category in UNMOVED and not (receiver.noun.category == "scene" and a.adjective.word in _RARE):
            continue
        if a.adjective.cls not in ("colour", "pattern") or not _can_have(receiver, a) or not likely(receiver, a):
            continue
        if not likely.can_move(a, giver, receiver):
            continue
        if any(
            b.adjective.cls not in ("size", "age", "state") for b in receiver.attributes
        ) or not _has_known_modifiers(s, receiver):
            continue
        if any(b.last > b.first + 1 for b in receiver.attributes):
            continue  # "a big and white dog"
        if f"{s.lower[a.first]} {receiver.noun.lemma}" in lexicon.phrases["natural"]:
            continue
        following = s.span(a.last + 1, a.last + 1)
        if a.first in s.opening:
            removed: TextChange = (s.start[a.first], s.end[a.last + 1], capitalised(following))
        else:
            removed = (s.start[a.first], s.start[a.last + 1], "")
        word, at = moved_text(s, a.first, a.last), receiver.nominal
        if at in s.opening:
            added: TextChange = (s.start[at], s.end[at], f"{capitalised(word)} {moved_text(s, at, at)}")
        else:
            added = (s.start[at], s.start[at], word + " ")
        changes = [removed, added, *article_change(s, a.first, following), *article_change(s, at, word)]
        negatives.append(apply_changes(s, changes, "swap-attribute", "swap.move-attribute", 1.0))
    return negatives


def _has_known_modifiers(s: Sentence, phrase: Phrase) -> bool:
    """Return whether every modifier of a phrase is in the lexicon. Other modifiers could be misplaced by a swap."""
    in_lexicon = {i for a in phrase.attributes for i in range(a.first, a.last + 1)} | {phrase.number}
    return all(i in in_lexicon or s.lower[i] == phrase.opener for i in range(phrase.first, phrase.nominal))


def _in_place_of(s: Sentence, phrase: Phrase, other: Phrase) -> str:
    """Return the text of a phrase for the place of another phrase.

    An article is added if only the other phrase has one ("Dog on a couch").
    """
    text = moved_text(s, phrase.first, phrase.last)
    if other.opener not in ("a", "an", "the") or phrase.opener or phrase.plural or phrase.partitive:
        return text
    if phrase.number >= 0 or phrase.noun is None or phrase.noun.mass:
        return text
    return f"{s.styled(article(text))} {text}"


def _swap_phrases(s: Sentence, u: Phrase, v: Phrase, linked: bool, weight: float) -> list[Negative | None]:
    if not linked or (s.pronoun and not _same_reference(s, u, v)):
        return []
    verbs: list[TextChange] | None = []
    if u.slot_plural != v.slot_plural or u.partitive or v.partitive:
        verbs_u, verbs_v = agreement_changes(s, u, v.slot_plural), agreement_changes(s, v, u.slot_plural)
        verbs = None if verbs_u is None or verbs_v is None else verbs_u + verbs_v
    if verbs is None:
        return []
    changes = [
        span_change(s, u.first, u.last, _in_place_of(s, v, u)),
        span_change(s, v.first, v.last, _in_place_of(s, u, v)),
        *verbs,
    ]
    kind = "swap-relation" if _arguments(s, u, v) else "swap-object"
    return [apply_changes(s, changes, kind, "swap.phrases", weight)]


def _swap_heads(s: Sentence, u: Phrase, v: Phrase, linked: bool, weight: float) -> list[Negative | None]:
    """Swap the heads of two phrases. Their attributes stay in place."""
    if not (u.attributes or v.attributes) or (s.pronoun and not _same_reference(s, u, v)):
        return []
    if u.partitive or v.partitive or not _attributes_fit_both(s, u, v):
        return []
    if not v.opener and JOINERS.issuperset(s.lower[u.last + 1 : v.first]) and not v.attributes:
        return []  # "a white toilet and tub"
    if not linked and any(a.adjective.cls not in ("colour", "pattern") for a in u.attributes + v.attributes):
        return []  # "a man and a young girl": the man may also be young
    first, second = inflected_head(s, v, u.plural), inflected_head(s, u, v.plural)
    if not first or not second:
        return []
    changes = [
        span_change(s, u.nominal, u.last, first),
        span_change(s, v.nominal, v.last, second),
        *article_change(s, u.nominal, first),
        *article_change(s, v.nominal, second),
    ]
    return [apply_changes(s, changes, "swap-object", "swap.heads", weight)]


def _same_reference(s: Sentence, u: Phrase, v: Phrase) -> bool:
    """Return whether a pronoun in the caption can refer to either phrase after the swap."""
    if u.plural != v.plural or u.noun is None or v.noun is None:
        return False
    pair = {u.noun.category, v.noun.category}
    if pair == {"person"} and PRONOUNS.intersection(s.lower) == {"who"}:
        return True  # a relative clause
    if "person" in pair:
        return "animal" in pair and "its" not in s.lower and "it" not in s.lower
    return True


def _attributes_fit_both(s: Sentence, u: Phrase, v: Phrase) -> bool:
    """Return whether each noun can have the attributes of the other noun, because attributes stay in place."""
    if {s.lower[a.first] for a in u.attributes} == {s.lower[a.first] for a in v.attributes}:
        return False
    if not (_has_known_modifiers(s, u) and _has_known_modifiers(s, v)):
        return False
    return all(_can_have(v, a) for a in u.attributes) and all(_can_have(u, a) for a in v.attributes)


def _arguments(s: Sentence, u: Phrase, v: Phrase) -> bool:
    """Return whether the two phrases are the subject and the object of a verb, with only this verb between them."""
    tags = s.tag[u.last + 1 : v.first]
    return bool(tags) and all(tag.startswith("V") or tag in ("RP", "MD", "RB", "WDT", "TO") for tag in tags)
