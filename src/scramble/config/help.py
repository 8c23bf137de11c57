"""Writes the ``--help`` text of the scripts: all keys with their values, and the comments from ``configs/``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.config.keys import is_optional, known_keys
from scramble.config.roots import ROOTS
from scramble.config.validation import without_hydra
from scramble.field_checks import as_override, join
from scramble.project import CONFIGS, choices_of

WIDTH = 120
SHARED_KEYS = ("name", "launcher", "dry_run")  # keys that every script reads
FLAGS = """\
-m runs a sweep over comma-separated values. --cfg job prints the configuration. --help with other
arguments shows the resulting keys and values. Quote values with commas, spaces or brackets: 'key="a, b"'."""


def help_text(root: str, sections: Collection[str], arguments: Sequence[str], about: str) -> str:
    """Return the help of a script.

    Args:
        root: the script's name.
        sections: sections of the configuration that the script reads.
        arguments: overrides on the command line; the help shows the resulting keys and values.
        about: the script's docstring.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(root, list(arguments), return_hydra_config=True)
    choices = {str(key): value for key, value in cfg.hydra.runtime.choices.items() if not str(key).startswith("hydra/")}
    sentences = _sentences(root, choices)
    shown = [str(key) for key in cfg if key != "hydra" and (key in sections or key in SHARED_KEYS)]
    if root in ("reproduce", "audit"):
        shown = [str(key) for key in cfg if key != "hydra"]
    values: Any = OmegaConf.to_container(without_hydra(cfg))
    lines = [about.strip(), "", *textwrap.wrap(" ".join(FLAGS.split()), WIDTH)]
    lines += ["", "Choices, for example data=coco (the current choice is in brackets):", *_choices(choices, shown)]
    lines += ["", "Keys and their values:"]
    last, present = None, []
    for key, raw in (leaf for section in shown for leaf in _leaves(values[section], section)):
        present.append(key)
        sentence = next((sentences[k] for k in _with_parents(key) if k in sentences), None)
        if sentence != last:
            lines += ["", *_comment(sentence)]
        last = sentence
        lines.append(f"{key}={_value(cfg, key, raw)}")
    keys = known_keys({section: values[section] for section in shown}, ROOTS[root])
    set_keys = {parent for key in present for parent in _with_parents(key)}
    unset = [k for k, kind in keys.items() if kind is not None and k.partition(".")[0] in shown and k not in set_keys]
    if unset:
        listed = ", ".join(key if is_optional(key, ROOTS[root]) else f"+{key}" for key in unset)
        lines += ["", *textwrap.wrap(f"More keys can be set (include the + where one is shown): {listed}", WIDTH)]
    if others := [str(key) for key in cfg if key != "hydra" and key not in shown and key != "recommended"]:
        lines += ["", f"This script accepts these keys but does not use them: {', '.join(others)}."]
    return "\n".join(lines)


def _choices(choices: Mapping[str, Any], shown: Sequence[str]) -> Iterator[str]:
    added = [f"+{name}" for name in ("experiment", "debug") if name not in choices and "model" in choices]
    for key in [*choices, *added]:
        group, _, place = key.lstrip("+").partition("@")
        if not (CONFIGS / group).is_dir() or not (
            key in added or group in ("experiment", "debug", "table") or (place or group).partition(".")[0] in shown
        ):
            continue
        names = choices_of(group)
        current = f" [{as_override(choices[key])}]" if key in choices else ""
        listed = f"{key}=...{current} {', '.join(names)}"
        yield from textwrap.wrap(listed, WIDTH, initial_indent="  ", subsequent_indent="      ")


def _with_parents(key: str) -> Iterator[str]:
    """Yield a key and the keys of all mappings that contain it, innermost first."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _comment(sentence: str | None) -> list[str]:
    return textwrap.wrap(sentence or "", WIDTH, initial_indent="# ", subsequent_indent="# ")


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, join(at, name))
    else:
        yield at, value


def _value(cfg: Any, key: str, raw: Any) -> str:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if raw == "???":
        return "(required)"
    try:
        value = OmegaConf.select(cfg, key)
        return as_override(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)
    except OmegaConfBaseException:  # the value refers to a required key without a value
        return as_override(raw)


# ------------------------------------------------------------------------------------------------------------- comments


def _sentences(root: str, choices: Mapping[str, Any]) -> dict[str, str]:
    """Return a mapping from keys to the comments above them.

    A key without a comment shares the comment of the adjacent key above it.
    """
    sentences: dict[str, str] = {}
    files = [(CONFIGS / "base.yaml", ""), (CONFIGS / f"{root}.yaml", "")]
    if root == "study":
        files.insert(1, (CONFIGS / "train.yaml", ""))
    for key, choice in choices.items():
        group, _, place = key.partition("@")
        for name in choice if isinstance(choice, list) else [choice]:
            if name is not None and (CONFIGS / group).is_dir():
                files += [(file, place or group) for file in with_defaults(CONFIGS / group / f"{name}.yaml")]
    for file, place in files:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        # If a file repeats a key of its defaults without a comment, the comment of the defaults is kept.
        sentences |= {
            join("" if "@package _global_" in text else place, key): words for key, words in comments_of(text)
        }
    return sentences


def with_defaults(file: Path) -> list[Path]:
    """Return the files of the same group in the defaults list of a choice's file, followed by this file."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    block = re.search(r"^defaults:\n((?:[ ]*- .*\n)+)", text, re.M)
    names = re.findall(r"^[ ]*- (\w+)\s*$", block[1], re.M) if block else []
    return [
        *(each for name in names if name != "_self_" for each in with_defaults(file.with_name(f"{name}.yaml"))),
        file,
    ]


def comments_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a YAML text, each with the comment above the key or on the same line."""
    path: list[tuple[int, str]] = []  # indentation and name of the mappings that contain a line
    pending: list[str] = []
    above: dict[int, str] = {}  # indentation -> comment of the following keys
    for line in text.splitlines():
        bare = line.strip()
        if not bare:
            pending, above = [], {}
        elif bare.startswith("#"):
            if not re.match(r"#\s{2,}|# @package|# Root of ", bare):  # skip commands and tables
                pending.append(bare.lstrip("# "))
        elif match := re.match(r"( *)(\w+):(\s+[^#]*)?(?:#\s*(.*))?$", line):
            indent, name = len(match[1]), match[2]
            # A key that follows a nested mapping does not share the comment above that mapping.
            shared = indent if not path or path[-1][0] <= indent else indent - 1
            path = [each for each in path if each[0] < indent]
            above = {depth: words for depth, words in above.items() if depth <= shared}
            if pending or match[4]:
                above[indent] = " ".join(pending) or match[4]
            if indent in above:
                yield ".".join([*(name for _, name in path), name]), above[indent]
            path.append((indent, name))
            pending = []
        else:
            pending = []
