"""Checks plain values against the annotations of dataclasses and reports all errors, not only the first.

A settings class is a frozen dataclass that derives from :class:`Section`. Its annotations define the allowed values:
``bool``, ``int``, ``float``, ``str``, ``Literal``, ``X | None``, ``list``, ``tuple``, ``dict``, another settings class,
and ``Annotated`` with a :class:`Bound` or with :class:`Variants`. :meth:`Section.faults` checks conditions on several
fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

MISSING = "???"


class ConfigError(ValueError):
    """Raised if a configuration is invalid. ``faults`` lists the error messages, which are joined into one message."""

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        count = f"{len(self.faults)} settings are wrong: " if len(self.faults) > 1 else ""
        super().__init__(count + "; ".join(self.faults))


@dataclass(frozen=True)
class Bound:
    """A condition on a value, with a description of the allowed values for the error message."""

    holds: Callable[[Any], bool]
    allowed: str


@dataclass(frozen=True, eq=False)
class Variants:
    """A mapping whose settings class depends on the value of one key, for example ``data.kind``."""

    key: str
    classes: Mapping[str, type[Section]]


def at_least(least: float) -> Bound:
    """Return the condition that a number is at least ``least``."""
    return Bound(lambda value: value >= least, f"must be at least {least:g}")


def above(least: float) -> Bound:
    """Return the condition that a number is greater than ``least``."""
    return Bound(lambda value: value > least, f"must be above {least:g}")


def between(least: float, most: float, *, with_most: bool = True) -> Bound:
    """Return the condition that a number is at least ``least`` and at most ``most``. If ``with_most`` is false, the
    number must be below ``most``.
    """
    if with_most:
        return Bound(lambda value: least <= value <= most, f"must be from {least:g} to {most:g}")
    return Bound(lambda value: least <= value < most, f"must be at least {least:g} and below {most:g}")


NOT_EMPTY = Bound(lambda value: bool(value), "must not be empty")
PositiveInt = Annotated[int, at_least(1)]
Whole = Annotated[int, at_least(0)]
Share = Annotated[float, between(0, 1)]
Text = Annotated[str, NOT_EMPTY]


@dataclass(frozen=True)
class Section:
    """Base class of settings classes."""

    @classmethod
    def further(cls, names: Collection[str]) -> Mapping[str, Any]:
        """Return the annotations of additional fields.

        This method is called only if there are keys that are not fields of the dataclass; ``names`` lists these keys.
        """
        return {}

    @classmethod
    def renamed(cls) -> Mapping[str, str]:
        """Return a mapping from names in other libraries or versions to the keys to use instead."""
        return {}

    def faults(self, at: str) -> Iterator[str]:
        """Yield the error messages for values that are valid individually but not together.

        ``at`` is the key of the section. The values of nested sections are mappings.
        """
        return iter(())


def hints(cls: type) -> dict[str, Any]:
    """Return a mapping from the fields of a settings class to their annotations."""
    return _hints(cls)  # mypy does not accept a dataclass as an argument of a cached function


@cache
def _hints(cls: type) -> dict[str, Any]:
    annotations = get_type_hints(cls, include_extras=True)
    return {field.name: annotations[field.name] for field in dataclasses.fields(cls)}


def join(at: str, name: object) -> str:
    """Return the full name of a key in a section, for example ``trainer.seed`` for the key ``seed`` of ``trainer``."""
    return f"{at}.{name}" if at else str(name)


def as_override(value: Any) -> str:
    """Format a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_override, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_override(item)}" for key, item in value.items()) + "}"
    return str(value)


