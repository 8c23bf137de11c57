"""Test whether two noun phrases can change places, and whether a swap would keep the meaning."""

from __future__ import annotations

from scramble.language.inflect import word_set
from scramble.language.lexicon import Lexicon, NounEntry
from scramble.language.parse import NO_HEADLINE, Phrase, Sentence
from scramble.pairs.captions.rules.edit import is_title

_ANIMATE = frozenset({"person", "animal"})
_THINGS = frozenset({"furniture", "container", "tool", "vehicle", "structure", "nature", "food"})
_PLACES = word_set("""
    on under underneath beneath in inside behind above over below atop onto into top front
""")
_STILL = word_set("""
    sitting standing laying lying sits stands lies sit stand lay lays is are was were be being that which
    parked perched sleeping resting hanging walking running going moving traveling driving posing seen shown
    placed set located laid next
""")
_RELATION_TAGS = frozenset({"IN", "VBG", "VBZ", "VBP", "WDT", "WP"})
JOINERS = frozenset({"and", "or", ","})
SEPARATORS = JOINERS | {"&", "+", "/", "plus", ".", "!", "?", ";", ":", "...", "…", "-", "–", "—"}
_QUOTES = frozenset({'"', "'", "`", "``", "''", "(", ")", "[", "]"})
_MUTUAL = word_set("""
    playing plays play talking talks talk speaking speaks speak chatting chats chat fighting fights fight dancing dances
    dance cuddling cuddles cuddle snuggling snuggles snuggle wrestling wrestles mixed combined connected joined
    share shares sharing
""")  # before "with" or "to", these verbs form symmetric relations
_RIDING = word_set("""
    riding rides ride rode surfing surfs surf skiing skis ski skating skates snowboarding skateboarding
""")
_GROUND = word_set("""
    wave ocean water sea surf river lake slope hill mountain snow ramp rail street road track trail path beach
""")
_MOUNTS = frozenset({"vehicle", "animal", "tool", "sport"})
_ON = frozenset({"on", "in", "atop", "onto", "upon", "top", "of", "with", "using"})
_AMONG = frozenset({"between", "among", "amongst", "amid", "amidst"})
_TOGETHER = frozenset({"lined", "gathered", "grouped", "huddled", "stacked", "bunched", "clustered"})
_FILLERS = word_set("""
    a an the of to its then
""")
_OF_PLACE = frozenset({"out", "inside", "off", "outside", "ahead", "instead"})


def in_title(s: Sentence, phrase: Phrase, lexicon: Lexicon) -> bool:
    """Return whether a common word of a phrase has a capital that would be wrong elsewhere: 'a sign with "The Cat"'."""
    if s.headline != NO_HEADLINE:
        return False
    inner = (i for i in range(phrase.first, phrase.last + 1) if i not in s.opening and is_title(s, i))
    return any(
        s.tag[i] in ("DT", "CD") or s.lower[i] in lexicon.nouns or s.lower[i] in lexicon.adjectives for i in inner
    )


def tokens_between(s: Sentence, u: Phrase, v: Phrase) -> list[int]:
    """Return the tokens between two phrases that do not belong to a noun phrase and are not negated.

    In "a bench with nobody on it next to a car", only "next to" relates the bench to the car.
    """
    inside = {i for p in s.phrases if p is not u and p is not v for i in range(p.first, p.last + 1)} | s.negated
    return [i for i in range(u.last + 1, v.first) if i not in inside]


def keeps_meaning(s: Sentence, u: Phrase, v: Phrase, joints: list[int], words: list[str], lexicon: Lexicon) -> bool:
    """Return whether two noun phrases can change places without a change of meaning.

    The meaning does not change for coordinations and symmetric relations, even after a verb of rest or motion: "a dog
    sitting next to a cat" is true if "a cat sitting next to a dog" is true. The meaning changes if one of the phrases
    has a further relation: "a man on a skateboard near a car", "a dog next to a cat wearing a hat".
    """
    words = [w for w in words if w not in _QUOTES]
    if SEPARATORS.issuperset(words) or _rides(s, u, v, words):
        return True
    joints = [i for i in joints if s.lower[i] not in _QUOTES]
    after = v.last + 1
    if words[-1] in JOINERS and (after == len(s.tag) or s.tag[after] not in _RELATION_TAGS):
        return True  # "a sink in a bathroom and a towel": the conjuncts of "and" are ambiguous
    symmetric = lexicon.phrases["symmetric"]
    mutual = len(words) > 1 and words[-1] in ("with", "to") and words[-2] in _MUTUAL and _equals(u, v)
    if not mutual and any(
        s.tag[i].startswith("V") and w not in _STILL and w not in symmetric for i, w in zip(joints, words, strict=True)
    ):
        return False
    if words[-1] == "with" and set(words[:-1]) <= _PLACES | _STILL and _are_animate(u, v):
        return True  # "a person sleeping on a bed with a cat"
    last = next((n for n in (3, 2, 1) if " ".join(words[-n:]) in symmetric), 0)  # number of words of the relation
    if set(words) & _PLACES and not (last and set(words[:-last]) <= _PLACES | _STILL and _are_animate(u, v)):
        return False  # the exception: "a man sitting on a train next to a woman"
    if mutual or last:
        before = s.lower[u.first - 1] if u.first else ""
        free = before in symmetric or before == "of" or before in _STILL
        governed = u.first > 0 and not free and (before in _PLACES or s.tag[u.first - 1].startswith("V"))
        follower = s.lower[v.last + 1] if v.last + 1 < len(s.lower) else ""
        tag = s.tag[v.last + 1] if follower else ""
        owns = tag in ("VBG", "WDT", "WP") and follower not in _STILL
        place = s.lower[v.last + 2] if v.last + 2 < len(s.lower) else ""
        owns = owns or (words[-1] == "with" and follower in _PLACES and place in ("it", "them", "top", "the"))
        return not (governed or owns) or bool(JOINERS & set(words))
    return not [w for w in words if w not in symmetric and w not in _FILLERS and w not in _STILL and w not in JOINERS]


