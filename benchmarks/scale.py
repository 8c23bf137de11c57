"""Measure the time, memory and disk space that rule-based pairs require for a data set as large as COCO train2017.

    python benchmarks/scale.py --captions captions_val2017.json --images 11829 59144 118287

For each size, the script writes tiny JPEGs and a COCO caption file with five captions per image to a temporary folder.
It then runs these steps (``--steps``) one after the other, each in a separate process: (1) the import of the images,
(2) the generate stage without refinement, with each number of worker processes (``--processes``), (3) a repetition of
this stage, which reuses the result, (4) the audit, and (5) the generate stage with refinement. Times are reported in
CPU seconds of all processes, which other work on the machine affects little, and in wall-clock seconds. The peak memory
is measured in the main process, without the workers. The last lines are linear fits over the sizes.

``--captions`` names COCO's captions_*.json or a JSONL file of ``{"image": file name, "caption": text}`` rows. If there
are too few captions, they are repeated with a number appended, so that the repetitions of a caption differ.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scramble.pipeline.generate import audit_folder, generate
from scramble.pipeline.images import make_images
from scramble.storage.files import read_json, write_json
from scramble.storage.jsonl import read_jsonl

STEPS = ("images", "pairs", "repeat", "audit", "refined")
PER_IMAGE = 5.0027  # COCO train2017: 591,753 captions of 118,287 images


def endless_captions(path: Path) -> Iterator[str]:
    """Yield the captions of a file repeatedly, without end. Each repetition of a caption ends in a different number."""
    rows = read_json(path)["annotations"] if path.suffix == ".json" else read_jsonl(path)
    captions = [row["caption"].strip().rstrip(".") for row in rows]
    for number in count():
        yield from (text if not number else f"{text}, photo {number}" for text in captions)


def write_coco(folder: Path, captions: Path, images: int) -> int:
    """Write images and captions in COCO's layout and return the number of captions."""
    (folder / "train2017").mkdir(parents=True)
    for number in range(images):
        Image.fromarray(_pixels(number)).save(folder / "train2017" / f"{number:012d}.jpg")
    total = round(images * PER_IMAGE)
    write_json(
        folder / "annotations" / "captions_train2017.json",
        {
            "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in range(images)],
            "annotations": [
                {"id": index, "image_id": index % images, "caption": text}
                for index, text in enumerate(islice(endless_captions(captions), total))
            ],
        },
    )
    return total


def _pixels(number: int) -> np.ndarray:
    """Return an image of 16 x 16 pixels that encodes the bits of a number."""
    bits = np.unpackbits(np.frombuffer(number.to_bytes(4, "big"), np.uint8)).reshape(4, 8)
    return np.kron(bits, np.full((4, 2), 255, np.uint8))[..., None].repeat(3, -1)


def measured(run: Callable[..., Any], *args: Any) -> dict[str, float]:
    """Run a function in a new process. Return its wall-clock seconds, CPU seconds and peak memory in MiB."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_timed, args=(theirs, run, args))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"{run.__name__} failed") from None
    finally:
        process.join()


def _timed(connection: Connection, run: Callable[..., Any], args: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    run(*args)
    seconds = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in usage)
    # ru_maxrss is not used, because for a new process it is at least the memory of the process that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    connection.send({"seconds": seconds, "cpu": cpu, "peak": peak})


def data_of(coco: Path) -> dict[str, Any]:
    """Return the data section of the configuration."""
    return {
        "kind": "coco",
        "path": str(coco),
        "split": "train2017",
        "images": None,
        "embed": False,
        "verify": False,
        "val_fraction": 0.02,
        "test_fraction": 0.0,
        "max_rejected": 0.0,
    }


def import_images(coco: Path, out: Path) -> None:
    """Run the first part of the generate stage, which imports the images."""
    make_images(out, data_of(coco), 0)


def make_pairs(coco: Path, out: Path, pipeline: str, processes: int, refine: bool) -> None:
    """Run the generate stage with rule-based pairs."""
    options = {"pipeline": pipeline, "processes": processes}
    pairs = {"method": "rules", "options": options, "refine": {} if refine else None, "audit": False}
    generate(out, data=data_of(coco), pairs=pairs, seed=0)


def disk(folder: Path) -> float:
    """Return the size of a folder's files in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def line(points: list[tuple[float, float]]) -> str:
    """Return, as text, a linear fit of y over x (per 1,000) and the largest relative deviation of y from the fit."""
    x, y = np.array(points).T
    slope, start = np.polyfit(x, y, 1)
    deviation = 100 * np.max(abs(slope * x + start - y) / y)
    return f"{start:.1f} + {1000 * slope:.3f} per 1,000 captions (largest deviation {deviation:.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--pipeline", default="en_core_web_sm")
    parser.add_argument("--images", type=int, nargs="+", default=[11_829, 59_144, 118_287])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    args = parser.parse_args()
    points: dict[str, list[tuple[float, float]]] = {}
    for images in args.images:
        with tempfile.TemporaryDirectory(prefix="scale.") as name:
            folder = Path(name)
            captions = write_coco(folder / "coco", args.captions, images)
            print(f"{images:,} images, {captions:,} captions, {disk(folder / 'coco'):.0f} MiB", flush=True)

            def report(what: str, run: Callable[..., Any], *settings: Any, captions: int = captions) -> None:
                figures = measured(run, *settings)
                cpu, peak = figures["cpu"], figures["peak"]
                print(f"  {what}: {cpu:.1f} CPU seconds ({captions / cpu:.0f} captions per second), ", end="")
                print(f"{figures['seconds']:.1f} s, peak memory {peak:.0f} MiB", flush=True)
                points.setdefault(f"{what}, CPU seconds", []).append((captions, cpu))
                points.setdefault(f"{what}, MiB", []).append((captions, peak))

            common, last = (folder / "coco", folder / "data", args.pipeline), args.processes[-1]
            if "images" in args.steps:
                report("images", import_images, folder / "coco", folder / "images")
            for processes in args.processes if "pairs" in args.steps else ():
                shutil.rmtree(folder / "data", ignore_errors=True)
                report(f"pairs, {processes} processes", make_pairs, *common, processes, False)
                print(f"  data folder: {disk(folder / 'data'):.0f} MiB", flush=True)
            if "repeat" in args.steps:
                report("repeat", make_pairs, *common, last, False)
            if "audit" in args.steps:
                report("audit", audit_folder, folder / "data", 0)
            if "refined" in args.steps:
                shutil.rmtree(folder / "data", ignore_errors=True)
                report(f"refined pairs, {last} processes", make_pairs, *common, last, True)
    for what, members in points.items():
        if len(members) > 2:
            print(f"{what}: {line(members)}")
    print(f"cores: {os.cpu_count()}")


if __name__ == "__main__":
    main()
