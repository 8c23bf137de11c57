"""Tests the dependency rule: imports point in one direction, and no two files or packages import each other.

All imports count, including those inside functions, except imports for type checking only. The figure in
docs/architecture.md shows the rule.
"""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
# Lowest level first. A package may import the packages on its left in the same line, and those in the lines above.
LEVELS = (
    ("field_checks", "pixels", "records", "interrupt", "console", "project", "storage"),
    ("language", "grading"),
    ("trie", "world"),
    ("formats", "models", "engines", "scenegraphs", "sources"),
    ("training", "evaluation", "pairs"),
    ("reporting",),
    ("pipeline",),
    ("launch",),
    ("config", "app", "api", "cli", "__main__"),
)


def modules() -> dict[str, Path]:
    """Return all modules of the package by dotted name."""
    found = {}
    for path in (SRC / "scramble").rglob("*.py"):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Return the modules of the project that a module imports."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
                package = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{package}.{node.module}" if node.module else package
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found |= {inner} if inner in MODULES else {base} & MODULES.keys()
    return found - {name}


IMPORTS = {name: imports(name) for name in MODULES}


def area(name: str) -> str:
    """Return the package or file directly below ``scramble`` that a module belongs to."""
    return name.split(".")[1] if "." in name else name


def test_every_package_has_its_level() -> None:
    assert {area(name) for name in MODULES} - {"scramble"} == {name for level in LEVELS for name in level}


def test_imports_point_down() -> None:
    place = {name: (height, across) for height, level in enumerate(LEVELS) for across, name in enumerate(level)}
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if "scramble" not in (area(name), area(other)) and place[area(other)] > place[area(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other() -> None:
    """Remove files whose imports have all been removed, until none is left; remaining files are in or import a
    cycle."""
    left = {name: set(others) for name, others in IMPORTS.items()}
    while done := [name for name, others in left.items() if not others]:
        for name in done:
            del left[name]
        for others in left.values():
            others.difference_update(done)
    assert not left, f"cycles among {sorted(left)}"


def test_only_pipeline_and_launch_import_reporting() -> None:
    importers = {area(name) for name, others in IMPORTS.items() for other in others if area(other) == "reporting"}
    assert importers <= {"reporting", "pipeline", "launch"}


def test_names_that_are_imported_have_one_meaning() -> None:
    """A public name that other modules import by name is imported from only one of the modules that define it."""
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    imported = {
        (node.module, alias.name)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name != "scramble"  # which exports the Python interface
        for alias in node.names
    }
    defined: dict[str, list[str]] = {}
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own = [target.id for target in targets if isinstance(target, ast.Name)]
            else:
                own = []
            for public in own:
                if (name, public) in imported:
                    defined.setdefault(public, []).append(name)
    assert {public: names for public, names in defined.items() if len(names) > 1} == {}
