"""Explains command-line overrides that Hydra rejects, and suggests the argument to type instead."""

from __future__ import annotations

import os
import re
import shlex
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from scramble.config.help import SHARED_KEYS
from scramble.config.keys import key_hint, known_keys
from scramble.config.roots import ROOTS
from scramble.config.source_sections import DataSection
from scramble.config.validation import check_root, wrap_single_values
from scramble.field_checks import ConfigError, hint, hints
from scramble.project import CONFIGS, choices_of

if TYPE_CHECKING:
    from omegaconf import DictConfig, ListConfig


@contextmanager
def explained(root: str, arguments: Sequence[str], sections: Collection[str] = ()) -> Iterator[None]:
    """Convert Hydra's errors about the command line to ConfigError within the block, which calls Hydra's main function.

    Args:
        root: the script's name.
        arguments: the command line, without the script.
        sections: sections of the configuration that the script reads. Only keys of these sections are suggested for a
            misspelt key. If ``sections`` is empty, keys of all sections are suggested.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its own message and exits
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not _raised_by_hydra(error):
            raise
        raise ConfigError(faults(root, arguments, sections) or [_first_lines(error)]) from error


def _raised_by_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised an error about the command line.

    Errors that are raised in a stage, and ValueErrors that Hydra did not raise, are not about the command line.
    """
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(name.startswith(("scramble.pipeline", "scramble.launch")) for name in names):
        return False
    return not isinstance(error, ValueError) or names[-1].startswith("hydra.")


