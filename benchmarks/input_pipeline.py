"""Measure the images per second from file to batch (decoding, image processor, trie) with 0, 1 and 2 workers.

    python benchmarks/input_pipeline.py --images 64 --rounds 3 --json input.json

The processors have the settings of the released models (InternVL3: up to 12 tiles of 448 px; Molmo-7B: up to 12 crops
of 336 px; LLaVA-1.5: 336 px; SmolVLM: tiles of 512 px). The models are tiny and do not run. Every image is a separate
JPEG file with one pair, and a batch contains two images. These steps are measured alternately in one process:

- decode: Pillow's decoder and the conversion to upright RGB,
- resize: decode, and the resizing that the processor requires (Molmo only),
- processor: decode, and transformers' or our image processor on the image alone (the lower bound, "floor"),
- 2 processes: the step "processor" in two processes that share nothing, each with half of the images. Their speed-up is
  the upper bound for two workers on this machine,
- 0, 1, 2 workers: as in training, ``TrieCollator`` in a ``DataLoader``.

Images per second are based on wall time, which is unreliable on a busy machine. With a ``DataLoader``, the first four
batches (fewer if there are fewer than eight batches) are not counted, so that the rate is that of a long run.
Milliseconds are the CPU time of all processes per image, including the start of the workers. Other work on the machine
hardly changes the CPU time. "0 workers / floor" is a ratio of CPU times.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from shapes import noise_image

SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080)}
PROMPT = "Describe the image in one sentence."
WARM_UP = 4  # batches of two images; fewer if there are fewer than eight batches
CHOSEN, REJECTED = "A black dog chases a white cat.", "A white dog chases a black cat."
MODELS: dict[str, dict[str, Any]] = {
    "internvl": {"image_size": 448, "patch_size": 14, "max_tiles": 12},
    "molmo": {"image_size": 336, "patch_size": 14, "max_crops": 12},
    "llava": {"image_size": 336},
    "smolvlm": {"image_size": 512},
}


def photograph(seed: int, width: int, height: int) -> bytes:
    """Make a JPEG file of coarse and fine noise with the dimensions and about the file size of a photograph."""
    coarse = noise_image(seed, 48).resize((width, height), Image.Resampling.BICUBIC)
    fine = noise_image(seed + 1, 256).resize((width, height), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    Image.blend(coarse, fine, 0.15).save(file, "JPEG", quality=90)
    return file.getvalue()


def load_family(family: str, folder: Path) -> Any:
    """Load a tiny model of a family. Its processor has the settings of the released model."""
    from scramble.models import load_vlm
    from scramble.models.tiny import save_tiny

    vlm = load_vlm(save_tiny(family, folder / family, [PROMPT, CHOSEN, REJECTED], 0, **MODELS[family]), device="cpu")
    if family == "smolvlm":
        vlm.processor.image_processor.size = {"longest_edge": 2048}
        vlm.processor.image_processor.max_image_size = {"longest_edge": 512}
    return vlm


def sides_of(vlm: Any, files: dict[str, Any], workers: list[int]) -> dict[str, Callable[[], float]]:
    """Return a dictionary from the names of the measured steps to functions that return the seconds per image."""
    from scramble.training.collator import TrieCollator
    from scramble.training.data import Example
    from scramble.training.dataloader import Workers, data_loader, results
    from scramble.training.encoder import Encoder

    examples = [Example(name, (name,), PROMPT, CHOSEN, REJECTED) for name in files]
    pairs = [[n, n + 1] for n in range(0, len(examples) - 1, 2)]
    warm_up = min(WARM_UP, len(pairs) // 2)
    processor = vlm.processor.image_processor

    def decoded(file: Any) -> Any:
        return vlm.family.image_options.apply(file.open())

    def build(number: int) -> float:
        collator = TrieCollator(Encoder(vlm, files, cache_bytes=0), with_rejected=True)
        batches = results(data_loader(examples, collator, collator.encoder, Workers(number), pairs))
        for _ in range(warm_up):
            next(batches)
        return seconds_per_item(lambda batch: None, batches, 2 * (len(pairs) - warm_up))

    def each(step: Callable[[Any], object]) -> Callable[[], float]:
        return lambda: seconds_per_item(step, files.values(), len(files))

    sides: dict[str, Callable[[], float]] = {"decode": each(decoded)}
    if vlm.family.name == "molmo":
        sides["resize"] = each(lambda file: resize_alone(processor, decoded(file)))
    sides["processor"] = each(lambda file: processor(decoded(file)))
    half = list(files.values())[: len(files) // 2]
    sides["2 processes"] = lambda: at_the_same_time(
        2, lambda: seconds_per_item(lambda file: processor(decoded(file)), half, len(half))
    )
    return sides | {f"{n} workers": lambda n=n: build(n) for n in workers}  # type: ignore[misc]


def at_the_same_time(number: int, run: Callable[[], float]) -> float:
    """Call ``run`` in ``number`` new processes. Return the longest result divided by ``number``."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    children = [context.Process(target=lambda: results.put(run())) for _ in range(number)]
    for child in children:
        child.start()
    seconds = [results.get() for _ in children]
    for child in children:
        child.join()
    return max(seconds) / number


