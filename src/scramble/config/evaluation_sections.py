"""Defines the names, types and options of the sections ``benchmark``, ``protocol`` and ``judge``.

See :mod:`scramble.config.roots`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from scramble.config.data_sections import EngineSection
from scramble.config.sections import Temperature
from scramble.field_checks import (
    NOT_EMPTY,
    PositiveInt,
    Section,
    Text,
    as_override,
    check,
    hint,
    hints,
    key_in_section_hint,
)

# The annotation of a benchmark's option, by the type of its default. Options with the default None or without a default
# are paths or other texts.
OPTION_ANNOTATIONS: dict[type, Any] = {bool: bool, int: PositiveInt, str: Text}
Benchmarks = Annotated[dict[str, dict[str, Any] | None], NOT_EMPTY]


def benchmark_faults(benchmarks: Mapping[str, Mapping[str, Any] | None], at: str) -> Iterator[str]:
    """Yield error messages for unknown benchmarks and for invalid options. The options of a benchmark are the
    parameters of its loading function.
    """
    from scramble.evaluation.benchmarks import BENCHMARKS

    for name, options in benchmarks.items():
        if name not in BENCHMARKS:
            yield f"{at}.{name}: there is no such benchmark; {hint(name, BENCHMARKS)}"
            continue
        module, function = BENCHMARKS[name]
        loader = getattr(importlib.import_module(f"scramble.evaluation.benchmarks.{module}"), function)
        parameters = inspect.signature(loader).parameters
        for key, value in (options or {}).items():
            if key not in parameters:
                yield f"{at}.{name}.{key}: there is no such key; {key_in_section_hint(key, parameters, f'{at}.{name}')}"
            else:
                kind = OPTION_ANNOTATIONS.get(type(parameters[key].default), Text | None)
                yield from check(value, kind, f"{at}.{name}.{key}")
        root = parameters.get("root")
        if root is not None and root.default is inspect.Parameter.empty and (options or {}).get("root") is None:
            yield f"{at}.{name}.root has no value: set {at}.{name}.root=... to the path of the benchmark's files"


def protocol_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield error messages for an unknown protocol and for invalid settings of a protocol."""
    from scramble.evaluation.items import EvaluationError
    from scramble.evaluation.protocols import Protocol, named_protocol, protocol_names

    name = values.get("name")
    if name not in (names := [*protocol_names(), "default"]):
        yield f"protocol.name={as_override(name)}: there is no such protocol; {hint(str(name), names)}"
        return
    fields = {key: kind for key, kind in hints(Protocol).items() if key != "name"}
    rest = {key: value for key, value in values.items() if key != "name"}
    messages = [
        message
        for key, value in rest.items()
        for message in (
            check(value, fields[key], f"protocol.{key}")
            if key in fields
            else [f"protocol.{key}: there is no such key; {key_in_section_hint(key, fields, 'protocol')}"]
        )
    ]
    yield from messages
    if not messages:
        try:
            named_protocol("standard" if name == "default" else str(name), **rest)
        except EvaluationError as error:
            yield str(error)


@dataclass(frozen=True)
class JudgeSection(Section):
    """The language model that grades free-form answers."""

    engine: EngineSection | None
    gradings: PositiveInt
    temperature: Temperature
    faithfulness: bool
    grading_prompt: Text | None
    extraction_prompt: Text | None
    comparison_prompt: Text | None
    letters_prompt: Text | None
    faithfulness_prompt: Text | None
    mmhal_prompt: Text | None
    llava_bench_prompt: Text | None
    hallusionbench_prompt: Text | None
    object_halbench_prompt: Text | None

    def faults(self, at: str) -> Iterator[str]:
        """Check that a judge is configured if faithfulness is judged, and that the prompts are existing files."""
        if self.faithfulness and self.engine is None:
            yield f"{at}.faithfulness=true needs a judge: set engine@{at}.engine=openai {at}.engine.model=..."
        for name in (field.name for field in dataclasses.fields(self) if field.name.endswith("_prompt")):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                yield f"{at}.{name}={path} must be an existing file"
