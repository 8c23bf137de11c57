"""Find the tokens of a parsed caption that are in the scope of a negation.

An edit of these tokens may leave the caption true. If "a man is not wearing a red hat" is true, "a man is not wearing a
green hat" is usually true as well. A pair of these captions would wrongly prefer one true caption to another.

Negating words are recognised by form, because pipelines label them differently (``neg``, ``advmod``, ``preconj``). The
scope of a negation follows the dependency arcs. Captions are often fragments whose arcs are unreliable. Therefore the
nearest noun phrase to the right always belongs to the scope, and an ambiguous attachment counts as inside the scope.
The unnecessary inclusion of a word only costs a candidate, but an edit of a negated word would produce a wrong pair.

Terms: Huddleston and Pullum (2002), The Cambridge Grammar of the English Language, chapter 9 (verbal and non-verbal
negation, approximate negators, lexical negation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scramble.language.inflect import word_set

if TYPE_CHECKING:
    from scramble.language.lexicon import Lexicon
    from scramble.language.parse import Sentence

_VERBAL = word_set("""
    not n't n’t nt never hardly scarcely barely rarely seldom
""")
_DETERMINERS = word_set("""
    no neither zero few
""")
_PRONOUNS = word_set("""
    nobody none nothing noone no-one nowhere
""")
_PREPOSITIONS = word_set("""
    without w/o sans minus except excepting unlike excluding lacking
""")
_VERBS = word_set("""
    lack lacks lacked miss misses missed missing avoid avoids avoided avoiding fail fails failed failing refuse refuses
    refused refusing unable
""")
_BEFORE = {
    **dict.fromkeys(("empty", "devoid", "void", "bare", "free", "clear", "absence", "lack", "instead"), "of"),
    **dict.fromkeys(("rather", "other"), "than"),
    **dict.fromkeys(("all", "anything"), "but"),
}  # a key is negative only before its value, as in "a street empty of cars" and "a cat rather than a dog"
_TRIGGERS = _VERBAL | _DETERMINERS | _PRONOUNS | _PREPOSITIONS | _VERBS | _BEFORE.keys() | {"nor"}
_COUNTED = word_set("""
    a an the quite these those his her its their my our last first next very
