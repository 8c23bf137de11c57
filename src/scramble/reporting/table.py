"""Defines the table that all reports use, and renders it as Markdown, as LaTeX or for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from scramble.console import counted

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NOT_COMPARABLE = "≁"
"""Marks a number that is not comparable with the other numbers in its column."""

# Special characters of LaTeX, and characters in our texts that LaTeX's default fonts lack.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    NOT_COMPARABLE: r"$^{\nsim}$",
}
_COUNT_NAMES = {"quads": "2x2 items", "format_pairs": "format pairs"}


def escape_markdown(text: str) -> str:
    """Escape vertical bars and replace line breaks, so that a text stays in one table cell."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def _escape_latex(text: str) -> str:
    """Escape special characters, so that LaTeX prints the text literally."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.splitlines()))


def cell_text(value: Any) -> str:
    """Return a value as the text of a cell. None becomes "", and a float is rounded to four significant digits."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listed_counts(counts: Mapping[str, Any]) -> str:
    """Return the counts of a split, from the summary of a data set, as text: ``37 images, 46 pairs (72 before
    refinement)``.
    """
    has_images = bool(counts.get("images"))  # show "0 pairs" for a split that has images
    numbers = {
        k: count for k, count in counts.items() if isinstance(count, int) and (count or (k == "pairs" and has_images))
    }
    unrefined = numbers.pop("pairs_before_refinement", None)
    texts = [counted(count, _COUNT_NAMES.get(key, key)) for key, count in numbers.items()]
    if unrefined not in (None, numbers.get("pairs")) and "pairs" in numbers:
        texts[list(numbers).index("pairs")] += f" ({unrefined:,} before refinement)"
    return ", ".join(texts)


def objective_text(config: Mapping[str, Any]) -> str:
    """Return the name of an arm's objective, followed by the losses if the objective has several losses: ``mpo (0.8
    sigmoid + 1 sft)``.
    """
    trainer, name = config.get("trainer", {}), str(config.get("objective", {}).get("name", ""))
    losses = trainer.get("loss_type") or []
    weights = trainer.get("loss_weights") or [1.0] * len(losses)
    text = " + ".join(f"{weight:g} {loss}" for loss, weight in zip(losses, weights, strict=True))
    return name if name and len(losses) < 2 else f"{name} ({text})".strip()


@dataclass(frozen=True)
class Column:
    """A column: its title, the format of its values, and their alignment (None is the default of the output format)."""

    title: str
    format: Callable[[Any], str] = cell_text
    align: Literal["left", "right"] | None = None


@dataclass(frozen=True)
class Table:
    """Rows with one value per column.

    Attributes:
        caption: the title on the terminal.
        notes: lines below the table.
        sections: indices of rows above which LaTeX and the terminal draw a rule.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    notes: Sequence[str] = ()
    sections: Sequence[int] = ()

    def texts(self) -> list[list[str]]:
        """Return the unescaped text of each cell."""
        return [[column.format(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def markdown(self) -> str:
        """Return a Markdown table, and the notes as a list below it."""
        rules = {"left": ":---", "right": "---:", None: "---"}
        lines = [
            [escape_markdown(column.title) for column in self.columns],
            [rules[column.align] for column in self.columns],
            *([escape_markdown(text) for text in row] for row in self.texts()),
        ]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return text + "".join(["\n", *(f"- {note}\n" for note in self.notes)] if self.notes else [])

    def latex(self) -> str:
        """Return a LaTeX tabular (booktabs), followed by the notes as comments."""
        alignment = "".join("r" if column.align == "right" else "l" for column in self.columns)
        lines = [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            _latex_row(c.title for c in self.columns),
            r"\midrule",
        ]
        for number, row in enumerate(self.texts()):
            lines += [r"\midrule"] * (number in self.sections)
            lines.append(_latex_row(row))
        lines += [r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def rich(self) -> RichTable:
        """Return the table for the terminal. Long texts are wrapped, and brackets in texts are not interpreted as
        markup.
        """
        from rich.markup import escape
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=escape(self.caption) or None)
        for number, column in enumerate(self.columns):
            # Otherwise, rich would break these words. On narrow terminals, scramble.console.show_table permits this.
            unbroken = [column.title, *(row[0] for row in self.texts())] if number == 0 else [column.title]
            longest = max((len(word) for text in unbroken for word in text.split()), default=0)
            table.add_column(Text(column.title), justify=column.align or "left", overflow="fold", min_width=longest)
        for number, row in enumerate(self.texts()):
            if number in self.sections:
                table.add_section()
            table.add_row(*map(Text, row))
        return table


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(map(_escape_latex, texts)) + r" \\"
