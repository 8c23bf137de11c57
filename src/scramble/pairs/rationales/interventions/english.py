"""Apply the four interventions to English rationales by rule: find mentions, change the graph, and change the words.

:func:`unintended` checks that only the intended words differ. The replies of a language model are checked in the same
way.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from scramble.language.inflect import article, capitalised, plural, word_set
from scramble.language.lexicon import load_lexicon
from scramble.pairs.rationales.cases import (
    NotPossible,
    Perturbed,
    PreparedCase,
    RationaleCase,
    Settings,
    draw_omitted,
    weighted_order,
)
from scramble.pairs.rationales.critical import critical_nodes
from scramble.pairs.rationales.graph_edits import Cooccurrence, GraphChange
from scramble.scenegraphs.alignment import (
    Mention,
    answer_support,
    bearers,
    mentions,
    variants,
    words_with_offsets,
    write_rationale,
)

_FUNCTION = word_set("""
    a an the is are was were be been being it its this that these those there of and so therefore which who
""")
MAX_NAMES = 12  # maximum number of absent names considered for an object, most plausible first


@dataclass
class AlignedCase(PreparedCase):
    """A case with the mentions of the graph's objects in its steps."""

    rule = "scenealign.words"

    @cached_property
    def mentions(self) -> list[Mention]:
        return mentions(self.case.graph, self.steps)

    def of(self, node: str) -> list[Mention]:
        return [m for m in self.mentions if m.node == node]


Splice = tuple[int, int, int, str]  # step, start, end, new text


@dataclass(frozen=True)
class _Edit:
    change: GraphChange
    splices: tuple[Splice, ...]
    answer: str


