"""Convert a spaCy parse to the input of the rules: tokens with offsets, and noun phrases with their parts.

Noun phrases are derived from the tags, left to right, and not from ``doc.noun_chunks``. Captions are often fragments,
and the tags of a fragment are more reliable than its dependency arcs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from scramble.language.inflect import capitalised, word_set
from scramble.language.lexicon import Adjective, Lexicon, NounEntry
from scramble.language.negation import negated

_NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
_ADJECTIVE_TAGS = frozenset({"JJ", "JJR", "JJS", "VBN", "VBG"})
_OPENERS = frozenset({"DT", "PRP$", "PDT"})
_AFTER_VERB = frozenset({"IN", "RB", "RP", "DT", "TO", "PRP$", "CD"})
_VERBAL = word_set("""
    sitting standing laying lying walking riding holding playing eating looking wearing flying running watching
    skiing sits stands lies lays walks rides holds plays eats looks wears flies runs watches poses drives waits
    grazes smiles features
""")  # forms that taggers tag as nouns in captions without a main verb
_BLOCKS = _NOUN_TAGS | {"HYPH", "POS"}
NO_HEADLINE = 1_000
_RUN_ON = re.compile(r"[A-Za-z][.;:!?][A-Za-z]")
_OPENS = re.compile(r"^[^a-z]*[^\w]$|_$")
PRONOUNS = word_set("""
    he she it they him her them his hers its their theirs himself herself itself themselves i we you my our
    your me us who whom whose it's
""")
QUANTIFIERS = frozenset({"several", "many"})
_GROUPS = word_set("""
    bunch lot couple group number pair herd flock assortment variety series collection pack crowd
""")
_SHADES = word_set("""
    light dark bright neon pale fluorescent deep
""")
_LISTED = frozenset({",", "and", "or", "-", "/", "&"})  # an adjective next to one of these is part of a list
_RECIPROCAL = word_set("""
    each both together another other one all every there same single lone alone gathered
