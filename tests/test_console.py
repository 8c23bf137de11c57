"""Tests logging: short messages on the terminal, detailed records in the run's file, and no folder created by a
message.
"""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path

import pytest

from scramble import console
from scramble.console import LOG_FILE, counter, log_to_run, log_to_terminal, show_table, track
from scramble.reporting.table import Column, Table

log = logging.getLogger("scramble.somewhere")


@pytest.fixture(autouse=True)
def channel() -> object:
    log_to_terminal()
    yield
    log_to_run(None)


def test_results_go_to_stdout_and_warnings_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log.debug("a detail")
    log.info("loss 0.5 of [brackets] and 100%")
    log.warning("a row was refused")
    printed = capsys.readouterr()
    assert printed.out == "loss 0.5 of [brackets] and 100%\n" and printed.err == "warning: a row was refused\n"


def test_the_run_has_a_log_in_long_form_once_its_folder_exists(tmp_path: Path) -> None:
    run = tmp_path / "run"
    log_to_run(run)
    log.info("before there is a folder")
    assert not run.exists()
    run.mkdir()
    log.debug("a detail")
    log_to_run(tmp_path / "another")
    log.info("not in the log of this run")
    first, second = (run / LOG_FILE).read_text().splitlines()
    assert first.endswith("INFO scramble.somewhere: before there is a folder") and second.endswith("a detail")


def test_other_processes_of_a_job_only_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    log_to_terminal()
    log_to_run(tmp_path)
    log.info("printed by the first process already")
    log.warning("a fault of this process")
    printed = capsys.readouterr()
    assert printed.out == "" and "a fault of this process" in printed.err and not (tmp_path / LOG_FILE).exists()


def test_library_code_prints_nothing_itself() -> None:
    """``print`` is used only in scripts, in the terminal's handler and before a process exits."""
    src = Path(__file__).resolve().parents[1] / "src" / "scramble"
    allowed = {"console.py", "app.py", "help.py", "cli.py"}
    for path in src.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith(("print(", "warnings.warn("))]
        assert not lines or path.name in allowed, f"{path}: {lines}"


def test_a_wide_table_is_broken_at_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    """Headings and row names stay whole if the columns can be narrow enough, and the table fits the width."""
    titles = ["length", "surface", "unigram", "bigram", "trigram", "character", "boosting", "language model"]
    columns = [Column("kind"), *(Column(title, align="right") for title in titles)]
    show_table(
        Table([*columns, Column("remarks")], [["replace-attribute", *["66.7 (6.1)"] * 8, "two words " * 9]]).rich()
    )
    show_table(Table([*columns, *columns], [["replace-attribute", *["66.7 (6.1)"] * 8] * 2]).rich())
    printed = capsys.readouterr().out
    fits = printed[: printed.index("└")]
    assert all(word in fits for title in [*titles, "replace-attribute", "remarks"] for word in title.split())
    assert max(map(len, printed.splitlines())) <= 120


def test_only_the_widest_columns_of_a_wide_table_are_broken(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("score"), Column("n"), Column("method"), Column("minus base"), Column("minus sft")]
    show_table(
        Table(columns, [["group/swap-object", "2700", "dpo_trie", *["+4.4 [+2.7, +6.2] p < 0.001 " * 2] * 2]]).rich()
    )
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "group/swap-object" in line]
    assert "2700" in row and "dpo_trie" in row


def test_progress_is_logged_if_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line per 30 s. The clock advances by 13 s per call: at the start, and then for each item."""
    clock = count(step=13)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    update = counter("pope")
    for done in range(1, 5):
        update(1000 * done, 9000)
    assert capsys.readouterr().out == "pope: 3,000 of 9,000 done after 39 s\n"
    assert list(track("abcd", "reading rows")) == ["a", "b", "c", "d"]
    assert list(track(iter("abcd"), "reading rows")) == ["a", "b", "c", "d"]
    assert capsys.readouterr().out == "reading rows: 2 of 4 done after 39 s\nreading rows: 2 done after 39 s\n"