class WordInterventions:
    """Perturbs English rationales by rule.

    Args:
        seen: co-occurrence counts of the names of objects.
        generate_rationales: whether to write a rationale from the graph for questions without a rationale.
    """

    def __init__(self, settings: Settings, seen: Cooccurrence, *, generate_rationales: bool = True) -> None:
        self.settings, self._seen, self._generate_rationales = settings, seen, generate_rationales
        self._lexicon = load_lexicon()
        self._kinds: dict[str, Callable[[AlignedCase, random.Random, int], Perturbed]] = {
            "swap": lambda aligned, rng, edits: self._replaced("swap", aligned, rng, edits, self._swaps),
            "replace": lambda aligned, rng, edits: self._replaced("replace", aligned, rng, edits, self._replacements),
            "shorten": self._shorten,
            "overthink": self._overthink,
        }

    def prepare(self, case: RationaleCase) -> AlignedCase:
        """Align the question and the rationale with the graph.

        Raises NotPossible if the case cannot be perturbed.
        """
        graph, answer = case.graph, " ".join(case.question.answer.lower().split())
        anchors = list(dict.fromkeys(m.node for m in mentions(graph, [case.question.question])))
        if not answer or answer_support(graph, anchors, answer) is None:
            raise NotPossible("question without an answer in the graph")
        steps = case.question.rationale
        if steps:
            named = [m.node for m in mentions(graph, steps)]
        elif self._generate_rationales:
            named = list(dict.fromkeys([*anchors, *bearers(graph, anchors, answer)[:1]]))
        else:
            raise NotPossible("question without a rationale")
        if not named:
            raise NotPossible("the rationale mentions nothing in the graph")
        critical = critical_nodes(graph, [*anchors, *named], lambda g: answer_support(g, anchors, answer), variants)
        if not critical:
            raise NotPossible("no critical object")
        return AlignedCase(case, steps or write_rationale(graph, named, answer), case.question.answer, critical)

    def perturb(self, aligned: AlignedCase, kind: str, rng: random.Random) -> Perturbed:
        """Return one perturbation of a kind. Raises NotPossible if the rationale does not allow it."""
        perturbed = self._kinds[kind](aligned, rng, self.settings.draw_edits(rng))
        if reason := unintended(perturbed):
            raise NotPossible(f"rewriting: {reason}")
        return perturbed

    # ------------------------------------------------------------------------------------------------- swap and replace

    def _replaced(
        self,
        kind: str,
        aligned: AlignedCase,
        rng: random.Random,
        edits: int,
        options: Callable[[AlignedCase, random.Random], list[_Edit]],
    ) -> Perturbed:
        used: set[str] = set()
        selected: list[_Edit] = []
        last = len(aligned.steps) - 1
        for edit in options(aligned, rng):
            distance = last - max(splice[0] for splice in edit.splices)
            if used & set(edit.change["nodes"]) or not self.settings.near_enough(distance):
                continue
            selected.append(edit)
            used |= set(edit.change["nodes"])
            if len(selected) == edits:
                break
        else:
            raise NotPossible(f"no {kind} that the rationale allows")
        steps = spliced(aligned.steps, [splice for edit in selected for splice in edit.splices])
        answers = [edit.answer for edit in selected if edit.answer != aligned.answer]
        answer = answers[0] if answers and self.settings.answer == "follow" else aligned.answer
        return aligned.altered(kind, aligned.steps, steps, [edit.change for edit in selected], answer)

    def _swaps(self, aligned: AlignedCase, rng: random.Random) -> list[_Edit]:
        edits = []
        graph = aligned.graph
        for place, a in enumerate(aligned.critical):
            for b in (node.id for node in graph.nodes if node.id not in aligned.critical[: place + 1]):
                edits += self._attribute_swaps(aligned, a, b)
                if splices := self._argument_swap(aligned, a, b):
                    names = [graph.by_id[node].name for node in (a, b)]
                    change: GraphChange = {"op": "swap", "what": "links", "nodes": [a, b], "names": names}
                    edits.append(_Edit(change, splices, aligned.answer))
        rng.shuffle(edits)
        return edits

    def _attribute_swaps(self, aligned: AlignedCase, a: str, b: str) -> list[_Edit]:
        first, second = aligned.graph.by_id[a], aligned.graph.by_id[b]
        edits = []
        for x in first.attributes:
            for y in second.attributes:
                if y in first.attributes or x in second.attributes or not self._same_class(x, y):
                    continue
                splices = [
                    (m.step, word.start, word.end, new)
                    for node, old, new in ((a, x, y), (b, y, x))
                    for m in aligned.of(node)
                    for word in m.attributes
                    if word.lower == old
                ]
                if splices:
                    change: GraphChange = {"op": "swap", "what": "attribute", "nodes": [a, b], "words": [x, y]}
                    answer = {x: y, y: x}.get(aligned.answer.lower(), aligned.answer)
                    edits.append(_Edit(change, tuple(splices), answer))
        return edits

    def _same_class(self, x: str, y: str) -> bool:
        adjectives = self._lexicon.adjectives
        return (
            x in adjectives
            and y in adjectives
            and adjectives[x].cls == adjectives[y].cls
            and y not in self._lexicon.alike.get(x, ())
        )

    def _argument_swap(self, aligned: AlignedCase, a: str, b: str) -> tuple[Splice, ...]:
        """Return the splices that swap two objects in each step that states an asymmetric relation between them."""
        linked = [k for k in aligned.graph.links if {k.subject, k.object} == {a, b}]
        both_ways = {k.predicate for k in linked if k.subject == a} & {k.predicate for k in linked if k.subject == b}
        asymmetric = [k for k in linked if k.predicate not in self._lexicon.phrases["symmetric"] | both_ways]
        splices: list[Splice] = []
        for step, text in enumerate(aligned.steps):
            mentions = [m for m in aligned.mentions if m.step == step]
            if len(mentions) != 2 or {m.node for m in mentions} != {a, b} or any(m.is_plural for m in mentions):
                continue
            if not any(k.predicate.split()[-1] in text.lower() for k in asymmetric):
                continue
            one, two = mentions
            if any(w.start > m.noun.end for m in mentions for w in m.attributes):
                continue  # in "the dog is brown" the adjective would not move with the noun
            splices += [
                (step, one.first, one.noun.end, text[two.first : two.noun.end]),
                (step, two.first, two.noun.end, text[one.first : one.noun.end]),
            ]
        return tuple(splices)

    def _replacements(self, aligned: AlignedCase, rng: random.Random) -> list[_Edit]:
        present = [node.name for node in aligned.graph.nodes]
        weighted: list[tuple[float, _Edit]] = []
        for node in aligned.critical:
            name = aligned.graph.by_id[node].name
            if not aligned.of(node):
                continue
            others = [n.name for n in aligned.graph.nodes if n.id != node]
            for weight, new in self._absent(name, others, present):
                attributes = list(aligned.graph.by_id[node].attributes)
                change: GraphChange = {
                    "op": "replace",
                    "nodes": [node],
                    "name": new,
                    "attributes": attributes,
                    "was": name,
                }
                splices = tuple(
                    (m.step, m.noun.start, m.noun.end, plural(new) if m.is_plural else new) for m in aligned.of(node)
                )
                answer = new if aligned.answer.lower() == name else aligned.answer
                weighted.append((weight, _Edit(change, splices, answer)))
        return weighted_order(weighted, rng)

    def _absent(self, name: str, others: Sequence[str], present: Sequence[str]) -> list[tuple[float, str]]:
        """Return weights and names of absent objects, most plausible first.

        The names are co-hyponyms of ``name`` or, if there are none, all names in the data. The weight of a name depends
        on how often it occurs with the names ``others``.
        """
        alike = self._lexicon.alike.get(name, set()) | {name}
        entry = self._lexicon.nouns.get(name)
        co_hyponyms = [n.lemma for n in self._lexicon.noun_swaps.get(entry[0].lemma if entry else name, ())]
        names = co_hyponyms or list(self._seen.counts)
        present_words = {w for text in present for w in (text, *text.split())}
        options = [
            (self._seen.weight(new, others) or (0.5 if co_hyponyms else 0.0), new)
            for new in names
            if new not in alike and new not in present_words and not set(new.split()) & present_words
        ]
        return sorted((o for o in options if o[0] > 0), reverse=True)[:MAX_NAMES]

    # -------------------------------------------------------------------------------------------- shorten and overthink

    def _shorten(self, aligned: AlignedCase, rng: random.Random, edits: int) -> Perturbed:
        last = len(aligned.steps) - 1
        needed = {m.step for m in aligned.mentions if m.node in aligned.critical}
        places = [i for i in sorted(needed) if i < last and self.settings.near_enough(last - i)]
        omitted, padding = draw_omitted(places, edits, rng), dict[int, str]()
        if self.settings.balance == "pad":
            named = {m.node for m in aligned.mentions}
            free = [n for n in aligned.graph.nodes if n.id not in named]
            if len(free) < edits:
                raise NotPossible("no unneeded true step to pad with")
            labels = [node.label for node in rng.sample(free, edits)]
            padding = {i: f"There is {article(label)} {label}." for i, label in zip(omitted, labels, strict=True)}
        return aligned.shortened(omitted, padding)

    def _overthink(self, aligned: AlignedCase, rng: random.Random, edits: int) -> Perturbed:
        last = len(aligned.steps) - 1
        options = []
        for m in aligned.mentions:
            node = aligned.graph.by_id[m.node]
            if m.node not in aligned.critical or m.is_plural or not self.settings.near_enough(last - m.step):
                continue
            stated = {word.lower for word in m.attributes}
            for word in node.attributes:
                adjective = self._lexicon.adjectives.get(word)
                if word in stated or adjective is None or word == aligned.answer.lower():
                    continue
                if any(self._same_class(word, other) for other in (*stated, aligned.answer.lower())):
                    continue  # the property that the question asks for is not a detail
                wrong = [a.word for a in self._lexicon.adjective_swaps.get(word, ()) if a.word not in node.attributes]
                if wrong:
                    options.append((m, word, rng.choice(wrong)))
        rng.shuffle(options)
        chosen: list[Splice] = []
        rejected: list[Splice] = []
        changes: list[GraphChange] = []
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
        chosen_steps = spliced(aligned.steps, chosen) if self.settings.balance == "pad" else aligned.steps
        return aligned.altered("overthink", chosen_steps, spliced(aligned.steps, rejected), changes)


