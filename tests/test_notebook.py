"""Tests the notebook: its cells run in order, and it is stored without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "notebooks" / "quickstart.ipynb"


def test_it_is_stored_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])  # required by version 4.5
    for cell in cells:
        compile("".join(cell["source"]), cell["id"], "exec")  # plain Python, without commands of IPython


@pytest.mark.full
def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The cells run with fewer steps, images and items."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    changed = 0
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            sizes = "STEPS, IMAGES, TEST_IMAGES, ITEMS = 4, 40, 20, 4"
            code, count = re.subn(r"^STEPS, .* = .*$", sizes, "".join(cell["source"]), flags=re.M)
            changed += count
            exec(compile(code, cell["id"], "exec"), names)
    assert changed == 1
    printed = capsys.readouterr().out
    assert "chosen:   " in printed and "language model" in printed
    for arm in ("base", "sft", "mpo"):
        assert re.search(rf"{arm}: \d+\.\d \+- \d+\.\d % of 12 object swaps", printed)
    assert (tmp_path / "runs" / "notebook" / "report" / "browser" / "index.html").exists()
    assert len(list((tmp_path / "runs" / "notebook" / "report" / "browser" / "data").glob("pairs-*.js"))) > 0
