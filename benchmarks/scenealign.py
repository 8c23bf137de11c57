"""Check SceneAlign's pairs of the embedded world with the world's judge, and measure their text-only accuracy.

python benchmarks/scenealign.py --scenes 500                        pairs with balanced lengths
python benchmarks/scenealign.py --scenes 500 --balance none         pairs without balancing
python benchmarks/scenealign.py --scenes 500 --json out.json        write the numbers to a file too
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from typing import Any

from scramble.pairs.audit.audit import audit_pairs
from scramble.pairs.method import collect
from scramble.pairs.rationales.assemble_rationales import rationale_pairs
from scramble.pairs.rationales.cases import RationaleCase, Settings
from scramble.pairs.rationales.check import faults
from scramble.pairs.rationales.graph_edits import Cooccurrence
from scramble.pairs.rationales.interventions.world_rationales import WorldInterventions, label
from scramble.records import Question
from scramble.scenegraphs import read_graph
from scramble.storage.files import write_json
from scramble.world.graphs import scene_graph
from scramble.world.questions import QUESTION_KINDS, ask
from scramble.world.scenes import draw_scene


def draw(scenes: int, seed: int) -> tuple[list[RationaleCase], dict[str, dict[str, Any]]]:
    """Draw random scenes. Return questions of every kind about these scenes, and a dictionary from image ids to scene
    graphs.
    """
    cases, graphs = [], {}
    for index in range(scenes):
        rng = random.Random(f"{seed}/{index}")
        scene = draw_scene(rng, objects=(2, 4), lookalikes=0.3)
        graphs[f"s{index}"] = graph = scene_graph(scene, 48)
        for kind in QUESTION_KINDS:
            if (drawn := ask(scene, rng, kind)) is not None:
                key = f"s{index}/{kind}"
                question = Question(key, (f"s{index}",), drawn.question, drawn.answer, kind, rationale=drawn.rationale)
                cases.append(RationaleCase(f"s{index}", question, read_graph(graph), "world"))
    return cases, graphs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--edits", type=int, default=1)
    parser.add_argument("--balance", choices=("pad", "none"), default="pad")
    parser.add_argument("--per-question", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()

    cases, graphs = draw(options.scenes, options.seed)
    settings = Settings(edits={options.edits: 1.0}, balance=options.balance)
    seen = Cooccurrence([label(node) for node in case.graph.nodes] for case in cases)
    started = time.process_time()
    interventions = WorldInterventions(settings, seen)
    pairs, skips = collect(rationale_pairs(cases, interventions, per_question=options.per_question, seed=options.seed))
    seconds = time.process_time() - started
    skipped = Counter(skip.reason for skip in skips)
    question = {case.question.question_id: case.question.question for case in cases}
    wrong = [
        f"{pair.pair_id}: {fault}"
        for pair in pairs
        for fault in faults(graphs[pair.image_ids[0]], question[pair.pair_id.rpartition("-")[0]], pair)
    ]
    print(f"{len(cases)} questions, {len(pairs)} pairs ({1000 * seconds / max(1, len(pairs)):.2f} ms CPU each)")
    print(f"pairs with a defect other than the recorded one: {len(wrong)}", *wrong[:5], sep="\n")
    print("questions without a pair:", dict(skipped.most_common()))
    result = audit_pairs(pairs, seed=options.seed)
    for kind, numbers in result["kinds"].items():
        shown = ", ".join(f"{name} {b['accuracy']:.1f} +- {b['error']:.1f}" for name, b in numbers["blind"].items())
        print(f"{kind} (n = {numbers['n']}): {shown}")
    if options.json:
        write_json(options.json, {"options": vars(options), "wrong": wrong, "skipped": skipped, "audit": result})


if __name__ == "__main__":
    main()