def seconds_per_item(step: Callable[[Any], object], elements: Iterable[Any], items: int) -> float:
    """Call ``step`` for each element and return the wall time divided by ``items``."""
    start = time.perf_counter()
    for element in elements:
        step(element)
    return (time.perf_counter() - start) / items


def resize_alone(processor: Any, image: Image.Image) -> None:
    """Compute the two resized views from which Molmo's crops are taken."""
    import numpy as np

    from scramble.models.molmo.image_processing_molmo import resize_and_pad

    pixels = np.array(image)
    rows, cols = processor.tiling(image.height, image.width)
    side, window, margins = processor.base_image_input_size[0], processor._window, processor._margins
    resize_and_pad(pixels, rows * window + margins, cols * window + margins)
    resize_and_pad(pixels, side, side)


def processor_seconds() -> float:
    """Return the CPU seconds of this process and of its child processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(sides: dict[str, Callable[[], float]], rounds: int, images: int) -> dict[str, dict[str, float]]:
    """Call the functions alternately, and return the median images per second and CPU milliseconds per image of each
    function.
    """
    clock: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            start = processor_seconds()
            seconds = run()
            if number:  # the first round warms up
                clock[name].append(seconds)
                used[name].append(processor_seconds() - start)
    return {
        name: {
            "images_per_second": 1 / statistics.median(clock[name]),
            "processor_ms": 1e3 * statistics.median(used[name]) / images,
        }
        for name in sides
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    from scramble.records import ImageFile

    results: dict[str, Any] = {}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {args.images} images, {args.rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        for family in args.families:
            vlm = load_family(family, Path(name))
            for size in args.sizes:
                files = {f"{n}.jpg": ImageFile(photograph(n, *SIZES[size]), f"{n}.jpg") for n in range(args.images)}
                rows = measure(sides_of(vlm, files, args.workers), args.rounds, args.images)
                results[f"{family} {size}"] = rows
                for side, row in rows.items():
                    print(
                        f"{family:9} {size:10} {side:11} {row['images_per_second']:7.1f} images/s "
                        f"{row['processor_ms']:7.1f} ms of CPU time per image"
                    )
                print(f"{'':21}{summary(rows)}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1))


def summary(rows: dict[str, dict[str, float]]) -> str:
    """Return the main ratios as text."""

    def ratio(one: str, other: str, value: str) -> str:
        return f"{rows[one][value] / rows[other][value]:.2f}"

    parts = []
    if "0 workers" in rows:
        parts.append(f"0 workers / floor: {ratio('0 workers', 'processor', 'processor_ms')}")
    if "resize" in rows:
        parts.append(f"processor / resize: {ratio('processor', 'resize', 'processor_ms')}")
    if {"1 workers", "2 workers"} <= rows.keys():
        parts.append(
            f"speed-up from one to two workers: {ratio('2 workers', '1 workers', 'images_per_second')} (two processes "
            f"that share nothing: {ratio('2 processes', 'processor', 'images_per_second')})"
        )
    return "; ".join(parts)


if __name__ == "__main__":
    main()
