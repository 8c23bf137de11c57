"""Load benchmarks by name. The docstring of each benchmark's module states the paper, the data, the item counts, the
chance and human accuracy, and whether tests compare the scores with a reference implementation.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scramble.evaluation.items import Benchmark, EvaluationError, name_hint

# Module and function by name. A module is imported only when its benchmark is loaded.
BENCHMARKS: dict[str, tuple[str, str]] = {
    "world_winoground": ("world", "load_winoground"),
    "world_vqa": ("world", "load_vqa"),
    "world_rationales": ("rationales", "load_world"),
    "rationales": ("rationales", "load"),
    "heldout_pairs": ("heldout_pairs", "load"),
    "winoground": ("winoground", "load"),
    "eqben_mini": ("pairs_of_images", "load_eqben_mini"),
    "cola": ("pairs_of_images", "load_cola"),
    "naturalbench_retrieval": ("pairs_of_images", "load_naturalbench_retrieval"),
    "sugarcrepe": ("captions", "load_sugarcrepe"),
    "aro": ("captions", "load_aro"),
    "sugarcrepe_pp": ("sugarcrepe_pp", "load"),
    "bivlc": ("bivlc", "load"),
    "colorswap": ("colorswap", "load"),
    "vismin": ("vismin", "load"),
    "whatsup": ("whatsup", "load"),
    "vsr": ("vsr", "load"),
    "conme": ("conme", "load"),
    "mmvp": ("mmvp", "load"),
    "naturalbench": ("naturalbench", "load"),
    "vqav2": ("vqa", "load_vqav2"),
    "okvqa": ("vqa", "load_okvqa"),
    "textvqa": ("vqa", "load_textvqa"),
    "gqa": ("vqa", "load_gqa"),
    "pope": ("pope", "load"),
    "seed": ("seed", "load"),
    "mmmu": ("mmmu", "load"),
    "mathvista": ("mathvista", "load"),
    "m3cot": ("m3cot", "load"),
    "mathvision": ("mathvision", "load"),
    "mathverse": ("mathverse", "load"),
    "wemath": ("wemath", "load"),
    "logicvista": ("logicvista", "load"),
    "mmvet": ("mmvet", "load"),
    "chair": ("chair", "load"),
    "object_halbench": ("object_halbench", "load"),
    "amber": ("amber", "load"),
    "hallusionbench": ("hallusionbench", "load"),
    "crpe": ("crpe", "load"),
    "mmhal": ("mmhal", "load"),
    "llava_bench": ("llava_bench", "load"),
    "tsv": ("tsv", "load"),
    "mmbench": ("tsv", "load_mmbench"),
    "mmstar": ("tsv", "load_mmstar"),
    "scienceqa": ("tsv", "load_scienceqa"),
    "ai2d": ("tsv", "load_ai2d"),
    "realworldqa": ("tsv", "load_realworldqa"),
    "hrbench": ("tsv", "load_hrbench"),
    "vstar": ("tsv", "load_vstar"),
    "blink": ("tsv", "load_blink"),
    "chartqa": ("tsv", "load_chartqa"),
    "docvqa": ("tsv", "load_docvqa"),
}


def load_benchmark(name: str, root: str | Path | None = None, **options: Any) -> Benchmark:
    """Load a benchmark from local files below ``root``, or from the Hugging Face Hub if the benchmark has a hub id.

    Raises:
        EvaluationError: the name or an option is unknown (the message suggests similar names), or the data is missing,
            damaged or incomplete.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"unknown benchmark {name!r} {name_hint(name, BENCHMARKS)}")
    load = _loader(name)
    parameters = inspect.signature(load).parameters
    if unknown := sorted(set(options) - set(parameters)):
        raise EvaluationError(f"{name} has no option {unknown[0]!r} {name_hint(unknown[0], parameters)}")
    if root is None and needs_files(name):
        raise EvaluationError(f"{name} needs local files: set benchmark.{name}.root to the folder of these files")
    try:
        return load(root, **options)
    except EvaluationError as error:
        line = " ".join(str(error).split())  # text quoted from damaged data can contain line breaks
        if line == str(error):
            raise
        raise EvaluationError(line) from error


def needs_files(name: str) -> bool:
    """Return whether a benchmark can only be read from local files, because it has no hub id."""
    return inspect.signature(_loader(name)).parameters["root"].default is inspect.Parameter.empty


def _loader(name: str) -> Callable[..., Benchmark]:
    module, function = BENCHMARKS[name]
    load: Callable[..., Benchmark] = getattr(
        importlib.import_module(f"scramble.evaluation.benchmarks.{module}"), function
    )
    return load
