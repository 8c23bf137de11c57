"""Tests the table class: the same rows in Markdown, LaTeX and on the terminal, with any characters."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from scramble.reporting.table import NOT_COMPARABLE, Column, Table, listed_counts, objective_text

TABLE = Table(
    [
        Column("model"),
        Column("acc_%", lambda x: f"{x:.1f} ± 0.5 {NOT_COMPARABLE}", "right"),
        Column("p", align="right"),
    ],
    [["a|b", 40.0, 0.123456], ["{x} [bold]", 50.0, None], ["two\nlines ~^$#\\", 60.0, 3]],
    "My [table]",
    ["a note"],
    sections=[2],
)


def test_markdown() -> None:
    assert TABLE.markdown() == (
        "| model | acc_% | p |\n"
        "| --- | ---: | ---: |\n"
        "| a\\|b | 40.0 ± 0.5 ≁ | 0.1235 |\n"
        "| {x} [bold] | 50.0 ± 0.5 ≁ |  |\n"
        "| two lines ~^$#\\ | 60.0 ± 0.5 ≁ | 3 |\n"
        "\n"
        "- a note\n"
    )


def test_latex() -> None:
    """All special characters of LaTeX are escaped; rules are those of booktabs."""
    assert TABLE.latex() == (
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "model & acc\\_\\% & p \\\\\n"
        "\\midrule\n"
        "a|b & 40.0 $\\pm$ 0.5 $^{\\nsim}$ & 0.1235 \\\\\n"
        "\\{x\\} [bold] & 50.0 $\\pm$ 0.5 $^{\\nsim}$ &  \\\\\n"
        "\\midrule\n"
        "two lines \\textasciitilde{}\\textasciicircum{}\\$\\#\\textbackslash{}"
        " & 60.0 $\\pm$ 0.5 $^{\\nsim}$ & 3 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "% a note\n"
    )


def test_terminal() -> None:
    """Brackets are text, not markup; there is a rule above the section."""
    file = io.StringIO()
    Console(file=file, width=80).print(TABLE.rich())
    text = file.getvalue()
    assert "My [table]" in text and "{x} [bold]" in text and "a|b" in text
    assert text.count("├") == 1


def test_a_row_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        Table([Column("a")], [[1, 2]]).markdown()


def test_counts_and_objectives_in_words() -> None:
    counts = {"images": 1037, "pairs": 46, "pairs_before_refinement": 72, "quads": 3, "questions": 0, "skipped": {}}
    assert listed_counts(counts) == "1,037 images, 46 pairs (72 before refinement), 3 2x2 items"
    assert listed_counts({"images": 4, "pairs": 9, "pairs_before_refinement": 9}) == "4 images, 9 pairs"
    assert listed_counts({"images": 1, "pairs": 1, "quads": 1}) == "1 image, 1 pair, 1 2x2 item"
    assert listed_counts({"images": 0, "pairs": 0}) == ""
    assert listed_counts({"images": 2, "pairs": 0, "questions": 0}) == "2 images, 0 pairs"
    assert objective_text({"objective": {"name": "dpo"}, "trainer": {"loss_type": ["sigmoid"]}}) == "dpo"
    mixed = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 1.0]}
    assert objective_text({"objective": {"name": "mpo"}, "trainer": mixed}) == "mpo (0.8 sigmoid + 1 sft)"
