"""Derive scene graphs from English text by applying rules to a dependency parse.

The rules cover:

- several subjects ("a dog and a cat sit")
- predicative adjectives ("the car is red and shiny")
- relative and reduced clauses ("a man who wears a hat", "parked near the house")
- passives ("a ball held by a boy" becomes *boy hold ball*)
- compound prepositions ("to the left of")
- repeated mentions ("the dog" after a sentence about a dog, "it")
- negation ("no person", "is not red", "without a hat"), which separates denied facts from asserted facts

Names and verbs are lemmas. A number word is an attribute ("two men" becomes a node *man* with the attribute *two*).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from scramble.language.inflect import word_set
from scramble.language.spacy_pipeline import DEFAULT_PIPELINE, load_pipeline
from scramble.scenegraphs.graph import Fact, Link, Node, SceneGraph

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NOUNS = {"NN", "NNS", "NNP", "NNPS"}
_ADJECTIVES = {"JJ", "JJR", "JJS"}
_SUBJECTS = {"nsubj", "nsubjpass", "csubj"}
_OBJECTS = {"dobj", "obj", "dative"}
_RELATIVE = {"who", "that", "which", "whom"}
_PRONOUNS = {"it", "he", "she", "they", "them", "him", "her"}
_NOT = {"not", "n't", "never"}
_DENYING = {"no", "neither", "any"}
_PLACES = {"left", "right", "front", "top", "bottom", "side", "middle", "center", "centre", "back", "rear"}
_DEPICTIONS = {"picture", "photo", "photograph", "image", "view", "scene", "close-up", "shot"}
# Verbs that taggers can mistake for the head of a compound noun, for example "sits" in "a dog sits on a bench".
_VERBAL = word_set("sit stand lie lay walk ride play look fly run pose wait graze drive float hang park rest sleep")
_GROUPS = {"group", "pair", "couple", "bunch", "row", "number", "lot", "herd", "flock", "piece", "slice", "set"}


@dataclass
class Parsed:
    """Holds the facts that a text asserts and denies.

    Attributes:
        graph: the asserted facts.
        denied: the denied attributes and relations, with the ids of the objects that the text mentions.
        absent: the names of objects that the text says are absent.
    """

    graph: SceneGraph
    denied: tuple[Fact, ...] = ()
    absent: tuple[str, ...] = ()


def load_caption_parser(pipeline: str | None = None) -> Any:
    """Load the spaCy pipeline for :func:`parse_captions`. Raises PipelineError if it cannot be used."""
    return load_pipeline(pipeline or DEFAULT_PIPELINE, "tagger", "parser", "lemmatizer")


def parse_captions(texts: Iterable[str], nlp: Any, *, batch_size: int = 128) -> Iterator[Parsed]:
    """Yield the facts of each text, in order. The graph of a text without a noun is empty.

    Each sentence is parsed separately, because dependency parsers often split captions in the wrong places.
    """
    parts = ((part, number) for number, text in enumerate(texts) for part in _SENTENCE.split(text))
    docs = nlp.pipe(parts, as_tuples=True, batch_size=batch_size)
    for _, group in groupby(docs, key=lambda pair: pair[1]):
        reader = _Reader()
        for doc, _ in group:
            reader.read(doc)
        yield reader.parsed()


def merged(graphs: Iterable[SceneGraph]) -> SceneGraph:
    """Merge the graphs of several texts about one image. Objects with the same name become one object."""
    names: dict[str, dict[str, None]] = {}
    links: dict[Link, None] = {}
    for graph in graphs:
        for node in graph.nodes:
            names.setdefault(node.name, {}).update(dict.fromkeys(node.attributes))
        name = {node.id: node.name for node in graph.nodes}
        links |= {Link(name[k.subject], k.predicate, name[k.object]): None for k in graph.links}
    nodes = tuple(Node(name, name, tuple(attributes)) for name, attributes in names.items())
    return SceneGraph(nodes, tuple(k for k in links if k.subject != k.object))


@dataclass
class _Thing:
    """Represents a noun of the text: its name, its attributes, and whether the text says that the object exists."""

    ident: str
    name: str
    attributes: dict[str, None] = field(default_factory=dict)
    there: bool = True


class _Reader:
    """Collects the facts of the sentences of one text."""

    def __init__(self) -> None:
        self.things: dict[str, _Thing] = {}
        self.of_token: dict[int, _Thing] = {}
        self.links: dict[Link, None] = {}
        self.denied: dict[Fact, None] = {}
        self.named: list[tuple[int, _Thing]] = []  # (token index, subject): possible antecedents of pronouns

    def parsed(self) -> Parsed:
        nodes = tuple(Node(t.ident, t.name, tuple(t.attributes)) for t in self.things.values() if t.there)
        present = {node.id for node in nodes}
        links = tuple(k for k in self.links if {k.subject, k.object} <= present)
        absent = tuple(thing.name for thing in self.things.values() if not thing.there)
        return Parsed(SceneGraph(nodes, links), tuple(self.denied), absent)

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, sentence: Any) -> None:
        self.of_token = {}
        self.named = [(-1, thing) for _, thing in self.named]
        for token in sentence:
            if self._names_a_thing(token):
                self.of_token[token.i] = self._thing(token)
                if token.dep_ in _SUBJECTS | {"ROOT"}:
                    self.named.append((token.i, self.of_token[token.i]))
        for token in sentence:
            if token.i in self.of_token:
                self._modifiers(token, self.of_token[token.i])
        for token in sentence:
            if token.pos_ in ("VERB", "AUX") or token.tag_.startswith("VB"):
                self._clause(token)

    def _names_a_thing(self, token: Any) -> bool:
        if token.tag_ not in _NOUNS or _verbal(token):
            return False
        if token.dep_ in ("compound", "nmod", "npadvmod"):
            return token.i + 1 == token.head.i and _verbal(token.head)
        word = token.lemma_.lower()
        if word in _PLACES and (token.dep_ == "pobj" or _child(token, "of")):
            return False  # "to the left of"
        return not (word in _DEPICTIONS | _GROUPS and _child(token, "of"))

    def _thing(self, token: Any) -> _Thing:
        parts = [child.text.lower() for child in token.lefts if child.dep_ == "compound"]
        name = " ".join([*parts, token.lemma_.lower()])
        determiner = next((c.text.lower() for c in token.lefts if c.dep_ in ("det", "poss")), "")
        if determiner in ("the", "this", "that", "these", "those"):
            same_name = [thing for thing in self.things.values() if thing.name == name]
            words = {c.text.lower() for c in token.lefts if c.dep_ == "amod"}
            fitting = [thing for thing in same_name if words <= set(thing.attributes)] or same_name
            if fitting:
                return fitting[0]
        thing = _Thing(f"n{len(self.things)}", name, there=not _denied_noun(token))
        self.things[thing.ident] = thing
        return thing

    def _modifiers(self, token: Any, thing: _Thing) -> None:
        """Read the adjectives, numbers and prepositions that depend on a noun.

        If the noun is tagged as a compound of a verb ("dog sits"), the words that depend on the verb are read as well.
        """
        host: Any = token.head if _verbal(token.head) and token.dep_ == "compound" else None
        for child in host.children if host is not None else ():
            if child.dep_ == "prep":
                self._preposition([thing], child, host.lemma_.lower(), denied=False)
        for child in [*token.children, *(host.lefts if host is not None else ())]:
            if child.dep_ in ("amod", "nummod") or (child.dep_ == "advmod" and child.tag_ in _ADJECTIVES):
                for word in _with_conjuncts(child):
                    if word.tag_ in _ADJECTIVES | {"CD", "VBN", "VBG"}:
                        self._attribute(thing, word, denied=False)
            elif child.dep_ == "prep":
                self._preposition([thing], child, "", denied=False)

    def _clause(self, verb: Any) -> None:
        denied = _negated(verb)
        subjects = self._subjects(verb)
        if not subjects:
            return
        passive = any(c.dep_ in ("nsubjpass", "auxpass", "agent") for c in verb.children) or (
            verb.dep_ == "acl" and verb.tag_ == "VBN"
        )
        copula = verb.lemma_ == "be"
        predicate = "" if copula else verb.lower_ if verb.lower_ in _PLACES else verb.lemma_.lower()
        for child in verb.children:
            if child.dep_ in ("acomp", "oprd", "attr") or (child.dep_ == "xcomp" and child.tag_ in _ADJECTIVES):
                self._complement(subjects, child, denied)
            elif child.dep_ in _OBJECTS and child.lower_ not in _RELATIVE:
                for target in self._all(child):
                    for subject in subjects:
                        self._link(subject, predicate, target, denied)
            elif child.dep_ == "agent":
                for prepositional in (c for c in child.children if c.dep_ == "pobj"):
                    for agent in self._all(prepositional):
                        for subject in subjects:
                            self._link(agent, predicate, subject, denied)
            elif child.dep_ == "prep" and child.i > verb.i:
                self._preposition(subjects, child, predicate, denied)
            elif child.dep_ == "advmod" and child.i > verb.i:
                for inner in (c for c in child.children if c.dep_ == "prep"):
                    self._preposition(subjects, inner, f"{predicate} {child.lower_}".strip(), denied)
        if verb.dep_ == "relcl" and not passive:
            self._object_gap(verb, subjects, predicate, denied)

    def _object_gap(self, verb: Any, subjects: list[_Thing], predicate: str, denied: bool) -> None:
        """Read a relative clause whose object is the noun before it, as in "the ball that the boy holds"."""
        head = self.of_token.get(verb.head.i)
        has_subject = any(c.dep_ in _SUBJECTS and c.lower_ not in _RELATIVE for c in verb.children)
        has_object = any(c.dep_ in _OBJECTS and c.i in self.of_token for c in verb.children)
        if head is not None and has_subject and not has_object:
            for subject in subjects:
                if subject is not head:
                    self._link(subject, predicate, head, denied)

    def _subjects(self, verb: Any) -> list[_Thing]:
        children = [c for c in verb.children if c.dep_ in _SUBJECTS]
        if any(c.dep_ == "expl" for c in verb.children):  # "there is a dog"
            children += [c for c in verb.children if c.dep_ == "attr" and c not in children]
        things: list[_Thing] = []
        for child in children:
            if child.lower_ in _RELATIVE:
                things += self._named_by(verb.head)
            elif child.lower_ in _PRONOUNS:
                things += self._antecedent(child)
            else:
                things += self._all(child)
        if things or children:
            return things
        if verb.dep_ in ("acl", "relcl"):
            return self._named_by(verb.head)
        if verb.dep_ in ("conj", "advcl", "xcomp") and verb.head.i != verb.i:
            return self._subjects(verb.head) or self._named_by(verb.head)
        return []

    def _antecedent(self, pronoun: Any) -> list[_Thing]:
        """Return the last subject before a pronoun."""
        return [thing for place, thing in self.named if place < pronoun.i][-1:]

    def _named_by(self, token: Any) -> list[_Thing]:
        return [self.of_token[token.i]] if token.i in self.of_token else []

    def _all(self, token: Any) -> list[_Thing]:
        """Return the objects named by a noun and its conjuncts."""
        things = []
        for part in _with_conjuncts(token):
            if part.lower_ in _PRONOUNS:
                things += self._antecedent(part)
            elif part.i in self.of_token:
                things.append(self.of_token[part.i])
            elif inner := _child(part, "of"):  # "a group of people"
                things += [thing for c in inner.children if c.dep_ == "pobj" for thing in self._all(c)]
        return things

    def _complement(self, subjects: list[_Thing], token: Any, denied: bool) -> None:
        for word in _with_conjuncts(token):
            if word.tag_ in _ADJECTIVES | {"VBN", "VBG", "CD"}:
                prepositions = [c for c in word.children if c.dep_ == "prep"]
                for subject in subjects:
                    if not prepositions:
                        self._attribute(subject, word, denied)
                for preposition in prepositions:  # "full of", "next to"
                    self._preposition(subjects, preposition, word.lower_, denied)

    def _preposition(self, subjects: list[_Thing], token: Any, before: str, denied: bool) -> None:
        words = f"{before} {token.lower_}".strip()
        if token.lower_ == "without":
            denied, words = True, "with"
            for child in token.children:
                for thing in self._all(child) if child.dep_ == "pobj" else ():
                    thing.there = False
        for child in token.children:
            if child.dep_ == "prep":  # "out of", "up to"
                self._preposition(subjects, child, words, denied)
            elif child.dep_ == "pobj" and child.lemma_.lower() in _PLACES and child.i not in self.of_token:
                determiner = "".join(f"{c.lower_} " for c in child.lefts if c.dep_ == "det")
                for inner in (c for c in child.children if c.lower_ == "of"):
                    self._preposition(subjects, inner, f"{words} {determiner}{child.lower_}", denied)
            elif child.dep_ == "pobj":
                for target in self._all(child):
                    for subject in subjects:
                        self._link(subject, words, target, denied)

    # ---------------------------------------------------------------------------------------------------------- facts

    def _attribute(self, thing: _Thing, word: Any, denied: bool) -> None:
        if denied or _negated(word):
            self.denied["attribute", thing.ident, word.lower_] = None
        else:
            thing.attributes[word.lower_] = None

    def _link(self, subject: _Thing, predicate: str, target: _Thing, denied: bool) -> None:
        if subject is target or not predicate:
            return
        if denied:
            self.denied["relation", subject.ident, predicate, target.ident] = None
        else:
            self.links[Link(subject.ident, predicate, target.ident)] = None


def _verbal(token: Any) -> bool:
    """Return whether a token tagged as a noun is a verb between a compound and a preposition ("dog sits on")."""
    return (
        token.tag_ in _NOUNS
        and token.lemma_.lower() in _VERBAL
        and any(child.dep_ == "compound" for child in token.lefts)
        and any(child.dep_ == "prep" for child in token.rights)
    )


def _child(token: Any, word: str) -> Any:
    return next((child for child in token.children if child.lower_ == word and child.dep_ == "prep"), None)


def _with_conjuncts(token: Any) -> list[Any]:
    return [token, *(c for c in token.conjuncts if c.i > token.i)]


def _negated(token: Any) -> bool:
    return any(child.lower_ in _NOT or child.dep_ == "neg" for child in token.children if child.dep_ != "det")


def _denied_noun(token: Any) -> bool:
    """Return whether the text says that an object is absent: "no dog", or an indefinite object of a negated verb."""
    determiner = next((c.lower_ for c in token.lefts if c.dep_ in ("det", "neg")), "")
    if determiner in _DENYING:
        return True
    verb = token.head if token.dep_ in _OBJECTS | {"attr"} else None
    return verb is not None and _negated(verb) and determiner in ("a", "an", "")
