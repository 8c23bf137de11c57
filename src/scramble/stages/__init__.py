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
