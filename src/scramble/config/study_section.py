"""Defines the names, types and ranges of the section ``study``. See :mod:`scramble.config.roots`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scramble.field_checks import PositiveInt, Section, Text, as_override, check


@dataclass(frozen=True)
class Search(Section):
    """A hyper-parameter search with Optuna."""

    trials: PositiveInt
    metric: Text
    direction: Literal["minimize", "maximize"]
    space: dict[str, Any] | None
    storage: Text

    @classmethod
    def renamed(cls) -> Mapping[str, str]:
        """Return a mapping from names of earlier versions to the keys to use instead."""
        return {"number": "metric"}

    def faults(self, at: str) -> Iterator[str]:
        """Check that each key has a list of choices, or a lower and an upper bound."""
        for key, choice in (self.space or {}).items():
            setting = f"{at}.space.{key}={as_override(choice)}"
            if isinstance(choice, list):
                if not choice:
                    yield f"{setting} must contain at least one choice"
                continue
            if not isinstance(choice, Mapping) or not {"low", "high"} <= set(choice) <= {"low", "high", "log", "int"}:
                yield f"{setting} must be a list, or a mapping with low and high (and optionally log, int)"
                continue
            low, high = choice["low"], choice["high"]
            messages = [c for name in ("low", "high") for c in check(choice[name], float, f"{at}.space.{key}.{name}")]
            yield from messages
            if not messages and not low <= high:
                yield f"{setting}: low must not be above high"
            if not messages and choice.get("log") and low <= 0:
                yield f"{setting}: low must be above 0 on a logarithmic scale"