""")  # "no" and "few" are not negative after these words: "a few dogs" and "a no parking sign" state what exists
_SUBJECTS = frozenset({"nsubj", "nsubjpass", "csubj"})
_FINITE = frozenset({"VBZ", "VBP", "VBD", "MD"})
_ENDS = frozenset({".", "!", "?", ";"})
_CONTRAST = frozenset({"but", "yet", "while", "whereas", "although", "though"})
_DETERMINED = frozenset({"det", "poss", "nummod"})
_AGENTS = frozenset({"person", "animal", "vehicle"})


def negated(s: Sentence, lexicon: Lexicon) -> frozenset[int]:
    """Return the tokens of a caption that are in the scope of a negation, including the negating word."""
    if _TRIGGERS.isdisjoint(s.lower):
        return frozenset()
    arcs = _Arcs(s)
    scope: set[int] = set()
    for i, word in enumerate(s.lower):
        if word in _TRIGGERS:
            scope |= _scope(arcs, i, word, lexicon)
    return frozenset(scope)


class _Arcs:
    """Stores a caption and the children of each token."""

    def __init__(self, s: Sentence) -> None:
        self.s = s
        self.children: list[list[int]] = [[] for _ in s.head]
        for i, head in enumerate(s.head):
            if head != i:
                self.children[head].append(i)

    def is_verb(self, i: int) -> bool:
        return self.s.tag[i][:1] == "V" or self.s.tag[i] == "MD"

    def subtree(self, i: int) -> set[int]:
        tokens, todo = {i}, [i]
        while todo:
            new = [c for c in self.children[todo.pop()] if c not in tokens]
            tokens.update(new)
            todo += new
        return tokens

    def end(self, i: int) -> int:
        """Return the first token at or after ``i`` that ends its sentence, or the number of tokens."""
        return next((j for j in range(i, len(self.s.lower)) if self.s.lower[j] in _ENDS), len(self.s.lower))

    def reach(self, top: int, trigger: int, *, noun: bool = False, subject: bool = False) -> set[int]:
        """Return the tokens under ``top`` that are to the right of a negating word and in its scope.

        If ``noun`` is true, the word negates a noun, and a coordinated noun with its own determiner is outside the
        scope ("no people and a table"). If ``subject`` is true, the word negates the subject, and coordinated verbs,
        which share this subject, are inside the scope ("nobody sits and reads").
        """
        tokens: set[int] = set()
        todo = [top]
        while todo:
            i = todo.pop()
            tokens.add(i)
            todo += [c for c in self.children[i] if c not in tokens and not self._outside(c, trigger, noun, subject)]
        limit = self.end(trigger)
        return {i for i in tokens if trigger <= i < limit}

    def _outside(self, i: int, trigger: int, noun: bool, subject: bool) -> bool:
        if i <= trigger:
            return False
        first = min(j for j in self.subtree(i) if j > trigger)
        words = {self.s.lower[first], self.s.lower[first - 1]}
        if words & _CONTRAST:
            return True
        if self.s.dep[i] not in ("conj", "parataxis", "advcl", "ccomp"):
            return False
        children = [c for c in self.children[i] if c > trigger]
        if any(self.s.dep[c] in _SUBJECTS for c in children):
            return "nor" not in words
        if self.s.dep[i] != "conj" or words & {"or", "nor"}:
            return False
        if self.is_verb(i) and not subject:
            return self.s.tag[i] in _FINITE or any(self.s.tag[c] in _FINITE for c in children)
        return noun and any(self.s.dep[c] in _DETERMINED for c in children)


def _scope(arcs: _Arcs, t: int, word: str, lexicon: Lexicon) -> set[int]:
    s = arcs.s
    before = s.lower[t - 1] if t else ""
    after = s.lower[t + 1] if t + 1 < len(s.lower) else ""
    if word == "nor":
        return set(range(t, arcs.end(t)))
    if word in ("no", "few") and (before in _COUNTED or _is_sign(s, t)):
        return set()
    if word in _BEFORE and after == _BEFORE[word]:
        return _bounded(arcs, t, {t} | arcs.reach(t + 1, t), lexicon)
    if word in _VERBAL or (word == "no" and after == "longer"):
        head = s.head[t] if word in _VERBAL else s.head[t + 1]
        if arcs.is_verb(head):
            return _bounded(arcs, t, _clause(arcs, head, t) | _generic_subject(arcs, head, t), lexicon, comma=False)
        return _noun(arcs, t, head, lexicon)
    if word in _DETERMINERS:
        return _noun(arcs, t, s.head[t], lexicon)
    if word in _PRONOUNS:
        scope = arcs.reach(t, t) | _governor(arcs, t, t)
        follows = t + 1 < len(s.tag) and s.tag[t + 1] in ("VBG", "VBN")  # "nobody riding it"
        return scope | arcs.reach(t + 1, t) if follows else scope
    if word in _PREPOSITIONS:
        return _bounded(arcs, t, arcs.reach(t, t), lexicon)
    if word in _VERBS and (s.tag[t][:1] in "VJ" or word == "missing"):
        scope = _bounded(arcs, t, arcs.reach(t, t), lexicon)
        if word == "missing" and len(scope) == 1:  # "the front wheel is missing"
            verb = t if s.dep[t] in ("ROOT", "relcl", "conj") else s.head[t]
            scope |= {j for c in arcs.children[verb] if s.dep[c] in _SUBJECTS for j in arcs.subtree(c)}
        return scope
    return set()


def _is_sign(s: Sentence, t: int) -> bool:
    """Return whether "no" is part of the name of a sign that exists, as in "an orange no parking sign"."""
    phrase = next((p for p in s.phrases if p.first <= t < p.last), None)
    return phrase is not None and phrase.last > t + 1 and s.lower[phrase.last].removesuffix("s") in ("sign", "symbol")


def _noun(arcs: _Arcs, t: int, head: int, lexicon: Lexicon) -> set[int]:
    """Return the scope of the negating word ``t`` if it negates a noun, adjective or prepositional phrase."""
    if head <= t:
        head = next((p.last for p in arcs.s.phrases if p.last > t), min(t + 1, len(arcs.s.lower) - 1))
    scope = arcs.reach(head, t, noun=True) | set(range(t, head + 1))
    return _bounded(arcs, t, scope, lexicon) | _governor(arcs, head, t)


def _governor(arcs: _Arcs, noun: int, t: int) -> set[int]:
    """Return the tokens that govern a negated noun.

    If the noun is the object of a preposition, the result contains the preposition. If the noun depends on a verb, the
    result is that of :func:`_clause`.
    """
    head = arcs.s.head[noun]
    if head == noun or arcs.s.dep[noun] in ("conj", "appos"):
        return set()
    if arcs.is_verb(head):
        return _clause(arcs, head, t, subject=arcs.s.dep[noun] in _SUBJECTS)
    return {head} if arcs.s.dep[noun] == "pobj" else set()


def _clause(arcs: _Arcs, verb: int, t: int, subject: bool = False) -> set[int]:
    """Return a verb, its auxiliaries, and the tokens of its clause that are in the scope of the negating word."""
    auxiliaries = {c for c in arcs.children[verb] if arcs.s.dep[c] in ("aux", "auxpass")}
    return {verb} | auxiliaries | arcs.reach(verb, t, subject=subject)


def _generic_subject(arcs: _Arcs, verb: int, t: int) -> set[int]:
    """Return the tokens of a plural subject without a determiner, because such a subject is in the scope.

    For example, replacing "dogs" with "cats" in "dogs are not allowed" may leave the caption true.
    """
    bare = [
        c
        for c in arcs.children[verb]
        if c < t
        and arcs.s.dep[c] in _SUBJECTS
        and arcs.s.tag[c] == "NNS"
        and not any(arcs.s.dep[j] in _DETERMINED for j in arcs.children[c])
    ]
    return {j for c in bare for j in arcs.subtree(c)}


def _bounded(arcs: _Arcs, t: int, scope: set[int], lexicon: Lexicon, comma: bool = True) -> set[int]:
    """Add to a scope the nearest noun phrase on the right, and limit the scope where the arcs extend too far.

    If ``comma`` is true, a comma ends the scope, unless "or" or "nor" follows in the scope.
    """
    s = arcs.s
    scope.add(t)
    phrase = next((p for p in s.phrases if p.last > t), None)
    if phrase is not None and not any(s.lower[i] in _ENDS or s.lower[i] == "," for i in range(t, phrase.first)):
        scope |= set(range(t, phrase.last + 1))
    if comma:
        comma_at = next((i for i in range(t, max(scope)) if s.lower[i] == ","), None)
        if comma_at is not None and {"or", "nor"}.isdisjoint(s.lower[i] for i in scope if i > comma_at):
            scope = {i for i in scope if i < comma_at}
    if phrase is not None and phrase.last + 1 < len(s.tag) and s.tag[phrase.last + 1] == "VBG" and comma:
        # "a man without a hat riding a horse": a hat cannot ride, so the participle belongs to the man
        entry = lexicon.nouns.get(s.lower[phrase.last])
        agents = (p.noun is not None and p.noun.category in _AGENTS for p in s.phrases if p.last < t)
        if entry is not None and entry[0].category not in _AGENTS and any(agents):
            scope = {i for i in scope if i <= phrase.last}
    return scope