def _are_animate(u: Phrase, v: Phrase) -> bool:
    return u.noun is not None and v.noun is not None and {u.noun.category, v.noun.category} <= _ANIMATE


def _equals(u: Phrase, v: Phrase) -> bool:
    """Return whether both objects can have the same role: both are animate, or both are inanimate."""
    if u.noun is None or v.noun is None:
        return False
    return (u.noun.category in _ANIMATE) == (v.noun.category in _ANIMATE)


def _rides(s: Sentence, u: Phrase, v: Phrase, words: list[str]) -> bool:
    """Return whether one thing is ridden on the other: "riding a wave on a board", "riding a board on a wave"."""
    if u.noun is None or v.noun is None:
        return False
    first, second = (u, v) if _grounds(s, u) else (v, u)
    if not _grounds(s, first) or _grounds(s, second) or second.noun is None or second.noun.category not in _MOUNTS:
        return False
    before = s.lower[u.first - 1] if u.first else ""
    if _ON.issuperset(words):
        return before in _RIDING
    return before in _ON and any(w in _RIDING for w in words) and _RIDING.issuperset(words)


def _grounds(s: Sentence, phrase: Phrase) -> bool:
    lemma = phrase.noun.lemma if phrase.noun is not None else ""
    return lemma in _GROUND or s.lower[phrase.last].removesuffix("s") in _GROUND


def is_mounted(s: Sentence, u: Phrase, v: Phrase) -> bool:
    """Return whether a phrase is a part of the next one, as in "a wall mounted golden clock"."""
    return v.first == u.last + 2 and s.tag[u.last + 1] == "VBN" and not v.opener


def must_be_plural(s: Sentence, phrase: Phrase) -> bool:
    """Return whether a phrase must be plural: "in between two children", "several refrigerators are lined up"."""
    before = s.lower[phrase.first - 1] if phrase.first else ""
    return phrase.plural and (before in _AMONG or not _TOGETHER.isdisjoint(s.lower[phrase.last + 1 : phrase.last + 3]))


def is_bound(s: Sentence, phrase: Phrase, lexicon: Lexicon) -> bool:
    """Return whether a phrase must not be swapped.

    For example, "of" may attach the phrase to a noun ("a statue of a horse"), or the phrase may belong to an idiom
    without an article ("in bed").
    """
    if phrase.last + 1 < len(s.lower) and s.lower[phrase.last + 1] == "of":
        return True
    if phrase.first == 0:
        return False
    before = s.lower[phrase.first - 1]
    if before == "of" and phrase.first > 1:
        word = s.lower[phrase.first - 2]
        names = lexicon.phrases["locators"] | lexicon.phrases["depictions"] | _OF_PLACE
        return word not in names
    if before == "-" or phrase.noun is None:
        return True
    if before in _QUOTES and s.end[phrase.first - 1] < s.start[phrase.first]:
        return True  # '"Stop" sign'
    tag = s.tag[phrase.first - 1]
    if not phrase.opener and tag in ("DT", "JJ", "CD", "VBN", "RB", "NN", "NNS"):
        return True  # the phrase begins further left than in the parse
    if not phrase.opener and tag == "VBG" and phrase.first > 1 and s.tag[phrase.first - 2] in ("DT", "JJ", "RB"):
        return True
    bare = not phrase.opener and phrase.number < 0 and not phrase.plural
    return bare and not phrase.noun.mass and s.tag[phrase.first - 1] in ("IN", "TO")


def is_generic(a: NounEntry, b: NounEntry, lexicon: Lexicon) -> bool:
    """Return whether a swap keeps the meaning because one noun can also name the object that the other noun names (for
    example "person" and "man").
    """
    return a.category == b.category and bool({a.lemma, b.lemma} & lexicon.phrases["generic"])


def swap_weight(a: NounEntry, b: NounEntry) -> float:
    """Return the weight of a swap of two nouns by their categories. A weight of 0 excludes the swap."""
    pair = {a.category, b.category}
    if pair & {"part", "sport"}:
        return 0.0
    if a.category == b.category:
        return 0.5 if a.category == "scene" else 1.0
    if pair <= _ANIMATE:
        return 1.0
    return 0.5 if pair <= _THINGS else 0.0


def have_equal_roles(a: NounEntry, b: NounEntry) -> bool:
    """Return whether two nouns can have each other's roles with most verbs and prepositions.

    This holds for people and animals. Swaps of other phrases are mostly absurd, even if the nouns have the same
    category ("a clock tower that has a building"), and word counts do not detect these swaps well enough
    (docs/results/negatives.md).
    """
    return {a.category, b.category} <= _ANIMATE
