"""We-Math: mathematics problems of two or three steps. Each step is also a separate question.

Paper: Qiao et al., 2024 (arXiv 2407.01284). Data: the repository's ``data/testmini.json`` (We-Math/We-Math) with its
images and, for scores by domain, ``knowledge_structure_nodes.json`` in the same folder. Counts: 1,740 questions, which
form 525 problems (360 with two steps, 165 with three steps). Chance: computed from the numbers of options, for
accuracies. Human: not checked.

The kind of an item is S1 (a single step), S2 (a problem of two steps) or S3 (a problem of three steps). The tag of a
single step is ``<domain>/<concept>``. The scores are the accuracy by kind, the mean accuracy over the concepts of each
domain (``accuracy_macro/<domain>``), and the shares of four dimensions. The dimension of a problem depends on the
answers to the problem and to all its steps:

| problem | steps | dimension | share of |
|---|---|---|---|
| wrong | one or more wrong | insufficient_knowledge | problems |
| wrong | all right | inadequate_generalization | problems |
| right | strict: all right; loose: one or more right | complete_mastery_* | problems |
| right | strict: one or more wrong; loose: all wrong | rote_memorization_* | right problems |

``score_strict`` and ``score_loose`` are means over problems: mastery counts as 1, inadequate generalization as 0.5, and
any other dimension as 0. ``protocol=wemath`` asks, in our wording, for an answer in the form that We-Math's rule
parses. Tests compare all metrics with those of the official code on a recorded run.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from scramble.evaluation.benchmarks import lettered
from scramble.evaluation.benchmarks.data import check_count, find_file, json_rows, one_of, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import LETTERS, Question

SUBPROBLEMS = {"2steps": ("1", "2", "multi"), "3steps": ("1", "2", "3", "multi")}
NODES = "knowledge_structure_nodes.json"


def load(
    root: str | Path, *, images: str | Path | None = None, nodes: str | Path | None = None, partial: bool = False
) -> Benchmark:
    """Load the 1,740 testmini questions.

    Args:
        root: ``testmini.json`` or the folder of this file.
        images: folder of the images (default: the folder of ``testmini.json``).
        nodes: file of the concepts and domains (default: the file in the folder of ``testmini.json``, if it exists).
        partial: accept an incomplete copy, and skip incomplete problems and rows that cannot be used.
    """
    path = find_file("wemath", root, "testmini.json", "*wemath*.json")
    domains = _domains(Path(nodes) if nodes else path.with_name(NODES), required=nodes is not None)
    rows = enumerate(json_rows("wemath", path))
    items = read_items("wemath", path, rows, lambda number, row: _item(row, number, domains), partial)
    items = _complete(items, path, partial)
    chance = lettered.chance(items)
    for domain in set(domains.values()):
        if levels := [level for name, level in chance.items() if name.startswith(f"accuracy/{domain}/")]:
            chance[f"accuracy_macro/{domain}"] = fmean(levels)
    return Benchmark(
        "wemath",
        check_count("wemath", len(items), {1740: "wemath-testmini-1740"}, partial),
        check_items("wemath", items),
        item_images("wemath", images or path.parent, items),
        "wemath",
        chance=chance,
        default_protocol="wemath",
    )


def _item(row: dict[str, Any], number: int, domains: dict[str, str]) -> Item:
    where = f"entry {number}"
    problem, key, question, option, answer, image, concept = texts(
        "wemath", row, where, "ID", "key", "question", "option", "answer", "image_path", "knowledge concept"
    )
    parts, _, step = key.partition("_")
    if step not in SUBPROBLEMS.get(parts, ()):
        expected = ", ".join(f"{parts}_{step}" for parts, steps in SUBPROBLEMS.items() for step in steps)
        raise EvaluationError(
            f"wemath: {where}: key is {key!r:.60}, which is not one of {expected}: download the data again"
        )
    shown = sorted(set(re.findall(r"([A-H])\s*\.", option)))  # some entries separate their options irregularly
    if not shown:
        raise EvaluationError(
            f"wemath: {where}: option has no options A., B., ... ({option!r:.80}): download the data again"
        )
    letter = one_of("wemath", where, "answer", answer.strip(), shown)
    kind = {"2steps": "S2", "3steps": "S3"}[parts] if step == "multi" else "S1"
    domain = domains.get(concept)
    tags = () if kind != "S1" else (f"{domain}/{concept}",) if domain else (concept,)
    choices = ("",) * (LETTERS.index(shown[-1]) + 1)
    record = Question(f"{problem}/{step}", (image,), f"{question}\n{option}", letter, kind, choices=choices)
    return Item(record, "letter", group=problem, tags=tags, details={"options_in_question": True})


def _domains(path: Path, *, required: bool) -> dict[str, str]:
    """Return a dictionary from concepts to domains. It is empty if the file does not exist and is not required."""
    if not path.is_file():
        if required:
            raise EvaluationError(f"wemath: {path} is not a file: set benchmark.wemath.nodes to the path of {NODES}")
        return {}
    domains = {}
    for number, row in enumerate(json_rows("wemath", path)):
        node, domain = texts("wemath", row, f"entry {number} of {path}", "full node", "root2")
        domains[node.rpartition("_")[2]] = domain
    return domains


def _complete(items: list[Item], path: Path, partial: bool) -> list[Item]:
    """Return the items of problems with all their steps. Raises EvaluationError if a problem is incomplete, unless
    ``partial`` is true.
    """
    steps: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        steps[item.group].append(item.item_id.rpartition("/")[2])
    expected = {group: sorted(SUBPROBLEMS.get(group.partition("_")[0], ())) for group in steps}
    torn = [group for group, names in steps.items() if sorted(names) != expected[group]]
    if torn and not partial:
        raise EvaluationError(
            f"wemath: {path}: problem {torn[0]!r} has the steps {', '.join(sorted(steps[torn[0]]))}, not "
            f"{', '.join(expected[torn[0]]) or 'the steps of a 2steps or 3steps problem'} ({len(torn)} incomplete "
            "problems): download the file again, or set benchmark.wemath.partial=true to skip incomplete problems"
        )
    return [item for item in items if item.group not in torn]
