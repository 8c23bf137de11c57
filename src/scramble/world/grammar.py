"""Defines the grammar of the world's captions: their meanings, their wordings, and the parser from text to meaning.

A caption is one or more clauses joined by ``", and "``. A clause says that objects exist, where an object is relative
to other objects, or how many objects of a kind there are. :func:`render` writes a meaning as text, and
:func:`parse_clauses` returns the meaning of a text. Every text has at most one meaning.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from scramble.world.scenes import COLOURS, SHAPES, SIZES, WorldError

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
ANY_SHAPE = "object"

RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
_RELATION_OF = {words: relation for relation, options in RELATION_WORDS.items() for words in options}

Wording = Literal["train", "new"]
# {a}, {b} and {c} are objects, {r} and {q} are relation words, {n} is a list of objects, and {k} is a counted noun. The
# "new" wordings test transfer: they contain the words of the "train" wordings in different orders.
RELATION_TEMPLATES: dict[Wording, tuple[str, ...]] = {
    "train": ("{a} {r} {b}", "there is {a} {r} {b}", "the picture shows {a} {r} {b}", "{r} {b} is {a}"),
    "new": ("{a} is {r} {b}", "{r} {b} there is {a}", "the picture shows {r} {b} {a}"),
}
CHAIN_TEMPLATES: dict[Wording, tuple[str, ...]] = {
    "train": ("{a} {r} {b} and {q} {c}", "there is {a} {r} {b} and {q} {c}"),
    "new": ("{a} is {r} {b} and {q} {c}",),
}
LIST_TEMPLATES: dict[Wording, tuple[str, ...]] = {
    "train": ("{n}", "there is {n}", "the picture shows {n}"),
    "new": ("the picture is of {n}",),
}
COUNT_TEMPLATES: dict[Wording, tuple[str, ...]] = {
    "train": ("there {is} {k}", "the picture shows {k}"),
    "new": ("the picture is of {k}",),
}
_JOIN = ", and "


class GrammarError(WorldError):
    """Raised if a text is not a caption of the embedded world."""


@dataclass(frozen=True, slots=True)
class Noun:
    """The description of an object by shape, colour and size, each of which is "" if it is not specified."""

    shape: str = ""
    colour: str = ""
    size: str = ""

    def __str__(self) -> str:
        words = self.words
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    @property
    def words(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or ANY_SHAPE) if word)

    @property
    def plural(self) -> str:
        return f"{self.words}es" if self.words.endswith("s") else f"{self.words}s"


@dataclass(frozen=True, slots=True)
class Relation:
    """``subject`` has the given relations to one or two other objects: ``(("left of", b), ("above", c))``."""

    subject: Noun
    links: tuple[tuple[str, Noun], ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """A separate object exists for each noun."""

    nouns: tuple[Noun, ...]


@dataclass(frozen=True, slots=True)
class CountClause:
    """Exactly ``number`` objects match the noun."""

    number: int
    noun: Noun


Clause = Relation | Exists | CountClause


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a caption, in character offsets with an exclusive end.

    ``value`` is the noun that the span describes, or the text of the span if it is not a noun.
    """

    start: int
    end: int
    value: Noun | str


# --------------------------------------------------------------------------------------------------------- to text


def render(clauses: Sequence[Clause], rng: random.Random, wording: Wording = "train") -> str:
    """Write clauses as a caption with a random wording. ``"new"`` wordings do not occur in training captions."""
    return _JOIN.join(_render_clause(clause, rng, wording) for clause in clauses)


