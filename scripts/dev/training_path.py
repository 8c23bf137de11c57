"""How much must be read to follow a training run from the command line to the loss?

    python scripts/dev/training_path.py            # in a checkout of any commit, an old one included
    python scripts/dev/training_path.py --files    # also the files, each with the reason why it is in the list

A short preference training on the shipped tiny model runs through ``scripts/train.py`` in this process. When the first
training step enters the first function of ``losses.py``, the program stops and prints three measures:

1. the number of this project's files between the command line and the loss, both included, at that moment: the files of
   all functions on the call stack, and the files that define the classes (base classes included) of the objects in the
   local variables of these functions, also in tuples, lists and mappings. Files that only prepare something and leave
   no object behind are not counted. For comparison: without the objects, and with the attributes of the objects.
2. the number of lines of these files, comments and blank lines included.
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
    """The loss is reached. No handler of errors on the way catches it."""


def own_file(name: str) -> str | None:
    """The path of a file of this project, relative to the checkout."""
    path = Path(name)
    inside = path.is_relative_to(ROOT / "src" / "scramble") or path.parent == ROOT / "scripts"
    return str(path.relative_to(ROOT)) if inside else None


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def objects(value: Any, attributes: bool) -> Iterator[Any]:
    """A value, the elements of a container, and where wanted the attributes of an object and their elements."""
    yield value
    yield from elements(value)
    if attributes and own_file(defining_file(type(value))):
        slots = [getattr(value, name, None) for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
        for attribute in [*getattr(value, "__dict__", {}).values(), *slots]:
            yield attribute
            yield from elements(attribute)


def elements(value: Any) -> list[Any]:
    """The elements of a tuple or list, the values of a mapping."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else []


def defining_file(cls: type) -> str:
    """The file of the module of a class; empty for a class without one."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or ""


def reading_lists(innermost: FrameType) -> list[dict[str, str]]:
    """File -> why it is in the list: of the call stack, with its objects, with their attributes too."""
    frames = [frame for frame in callers(innermost) if own_file(frame.f_code.co_filename)]
    stack: dict[str, str] = {}
    for frame in frames:
        if path := own_file(frame.f_code.co_filename):
            stack.setdefault(path, f"on the stack: {frame.f_code.co_name}")
    lists = [stack]
    for attributes in (False, True):
        found = dict(lists[-1])
        for frame in frames:
            for name, local in list(frame.f_locals.items()):
                for cls in (cls for value in objects(local, attributes) for cls in type(value).__mro__):
                    if path := own_file(defining_file(cls)):
                        found.setdefault(path, f"{cls.__name__}, from variable {name} of {frame.f_code.co_name}")
        lists.append(found)
    return lists


def package() -> str:
    """The package of the trainer: ``training``, in commits before it had that name ``preference``."""
    return "training" if (ROOT / "src" / "scramble" / "training").is_dir() else "preference"


def run_until_loss(folder: str) -> list[dict[str, str]]:
    """Start a training run as the command line does and return the reading lists at its first loss."""
    losses = str(ROOT / "src" / "scramble" / package() / "losses.py")
    found: list[dict[str, str]] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_filename != losses or found:
            return
        if any(each.f_code.co_name == STEP for each in callers(frame.f_back)):
            found.extend(reading_lists(frame))
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
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra shortens and replaces what it does not know
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
    if not found:
        sys.exit("no training step reached the loss")
    return found


def main() -> None:
    """Parse the command line."""
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
    """Lines of files, comments and blank lines included."""
    return sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files)


if __name__ == "__main__":
    main()
