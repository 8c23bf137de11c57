"""Lists the keys that a configuration can have, and suggests keys for unknown names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from scramble.field_checks import Section, Variants, hints, join, near
from scramble.project import CONFIGS


def known_keys(values: Mapping[str, Any], cls: type[Section], at: str = "") -> dict[str, Any]:
    """Return a mapping from each key that a configuration contains or can contain, such as ``peft.r``, to its
    annotation, or to None for a section.
    """
    keys: dict[str, Any] = {}
    for name, kind in hints(cls).items():
        key, value = join(at, name), values.get(name) if isinstance(values, Mapping) else None
        section = _section_of(kind, value)
        keys[key] = None if section is not None else kind
        if section is not None:
            keys |= known_keys(value if isinstance(value, Mapping) else {}, section, key)
        elif isinstance(value, Mapping):
            for entry, content in value.items():
                keys[join(key, entry)] = None
                section = _section_of(_kind_of_values(kind), content)  # the parts of a mix
                keys |= {} if section is None else known_keys(content, section, join(key, entry))
    return keys


def _kind_of_values(kind: Any) -> Any:
    """Return the annotation of a mapping's values, or None if ``kind`` contains no mapping."""
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return next((found for part in get_args(kind) if (found := _kind_of_values(part)) is not None), None)


def _section_of(kind: Any, value: Any) -> type[Section] | None:
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    for mark in getattr(kind, "__metadata__", ()):
        if isinstance(mark, Variants):
            return mark.classes.get(value.get(mark.key, "")) if isinstance(value, Mapping) else None
    if get_origin(kind) not in (Union, UnionType):  # a section in a list has no key of its own
        return None
    return next((cls for part in get_args(kind) if (cls := _section_of(part, value))), None)


# Sections that accept every field of another library's class.
OPEN = ("trainer.", "peft.", "model.quantization.")
# Mappings whose entries are named in configs/: any other entry is a mistake, which Hydra reports.
CLOSED = ("benchmark", "table", "paths")


def is_optional(key: str, cls: type) -> bool:
    """Return whether a key is optional, so that the files in ``configs/`` need not set it.

    Optional keys are the fields of open sections (``peft.r``), optional sections (``pairs.refine``), free mappings
    (``data.columns``), and the keys inside them. A key that only some variants of a section have is optional for all
    variants. A later check reports a key that belongs to another variant.
    """
    if key.startswith(OPEN):
        return True
    parts = tuple(key.split("."))
    if parts[0] in CLOSED or (CONFIGS / key).is_dir():  # a folder in configs/ is a choice of files (protocol=world)
        return False
    return any(
        len(parts) == len(pattern) or (is_open and len(parts) > len(pattern))
        for pattern, is_open in _optional_keys(cls)
        if all(part in (expected, "*") for expected, part in zip(parts, pattern, strict=False))
    )


@cache
def _optional_keys(cls: type) -> frozenset[tuple[tuple[str, ...], bool]]:
    """Return the optional keys as patterns, in which ``*`` matches any name. The second value of each pair states
    whether every key below the pattern is also optional.
    """
    patterns = set(_patterns(cls, (), False, False))
    # A mapping of one variant that is a section in other variants (pairs.options) is not free.
    sections = {pattern[:-1] for pattern, _ in patterns}
    return frozenset((pattern, is_open and pattern not in sections) for pattern, is_open in patterns)


def _patterns(kind: Any, at: tuple[str, ...], nullable: bool, inside: bool) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the patterns of a value. ``inside`` is true if the value is inside an optional section or mapping."""
    args = get_args(kind)
    if get_origin(kind) is Annotated:
        variants = next((mark for mark in args[1:] if isinstance(mark, Variants)), None)
        for each in (args[0],) if variants is None else variants.classes.values():
            # A section with variants needs the key that selects the variant, so it cannot be created key by key.
            yield from _patterns(each, at, nullable and variants is None, inside)
    elif get_origin(kind) is dict:
        is_plain = _section_of(args[1], None) is None and not _has_variants(args[1])
        yield at, is_plain
        if not is_plain:
            yield from _patterns(args[1], (*at, "*"), False, True)
    elif isinstance(kind, type) and issubclass(kind, Section):
        optional = len(at) > 1 and (nullable or inside)
        if optional:
            yield at, False
        for name, field in hints(kind).items():
            yield from _patterns(field, (*at, name), False, optional)
    elif NoneType in args or len(args) > 1:
        for each in args:
            yield from _patterns(each, at, NoneType in args, inside)
    elif inside:
        yield at, False


def _has_variants(kind: Any) -> bool:
    return any(isinstance(mark, Variants) for mark in getattr(kind, "__metadata__", ()))


def key_hint(name: str, keys: Iterable[str]) -> str:
    """Return a hint for an unknown key.

    Some names have a fixed hint. For all other names, the hint suggests existing keys with the same last part,
    otherwise similar keys, otherwise all keys of the section.
    """
    keys = list(keys)
    group, _, leaf = name.rpartition(".")
    if name in ("experiment", "debug"):
        return f"write +{name}=..."
    if group == "wandb" or name == "wandb":
        return "use trainer.report_to=[wandb] with the environment variables WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY"
    if name in ("prompt", "question", "message") and "text" in keys:  # scripts/chat.py
        return "did you mean text?"
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
    shorter = name.partition(".")[2]  # scripts/audit.py has the key columns instead of data.columns
    if shorter in keys or shorter.rpartition(".")[0] in keys:
        return f"did you mean {shorter}?"
    while group and not any(key.startswith(f"{group}.") for key in keys):
        group = group.rpartition(".")[0]
    inside = [key for key in keys if key.rpartition(".")[0] == group]
    return f"the keys of {group or 'the configuration'} are {', '.join(key.rpartition('.')[2] for key in inside)}"
