"""Check finished pairs: the chosen rationale must be true, and the rejected one may contain only recorded faults.

The check reads the texts and the record of a pair, and the scene graph of the image. It shares the grammar,
:func:`clause_holds`, :func:`apply` and the derivation of needed steps with the code that creates pairs.
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
    """Return the faults of a pair of the embedded world, or [] for a correct pair.

    Args:
        graph: the complete scene graph of the image.
        follow: whether the rejected answer must follow from the edited graph.
    """
    record, problems = pair.details, []
    chosen, rejected = rationales.read(pair.chosen), rationales.read(pair.rejected)
    truth = derive(graph, question)
    if truth is None:
        return ["the question has no answer in the graph"]
    if any(not _true(graph, step) for step in chosen.steps):
        problems.append("a chosen step is false")
    if chosen.answer != truth.answer:
        problems.append("the chosen answer is wrong")
    false = [i for i, step in enumerate(rejected.steps) if not _true(graph, step)]
    if false != record["false_steps"]:
        problems.append(f"the steps {false} are false, but the record lists {record['false_steps']}")
    if missing := set(chosen.steps) - set(rejected.steps) ^ set(record["missing_steps"]):
        problems.append(f"missing steps differ from the record: {sorted(missing)}")
    new = set(rejected.steps) - set(chosen.steps) - {rejected.steps[i] for i in false}
    if new != set(record["padding"]):
        problems.append("the added true steps differ from the record")
    if record["padding"] and set(record["padding"]) & set(truth.steps):
        problems.append("a padding step is needed for the answer")
    if [chosen.answer, rejected.answer] != record["answers"]:
        problems.append("the answers differ from the record")
    return problems + _KINDS[record["intervention"]](graph, question, pair, truth.steps, follow)


def _true(graph: Graph, step: str) -> bool:
    clauses = read_step(step)
    return clauses is not None and all(clause_holds(graph, clause) for clause in clauses)


def _swapped_or_replaced(
    graph: Graph, question: str, pair: PreferencePair, needed: tuple[str, ...], follow: bool
) -> list[str]:
    """Check swap and replace: the rejected side follows from the edited graph, and every change affects that side."""
    rejected, changes, problems = rationales.read(pair.rejected), pair.details["changes"], []
    start = read_graph(graph)
    expected = derive(apply(start, changes).to_json(), question)
    if expected is None or expected.steps != rejected.steps:
        return ["the rejected steps do not follow from the edited graph"]
    if rejected.answer != (expected.answer if follow else derive(graph, question).answer):  # type: ignore[union-attr]
        problems.append("the rejected answer does not follow from the edited graph")
    if rationales.read(pair.chosen).steps != needed:
        problems.append("the chosen steps do not follow from the graph")
    if not pair.details["false_steps"]:
        problems.append("no step is false")
    for change in changes:
        other = derive(apply(start, [c for c in changes if c is not change]).to_json(), question)
        if other is not None and other.steps == rejected.steps:
            problems.append("a recorded change has no effect")
    return problems


def _shortened(graph: Graph, question: str, pair: PreferencePair, needed: tuple[str, ...], follow: bool) -> list[str]:
    """Check shorten: exactly the recorded steps are missing, and the conclusion and the answer are unchanged."""
    record, rejected = pair.details, rationales.read(pair.rejected)
    removed = [step for step in needed if step not in rejected.steps]
    problems = []
    if removed != [change["step"] for change in record["changes"]] or not removed:
        problems.append("the removed steps differ from the record")
    if rejected.steps[-1:] != needed[-1:] or rejected.answer != rationales.read(pair.chosen).answer:
        problems.append("the conclusion was changed")
    if len(rejected.steps) != len(needed) - len(removed) + len(record["padding"]):
        problems.append("the number of steps differs from the record")
    return problems


def _with_details(
    graph: Graph, question: str, pair: PreferencePair, needed: tuple[str, ...], follow: bool
) -> list[str]:
    """Check an overthink pair: without the words that the record lists, the rejected steps equal the needed steps."""
    record, rejected = pair.details, rationales.read(pair.rejected)
    places, problems = set(record["false_steps"]), []
    if len(places) != len(record["changes"]) or len(rejected.steps) != len(needed):
        return ["the number of details differs from the record"]
    added = sorted(word for i in places for word in (_words(rejected.steps[i]) - _words(needed[i])).elements())
    if added != sorted(change["word"] for change in record["changes"]):
        problems.append(f"the added words {added} differ from the record")
    if any(step != needed[i] for i, step in enumerate(rejected.steps) if i not in places):
        problems.append("a step without a detail was changed")
    if rejected.answer != rationales.read(pair.chosen).answer:
        problems.append("the answer was changed")
    return problems


def _words(step: str) -> Counter[str]:
    return Counter("a" if word == "an" else word for word in step.split())


_KINDS = {
    "swap": _swapped_or_replaced,
    "replace": _swapped_or_replaced,
    "shorten": _shortened,
    "overthink": _with_details,
}