""")


@dataclass(frozen=True, slots=True)
class Attribute:
    """Describes one or more adjectives inside a noun phrase, from token ``first`` to token ``last``."""

    first: int
    last: int
    adjective: Adjective


@dataclass(slots=True)
class Phrase:
    """Describes a noun phrase up to its head. "a group of people" is one phrase with the head "people".

    Attributes:
        first, last: indices of the first and the last token.
        nominal: index of the first token of the head, which can be a compound ("fire hydrant").
        slot: index of the token whose arcs determine agreement ("group").
        noun: the lexicon's entry for the head, or None if the head is not in the lexicon or must not be edited.
        plural, slot_plural: whether the head and the slot are plural.
        attributes: the adjectives of the phrase that can be edited.
        number: index of the number word, or -1 if there is none.
        opener: the determiner or possessive in lower case, or "" if there is none.
        partitive: whether the phrase starts with a partitive ("a group of").
        proper: whether the head is a name.
    """

    first: int
    last: int
    nominal: int
    slot: int
    noun: NounEntry | None
    plural: bool
    slot_plural: bool
    attributes: tuple[Attribute, ...]
    number: int
    opener: str
    partitive: bool
    proper: bool


@dataclass(slots=True)
class Sentence:
    """Stores a parsed caption.

    The lists from ``start`` to ``head`` contain one entry per token. ``start`` and ``end`` contain character offsets.
    """

    text: str
    start: list[int]
    end: list[int]
    lower: list[str]
    tag: list[str]
    dep: list[str]
    head: list[int]
    phrases: list[Phrase]
    pronoun: bool  # whether the caption contains a pronoun
    reciprocal: bool  # whether the caption contains a word such as "each" or "together", which relates several things
    negated: frozenset[int] = frozenset()  # tokens in the scope of a negation
    opening: frozenset[int] = frozenset()  # tokens that are capitalised because of their position
    headline: int = NO_HEADLINE  # words with at least this many letters are capitalised (4 in "A Dog on a Red Couch")

    def span(self, first: int, last: int) -> str:
        """Return the text of tokens ``first`` to ``last``."""
        return self.text[self.start[first] : self.end[last]]

    def styled(self, text: str) -> str:
        """Return a text with the capitals of a headline if the caption is a headline, or else the unchanged text."""
        if self.headline == NO_HEADLINE:
            return text
        return " ".join(capitalised(word) if len(word) >= self.headline else word for word in text.split(" "))


def parse_sentences(nlp: Any, texts: Iterable[str], lexicon: Lexicon, *, batch_size: int = 256) -> Iterator[Sentence]:
    """Parse a stream of captions, ``batch_size`` at a time."""
    for doc in nlp.pipe(texts, batch_size=batch_size):
        yield read_sentence(doc, lexicon)


def read_sentence(doc: Any, lexicon: Lexicon) -> Sentence:
    """Extract the input of the rules from a spaCy ``Doc``."""
    from spacy.attrs import DEP, HEAD, IDX, LENGTH, LOWER, TAG

    table = doc.to_array([IDX, LENGTH, LOWER, TAG, DEP, HEAD])
    name = doc.vocab.strings.__getitem__
    start = table[:, 0].tolist()
    sentence = Sentence(
        text=doc.text,
        start=start,
        end=(table[:, 0] + table[:, 1]).tolist(),
        lower=[name(i) for i in table[:, 2].tolist()],
        tag=[name(i) for i in table[:, 3].tolist()],
        dep=[name(i) for i in table[:, 4].tolist()],
        head=[i + offset for i, offset in enumerate(table[:, 5].astype("int64").tolist())],
        phrases=[],
        pronoun=False,
        reciprocal=False,
    )
    for i in range(len(start) - 1):
        if sentence.lower[i] in _VERBAL and sentence.tag[i] in _NOUN_TAGS and sentence.tag[i + 1] in _AFTER_VERB:
            sentence.tag[i] = "VBG" if sentence.lower[i].endswith("ing") else "VBZ"
    _read_capitals(sentence, lexicon)
    words = set(sentence.lower)
    sentence.pronoun = not words.isdisjoint(PRONOUNS)
    sentence.reciprocal = not words.isdisjoint(_RECIPROCAL) or "side by side" in sentence.text
    sentence.phrases = _merge_partitives(sentence, _noun_phrases(sentence, lexicon), lexicon)
    sentence.negated = negated(sentence, lexicon)
    return sentence


def _read_capitals(s: Sentence, lexicon: Lexicon) -> None:
    """Find the words that are capitalised because of their position, and detect headlines.

    These positions are the start of the caption, the position after punctuation, and the position after a number such
    as "2.". A word that an edit moves to one of these positions must be capitalised, and a word that an edit moves away
    from them must not be capitalised. Otherwise only the rejected text would contain capitalisation errors.
    """
    capitals = [i for i, start in enumerate(s.start) if s.text[start].isupper()]
    s.opening = frozenset(i for i in capitals if i == 0 or _OPENS.search(s.lower[i - 1]))
    for i in s.opening:  # "Dog on couch": taggers interpret the capital as a name
        if s.tag[i] in ("NNP", "NNPS") and (s.lower[i] in lexicon.nouns or s.lower[i] in lexicon.adjectives):
            s.tag[i] = "NNS" if lexicon.nouns.get(s.lower[i], (None, False))[1] else "NN"
    inner = [len(s.lower[i]) for i in capitals if i not in s.opening]
    if len(inner) < 3:
        return
    small = [len(w) for w, start in zip(s.lower, s.start, strict=True) if w[0].isalpha() and s.text[start].islower()]
    if max(inner) > 3 >= max(small, default=0):
        s.headline = 4 if small else 1


def _noun_phrases(s: Sentence, lexicon: Lexicon) -> list[Phrase]:
    phrases: list[Phrase] = []
    size, left = len(s.tag), 0
    for i, tag in enumerate(s.tag):
        if tag not in _NOUN_TAGS or (i + 1 < size and s.tag[i + 1] in _BLOCKS):
            continue
        if i + 2 < size and s.lower[i + 1] in _LISTED and _modifies(s, i, lexicon) and _modifies(s, i + 2, lexicon):
            continue  # "orange" in "an orange and white cat" is not a separate phrase
        if i + 1 < size and f"{s.lower[i]} {s.lower[i + 1]}" in lexicon.nouns:
            left = i + 1  # a compound whose second word was tagged as a verb ("street sign")
            continue
        if i + 2 < size and s.tag[i + 1] in ("VBN", "JJ") and s.tag[i + 2] in _NOUN_TAGS:
            left = i + 1  # "snow" in "snow covered ground" is not a separate phrase
            continue
        first = _left_edge(s, i, left, lexicon)
        if first > left and s.tag[first - 1] in ("HYPH", "POS"):
            left = i + 1
            continue
        phrases.append(_phrase(s, first, i, lexicon))
        left = i + 1
    return phrases


def _modifies(s: Sentence, i: int, lexicon: Lexicon) -> bool:
    """Return whether a token is an adjective, even if it is tagged as a noun, as "grey" and "orange" often are."""
    return s.tag[i] in ("JJ", "JJR", "JJS") or (s.lower[i] in lexicon.adjectives and s.tag[i] in _NOUN_TAGS)


def _left_edge(s: Sentence, head: int, left: int, lexicon: Lexicon) -> int:
    """Return the first token of the noun phrase that ends at token ``head`` and starts at or after ``left``."""
    i = head
    while i > left:
        tag = s.tag[i - 1]
        if tag in _OPENERS:
            return i - 1
        if tag in ("VBN", "VBG"):
            before = s.tag[i - 2] if i - 1 > left else "NN"
            if before not in _OPENERS and before not in ("CD", "JJ"):
                return i
        elif s.lower[i - 1] in _LISTED:  # "black and white", "a big, red", "red, white and blue"
            if not (i - 2 >= left and _modifies(s, i, lexicon) and _modifies(s, i - 2, lexicon)):
                return i
        elif (tag not in _NOUN_TAGS and tag not in _ADJECTIVE_TAGS and tag not in ("CD", "RB")) or (
            tag == "RB" and s.tag[i] not in _ADJECTIVE_TAGS
        ):
            return i
        i -= 1
    return i


def _phrase(s: Sentence, first: int, head: int, lexicon: Lexicon) -> Phrase:
    entry, nominal = lexicon.nouns.get(s.lower[head]), head
    if head > first:
        double = lexicon.nouns.get(f"{s.lower[head - 1]} {s.lower[head]}")
        if double is not None:
            entry, nominal = double, head - 1
    tag = s.tag[head]
    while nominal > first and s.tag[nominal - 1] in _NOUN_TAGS and s.lower[nominal - 1] not in lexicon.adjectives:
        nominal -= 1
    number = next((i for i in range(first, nominal) if s.tag[i] == "CD" or s.lower[i] in QUANTIFIERS), -1)
    attributes = _attributes(s, first, nominal, lexicon)
    is_plural = tag in ("NNS", "NNPS") if entry is None else entry[1]
    if s.lower[head] in ("scissors", "clothes") or (s.lower[head] in ("sheep", "deer", "fish") and tag == "NNS"):
        is_plural = True
    if number >= 0 and entry is not None and entry[0].category == "animal" and s.lower[number] != "one":
        is_plural = True  # "two zebra"
    opener = s.lower[first] if s.tag[first] in _OPENERS else ""
    if is_plural and opener in ("a", "an", "another", "this", "that", "each"):
        entry = None  # do not edit the writer's error
    if _RUN_ON.search(s.text, s.start[first], s.end[head]):
        entry = None  # the tokenizer did not separate two words, as in "on a couch;A cat"
    if opener == "no":
        entry = None  # in another position, "no smoking sign" would also read as a negation
    return Phrase(
        first=first,
        last=head,
        nominal=nominal,
        slot=head,
        noun=entry[0] if entry else None,
        plural=is_plural,
        slot_plural=is_plural,
        attributes=tuple(attributes),
        number=number,
        opener=opener,
        partitive=False,
        proper=tag in ("NNP", "NNPS") and head not in s.opening and s.text[s.start[head]].isupper(),
    )


def _attributes(s: Sentence, first: int, nominal: int, lexicon: Lexicon) -> list[Attribute]:
    """Return the attributes among the tokens from ``first`` up to, but not including, ``nominal``.

    Only adjectives that are in the lexicon count. Adjectives in a list, in a fixed name, or next to an adjective of the
    same class are excluded.
    """
    attributes: list[Attribute] = []
    i = first
    while i < nominal:
        begin = i
        if s.lower[i] in _SHADES and i + 1 < nominal and s.lower[i + 1] in lexicon.adjectives:
            i += 1  # "dark green" is one attribute
        adjective = lexicon.adjectives.get(s.lower[i])
        if adjective is None or s.tag[i] not in _ADJECTIVE_TAGS | _NOUN_TAGS:
            i += 1
            continue
        last = i
        if i + 2 < nominal and s.lower[i + 1] == "and" and s.lower[i + 2] in lexicon.adjectives:
            last = i + 2  # "black and white"
        listed = s.lower[last + 1] in _LISTED or (
            begin > 1
            and s.lower[begin - 1] in _LISTED
            and (begin > first or s.tag[begin - 2] in _ADJECTIVE_TAGS or s.lower[begin - 2] in lexicon.adjectives)
        )
        if not listed and f"{s.lower[last]} {s.lower[last + 1]}" not in lexicon.phrases["frozen"]:
            attributes.append(Attribute(begin, last, adjective))
        i = last + 1
    touching = {
        a
        for a in attributes
        for b in attributes
        if a is not b and a.adjective.cls == b.adjective.cls and (a.last + 1 == b.first or b.last + 1 == a.first)
    }
    return [a for a in attributes if a not in touching]


def _merge_partitives(s: Sentence, phrases: list[Phrase], lexicon: Lexicon) -> list[Phrase]:
    """Join phrases such as "a group" and "people". Remove phrases such as "a photo" and "the front" (of a bus)."""
    partitives, depictions = lexicon.phrases["partitives"], lexicon.phrases["depictions"]
    locators = lexicon.phrases["locators"]
    merged: list[Phrase] = []
    for phrase, follows in zip_longest(phrases, phrases[1:]):
        singular = s.lower[phrase.last].removesuffix("s")
        is_followed = follows is not None and follows.first == phrase.last + 2 and s.lower[phrase.last + 1] == "of"
        if is_followed and singular in partitives:
            follows.first, follows.slot, follows.partitive = phrase.first, phrase.last, True
            follows.slot_plural, follows.opener = phrase.plural, phrase.opener
            if phrase.noun is not None and phrase.noun.category == "container":
                follows.attributes = phrase.attributes + follows.attributes
            if singular in _GROUPS:
                if follows.noun is not None and follows.noun.category == "animal":
                    follows.plural = True  # "a herd of zebra"
                follows.slot_plural = phrase.plural or follows.plural
        elif singular not in locators and s.lower[phrase.last] not in locators and singular not in depictions:
            merged.append(phrase)
    return merged
