"""Tests the script that measures how much code is between the command line and the loss."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.full
def test_the_path_leads_from_the_command_line_to_the_loss() -> None:
    command = [sys.executable, "scripts/dev/training_path.py", "--files"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = re.findall(r"^((?:src|scripts)/\S+\.py): (.*)$", printed, re.MULTILINE)
    stack = [path for path, reason in files if reason.startswith("on the stack")]
    # Innermost first; files of the pipeline's stages may be in between.
    assert stack[:3] == [f"src/scramble/training/{name}.py" for name in ("losses", "trainer", "run")]
    assert stack.index("src/scramble/pipeline/train.py") < stack.index("scripts/train.py")
    assert ("src/scramble/training/collator.py", "PairBatch, from variable inputs of compute_loss") in files
    lines = sum(len((ROOT / path).read_text().splitlines()) for path, _ in files)
    assert len(files) <= 15 and lines <= 3000, "the path is to be read in one sitting"
    assert f"files between the command line and the loss: {len(files)}, lines in them: {lines}\n" in printed
    assert "parameters of scramble.training.train: 6\n" in printed
