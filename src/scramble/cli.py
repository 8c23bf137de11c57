"""The ``scramble`` command: ``scramble train ...`` runs ``python scripts/train.py ...`` from any directory."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Iterable

import scramble
from scramble.project import SCRIPTS


def main() -> None:
    """Run the script that the first argument names, and pass it the remaining arguments."""
    from scramble.field_checks import hint

    scripts = {path.stem: path for path in sorted(SCRIPTS.glob("*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "--version"):
        print(f"scramble {scramble.__version__}" if name == "--version" else _overview(scripts))
        return
    if name not in scripts:
        sys.exit(f"error: scramble {name}: there is no such command; {hint(name, scripts)}")
    # Launchers start jobs with sys.argv[0], so sys.argv[0] must be the path of the script.
    sys.argv = [str(scripts[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _overview(scripts: Iterable[str]) -> str:
    lines = ["Usage: scramble COMMAND [key=value ...]. The option --help lists the keys of a command.", ""]
    for name in scripts:
        words = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))) or ""
        first = " ".join(words.partition("\n\n")[0].split())
        lines.append(f"  {name:<10} {first.partition('. ')[0].partition(': ')[0].rstrip('.')}")
    return "\n".join(lines)
