"""Provides a spaCy pipeline for the tests of the rules: the offline pipeline if available, else the installed
default.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.pairs.base import Caption, Negative
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.captions.surface import normalise


@pytest.fixture(scope="session")
def pipeline(shared: Path) -> str:
    return str(shared / "models" / "en_core_standin")


@pytest.fixture(scope="session")
def generator(pipeline: str) -> RuleGenerator:
    return RuleGenerator(pipeline)


@pytest.fixture(scope="session")
def candidates(generator: RuleGenerator):
    """Return a function that lists the candidates of a caption by a rule: ``candidates("A cat on a mat.", "swap")``."""

    def of(text: str, rule: str = "") -> list[Negative]:
        ((_, negatives),) = generator.negatives([Caption("1", 0, normalise(text))])
        return [negative for negative in negatives if negative.rule.startswith(rule)]

    return of
