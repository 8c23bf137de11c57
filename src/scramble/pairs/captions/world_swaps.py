"""Generate hard negatives of the embedded world's captions, by swaps and replacements that the world's grammar allows.

Every candidate can be parsed, differs in meaning from the caption, and has the same structure and number of words. If a
caption has a scene graph, candidates that are true of the image are counted, and dropped by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

from scramble.pairs.base import Caption, Negative
from scramble.records import Edit
from scramble.scenegraphs.world import WORDS
from scramble.world.grammar import (
    NUMBERS,
    RELATION_WORDS,
    Clause,
    CountClause,
    Exists,
    Noun,
    Relation,
    Span,
    noun_spans,
    number_spans,
    parse_clauses,
    relation_of,
    relation_spans,
)
from scramble.world.judge import holds
from scramble.world.scenes import OPPOSITE


class WorldNegatives:
    """Generates negatives of the embedded world's captions.

    Args:
        kinds: the kinds to generate. None generates all kinds.
        check: whether to drop candidates that are true of the image, if the caption has a graph.
    Attributes:
        judged, true_of_image: for each kind, the number of candidates of captions with a graph, and the number of these
            candidates that are true of the image.
    """

    name = "world"

    def __init__(self, kinds: Iterable[str] | None = None, *, check: bool = True) -> None:
        self.kinds = None if kinds is None else frozenset(kinds)
        self.check = check
        self.judged: Counter[str] = Counter()
        self.true_of_image: Counter[str] = Counter()

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative]]]:
        """Yield each caption with its negatives. Raises GrammarError if a text is not a caption of the world."""
        for caption in captions:
            selected = [n for n in candidates(caption.text) if self.kinds is None or n.kind in self.kinds]
            yield caption, selected if caption.graph is None else [n for n in selected if self._keep(caption, n)]

    def _keep(self, caption: Caption, negative: Negative) -> bool:
        assert caption.graph is not None
        true = holds(caption.graph, negative.text)
        self.judged[negative.kind] += 1
        self.true_of_image[negative.kind] += true
        return not (true and self.check)


def candidates(text: str) -> list[Negative]:
    """Return all negatives of a caption. Each negative differs from the caption in meaning.

    Raises GrammarError if the caption does not parse.
    """
    meaning = _canonical(parse_clauses(text))
    negatives: dict[str, Negative] = {}
    for negative in (*_swaps(text), *_replacements(text)):
        if _canonical(parse_clauses(negative.text)) != meaning:
            negatives.setdefault(negative.text, negative)
    return list(negatives.values())


def _swaps(text: str) -> Iterator[Negative]:
    nouns = noun_spans(text)
    for first, second in combinations(nouns, 2):
        a, b = first.value, second.value
        assert isinstance(a, Noun) and isinstance(b, Noun)
        yield _edited(text, "swap-object", "swap.objects", (first, str(b)), (second, str(a)))
        for word in ("colour", "size"):
            own, other = getattr(a, word), getattr(b, word)
            # If the shapes are equal, swapping all attributes would swap the objects, which is another kind.
            if own and other and own != other and a.shape != b.shape:
                swapped = str(replace(a, **{word: other})), str(replace(b, **{word: own}))
                yield _edited(text, "swap-attribute", f"swap.{word}s", (first, swapped[0]), (second, swapped[1]))
    for first, second in combinations(relation_spans(text), 2):
        if relation_of(str(first.value)) != relation_of(str(second.value)):
            yield _edited(text, "swap-relation", "swap.relations", (first, second.value), (second, first.value))


def _replacements(text: str) -> Iterator[Negative]:
    named = [span.value for span in noun_spans(text)]
    for span in noun_spans(text):
        noun = span.value
        assert isinstance(noun, Noun)
        for word, options in WORDS.items():
            kind = "replace-object" if word == "shape" else "replace-attribute"
            for option in options:
                other = replace(noun, **{word: option})
                if getattr(noun, word) and other not in named:
                    yield _edited(text, kind, f"replace.{word}", (span, str(other)))
    for span in relation_spans(text):
        relation = relation_of(str(span.value))
        place = RELATION_WORDS[relation].index(str(span.value))
        opposite = RELATION_WORDS[OPPOSITE[relation]][place]  # the opposite in the same wording
        yield _edited(text, "replace-relation", "replace.opposite", (span, opposite))
    for span in number_spans(text):
        number = NUMBERS.index(str(span.value))
        for near in (number - 1, number + 1):
            # With "one", the verb and the noun are singular, so the negative would be recognisable without the image.
            if number != 1 and near != 1 and 0 < near < len(NUMBERS):
                yield _edited(text, "replace-number", "replace.number", (span, NUMBERS[near]))


def _edited(text: str, kind: str, rule: str, *changes: tuple[Span, Noun | str]) -> Negative:
    """Return the negative in which spans of the text are replaced. The spans are in order."""
    parts, edits, at, length = [], [], 0, 0
    for span, new in changes:
        start = length + span.start - at
        parts += [text[at : span.start], str(new)]
        length, at = start + len(str(new)), span.end
        edits.append(Edit((span.start, span.end), (start, length)))
    return Negative("".join([*parts, text[at:]]), kind, rule, tuple(edits))


def _canonical(clauses: tuple[Clause, ...]) -> object:
    """Return the meaning in a form that does not depend on the order of mention.

    "a left of b" and "b right of a" have the same form.
    """
    return sorted(repr(_canonical_clause(clause)) for clause in clauses)


def _canonical_clause(clause: Clause) -> object:
    if isinstance(clause, Exists):
        return sorted(map(repr, clause.nouns))
    if isinstance(clause, Relation) and len(clause.links) == 1:
        ((relation, other),) = clause.links
        mirrored = (OPPOSITE[relation], repr(other), repr(clause.subject))
        return min((relation, repr(clause.subject), repr(other)), mirrored)
    if isinstance(clause, CountClause):
        return clause
    return (repr(clause.subject), sorted(map(repr, clause.links)))
