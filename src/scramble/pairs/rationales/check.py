"""The judge of finished pairs: is the chosen rationale true, and has the rejected one its recorded defect and no other?

Reads the texts and the record of a pair and the image's scene graph; it shares with the builder the grammar, the graph
and the derivation of needed steps, and none of its choices.
"""

from __future__ import annotations

from collections import Counter

from scramble.grading import rationales
from scramble.pairs.rationales.graph_edits import apply
from scramble.records import PreferencePair
from scramble.scenegraphs import read_graph
from scramble.scenegraphs.world import Graph, derive, read_step
from scramble.world.judge import clause_holds


def faults(graph: Graph, question: str, pair: PreferencePair, *, follow: bool = True) -> list[str]:
    """What is wrong with a pair of the embedded world; nothing for a sound one.

    Args:
        graph: the image's complete scene graph.
        follow: whether the rejected answer should be what the edited graph gives.
    """
    record, found = pair.details, []
    chosen, rejected = rationales.read(pair.chosen), rationales.read(pair.rejected)
    truth = derive(graph, question)
    if truth is None:
        return ["the question has no answer in the graph"]
    if any(not _true(graph, step) for step in chosen.steps):
        found.append("a chosen step is false")
    if chosen.answer != truth.answer:
        found.append("the chosen answer is wrong")
    false = [i for i, step in enumerate(rejected.steps) if not _true(graph, step)]
    if false != record["false_steps"]:
        found.append(f"false steps {false}, recorded {record['false_steps']}")
    if missing := set(chosen.steps) - set(rejected.steps) ^ set(record["missing_steps"]):
        found.append(f"missing steps differ from the record: {sorted(missing)}")
    new = set(rejected.steps) - set(chosen.steps) - {rejected.steps[i] for i in false}
    if new != set(record["padding"]):
        found.append("true steps were added that are not recorded")
    if record["padding"] and set(record["padding"]) & set(truth.steps):
        found.append("the padding is needed")
    if [chosen.answer, rejected.answer] != record["answers"]:
        found.append("the answers differ from the record")
    return found + _KINDS[record["intervention"]](graph, question, pair, truth.steps, follow)


def _true(graph: Graph, step: str) -> bool:
    clauses = read_step(step)
    return clauses is not None and all(clause_holds(graph, clause) for clause in clauses)


def _retold(graph: Graph, question: str, pair: PreferencePair, needed: tuple[str, ...], follow: bool) -> list[str]:
    """Swap and replace: the rejected side is what the edited graph gives, and each change is needed for it."""
    rejected, changes, found = rationales.read(pair.rejected), pair.details["changes"], []
    start = read_graph(graph)
    retold = derive(apply(start, changes).to_json(), question)
    if retold is None or retold.steps != rejected.steps:
        return ["the rejected steps are not those of the edited graph"]
    if rejected.answer != (retold.answer if follow else derive(graph, question).answer):  # type: ignore[union-attr]
        found.append("the rejected answer is not that of the edited graph")
    if rationales.read(pair.chosen).steps != needed:
        found.append("the chosen steps are not those of the graph")
    if not pair.details["false_steps"]:
        found.append("nothing is false")
    for change in changes:
        other = derive(apply(start, [c for c in changes if c is not change]).to_json(), question)
        if other is not None and other.steps == rejected.steps:
            found.append("a recorded change leaves no trace")
    return found


def _shortened(graph: Graph, question: str, pair: PreferencePair, needed: tuple[str, ...], follow: bool) -> list[str]:
    """Shorten: as many needed steps are gone as recorded, never the conclusion, and the answer is kept."""
    record, rejected = pair.details, rationales.read(pair.rejected)
    gone = [step for step in needed if step not in rejected.steps]
    found = []
    if gone != [change["step"] for change in record["changes"]] or not gone:
        found.append("the steps that are gone are not those recorded")
    if rejected.steps[-1:] != needed[-1:] or rejected.answer != rationales.read(pair.chosen).answer:
        found.append("the conclusion was not kept")
    if len(rejected.steps) != len(needed) - len(gone) + len(record["padding"]):
        found.append("the number of steps is not that recorded")
    return found


def _overdone(graph: Graph, question: str, pair: PreferencePair, needed: tuple[str, ...], follow: bool) -> list[str]:
    """Overthink: without the recorded words, the steps are the needed ones."""
    record, rejected = pair.details, rationales.read(pair.rejected)
    places, found = set(record["false_steps"]), []
    if len(places) != len(record["changes"]) or len(rejected.steps) != len(needed):
        return ["the number of details is not that recorded"]
    added = sorted(word for i in places for word in (_words(rejected.steps[i]) - _words(needed[i])).elements())
    if added != sorted(change["word"] for change in record["changes"]):
        found.append(f"the words added are {added}")
    if any(step != needed[i] for i, step in enumerate(rejected.steps) if i not in places):
        found.append("a step without a detail was changed")
    if rejected.answer != rationales.read(pair.chosen).answer:
        found.append("the answer was not kept")
    return found


def _words(step: str) -> Counter[str]:
    return Counter("a" if word == "an" else word for word in step.split())


_KINDS = {"swap": _retold, "replace": _retold, "shorten": _shortened, "overthink": _overdone}