class _First(random.Random):
    """A random generator that always selects the first option."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[0]


@lru_cache(maxsize=65536)
def say(clause: Clause) -> str:
    """Write a clause in its first wording, because the wording of rationales does not vary."""
    return render((clause,), _First())


def _render_clause(clause: Clause, rng: random.Random, wording: Wording) -> str:
    if isinstance(clause, Exists):
        return rng.choice(LIST_TEMPLATES[wording]).format(n=_row(clause.nouns))
    if isinstance(clause, CountClause):
        one = clause.number == 1
        kind = clause.noun.words if one else clause.noun.plural
        template = rng.choice(COUNT_TEMPLATES[wording])
        return template.format(k=f"{NUMBERS[clause.number]} {kind}", **{"is": "is" if one else "are"})
    words = [rng.choice(RELATION_WORDS[relation]) for relation, _ in clause.links]
    if len(clause.links) == 1:
        template = rng.choice(RELATION_TEMPLATES[wording])
        return template.format(a=clause.subject, r=words[0], b=clause.links[0][1])
    template = rng.choice(CHAIN_TEMPLATES[wording])
    (_, first), (_, second) = clause.links
    return template.format(a=clause.subject, r=words[0], b=first, q=words[1], c=second)


def _row(nouns: Sequence[Noun]) -> str:
    texts = [str(noun) for noun in nouns]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


# ------------------------------------------------------------------------------------------------------- from text

_NAME = rf"(?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLOURS)}) )?"
_SINGULAR = rf"{_NAME}(?:{'|'.join((*SHAPES, ANY_SHAPE))})\b"
_PLURAL = rf"{_NAME}(?:{'|'.join(Noun(shape).plural for shape in (*SHAPES, ''))})\b"
_NOUN = rf"an? {_SINGULAR}"
_RELATION = rf"(?:{'|'.join(sorted(_RELATION_OF, key=len, reverse=True))})"
_COUNT = rf"(?:one {_SINGULAR}|(?:{'|'.join(n for n in NUMBERS if n != 'one')}) {_PLURAL})"
_ROW = rf"{_NOUN}(?:, {_NOUN})*(?: and {_NOUN})?"
_PARTS = {"a": _NOUN, "b": _NOUN, "c": _NOUN, "r": _RELATION, "q": _RELATION, "n": _ROW, "k": _COUNT, "is": "is|are"}


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    templates = [
        template
        for group in (RELATION_TEMPLATES, CHAIN_TEMPLATES, LIST_TEMPLATES, COUNT_TEMPLATES)
        for wording in group.values()
        for template in wording
    ]
    return tuple(
        re.compile(re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_PARTS[m[1]]})", template)) for template in templates
    )


def parse_clauses(caption: str) -> tuple[Clause, ...]:
    """Parse the meaning of a caption.

    Raises:
        GrammarError: the text, or one of its clauses, is outside the grammar. The message quotes the clause.
    """
    return tuple(_parse_clause(text, caption) for text in caption.split(_JOIN))


def _parse_clause(text: str, caption: str) -> Clause:
    for pattern in _patterns():
        if match := pattern.fullmatch(text):
            groups = match.groupdict()
            if "n" in groups:
                return Exists(tuple(read_noun(part) for part in re.findall(_NOUN, groups["n"])))
            if "k" in groups:
                number, _, words = groups["k"].partition(" ")
                return CountClause(NUMBERS.index(number), read_noun(words))
            links = [(_RELATION_OF[groups["r"]], read_noun(groups["b"]))]
            if "q" in groups:
                links.append((_RELATION_OF[groups["q"]], read_noun(groups["c"])))
            return Relation(read_noun(groups["a"]), tuple(links))
    raise GrammarError(
        f"{text!r} (in {caption!r}) is not a caption of the embedded world: use one of the forms in "
        "scramble.world.grammar"
    )


_SHAPE_OF = {form: shape for shape in SHAPES for form in (shape, Noun(shape).plural)}


def read_noun(words: str) -> Noun:
    """Parse the words of a noun in the singular or plural."""
    shape = colour = size = ""
    for word in words.split():
        if word in COLOURS:
            colour = word
        elif word in SIZES:
            size = word
        else:
            shape = _SHAPE_OF.get(word, shape)
    return Noun(shape, colour, size)


def noun_spans(caption: str) -> list[Span]:
    """Return the spans of the nouns with an article, in order of mention. The spans include the articles."""
    return [Span(match.start(), match.end(), read_noun(match[0])) for match in re.finditer(_NOUN, caption)]


def relation_spans(caption: str) -> list[Span]:
    """Return the spans of relation words, in order."""
    return [Span(match.start(), match.end(), match[0]) for match in re.finditer(rf"\b{_RELATION}\b", caption)]


def number_spans(caption: str) -> list[Span]:
    """Return the spans of the number words in count clauses, in order."""
    numbers = re.finditer(rf"\b({'|'.join(NUMBERS)}) (?={_SINGULAR}|{_PLURAL})", caption)
    return [Span(match.start(1), match.end(1), match[1]) for match in numbers]


def relation_of(words: str) -> str:
    """Return the relation that the words express, for example ``"left of"`` for ``"to the left of"``."""
    return _RELATION_OF[words]
