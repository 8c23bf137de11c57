"""The four interventions on English rationales, by rule: find the mentions, change the graph, change the words.

The result is checked like a language model's (:func:`unintended`): the words that differ are those that were meant to.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from scramble.language.inflect import article, plural, word_set
from scramble.language.lexicon import load_lexicon
from scramble.pairs.rationales.cases import Case, NotPossible, Perturbed, Settings
from scramble.pairs.rationales.critical import critical_nodes
from scramble.pairs.rationales.graph_edits import Change, Cooccurrence
from scramble.scenegraphs import SceneGraph
from scramble.scenegraphs.alignment import (
    Mention,
    answer_support,
    bearers,
    mentions,
    tell,
    variants,
    words,
)

_FUNCTION = word_set("""
    a an the is are was were be been being it its this that these those there of and so therefore which who
""")
MAX_NAMES = 12  # absent names considered for one object, the most plausible ones


@dataclass
class Told:
    """A case with its steps, where they speak of the graph, and the objects that the answer hangs on."""

    case: Case
    steps: tuple[str, ...]
    critical: tuple[str, ...]

    @property
    def graph(self) -> SceneGraph:
        return self.case.graph

    @cached_property
    def mentions(self) -> list[Mention]:
        return mentions(self.case.graph, self.steps)

    def of(self, node: str) -> list[Mention]:
        return [m for m in self.mentions if m.node == node]

    @property
    def answer(self) -> str:
        return self.case.question.answer


Splice = tuple[int, int, int, str]  # step, start, end, new text


@dataclass(frozen=True)
class _Edit:
    change: Change
    splices: tuple[Splice, ...]
    answer: str


class WordInterventions:
    """Perturbs English rationales by rule. ``seen`` says which objects are plausible, by name.

    Args:
        told: whether questions without a rationale get one from the graph, in plain sentences.
    """

    def __init__(self, settings: Settings, seen: Cooccurrence, *, told: bool = True) -> None:
        self.settings, self._seen, self._tell = settings, seen, told
        self._lexicon = load_lexicon()
        self._kinds: dict[str, Callable[[Told, random.Random, int], Perturbed]] = {
            "swap": lambda told, rng, edits: self._replaced("swap", told, rng, edits, self._swaps),
            "replace": lambda told, rng, edits: self._replaced("replace", told, rng, edits, self._replacements),
            "shorten": self._shorten,
            "overthink": self._overthink,
        }

    def prepare(self, case: Case) -> Told:
        """Align question and rationale with the graph. Raises NotPossible with the reason to count."""
        graph, answer = case.graph, " ".join(case.question.answer.lower().split())
        anchors = list(dict.fromkeys(m.node for m in mentions(graph, [case.question.question])))
        if not answer or answer_support(graph, anchors, answer) is None:
            raise NotPossible("question without an answer in the graph")
        steps = case.question.rationale
        if steps:
            named = [m.node for m in mentions(graph, steps)]
        elif self._tell:
            named = _path(graph, anchors, answer)
        else:
            raise NotPossible("question without a rationale")
        if not named:
            raise NotPossible("rationale mentions nothing in the graph")
        found = critical_nodes(graph, [*anchors, *named], lambda g: answer_support(g, anchors, answer), variants)
        critical = tuple(c.node for c in found)
        if not critical:
            raise NotPossible("no critical object")
        return Told(case, steps or tell(graph, named, answer), critical)

    def perturb(self, told: Told, kind: str, rng: random.Random) -> Perturbed:
        """One perturbation of a kind. Raises NotPossible if the rationale offers no room for it."""
        perturbed = self._kinds[kind](told, rng, self.settings.draw_edits(rng))
        if reason := unintended(perturbed):
            raise NotPossible(f"rewriting: {reason}")
        return perturbed

    # ------------------------------------------------------------------------------------------------- swap and replace

    def _replaced(
        self,
        kind: str,
        told: Told,
        rng: random.Random,
        edits: int,
        options: Callable[[Told, random.Random], list[_Edit]],
    ) -> Perturbed:
        taken: set[str] = set()
        kept: list[_Edit] = []
        last = len(told.steps) - 1
        for edit in options(told, rng):
            distance = last - max(splice[0] for splice in edit.splices)
            if taken & set(edit.change["nodes"]) or not self.settings.near_enough(distance):
                continue
            kept.append(edit)
            taken |= set(edit.change["nodes"])
            if len(kept) == edits:
                break
        else:
            raise NotPossible(f"no {kind} that the rationale allows")
        steps = spliced(told.steps, [splice for edit in kept for splice in edit.splices])
        answers = [edit.answer for edit in kept if edit.answer != told.answer]
        answer = answers[0] if answers and self.settings.answer == "follow" else told.answer
        changed = tuple(i for i, step in enumerate(steps) if step != told.steps[i])
        return Perturbed(
            kind,
            told.steps,
            steps,
            told.answer,
            answer,
            tuple(edit.change for edit in kept),
            changed,
            tuple(told.steps[i] for i in changed),
            (),
            last - max(changed),
            told.critical,
            "scenealign.words",
        )

    def _swaps(self, told: Told, rng: random.Random) -> list[_Edit]:
        found = []
        graph = told.graph
        for place, a in enumerate(told.critical):
            for b in (node.id for node in graph.nodes if node.id not in told.critical[: place + 1]):
                found += self._attribute_swaps(told, a, b)
                if splices := self._argument_swap(told, a, b):
                    names = [graph.by_id[node].name for node in (a, b)]
                    change: Change = {"op": "swap", "what": "links", "nodes": [a, b], "names": names}
                    found.append(_Edit(change, splices, told.answer))
        rng.shuffle(found)
        return found

    def _attribute_swaps(self, told: Told, a: str, b: str) -> list[_Edit]:
        first, second = told.graph.by_id[a], told.graph.by_id[b]
        found = []
        for x in first.attributes:
            for y in second.attributes:
                if y in first.attributes or x in second.attributes or not self._same_class(x, y):
                    continue
                splices = [
                    (m.step, word.start, word.end, new)
                    for node, old, new in ((a, x, y), (b, y, x))
                    for m in told.of(node)
                    for word in m.attributes
                    if word.lower == old
                ]
                if splices:
                    change: Change = {"op": "swap", "what": "attribute", "nodes": [a, b], "words": [x, y]}
                    answer = {x: y, y: x}.get(told.answer.lower(), told.answer)
                    found.append(_Edit(change, tuple(splices), answer))
        return found

    def _same_class(self, x: str, y: str) -> bool:
        known = self._lexicon.adjectives
        return x in known and y in known and known[x].cls == known[y].cls and y not in self._lexicon.alike.get(x, ())

    def _argument_swap(self, told: Told, a: str, b: str) -> tuple[Splice, ...]:
        """The phrases of two objects exchanged in each step that relates them; symmetric relations do not count."""
        linked = [k for k in told.graph.links if {k.subject, k.object} == {a, b}]
        both_ways = {k.predicate for k in linked if k.subject == a} & {k.predicate for k in linked if k.subject == b}
        meant = [k for k in linked if k.predicate not in self._lexicon.phrases["symmetric"] | both_ways]
        splices: list[Splice] = []
        for step, text in enumerate(told.steps):
            here = [m for m in told.mentions if m.step == step]
            if len(here) != 2 or {m.node for m in here} != {a, b} or any(m.is_plural for m in here):
                continue
            if not any(k.predicate.split()[-1] in text.lower() for k in meant):
                continue
            one, two = here
            if any(w.start > m.noun.end for m in here for w in m.attributes):
                continue  # "the dog is brown": the adjective would stay behind
            splices += [
                (step, one.first, one.noun.end, text[two.first : two.noun.end]),
                (step, two.first, two.noun.end, text[one.first : one.noun.end]),
            ]
        return tuple(splices)

    def _replacements(self, told: Told, rng: random.Random) -> list[_Edit]:
        here = [node.name for node in told.graph.nodes]
        weighted: list[tuple[float, _Edit]] = []
        for node in told.critical:
            name = told.graph.by_id[node].name
            if not told.of(node):
                continue
            others = [n.name for n in told.graph.nodes if n.id != node]
            for weight, new in self._absent(name, others, here):
                attributes = list(told.graph.by_id[node].attributes)
                change: Change = {"op": "replace", "nodes": [node], "name": new, "attributes": attributes, "was": name}
                splices = tuple(
                    (m.step, m.noun.start, m.noun.end, plural(new) if m.is_plural else new) for m in told.of(node)
                )
                answer = new if told.answer.lower() == name else told.answer
                weighted.append((weight, _Edit(change, splices, answer)))
        keyed = sorted(((rng.random() ** (1 / weight), i) for i, (weight, _) in enumerate(weighted)), reverse=True)
        return [weighted[i][1] for _, i in keyed]

    def _absent(self, name: str, others: Sequence[str], here: Sequence[str]) -> list[tuple[float, str]]:
        """Names that are not in the image, with weights: co-hyponyms of the name, or what is seen beside the others."""
        alike = self._lexicon.alike.get(name, set()) | {name}
        entry = self._lexicon.nouns.get(name)
        known = [n.lemma for n in self._lexicon.noun_swaps.get(entry[0].lemma if entry else name, ())]
        names = known or list(self._seen.counts)
        taken = {w for text in here for w in (text, *text.split())}
        options = [
            (self._seen.weight(new, others) or (0.5 if known else 0.0), new)
            for new in names
            if new not in alike and new not in taken and not set(new.split()) & taken
        ]
        return sorted((o for o in options if o[0] > 0), reverse=True)[:MAX_NAMES]

    # -------------------------------------------------------------------------------------------- shorten and overthink

    def _shorten(self, told: Told, rng: random.Random, edits: int) -> Perturbed:
        last = len(told.steps) - 1
        needed = {m.step for m in told.mentions if m.node in told.critical}
        places = [i for i in sorted(needed) if i < last and self.settings.near_enough(last - i)]
        if len(places) < edits:
            raise NotPossible("no step to leave out")
        gone = sorted(rng.sample(places, edits))
        steps: list[str | None] = [None if i in gone else step for i, step in enumerate(told.steps)]
        padding: list[str] = []
        if self.settings.balance == "pad":
            named = {m.node for m in told.mentions}
            free = [n for n in told.graph.nodes if n.id not in named]
            if len(free) < edits:
                raise NotPossible("no needless true step to pad with")
            for place, node in zip(gone, rng.sample(free, edits), strict=True):
                steps[place] = f"There is {article(node.label)} {node.label}."
                padding.append(str(steps[place]))
        changes = tuple({"op": "leave-out", "step": told.steps[i]} for i in gone)
        return Perturbed(
            "shorten",
            told.steps,
            tuple(s for s in steps if s is not None),
            told.answer,
            told.answer,
            changes,
            (),
            tuple(told.steps[i] for i in gone),
            tuple(padding),
            last - gone[-1],
            told.critical,
            "scenealign.words",
        )

    def _overthink(self, told: Told, rng: random.Random, edits: int) -> Perturbed:
        last = len(told.steps) - 1
        options = []
        for m in told.mentions:
            node = told.graph.by_id[m.node]
            if m.node not in told.critical or m.is_plural or not self.settings.near_enough(last - m.step):
                continue
            said = {word.lower for word in m.attributes}
            for word in node.attributes:
                known = self._lexicon.adjectives.get(word)
                if word in said or known is None or word == told.answer.lower():
                    continue
                if any(self._same_class(word, other) for other in (*said, told.answer.lower())):
                    continue  # what is asked for is not a detail
                wrong = [a.word for a in self._lexicon.adjective_swaps.get(word, ()) if a.word not in node.attributes]
                if wrong:
                    options.append((m, word, rng.choice(wrong)))
        rng.shuffle(options)
        chosen: list[Splice] = []
        rejected: list[Splice] = []
        changes: list[Change] = []
        for m, true, false in options:
            if m.step in {splice[0] for splice in rejected}:
                continue
            chosen.append((m.step, m.noun.start, m.noun.start, f"{true} "))
            rejected.append((m.step, m.noun.start, m.noun.start, f"{false} "))
            changes.append({"op": "detail", "nodes": [m.node], "word": false, "instead": true})
            if len(changes) == edits:
                break
        else:
            raise NotPossible("no place for an unsupported detail")
        kept = spliced(told.steps, chosen) if self.settings.balance == "pad" else told.steps
        steps = spliced(told.steps, rejected)
        places = tuple(sorted(splice[0] for splice in rejected))
        return Perturbed(
            "overthink",
            kept,
            steps,
            told.answer,
            told.answer,
            tuple(changes),
            places,
            tuple(kept[i] for i in places),
            (),
            last - max(places),
            told.critical,
            "scenealign.words",
        )


def _path(graph: SceneGraph, anchors: Sequence[str], answer: str) -> list[str]:
    """The objects that the question names and the nearest one that bears the answer."""
    return list(dict.fromkeys([*anchors, *bearers(graph, anchors, answer)[:1]]))


def spliced(steps: Sequence[str], splices: Sequence[Splice]) -> tuple[str, ...]:
    """Steps with stretches replaced, and a/an before them set right."""
    result = list(steps)
    for step, start, end, new in sorted(splices, reverse=True):
        text = result[step]
        if start == 0 or text[:start].rstrip().endswith("."):
            new = new[:1].upper() + new[1:] if text[start : start + 1].isupper() else new
        result[step] = text[:start] + new + text[end:]
    return tuple(_articles(new) if new != old else new for new, old in zip(result, steps, strict=True))


def _articles(text: str) -> str:
    def fixed(match: re.Match[str]) -> str:
        right = article(match[2])
        return (right.capitalize() if match[1][0].isupper() else right) + " " + match[2]

    return re.sub(r"\b(an?|An?) (\w+)", fixed, text)


def unintended(perturbed: Perturbed) -> str:
    """What differs between the two sides beside what was meant to; "" where nothing does."""
    if perturbed.kind == "shorten":
        kept = [step for step in perturbed.chosen if step not in perturbed.missing]
        stayed = [step for step in perturbed.rejected if step not in perturbed.padding]
        return "" if kept == stayed else "another step was changed"
    if len(perturbed.chosen) != len(perturbed.rejected):
        return "the number of steps changed"
    gone, new = _content(perturbed.chosen), _content(perturbed.rejected)
    allowed_gone, allowed_new = Counter[str](), Counter[str]()
    for change in perturbed.changes:
        if change["op"] == "swap" and change["what"] == "attribute":
            allowed_gone.update(change["words"])
            allowed_new.update(change["words"])
        elif change["op"] == "detail":
            allowed_gone[change["instead"]] += 1
            allowed_new[change["word"]] += 1
        elif change["op"] == "replace":
            allowed_gone.update(w.lower for form in (change["was"], plural(change["was"])) for w in words(form))
            allowed_new.update(w.lower for form in (change["name"], plural(change["name"])) for w in words(form))
    for what, differ, allowed in (("new words", new - gone, allowed_new), ("words are gone", gone - new, allowed_gone)):
        stems = {_stem(word) for word in allowed}
        if surplus := [word for word in differ if _stem(word) not in stems]:
            return f"{what}: {', '.join(sorted(surplus))}"
    for change in perturbed.changes:
        if change["op"] == "swap" and change["what"] == "links" and not _turned(perturbed, *change["names"]):
            return "the objects were not exchanged"
    untouched = [i for i in range(len(perturbed.chosen)) if i not in perturbed.false_steps]
    if any(perturbed.chosen[i] != perturbed.rejected[i] for i in untouched):
        return "another step was changed"
    if any(perturbed.chosen[i] == perturbed.rejected[i] for i in perturbed.false_steps):
        return "nothing was changed"
    return ""


def _turned(perturbed: Perturbed, a: str, b: str) -> bool:
    """Whether two names stand the other way round in some step, and neither was lost."""
    for before, after in zip(perturbed.chosen, perturbed.rejected, strict=True):
        places = [text.lower().find(name) for text in (before, after) for name in (a, b)]
        if min(places) >= 0 and (places[0] < places[1]) != (places[2] < places[3]):
            return True
    return False


def _content(steps: Sequence[str]) -> Counter[str]:
    return Counter(w.lower for step in steps for w in words(step) if w.lower not in _FUNCTION)


def _stem(word: str) -> str:
    return word.removesuffix("es").removesuffix("s")
