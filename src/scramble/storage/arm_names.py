"""Reads the method and the seed of an arm from its name, for example ``mpo-seed3``."""

from __future__ import annotations

import re


def method_of(arm: str) -> str:
    """Return the method of an arm: its name without the suffix ``-seedN``."""
    return re.sub(r"-seed\d+$", "", arm)


def seed_of(arm: str) -> str:
    """Return the seed of an arm, which is the N of its suffix ``-seedN``. Return "" if the name lacks this suffix."""
    return arm.removeprefix(method_of(arm)).removeprefix("-seed")
