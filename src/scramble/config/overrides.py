"""The command line's overrides: what Hydra refuses is explained, with the argument to type instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from scramble.config.binding import ConfigError, hint
from scramble.config.help import SHARED
from scramble.config.roots import ROOTS, check_root, key_hint, known_keys
from scramble.project import CONFIGS


@contextmanager
def explained(root: str, arguments: Sequence[str], sections: Collection[str] = ()) -> Iterator[None]:
    """Within the block, which calls Hydra's main, its errors about the command line become a ConfigError.

    Args:
        root: the script's name.
        arguments: its command line, without the script.
        sections: what the script reads of its configuration: only such keys are proposed for a misspelt one; empty
            for all.
    """
    import os

    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its own text and end the process
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        if _raised_by_a_stage(error):
            raise
        raise ConfigError(faults(root, arguments, sections) or [_first_lines(error)]) from error


def _raised_by_a_stage(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").startswith(("scramble.pipeline", "scramble.launch")):
            return True
        trace = trace.tb_next
    return False


def _first_lines(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def faults(root: str, arguments: Sequence[str], sections: Collection[str] = ()) -> list[str]:
    """One clause for each argument that cannot be: it does not parse, or names a group's choice or a key that does not
    exist. What is wrong besides with the settings that can be is added, so that all faults come in one message."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    many = bool({"-m", "--multirun"} & set(arguments))
    found, usable = [], []
    for argument in arguments:
        if argument.startswith("-") or argument in _option_values(arguments):
            continue
        clause, choices = _parsed(argument, many)
        if clause is None:
            clause = _unknown_choice(argument)
        if clause is None:
            usable.append(choices[0])
        else:
            found.append(clause)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        accepted: list[str] = []
        groups = [text for text in usable if _group(text) is not None]
        for text in (*groups, *(text for text in usable if text not in groups)):
            try:
                compose(root, [*accepted, text])
                accepted.append(text)
            except (HydraException, OmegaConfBaseException) as error:
                found.append(_refused(text, error, compose(root, accepted), root, sections))
        try:
            cfg = compose(root, accepted)
        except (HydraException, OmegaConfBaseException) as error:
            return [*found, _first_lines(error)]
        return [*found, *check_root(cfg, root, ())]


def _option_values(arguments: Sequence[str]) -> set[str]:
    """What follows Hydra's own options that take a value."""
    options = (
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
        "--config-dir",
        "-cd",
        "--package",
        "-p",
        "--info",
        "-i",
        "--cfg",
        "-c",
        "--experimental-rerun",
    )
    return {after for option, after in pairwise(arguments) if option in options}


# -------------------------------------------------------------------------------------------------------------- quoting


def _parsed(argument: str, many: bool) -> tuple[str | None, list[str]]:
    """What is wrong with an argument's form (None: nothing), and the overrides of the points that it stands for."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if not equals and not key.startswith("~"):
        return f"{argument}: an argument is written key=value", []
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except HydraException as error:
        if _is_structure(key, value):
            form = "list" if value.startswith("[") else "mapping"
            return f"{argument}: not a {form} that can be read ({_where(error)})", []
        return f"{argument}: the value must be quoted: {quoted(key, value)}", []
    if parsed.is_sweep_override():
        choices = [f"{argument.partition('=')[0]}={item}" for item in parsed.sweep_string_iterator()]
        if not many:
            return (
                f"{argument}: several values are a sweep, add -m; one value with a comma must be quoted: "
                f"{quoted(key, value)}"
            ), []
        return None, choices
    return None, [argument]


def _is_structure(key: str, value: str) -> bool:
    """Whether a value that does not parse was meant as a list or mapping, and not as a path that looks like one."""
    if not value.startswith(("[", "{")) or "/" in value.partition("]" if value[0] == "[" else "}")[2]:
        return False
    leaf = key.lstrip("+~").rpartition(".")[2]
    return leaf not in ("path", "root", "images", "dir", "data", "out", "name", "pipeline", "model")


def _where(error: Exception) -> str:
    return str(error).splitlines()[0]


def quoted(key: str, value: str) -> str:
    """The argument that gives a key exactly this text, quoted for Hydra and then for the shell."""
    # Hydra: a quote inside is escaped, and so are backslashes in front of a quote; OmegaConf: ${ would be looked up.
    text = re.sub(r'(\\*)"', lambda found: 2 * found[1] + '\\"', value)
    text = re.sub(r"(\\+)$", lambda found: 2 * found[1], text).replace("${", "\\${")
    return shlex.quote(f'{key}="{text}"')


# ------------------------------------------------------------------------------------------------------- names and keys


def _group(text: str) -> str | None:
    """The group of configuration files that an override chooses from: ``data`` of ``data=coco``, ``engine`` of
    ``engine@judge.engine=openai``; None for a plain key."""
    group = text.partition("=")[0].lstrip("+~").partition("@")[0].strip("/")
    return group if "." not in group and group and (CONFIGS / group).is_dir() else None


def _unknown_choice(argument: str) -> str | None:
    group = _group(argument)
    if group is None or argument.startswith("~"):
        return None
    choice = argument.partition("=")[2]
    if choice.startswith("{") or "=" in choice:
        return None
    known = {path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_")}
    for name in (part.strip() for part in choice.strip("[]").split(",")):
        if name and name not in known | {"null"}:
            return f"no {group} is called {name!r}; {hint(name, known)}"
    return None


def _refused(text: str, error: Exception, cfg: Any, root: str, sections: Collection[str]) -> str:
    from omegaconf import OmegaConf

    key = text.partition("=")[0].lstrip("+~")
    message = str(error)
    if "Could not append" in message and "already at" in message:
        return f"{text}: {key} exists, so leave out the +"
    if "Could not override" in message or "Could not find" in message or "Could not delete" in message:
        values: Any = OmegaConf.to_container(cfg, resolve=False)
        values = values if isinstance(values, Mapping) else {}
        keys = known_keys(values, ROOTS[root])
        if key in keys:  # a key that no file sets: Hydra wants to be told that it is meant
            return f"{text}: {key} is not set yet, so write +{text}"
        read = [k for k in keys if k.partition(".")[0] in (*sections, *SHARED)] if sections and "." not in key else keys
        return f"{key}: there is no such key; {key_hint(key, read)}"
    return f"{text}: {_first_lines(error)}"
