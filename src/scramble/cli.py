"""The ``scramble`` command: ``scramble train ...`` is ``python scripts/train.py ...`` from any directory."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Iterable

from scramble.project import SCRIPTS


def main() -> None:
    """Run the script that the first argument names, with the arguments after it."""
    from scramble.config.binding import hint

    known = {path.stem: path for path in sorted(SCRIPTS.glob("*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "--version"):
        print(_version() if name == "--version" else _overview(known))
        return
    if name not in known:
        sys.exit(f"error: scramble {name}: there is no such command; {hint(name, known)}")
    # Jobs are started by the script's own path, so it takes the place of this command.
    sys.argv = [str(known[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _version() -> str:
    import scramble

    return f"scramble {scramble.__version__}"


def _overview(known: Iterable[str]) -> str:
    lines = ["scramble COMMAND [key=value ...]; scramble COMMAND --help lists the keys of a command.", ""]
    for name in known:
        words = ast.get_docstring(ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))) or ""
        first = " ".join(words.partition("\n\n")[0].split())
        lines.append(f"  {name:<10} {first.partition('. ')[0].partition(': ')[0].rstrip('.')}")
    return "\n".join(lines)
