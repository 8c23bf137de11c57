"""``--help`` shows every key with its description and value, for the choices on the same command line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from scramble.config.help import comments_of, help_text
from scramble.config.roots import ROOTS

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def sections(root: str) -> tuple[str, ...]:
    """Return the sections that a script's main reads."""
    spec = importlib.util.spec_from_file_location(f"script_{root}", SCRIPTS / f"{root}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    actual: tuple[str, ...] = module.main.sections
    return actual


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_every_script_lists_its_keys(root: str) -> None:
    text = help_text(root, sections(root), [], "What it is for.")
    assert text.startswith("What it is for.") and "Powered by Hydra" not in text
    keys = [line.partition("=")[0] for line in text.partition("Keys and their values:")[2].splitlines() if "=" in line]
    assert len([key for key in keys if not key.startswith(("#", "Also"))]) >= 3
    assert all(len(line) <= 120 or "=" in line for line in text.splitlines())


def test_values_and_sentences_are_those_of_the_choices() -> None:
    text = help_text(
        "train", sections("train"), ["data=image_folder", "objective=dpo", "trainer.num_train_epochs=2"], ""
    )
    sentence = "# Number of training epochs."
    assert f"{sentence}\ntrainer.num_train_epochs=2\n" in text
    assert "# The folder with the images and their captions, or the caption file.\ndata.path=(required)" in text
    assert "language model are trained.\npeft.r=32\n" in text
    assert "data.embed=true" in text, "keys of the files that a choice starts from"
    assert "  data=... [image_folder] coco, gqa" in text and "data.n_train" not in text


def test_keys_that_cannot_be_set_one_by_one_are_not_listed() -> None:
    """The entries of a list (data.mix) have no keys of their own on the command line."""
    text = help_text("generate", sections("generate"), ["data=pairs"], "")
    assert "data.mix=null" in text and "data.mix." not in text and "pairs.filters." not in text


def test_keys_that_no_file_sets_are_listed_as_they_are_typed() -> None:
    text = " ".join(help_text("generate", sections("generate"), ["data=world", "pairs=world"], "").split())
    listed = text.partition("More keys can be set (include the + where one is shown): ")[2].split(", ")
    assert {"+pairs.captions_per_image", "pairs.refine.exponent", "pairs.options.check"} <= set(listed)


def test_a_comment_is_shared_only_by_adjacent_keys() -> None:
    text = "# First.\na: 1\nb: 2\n# Section.\nc:\n  # Inner.\n  d: 3\ne: 4\n"
    assert dict(comments_of(text)) == {"a": "First.", "b": "First.", "c": "Section.", "c.d": "Inner."}


def test_help_runs_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "generate.py"), "data=world_tiny", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "data.n_train=24" in done.stdout and not list(tmp_path.iterdir())
    wrong = subprocess.run([*command[:2], "data=wrld", "-h"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: data=wrld: there is no such choice"), wrong.stderr