def _first_lines(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def faults(root: str, arguments: Sequence[str], sections: Collection[str] = ()) -> list[str]:
    """Return the error messages for arguments that do not parse, or that name a choice or a key that does not exist.

    The errors of the remaining configuration are added, so that all errors are reported in one message.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    options, overrides = split_options(arguments)
    is_sweep = bool({"-m", "--multirun"} & set(options))
    messages, usable = [], []
    for argument in overrides:
        message, choices = _parsed(argument, is_sweep)
        if message is None:
            message = _unknown_choice(argument)
        if message is None:
            usable.append(choices[0])
        else:
            messages.append(message)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        accepted: list[str] = []
        groups = [text for text in usable if _group(text) is not None]
        for text in (*groups, *(text for text in usable if text not in groups)):
            try:
                compose(root, [*accepted, text])
                accepted.append(text)
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                messages.append(_refused(text, error, accepted, root, sections))
        try:
            cfg = compose(root, accepted)
        except (HydraException, OmegaConfBaseException) as error:
            return [*messages, _first_lines(error)]
        wrap_single_values(cfg, root)
        return [*messages, *check_root(cfg, root, ())]


# Hydra's options that take a value.
VALUED_OPTIONS = (
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


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's own options with their values, and the overrides, both in the original order.

    Hydra's argument parser rejects an option between two overrides, so a script passes all options first.
    """
    options: list[str] = []
    overrides: list[str] = []
    for before, argument in pairwise(["", *arguments]):
        (options if argument.startswith("-") or before in VALUED_OPTIONS else overrides).append(argument)
    return options, overrides


def expand_home(argument: str) -> str:
    """Replace ``~/`` with the path of the home folder in the values of an argument, also in lists and mappings.

    Shells expand ``~`` only at the start of an argument, and Hydra's grammar does not allow ``~`` in a value.
    """
    key, _, value = argument.partition("=")
    if not value.startswith(("~/", "[", "{")):
        return argument
    return f"{key}=" + re.sub(r"(^|[\[{,:]\s*)~(?=/)", lambda match: match[1] + os.path.expanduser("~"), value)


def expand_home_in_values(cfg: DictConfig | ListConfig) -> None:
    """Replace ``~/`` at the start of all values of a composed configuration, because a YAML file may contain such
    values.
    """
    from omegaconf import DictConfig, ListConfig, OmegaConf

    keys: Iterable[Any] = range(len(cfg)) if isinstance(cfg, ListConfig) else [key for key in cfg if key != "hydra"]
    for key in keys:
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        value = cfg[key]
        if isinstance(value, DictConfig | ListConfig):
            expand_home_in_values(value)
        elif isinstance(value, str) and value.startswith("~/"):
            cfg[key] = os.path.expanduser(value)


# -------------------------------------------------------------------------------------------------------------- quoting


def _parsed(argument: str, is_sweep: bool) -> tuple[str | None, list[str]]:
    """Return two values: an error message, which is None if the syntax of the argument is valid, and the overrides of
    all sweep points.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if not equals and not key.startswith("~"):
        return f"{argument}: write arguments as key=value", []
    try:
        (parsed,) = OverridesParser.create().parse_overrides([argument])
    except HydraException as error:
        if _is_structure(key, value):
            form = "list" if value.startswith("[") else "mapping"
            return f"{argument}: the value is not a valid {form} ({str(error).splitlines()[0]})", []
        return f"{argument}: the value must be quoted: {quoted(key, value)}", []
    if parsed.is_sweep_override():
        choices = [f"{argument.partition('=')[0]}={item}" for item in parsed.sweep_string_iterator()]
        if not is_sweep:
            return (
                f"{argument} lists several values: add -m to sweep over them, or quote a single value that contains a "
                f"comma: {quoted(key, value)}"
            ), []
        return None, choices
    return None, [argument]


def is_valid(argument: str) -> bool:
    """Return whether Hydra can parse an override that is not a sweep."""
    return _parsed(argument, is_sweep=False)[0] is None


def _is_structure(key: str, value: str) -> bool:
    """Return whether an invalid value is probably a list or mapping, and not a path that looks similar."""
    if not value.startswith(("[", "{")) or "/" in value.partition("]" if value[0] == "[" else "}")[2]:
        return False
    leaf = key.lstrip("+~").rpartition(".")[2]
    return leaf not in ("path", "root", "images", "dir", "data", "out", "name", "pipeline", "model")


def quoted(key: str, value: str) -> str:
    """Return the argument that sets a key to exactly the text ``value``, quoted for Hydra and then for the shell."""
    # Hydra requires quotes, and backslashes before quotes, to be escaped. OmegaConf would interpolate ${.
    text = re.sub(r'(\\*)"', lambda match: 2 * match[1] + '\\"', value)
    text = re.sub(r"(\\+)$", lambda match: 2 * match[1], text).replace("${", "\\${")
    return shlex.quote(f'{key}="{text}"')


# ------------------------------------------------------------------------------------------------------- names and keys


def _group(text: str) -> str | None:
    """Return the config group of an override, or None for a plain key.

    The group is ``data`` for ``data=coco``, and ``engine`` for ``engine@judge.engine=openai``.
    """
    group = text.partition("=")[0].lstrip("+~").partition("@")[0].strip("/")
    return group if "." not in group and group and (CONFIGS / group).is_dir() else None


def _unknown_choice(argument: str) -> str | None:
    group = _group(argument)
    if group is None or argument.startswith("~"):
        return None
    choice = argument.partition("=")[2]
    if choice.startswith("{") or "=" in choice:
        return None
    names = set(choices_of(group))
    for name in (part.strip() for part in choice.strip("[]").split(",")):
        if name and name not in names:
            return f"{group}={name}: there is no such choice; {hint(name, names)}"
    return None


def _refused(text: str, error: Exception, accepted: Sequence[str], root: str, sections: Collection[str]) -> str:
    """Return the error message for an override that Hydra rejects after the overrides ``accepted``."""
    from hydra import compose
    from omegaconf import OmegaConf

    key = text.partition("=")[0].lstrip("+~")
    message = str(error)
    if "Could not append" in message and "already at" in message:
        return f"{text}: {key} already exists, so omit the +"
    if "Could not override" in message or "Could not find" in message or "Could not delete" in message:
        values: Any = OmegaConf.to_container(compose(root, list(accepted)), resolve=False)
        values = values if isinstance(values, Mapping) else {}
        keys = known_keys(values, ROOTS[root])
        if fault := _world_fault(key, values, accepted):
            return fault
        if key in keys:  # Hydra requires a plus to add a key that no file sets
            return f"{text}: {key} is not set yet, so write {shlex.quote(f'+{text}')}"
        used = (
            [k for k in keys if k.partition(".")[0] in (*sections, *SHARED_KEYS)]
            if sections and "." not in key
            else keys
        )
        return f"{key}: there is no such key; {key_hint(key, used)}"
    return f"{text}: {_first_lines(error)}"


def _world_fault(key: str, values: Mapping[str, Any], accepted: Sequence[str]) -> str | None:
    """Return the error message for a key of other data (``data.path``) if the embedded world is selected."""
    (data,) = DataSection.__metadata__
    section, _, name = key.partition(".")
    is_known = section == "data" and any(name in hints(cls) for cls in data.classes.values())
    if not is_known or (values.get("data") or {}).get("kind") != "world":
        return None
    debug = next((text for text in accepted if text.startswith("+debug=")), None)
    why = "the embedded world" if debug is None else f"{debug} selects the embedded world, which"
    return f"{key}: {why} has no such key: omit {key}, or select your data, for example data=image_folder"
