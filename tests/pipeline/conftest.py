"""Runs the scripts as programs on tiny data, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
Run = Callable[..., subprocess.CompletedProcess[str]]


def command(script: str, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *overrides]


@pytest.fixture(scope="session")
def script() -> Run:
    """Return a function ``script("train", "+debug=tiny", ...)`` that runs a script and checks its exit status."""

    def run(name: str, *overrides: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command(name, *overrides), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done

    return run
