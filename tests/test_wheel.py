"""A wheel contains everything that the ``scramble`` command needs, and the command works from any directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "build", "*.egg-info", "__pycache__", ".*_cache", "tests")


def scramble(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the ``scramble`` command of an installed wheel in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", "from scramble.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which a wheel of this checkout was installed, without dependencies."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    # Build from a copy, because the build writes into the source folder.
    shutil.copytree(ROOT, folder / "checkout", ignore=LEFT_OUT)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "checkout")]
    made = subprocess.run(build, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 8e6, "the shipped sample data must stay small"
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    shutil.rmtree(folder / "checkout")
    return folder / "site"


def test_the_installed_command_lists_scripts_and_keys(site: Path, tmp_path: Path) -> None:
    overview = scramble(site, tmp_path, "--help")
    assert overview.returncode == 0 and "  evaluate   Score the base model" in overview.stdout, overview.stderr
    keys = scramble(site, tmp_path, "train", "--help", "+experiment=molmo_dpo", "data.path=here")
    assert keys.returncode == 0 and "model.name=molmo_7b_d" in keys.stdout, keys.stderr
    wrong = scramble(site, tmp_path, "trian")
    assert (
        wrong.returncode == 1
        and wrong.stderr == "error: scramble trian: there is no such command; did you mean train?\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_the_installed_command_runs_the_stages_with_the_shipped_model(site: Path, tmp_path: Path) -> None:
    short = ("name=mine", "data=world_tiny", "trainer.max_steps=2", "trainer.global_batch_size=4")
    for arguments in (
        ("train", *short, "objective=dpo"),
        ("train", "-m", *short, "objective=dpo,sft", "launcher=local"),
        ("evaluate", "name=mine"),
        ("report", "name=mine"),
        ("browse", "name=mine"),
        ("watch", "name=mine"),
    ):
        done = scramble(site, tmp_path, *arguments)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "runs" / "mine" / "report" / "report.md").is_file()
    assert (tmp_path / "runs" / "mine" / "report" / "browser" / "assets" / "main.js").is_file()
    assert "2 finished" in done.stdout and "dpo-seed0" in done.stdout
