"""Read facts about benchmarks from ``facts.yaml``, such as what each benchmark measures and where its data is
available. ``docs/benchmarks.md`` lists these facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml


@dataclass(frozen=True)
class Facts:
    """Facts about one benchmark, as text. The values of ``chance`` and ``human`` are in percent.

    ``protocol=default`` selects the first protocol in ``protocols``. ``compared`` states how the scores are verified.
    """

    title: str
    measures: str
    paper: str
    metric: str
    chance: str
    data: str
    compared: str
    protocols: list[str]
    items: str = "not checked"
    human: str = "not published"
    licence: str = "not checked"


@cache
def facts() -> dict[str, Facts]:
    """Return the facts about each benchmark, by name."""
    text = resources.files("scramble.evaluation.benchmarks").joinpath("facts.yaml").read_text(encoding="utf-8")
    return {name: Facts(**values) for name, values in yaml.safe_load(text)["benchmarks"].items()}