def near(name: str, valid: Iterable[str], most: int = 3) -> list[str]:
    """Return the valid names that the user probably meant by ``name``. Case is ignored.

    The first of these groups that is not empty is returned: names whose initials are ``name``; names that start with
    ``name``, in the order of ``valid`` (``adamw_torch`` for ``adamw``); names whose words are all in ``name``
    (``cosine`` for ``cosine_schedule_with_warmup``); the most similar names.
    """
    by_lower = {each.lower(): each for each in _in_order(valid)}
    low, words = name.lower(), set(name.lower().split("_"))
    initials = [v for v in by_lower if "_" in v and "".join(word[:1] for word in v.split("_")) == low]
    starts = [v for v in by_lower if len(low) > 2 and v.startswith(low)]
    parts = [v for v in by_lower if len(words) > 1 and words.issuperset(v.split("_"))]
    parts.sort(key=len, reverse=True)
    similar = difflib.get_close_matches(low, by_lower, n=most, cutoff=0.6)
    return [by_lower[v] for v in (initials or starts or parts or similar)[:most]]


def _in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of the collection, or sorted if it is an unordered set."""
    return sorted(names) if isinstance(names, Set) else list(names)


def hint(name: str, valid: Iterable[str]) -> str:
    """Return a suggestion for an unknown name, with the most similar valid names or all valid names."""
    valid = _in_order(valid)
    close = near(str(name), valid)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(sorted(valid))}"


def key_in_section_hint(name: str, valid: Iterable[str], at: str) -> str:
    """Return a hint for an unknown key of the section ``at``: the most similar keys or, if no key is similar, all keys
    of the section.
    """
    valid = list(valid)
    if close := near(name, valid, most=2):
        return f"did you mean {' or '.join(join(at, key) for key in close)}?"
    return f"the keys of {at or 'the configuration'} are {', '.join(valid)}"


# ------------------------------------------------------------------------------------------------------------- checking


def one_or_list(value: Any, kind: Any) -> Any:
    """Return ``[value]`` if the annotation requires a list and ``value`` is a single element, else ``value`` itself."""
    is_single = isinstance(value, str | int | float) and value != MISSING
    return [value] if is_single and accepts_list(kind) and check(value, kind, "") else value


def accepts_list(kind: Any) -> bool:
    """Return whether an annotation allows a list."""
    if get_origin(kind) in (Annotated, Union, UnionType):
        return any(accepts_list(each) for each in get_args(kind))
    return get_origin(kind) is list


def check(value: Any, kind: Any, at: str) -> list[str]:
    """Return the error messages for a value that does not match its annotation (an empty list if it matches).

    ``at`` is the key of the value. A missing required value (``???``) is not an error here, because the script
    determines which values are needed.
    """
    if isinstance(value, str) and value == MISSING:
        return []
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return []
    if origin is Annotated:
        return _check_annotated(value, args[0], args[1:], at)
    if origin in (Union, UnionType):
        return _check_union(value, args, at)
    if origin is Literal:
        return [] if any(value == a and type(value) is type(a) for a in args) else [_not_among(value, args, at)]
    if origin in (list, tuple, dict):
        return _check_container(value, origin, args, at)
    if isinstance(kind, type) and issubclass(kind, Section):
        return _check_section(value, kind, at)
    return _check_plain(value, kind, at)


def _check_annotated(value: Any, kind: Any, marks: tuple[Any, ...], at: str) -> list[str]:
    for mark in marks:
        if isinstance(mark, Variants):
            return _check_variant(value, mark, at)
    messages = check(value, kind, at)
    if not messages and value is not None:
        messages = [
            f"{at}={as_override(value)} {mark.allowed}"
            for mark in marks
            if isinstance(mark, Bound) and not mark.holds(value)
        ]
    return messages


def _check_union(value: Any, kinds: tuple[Any, ...], at: str) -> list[str]:
    if value is None:
        return [] if NoneType in kinds else [f"{at} must not be null: set {at}=..."]
    results = [check(value, kind, at) for kind in kinds if kind is not NoneType]
    if not all(results):
        return []
    # Report the errors of the alternative that matches best, which is the one with an error at the deepest key. For
    # example, a list with a wrong element was meant to be a list.
    deepest = max(results, key=lambda messages: max(message.count(".") for message in messages))
    concerns_value = len(deepest) == 1 and deepest[0].startswith(f"{at}=") and "did you mean" not in deepest[0]
    nullable = ", or null" if NoneType in kinds and concerns_value else ""
    return [*deepest[:-1], deepest[-1] + nullable]


def _not_among(value: Any, allowed: tuple[Any, ...], at: str) -> str:
    close = near(str(value), map(str, allowed), most=1)
    listed = ", ".join(map(as_override, allowed))
    return f"{at}={as_override(value)} must be one of {listed}" + (f" (did you mean {close[0]}?)" if close else "")


def _check_container(value: Any, origin: type, args: tuple[Any, ...], at: str) -> list[str]:
    if origin is dict:
        if not isinstance(value, Mapping):
            return [f"{at}={as_override(value)} must be a mapping, for example '{at}={{name: value}}'"]
        return [
            message
            for key, item in value.items()
            for message in (*check(key, args[0], at), *check(item, args[1], join(at, key)))
        ]
    if not isinstance(value, list | tuple):
        return [f"{at}={as_override(value)} must be a list, for example {at}=[{as_override(value)}]"]
    if origin is tuple:
        if len(value) != len(args):
            return [f"{at}={as_override(value)} must be a list of {len(args)} values"]
        return [message for item, kind in zip(value, args, strict=True) for message in check(item, kind, at)]
    # A message about a section in a list includes the section's position (data.mix[1].weight). A message about a plain
    # value shows the value.
    has_sections = isinstance(args[0], type) and issubclass(args[0], Section)
    keys = [f"{at}[{number}]" if has_sections else at for number in range(len(value))]
    return [message for item, key in zip(value, keys, strict=True) for message in check(item, args[0], key)]


def _check_plain(value: Any, kind: type, at: str) -> list[str]:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return [] if math.isfinite(value) else [f"{at}={as_override(value)} must be a finite number"]
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return []
    if value is None:
        return [f"{at}=null must be {words[kind]}"]
    quote = f"; quote the text: '{at}=\"{as_override(value)}\"'" if kind is str else ""
    return [f"{at}={as_override(value)} must be {words[kind]}{quote}"]


def _check_variant(value: Any, variants: Variants, at: str) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{at}={as_override(value)} must be a group of settings; set {join(at, variants.key)}"]
    variant = value.get(variants.key)
    if not isinstance(variant, str) or variant not in variants.classes:
        return [_not_among(variant, tuple(variants.classes), join(at, variants.key))]
    rest = {key: item for key, item in value.items() if key != variants.key}
    return _check_section(rest, variants.classes[variant], at, (variants.key,))


def _check_section(value: Any, cls: type[Section], at: str, extra_keys: tuple[str, ...] = ()) -> list[str]:
    fields = hints(cls)
    if not isinstance(value, Mapping):
        keys = " or ".join(join(at, name) for name in fields)
        return [f"{at}={as_override(value)} must be a group of settings; set {keys}"]
    if unknown := [str(name) for name in value if name not in fields]:
        fields = {**cls.further(unknown), **fields}
    instead = cls.renamed()
    messages = [
        f"{join(at, name)}: there is no such key; "
        + (f"use {instead[name]}" if name in instead else key_in_section_hint(str(name), [*extra_keys, *fields], at))
        for name in value
        if name not in fields
    ]
    for name, kind in fields.items():
        if name in value:
            messages += check(value[name], kind, join(at, name))
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    messages += [f"{join(at, name)} has no value: set {join(at, name)}=..." for name in required if name not in value]
    return messages + _joint_faults(value, cls, at, messages)


def _joint_faults(value: Mapping[Any, Any], cls: type[Section], at: str, messages: list[str]) -> list[str]:
    """Return the error messages of :meth:`Section.faults`. ``messages`` contains the error messages for the individual
    values.
    """
    section = object.__new__(cls)  # without __init__, which would require all fields
    for field in dataclasses.fields(cls):
        item = value[field.name] if field.name in value else _default(field)
        if isinstance(item, str) and item == MISSING:
            return []
        object.__setattr__(section, field.name, item)
    try:
        return list(section.faults(at))
    except (AttributeError, KeyError, TypeError, ValueError):
        if not messages:
            raise
        return []  # an invalid value made the method fail; ``messages`` already reports this value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default
