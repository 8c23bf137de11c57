"""Measure the CPU time of the parts of a preference step, and how much of the speed-up is due to sharing.

The reference pass and the policy pass are measured twice with the same code: on tries, and with one sequence per row,
as in other trainers. The tower is measured once, and its time is multiplied by the number of times that a step without
sharing encodes an image. This product plus the times of both passes with one sequence per row is the time of a step
that shares nothing but is otherwise as fast as this project's step. If a trainer takes longer, the difference has
another cause, such as an output head that runs at all positions.

    python benchmarks/preference_step.py --shape 40m --steps 0 --model runs/40m
    OMP_NUM_THREADS=1 python benchmarks/step_parts.py --model runs/40m --images 8 --captions 1
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from preference_sides import examples_and_images, load, row_tries
from step_clock import LORA, set_adapter


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def fastest(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the shortest CPU time of each call. The calls take turns, so that all run under the same load."""
    times = [{name: cpu_seconds(run) for name, run in runs.items()} for _ in range(rounds + 1)]
    return {name: min(measured[name] for measured in times[1:]) for name in runs}  # the first round allocates memory


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the CPU seconds of all parts of a step."""
    from scramble.training.collator import TrieCollator
    from scramble.training.encoder import Encoder
    from scramble.training.trainable import add_lora
    from scramble.trie import logprobs, pack
    from scramble.trie.engine import encode_images

    vlm = load(args)
    pairs, files = examples_and_images(args)
    model = add_lora(vlm, LORA)
    set_adapter(model)
    backbone = vlm.backbone

    def collate() -> Any:
        return TrieCollator(Encoder(vlm, files, cache_bytes=0), with_rejected=True).items(pairs)

    items, members = collate()
    tries = pack(items, backbone.token_rules)
    rows = row_tries(Encoder(vlm, files), backbone, pairs)
    features = encode_images(backbone, tries.images)
    owner = {number: item for item, numbers in enumerate(members) for number in numbers}
    row_features = [features[owner[number]] for number in range(len(pairs)) for _ in range(2)]

    def reference(batch: Any, features: list[Any]) -> None:
        with torch.no_grad(), model.disable_adapter():
            logprobs(backbone, batch, features)

    def policy(batch: Any, features: list[Any]) -> None:
        logprobs(backbone, batch, features).sums_Q.sum().backward()

    seconds = fastest(
        {
            "images and batch": collate,
            "tower": lambda: encode_images(backbone, tries.images),
            "tries reference": lambda: reference(tries, features),
            "tries policy": lambda: policy(tries, features),
            "rows reference": lambda: reference(rows, row_features),
            "rows policy": lambda: policy(rows, row_features),
        },
        args.rounds,
    )
    tokens = {"tries": tries.num_tokens, "rows": rows.num_tokens}
    return {"pairs": len(pairs), "images": len(items), "tokens": tokens, "seconds": seconds}


def table(result: dict[str, Any]) -> str:
    """Return, as text, the times of a step without sharing and of three kinds of steps on tries, with their ratios."""
    seconds = result["seconds"]
    tower, reference, policy = seconds["tower"], seconds["tries reference"], seconds["tries policy"]
    # The chosen and the rejected answer are each computed with the policy and with the reference.
    passes = 4 * result["pairs"] / result["images"]
    unshared = {"tower": passes * tower, "reference": seconds["rows reference"], "policy": seconds["rows policy"]}
    steps = {
        "reference in the step": {"tower": tower, "reference": reference, "policy": policy},
        "cached reference": {"tower": tower, "policy": policy},
        "cached reference and features": {"policy": policy},
    }
    lines = [f"{'one sequence per row':30} {sum(unshared.values()):6.2f} s  {_parts(unshared)}"]
    for name, parts in steps.items():
        total = sum(parts.values())
        lines.append(f"{name:30} {total:6.2f} s  {_parts(parts)}  ratio {sum(unshared.values()) / total:.2f}")
    tokens = result["tokens"]
    lines.append(f"tokens: {tokens['rows']} in rows, {tokens['tries']} in tries")
    lines.append(f"not included: reading images and building the batch, {seconds['images and batch']:.2f} s")
    return "\n".join(lines)


def _parts(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())


def main() -> None:
    """Parse the command line, measure the parts and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model that preference_step.py created")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--captions", type=int, default=1, help="pairs per image")
    parser.add_argument("--pairs", type=int, help="pairs per step; the last image may have fewer pairs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    args = parser.parse_args()
    args.pairs = args.pairs or args.images * args.captions
    args.distinct_images, args.data, args.device, args.dtype = args.images, None, "cpu", "float32"
    torch.set_num_threads(1)
    result = measure(args)
    print(json.dumps(result, indent=2), table(result), sep="\n")


if __name__ == "__main__":
    main()