def spliced(steps: Sequence[str], splices: Sequence[Splice]) -> tuple[str, ...]:
    """Replace spans of the steps, and correct "a" and "an" in the changed steps."""
    result = list(steps)
    for step, start, end, new in sorted(splices, reverse=True):
        text = result[step]
        if start == 0 or text[:start].rstrip().endswith("."):
            new = capitalised(new) if text[start : start + 1].isupper() else new
        result[step] = text[:start] + new + text[end:]
    return tuple(_articles(new) if new != old else new for new, old in zip(result, steps, strict=True))


def _articles(text: str) -> str:
    def fixed(match: re.Match[str]) -> str:
        right = article(match[2])
        return f"{capitalised(right) if match[1][0].isupper() else right} {match[2]}"

    return re.sub(r"\b(an?|An?) (\w+)", fixed, text)


def unintended(perturbed: Perturbed) -> str:
    """Return the first unintended property of a perturbation, or "" if there is none."""
    if perturbed.kind == "shorten":
        expected = [step for step in perturbed.chosen if step not in perturbed.missing]
        remaining = [step for step in perturbed.rejected if step not in perturbed.padding]
        return "" if expected == remaining else "another step was changed"
    if len(perturbed.chosen) != len(perturbed.rejected):
        return "the number of steps changed"
    old, new = _content(perturbed.chosen), _content(perturbed.rejected)
    allowed_gone, allowed_new = set[str](), set[str]()
    for change in perturbed.changes:
        if change["op"] == "swap" and change["what"] == "attribute":
            allowed_gone.update(change["words"])
            allowed_new.update(change["words"])
        elif change["op"] == "detail":
            allowed_gone.add(change["instead"])
            allowed_new.add(change["word"])
        elif change["op"] == "replace":
            allowed_gone.update(
                w.lower for form in (change["was"], plural(change["was"])) for w in words_with_offsets(form)
            )
            allowed_new.update(
                w.lower for form in (change["name"], plural(change["name"])) for w in words_with_offsets(form)
            )
    for what, differ, allowed in (("new words", new - old, allowed_new), ("words are gone", old - new, allowed_gone)):
        stems = {_stem(word) for word in allowed}
        if surplus := [word for word in differ if _stem(word) not in stems]:
            return f"{what}: {', '.join(sorted(surplus))}"
    for change in perturbed.changes:
        if change["op"] == "swap" and change["what"] == "links" and not _is_reversed(perturbed, *change["names"]):
            return "the objects were not swapped"
    untouched = [i for i in range(len(perturbed.chosen)) if i not in perturbed.false_steps]
    if any(perturbed.chosen[i] != perturbed.rejected[i] for i in untouched):
        return "another step was changed"
    if any(perturbed.chosen[i] == perturbed.rejected[i] for i in perturbed.false_steps):
        return "nothing was changed"
    return ""


def _is_reversed(perturbed: Perturbed, a: str, b: str) -> bool:
    """Return whether two names occur in the same step of both sides, in opposite orders."""
    for before, after in zip(perturbed.chosen, perturbed.rejected, strict=True):
        places = [text.lower().find(name) for text in (before, after) for name in (a, b)]
        if min(places) >= 0 and (places[0] < places[1]) != (places[2] < places[3]):
            return True
    return False


def _content(steps: Sequence[str]) -> Counter[str]:
    return Counter(w.lower for step in steps for w in words_with_offsets(step) if w.lower not in _FUNCTION)


def _stem(word: str) -> str:
    return word.removesuffix("es").removesuffix("s")
