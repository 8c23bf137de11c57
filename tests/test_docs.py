"""All commands in guides, configurations and scripts compose, and a short form of those for a CPU runs."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from scramble.app import addable

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.py")}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Arguments of the scripts that are not overrides.
FLAGS = {"-m", "--multirun", "--help", "--cfg", "job"}


def join_lines(text: str) -> list[str]:
    """Return the lines of a text without comment marks; lines that end in a backslash are joined with the next."""
    lines = [re.sub(r"^\s*#\s?", "", line) for line in text.splitlines()]
    return re.sub(r"\\\n\s*", " ", "\n".join(line.strip() for line in lines)).splitlines()


def commands(text: str) -> list[str]:
    """Return the ``python scripts/...`` and launcher commands in a text, without the explanations after them.

    A command is at the start of a line or in inline code.
    """
    found = []
    for line in join_lines(text):
        match = re.match(r"(?:accelerate launch .*?|torchrun .*?|python )(scripts/\w+\.py.*)", line)
        if match:
            found.append(re.split(r"\s+#\s|\s{2,}|`", match[1])[0].strip())
        else:
            found += re.findall(r"`python (scripts/\w+\.py [^`]+)`", line)
    return found


def everything() -> list[tuple[str, str]]:
    """Return (file, command) for each distinct command in guides, configuration headers and scripts' docstrings."""
    texts = [(page, page.read_text(encoding="utf-8")) for page in PAGES]
    texts += [(path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    for path in sorted((ROOT / "scripts").glob("*.py")):
        texts.append((path, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""))
    found: dict[str, str] = {}
    for path, text in texts:
        for command in commands(text):
            found.setdefault(command, str(path.relative_to(ROOT)))
    return [(where, command) for command, where in found.items()]


def first_points(overrides: list[str]) -> list[str]:
    """Return the overrides of a sweep's first point: ``objective=sft`` for ``objective=sft,dpo``."""
    points = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            value = next(iter(override.sweep_string_iterator()))
            points.append(f"{override.input_line.partition('=')[0]}={value}")
        else:
            points.append(str(override.input_line))
    return points


def has_sweep(overrides: list[str]) -> bool:
    return any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(overrides))


def test_guides_and_headers_show_commands() -> None:
    assert len(everything()) > 60


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_the_commands_that_are_shown_compose(script: str) -> None:
    """There is no misspelt key, no missing group, and no conflict between an override and two defaults."""
    failures = []
    for where, command in everything():
        words = shlex.split(command)
        if Path(words[0]).stem not in SCRIPTS:
            failures.append(f"{where}: {command}\n    there is no such script")
            continue
        if Path(words[0]).stem != script or "..." in words:
            continue
        overrides = [word for word in words[1:] if word not in FLAGS]
        if "<" in command:  # a placeholder
            continue
        try:
            if has_sweep(overrides) and not {"-m", "--multirun"} & set(words):
                raise ValueError("several values without -m: quote a value with a comma")
            with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
                compose(script, overrides=first_points([addable(word, script) for word in overrides]))
        except Exception as error:  # Hydra raises exceptions of many types; each is a failure
            failures.append(f"{where}: {command}\n    {str(error).splitlines()[0]}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("quickstart", [""]),
        ("quickstart-short", [""]),
        ("test", ["", "EXTRAS=dev "]),
        ("docs", ["", "EXTRAS=docs "]),
    ],
)
def test_make_installs_what_a_target_needs(target: str, extras: list[str], tmp_path: Path) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", target, f"VENV={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    installs = [line for line in planned.stdout.splitlines() if line.endswith("sh scripts/install.sh")]
    assert installs == [f"PYTHON=python3 VENV={tmp_path} {extra}sh scripts/install.sh" for extra in extras]


def test_paths_in_the_guides_exist() -> None:
    """Files, folders and modules of the project in backquotes exist; results pages may name paths of earlier versions.

    A path is relative to the root, src, the package, or the folder of the preceding path; a pattern must match a file.
    """
    package = ROOT / "src" / "scramble"
    tops = {"src", "tests", "benchmarks", "docs", "scripts", "scramble"}
    missing = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        if page.parent.name == "results":
            continue
        folder = ROOT
        for name in re.findall(r"`([\w*./-]+)`", page.read_text(encoding="utf-8")):
            first = name.partition("/")[0]
            path = name
            if module := re.match(r"scramble\.[a-z_]+", name):  # the next part may be a function
                path = module[0].replace(".", "/") + "*"
            elif not (first in tops or re.fullmatch(r"test_\w+\.py", name)) and not (
                (package / first).is_dir() and name.endswith((".py", "/"))
            ):
                continue
            hits = [hit for start in (ROOT, package.parent, package, folder) for hit in start.glob(path)]
            if hits:
                folder = hits[0].parent
            else:
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert not missing, "\n".join(missing)


def test_every_guide_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"({p.name})" not in index] == []


def test_the_citation_file_is_whole() -> None:
    import yaml

    import scramble

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == scramble.__version__
    assert {"message", "title", "authors"} <= citation.keys()
    assert [r["url"].rpartition("/")[2] for r in citation["references"]] == ["2504.04740", "2411.10442", "2601.05600"]
    assert f"## {scramble.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def runnable(page: Path) -> list[str]:
    """Return the commands in fences marked ``bash``, which run on a CPU without additional data."""
    return [
        c for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S) for c in commands(block)
    ]


SHORT = {
    "+experiment=quickstart": ["+debug=short", "trainer.max_steps=4"],
}


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_the_commands_for_a_cpu_run(page: Path, tmp_path: Path) -> None:
    """Run the commands shortened, in a new folder; tests/pipeline/test_reproduce.py runs those of reproduce.py."""
    for name in ("configs", "scripts", "src", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in runnable(page):
        words = shlex.split(command)
        if words[0] == "scripts/reproduce.py" and "list=true" not in words:
            continue
        shorter = [w for key, extra in SHORT.items() if key in words for w in extra if w not in words]
        if words[0] != "scripts/train.py":
            shorter = [word for word in shorter if not word.startswith("trainer.")]
        done = subprocess.run(
            [sys.executable, *words, *shorter],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
