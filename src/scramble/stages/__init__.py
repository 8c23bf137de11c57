"""The stages as the scripts call them: plain values in, a finished folder out, finished work reused.

A run folder holds ``data/`` (``train/ val/ test/`` tables), ``train/<arm>/``, ``evaluation/<arm>/`` and ``report/``.
"""

from __future__ import annotations

import os

SPLITS = ("train", "val", "test")


class StageError(ValueError):
    """Stages or settings that do not fit together. The message says which and the way out."""


def is_main_process() -> bool:
    """Whether this is the first process of a job (``accelerate launch``, torchrun), or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """A share of a job: ``"i/n"`` with i from 0 to n - 1, as two numbers; None is the whole job."""
    if text is None:
        return None
    index, _, count = str(text).partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise StageError(f"shard={text}: write i/n with i from 0 to n - 1, as in shard=0/4")
    return int(index), int(count)
