"""Measure how much code must be read to follow a training run from the command line to the loss.

    python scripts/dev/training_path.py            # in a checkout of any commit
    python scripts/dev/training_path.py --files    # print the files too, each with the reason why it is listed

The program starts a short training run of the shipped tiny model through ``scripts/train.py``. When the first
training step enters the first function of ``losses.py``, the program stops and prints three measures:

1. the number of this project's files from the command line to the loss, including both ends. The count includes the
   files of all functions on the call stack, and the files that define the classes (and base classes) of the objects in
   the local variables of these functions. Objects in tuples, lists and dictionaries are included. A file is not counted
   if its functions have returned and no object of its classes remains. For comparison, the script also prints the
   number of files without the objects, and the number of files with the attributes of the objects.
2. the number of lines of these files, including comments and blank lines.
3. the number of parameters of the function ``train`` that notebooks call.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import os
import runpy
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path.cwd()
STEP = "training_step"  # of transformers' Trainer


class Reached(BaseException):
    """Raised when the loss is reached. It is a BaseException, so that no error handler of the project catches it."""


def own_file(name: str) -> str | None:
    """Return the path of a file relative to the checkout. Return None for a file outside this project."""
    path = Path(name)
    inside = path.is_relative_to(ROOT / "src" / "scramble") or path.parent == ROOT / "scripts"
    return str(path.relative_to(ROOT)) if inside else None


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and its callers, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def objects(value: Any, attributes: bool) -> Iterator[Any]:
    """Yield a value and its elements. With ``attributes``, also yield the value's attributes and their elements."""
    yield value
    yield from elements(value)
    if attributes and own_file(defining_file(type(value))):
        slots = [getattr(value, name, None) for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
        for attribute in [*getattr(value, "__dict__", {}).values(), *slots]:
            yield attribute
            yield from elements(attribute)


def elements(value: Any) -> list[Any]:
    """Return the elements of a tuple or list, or the values of a dictionary."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else []


def defining_file(cls: type) -> str:
    """Return the file of the module that defines a class. Return "" if the module has no file."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or ""


def reading_lists(innermost: FrameType) -> list[dict[str, str]]:
    """Return three dictionaries that map files to the reasons why they are listed.

    The first contains the files of the call stack. The second adds the files of the objects on the stack, and the third
    adds the files of their attributes.
    """
    frames = [frame for frame in callers(innermost) if own_file(frame.f_code.co_filename)]
    stack: dict[str, str] = {}
    for frame in frames:
        if path := own_file(frame.f_code.co_filename):
            stack.setdefault(path, f"on the stack: {frame.f_code.co_name}")
    lists = [stack]
    for attributes in (False, True):
        reasons = dict(lists[-1])
        for frame in frames:
            for name, local in list(frame.f_locals.items()):
                for cls in (cls for value in objects(local, attributes) for cls in type(value).__mro__):
                    if path := own_file(defining_file(cls)):
                        reasons.setdefault(path, f"{cls.__name__}, from variable {name} of {frame.f_code.co_name}")
        lists.append(reasons)
    return lists


def package() -> str:
    """Return the package of the trainer: ``training``, or ``preference`` in older commits."""
    return "training" if (ROOT / "src" / "scramble" / "training").is_dir() else "preference"


def run_until_loss(folder: str) -> list[dict[str, str]]:
    """Start a training run as the command line does, stop it at the first loss, and return the lists of files."""
    losses = str(ROOT / "src" / "scramble" / package() / "losses.py")
    lists: list[dict[str, str]] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_filename != losses or lists:
            return
        if any(each.f_code.co_name == STEP for each in callers(frame.f_back)):
            lists.extend(reading_lists(frame))
            sys.setprofile(None)
            raise Reached

    names = ("trainer.max_steps", "trainer.global_batch_size")
    if package() == "preference":
        names = ("trainer.steps", "trainer.batch_size")
    overrides: Mapping[str, Any] = {
        "data": "world_tiny",
        "objective": "dpo",
        names[0]: 2,
        names[1]: 4,
        "run.dir": folder,
    }
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra replaces the exception Reached
    sys.path.insert(0, str(ROOT / "src"))
    sys.argv = [str(ROOT / "scripts" / "train.py"), *(f"{key}={value}" for key, value in overrides.items())]
    logging.disable(logging.INFO)
    sys.setprofile(watch)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except Reached:
        pass
    finally:
        sys.setprofile(None)
    if not lists:
        sys.exit("the training run ended before a step reached the loss")
    return lists


def main() -> None:
    """Parse the command line and print the measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="print the files, from the loss up to the command line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack, with_objects, with_attributes = run_until_loss(folder)
    if args.files:
        print("\n".join(f"{path}: {reason}" for path, reason in with_objects.items()))
    train = sys.modules[f"scramble.{package()}"].train
    print(f"files between the command line and the loss: {len(with_objects)}, lines in them: {lines(with_objects)}")
    print(f"  on the call stack alone: {len(stack)}, lines: {lines(stack)}")
    print(f"  with the objects' attributes: {len(with_attributes)}, lines: {lines(with_attributes)}")
    print(f"parameters of scramble.{package()}.train: {len(inspect.signature(train).parameters)}")


def lines(files: Iterable[str]) -> int:
    """Count the lines of files, including comments and blank lines."""
    return sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files)


if __name__ == "__main__":
    main()
