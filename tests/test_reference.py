"""The generated pages of the documentation are current and complete, and keys in the guides exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from peft import LoraConfig

import scramble
from scramble.config.roots import ROOTS
from scramble.evaluation.benchmarks import BENCHMARKS
from scramble.evaluation.benchmarks.facts import facts
from scramble.evaluation.protocols import protocol_names
from scramble.field_checks import hints
from scramble.project import CONFIGS, choices_of
from scramble.training import PreferenceConfig
from scramble.training.losses import LOSSES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "accelerate")
# Names before an equals sign in inline code that are not keys of the configuration.
OTHERS = {"enable_thinking"}  # an argument of chat templates


@cache
def reference() -> ModuleType:
    """Load scripts/dev/write_reference.py as a module."""
    path = ROOT / "scripts" / "dev" / "write_reference.py"
    spec = importlib.util.spec_from_file_location("write_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "benchmarks.md"])
def test_generated_pages_are_current(name: str) -> None:
    current = reference().PAGES[name]()
    assert (DOCS / name).read_text(encoding="utf-8") == current, "run: python scripts/dev/write_reference.py"


@cache
def keys() -> dict[str, list[str]]:
    """Return the type, the default and the sentence of each key on the page of configuration keys."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", (DOCS / "configuration.md").read_text(encoding="utf-8"), re.M)
    return {name: re.split(r" \| ", rest) for name, rest in rows}


def test_every_key_has_a_type_and_a_sentence() -> None:
    assert len(keys()) > 300
    assert [name for name, cells in keys().items() if len(cells) != 3 or len(cells[2]) < 8] == []
    assert "any value" not in {cells[0] for cells in keys().values()}


def test_every_benchmark_has_facts() -> None:
    assert set(facts()) == set(BENCHMARKS)
    for name, each in facts().items():
        assert set(each.protocols) <= set(protocol_names()), name
        assert all(isinstance(value, str) and value for key, value in vars(each).items() if key != "protocols"), name


def test_every_loss_has_an_equation() -> None:
    text = (DOCS / "losses.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(sections) == {"MPO", *LOSSES}
    assert all("```math" in body for body in sections.values())
    assert "begin{" not in text, "latex2mathml does not know environments such as aligned"


def test_the_python_interface_is_in_the_reference() -> None:
    names = re.findall(r"^::: (\S+)", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    assert set(scramble.__all__) <= {name.rpartition(".")[2] for name in names}
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_readme_is_short_and_its_python_uses_the_interface() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    code = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(code) == 1
    compile(code[0], "README.md", "exec")
    called = re.findall(r"\bscramble\.(\w+)\(", code[0])
    assert len(called) >= 4 and set(called) <= set(scramble.__all__)


def inline_settings() -> list[tuple[str, str, str]]:
    """Return (page, key, value) of the settings in inline code."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for code in re.findall(r"`([^`]+)`", text):
            for key, value in re.findall(r"(?:^|[\s'(])\+?([a-z][\w.@]*)=([^\s`']*)", code):
                found.append((str(page.relative_to(ROOT)), key, value))
    return found


def is_key(name: str) -> bool:
    """Return whether a key exists in the reference, in one of its mappings, or as a field of TRL's or PEFT's
    classes.
    """
    section, _, field = name.partition(".")
    parent = keys().get(name.rpartition(".")[0])
    foreign = {"trainer": PreferenceConfig, "peft": LoraConfig}.get(section)
    heading = f"### {name}=" in (DOCS / "configuration.md").read_text(encoding="utf-8")
    is_entry = parent is not None and parent[0].startswith("mapping")
    is_section = any(name in hints(root) for root in ROOTS.values())
    return name in keys() or is_section or is_entry or heading or (foreign is not None and hasattr(foreign, field))


def test_keys_in_the_guides_exist() -> None:
    wrong = []
    for page, key, value in inline_settings():
        group = key.partition("@")[0]
        if page.startswith("docs/results") or key in OTHERS or is_key(key):
            continue
        if group in GROUPS:
            named = re.findall(r"^[\w.]+$", value.rstrip(".,;:"))
            if named and group != "local" and named[0] not in (*choices_of(group), "null", "default"):
                wrong.append(f"{page}: {key}={value}")
        else:
            wrong.append(f"{page}: {key}={value}")
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the website make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in re.findall(r"^#+ (.*)$", text, re.M)]
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_lead_to_pages_and_headings() -> None:
    broken = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for path, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", text):
            target = page.parent / path if path else page
            is_outside = DOCS in page.parents and DOCS not in target.resolve().parents  # not on the website
            if not target.exists() or is_outside or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
    assert not broken, "\n".join(broken)


class Settings(yaml.SafeLoader):
    """Reads mkdocs.yml without the functions that it names."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)


def files_of(nav: Any) -> list[str]:
    """Return the files in a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [file for each in (nav.values() if isinstance(nav, dict) else nav) for file in files_of(each)]


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Settings)
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(files_of(settings["nav"])) == pages
    assert settings["theme"]["font"] is False
