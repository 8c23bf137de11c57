"""Checks a composed configuration against the classes of :mod:`scramble.config.roots` before any work starts.

All errors are reported in one message.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scramble.config.keys import key_hint, known_keys
from scramble.config.roots import ROOTS
from scramble.field_checks import ConfigError, accepts_list, check, hints, one_or_list
from scramble.project import choices_of

if TYPE_CHECKING:
    from omegaconf import DictConfig


def validate(cfg: DictConfig, root: str, sections: Sequence[str]) -> None:
    """Check a composed configuration as a whole.

    Args:
        cfg: the configuration, with or without Hydra's section.
        root: the script's name, a key of :data:`scramble.config.roots.ROOTS`.
        sections: sections that the script reads; their keys must have a value.

    Raises:
        ConfigError: if the configuration is invalid; the message lists all errors.
    """
    if messages := check_root(cfg, root, sections):
        raise ConfigError(messages)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return the configuration without Hydra's section."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def wrap_single_values(cfg: DictConfig, root: str) -> None:
    """Replace each single value of a list-valued key with a list of this value, in place.

    transformers, TRL and PEFT also accept a single value for most of their lists (``trainer.loss_type=sigmoid``).
    """
    from omegaconf import OmegaConf, open_dict

    values: Any = OmegaConf.to_container(without_hydra(cfg), resolve=False)
    for key, kind in known_keys(values, ROOTS[root]).items():
        at, _, name = key.rpartition(".")
        section = OmegaConf.select(cfg, at, throw_on_resolution_failure=False) if at else cfg
        if not accepts_list(kind) or not OmegaConf.is_dict(section) or name not in section:
            continue
        value = None if OmegaConf.is_interpolation(section, name) else section[name]
        if (wrapped := one_or_list(value, kind)) is not value:
            with open_dict(section):
                section[name] = wrapped


def check_root(cfg: DictConfig, root: str, sections: Sequence[str]) -> list[str]:
    """Return the error messages for a composed configuration; see :func:`validate`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if root == "reproduce" and cfg.get("table") is None:  # all other keys of this script refer to the table
        tables = choices_of("table")
        return [f"table has no value: set table to one of {', '.join(tables)}"]
    parts = without_hydra(cfg)
    if root == "reproduce":  # table and size determine which paths are needed; the script itself checks the paths
        parts = copy.deepcopy(parts)
        for name in [name for name in parts.paths if OmegaConf.is_missing(parts.paths, name)]:
            parts.paths[name] = name
    absent: list[str] = []
    try:
        absent = missing_keys(parts, sections)
        values: Any = OmegaConf.to_container(parts, resolve=True)
    except OmegaConfBaseException as error:
        if absent:
            return [no_value(absent)]
        return [str(error).partition("\n")[0]]
    cls = ROOTS[root]
    unknown = [str(name) for name in values if name not in hints(cls)]
    keys = known_keys(values, cls) if unknown else {}
    messages = [f"{name}: there is no such key; {key_hint(name, keys)}" for name in unknown]
    messages += check({name: value for name, value in values.items() if name in hints(cls)}, cls, "")
    return messages + ([no_value(absent)] if absent else [])


def missing_keys(cfg: DictConfig, sections: Sequence[str]) -> list[str]:
    """Return the required keys (``???``) in ``sections`` that have no value."""
    from omegaconf import OmegaConf

    return sorted(
        key
        for key in OmegaConf.missing_keys(cfg)
        if any(key == s or key.startswith((f"{s}.", f"{s}[")) for s in sections)
    )


def no_value(keys: Sequence[str]) -> str:
    """Return the error message for required keys without a value."""
    example = " ".join(f"{key}=..." for key in keys)
    return f"these keys have no value: {', '.join(keys)}. Set these keys on the command line: {example}"
