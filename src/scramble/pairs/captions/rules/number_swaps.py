"""Swap the numbers of two nouns: a number word or a plural moves to the other noun."""

from __future__ import annotations

from scramble.language.inflect import article, plural, word_set
from scramble.language.lexicon import Lexicon
from scramble.language.parse import NO_HEADLINE, QUANTIFIERS, Phrase, Sentence
from scramble.pairs.base import Negative
from scramble.pairs.captions.rules.edit import agreement_changes, apply_changes, moved_text, span_change
from scramble.pairs.captions.rules.relations import caption_relations
from scramble.pairs.captions.rules.swap_conditions import SEPARATORS, is_generic

_GROUPS = {"group": "group", "couple": "couple", "bunch": "bunch", "row": "row", "crowd": "group", "herd": "group"}
_FIXED_NUMBER = word_set("""
    ski short pant jean glass glasses sunglasses clothes sky sun moon ground background ocean air city floor water beach
    town lawn jungle desert
""")
# Last words of relations in which a thing is in, on or riding another thing. A single thing cannot be in, on or riding
# several things.
_CARRIED = frozenset({"in", "on", "inside", "aboard", "into", "onto", "rid"})
_DISTINCT = frozenset({"different", "various", "assorted", "separate", "matching", "identical", "similar"})


def inflected_head(s: Sentence, phrase: Phrase, to_plural: bool) -> str:
    """Return the head of a phrase, with compounds, in the plural or singular, or "" if this form is unknown."""
    text = moved_text(s, phrase.nominal, phrase.last)
    if phrase.plural == to_plural:
        return text
    if (
        phrase.noun is None
        or not phrase.noun.count
        or phrase.nominal != phrase.last
        or phrase.noun.lemma in _FIXED_NUMBER
    ):
        return ""
    if s.headline != NO_HEADLINE:
        text = text.lower()
    return s.styled(plural(text) if to_plural else phrase.noun.lemma)


def swap_numbers(s: Sentence, u: Phrase, v: Phrase, lexicon: Lexicon) -> list[Negative | None]:
    """Swap the numbers of two nouns: "two dogs and three cats" becomes "three dogs and two cats".

    "two men and a dog" becomes "a man and two dogs", and "a group of men and a dog" becomes "a man and a group of
    dogs".
    """
    if u.noun is None or v.noun is None or {u.noun.category, v.noun.category} & {"part", "sport", "clothing"}:
        return []  # clothing: "three people in a black shirt"
    if is_generic(u.noun, v.noun, lexicon):
        return []
    if "VB" in (s.tag[p.last + 1] for p in (u, v) if p.last + 1 < len(s.tag)):
        return []  # a compound whose last word was tagged as a verb: "the light post"
    if u.number >= 0 and v.number >= 0 and not (u.partitive or v.partitive):
        if {s.lower[u.number], s.lower[v.number]} & QUANTIFIERS:
            return []  # "two people on many benches"
        if s.lower[u.number] == s.lower[v.number] or u.plural != v.plural or s.lower[u.last + 1] in SEPARATORS:
            return []  # "three people, two wearing hats": the second number is a part of the first
        changes = [
            span_change(s, u.number, u.number, moved_text(s, v.number, v.number)),
            span_change(s, v.number, v.number, moved_text(s, u.number, u.number)),
        ]
        return [apply_changes(s, changes, "swap-number", "swap.numbers", 2.0)]
    many, one = (u, v) if _quantity(s, u) else (v, u)
    quantity = _quantity(s, many)
    if (
        not quantity
        or one.plural
        or one.opener not in ("a", "an", "the")
        or one.number >= 0  # "a five car train"
        or one.partitive
        or not (one.noun and one.noun.count)
    ):
        return []
    if _puts_one_on_many(s, one, many) or not _DISTINCT.isdisjoint(s.lower[many.first : many.last]):
        return []  # "a man riding two elephants", "a different colored cat"
    end, words = quantity[0], s.styled(quantity[1])
    follower = one.last + 1
    if one.noun.category == "scene" and words.startswith("a "):
        return []
    if follower + 1 < len(s.tag) and s.tag[follower] == "VBG" and s.tag[follower + 1] in ("NN", "NNS"):
        return []  # "a doughnut making factory"
    if follower + 1 < len(s.tag) and s.lower[follower] == "and" and s.tag[follower + 1] in ("NN", "NNS"):
        return []  # "a suit and tie"
    singular, plural_form = inflected_head(s, many, False), inflected_head(s, one, True)
    verbs_one, verbs_many = agreement_changes(s, one, True), agreement_changes(s, many, False)
    if not singular or not plural_form or verbs_one is None or verbs_many is None:
        return []
    alone = " ".join(filter(None, (_middle(s, end + 1, many.nominal), singular)))
    changes = [
        span_change(
            s, one.first, one.last, " ".join(filter(None, (words, _middle(s, one.first + 1, one.nominal), plural_form)))
        ),
        span_change(s, many.first, many.last, f"{s.styled(article(alone))} {alone}"),
        *verbs_one,
        *verbs_many,
    ]
    return [apply_changes(s, changes, "swap-number", "swap.numbers", 1.0)]


def _puts_one_on_many(s: Sentence, one: Phrase, many: Phrase) -> bool:
    """Return whether a single thing would be in, on or riding several things after the swap of the numbers."""

    def is_plural(phrase: Phrase | None) -> bool:
        return phrase is one or (phrase is not many and phrase is not None and phrase.plural)

    return any(
        words.split(" ")[-1] in _CARRIED and left is not None and is_plural(right) and not is_plural(left)
        for left, words, right in caption_relations(s)
        if left is many or right is one
    )


def _middle(s: Sentence, first: int, nominal: int) -> str:
    """Return the text between a phrase's determiner and its head."""
    return moved_text(s, first, nominal - 1) if first < nominal else ""


def _quantity(s: Sentence, phrase: Phrase) -> tuple[int, str] | None:
    """Return the token of the last quantity word of a plural phrase, and the quantity words to move to another noun.

    The words are "" for a plural without quantity words, as in "dogs on a bed". Return None if the phrase is not plural
    or if its quantity cannot move.
    """
    if not phrase.plural:
        return None
    if phrase.partitive:
        word = _GROUPS.get(s.lower[phrase.slot])
        if word and phrase.slot == phrase.first + 1 and phrase.opener == "a" and phrase.number < 0:
            return phrase.slot + 1, f"a {word} of"
        return None
    if phrase.opener == "some" and phrase.number < 0:
        return phrase.first, "some"
    if phrase.opener or s.lower[phrase.first] in ("one", "other", "different", "various", "multiple", "few"):
        return None
    if phrase.number < 0:
        before = s.tag[phrase.first - 1] if phrase.first else "IN"
        return (phrase.first - 1, "") if (before[:1] in "VI" and before != "VBN") or before == "CC" else None
    return (phrase.number, moved_text(s, phrase.number, phrase.number)) if phrase.number == phrase.first else None
