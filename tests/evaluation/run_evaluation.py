"""Evaluates the world in a child process, in many small chunks, and prints a line after each chunk. Under torchrun,
several processes share the work.
"""

from __future__ import annotations

import sys

from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.runner import data_parallel, evaluate, identify
from scramble.models import load_vlm

world, model, out = sys.argv[1:]
process, wait = data_parallel()
evaluate(
    lambda: load_vlm(model, dtype="float32"),
    [load_benchmark(name, world) for name in ("world_winoground", "world_vqa")],
    "world_yes",
    out,
    model_id=identify(model, dtype="float32"),
    batch_tokens=32,
    test_groups=0,
    process=process,
    wait=wait,
    progress=lambda name: lambda done, total: print(name, done, total, flush=True),
)
