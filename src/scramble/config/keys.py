"""Lists the keys that a configuration can have, and suggests keys for unknown names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scramble.config.binding import Section, Variants, hints, join, near


def known_keys(values: Mapping[str, Any], cls: type[Section], at: str = "") -> dict[str, Any]:
    """Return all keys that a configuration has or may have, such as ``peft.r``, with annotations (None for a group)."""
    keys: dict[str, Any] = {}
    for name, kind in hints(cls).items():
        key, value = join(at, name), values.get(name) if isinstance(values, Mapping) else None
        section = _section_of(kind, value)
        keys[key] = None if section is not None else kind
        if section is not None:
            keys |= known_keys(value if isinstance(value, Mapping) else {}, section, key)
        elif isinstance(value, Mapping):
            keys |= {join(key, inner): None for inner in value}
    return keys


def _section_of(kind: Any, value: Any) -> type[Section] | None:
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    for mark in getattr(kind, "__metadata__", ()):
        if isinstance(mark, Variants):
            return mark.classes.get(value.get(mark.key, "")) if isinstance(value, Mapping) else None
    return next((cls for part in getattr(kind, "__args__", ()) if (cls := _section_of(part, value))), None)


def key_hint(name: str, keys: Iterable[str]) -> str:
    """Return a hint for an unknown key.

    Existing keys with the same last part are suggested first, then similar keys.
    """
    keys = list(keys)
    group, _, leaf = name.rpartition(".")
    if name in ("experiment", "debug"):
        return f"write +{name}=..."
    if group == "wandb" or name == "wandb":
        return "use trainer.report_to=[wandb] with the environment variables WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY"
    if name.endswith(".options.shard"):
        return "write shard=i/n, as in scripts/generate.py shard=0/4"
    # The section recommended contains defaults of other settings; suggest those settings instead.
    same = [key for key in keys if key.rpartition(".")[2] == leaf and not key.startswith("recommended.")]
    siblings = near(leaf, [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == group])
    close = same[:3] or [join(group, key) for key in siblings] or near(name, keys)
    if not close:
        close = [
            key
            for similar_leaf in near(leaf, {k.rpartition(".")[2] for k in keys}, most=1)
            for key in keys
            if key.rpartition(".")[2] == similar_leaf
        ][:2]
    if close:
        return f"did you mean {' or '.join(close)}?"
    inside = [key for key in keys if key.rpartition(".")[0] == group]
    return f"{group or 'the configuration'} has {', '.join(key.rpartition('.')[2] for key in inside)}"
