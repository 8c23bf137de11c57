"""Reads the names of the fields of TRL, transformers and PEFT from the source files of these libraries.

Importing the libraries takes seconds, which is too long for the message about a misspelt key.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

Source = tuple[str, str, str]  # package, file in the package, class

# The classes that define the fields of a section, base classes first.
TRAINER: tuple[Source, ...] = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/dpo_config.py", "DPOConfig"),
    ("scramble", "training/config.py", "PreferenceConfig"),
)
PEFT: tuple[Source, ...] = (
    ("peft", "config.py", "PeftConfigMixin"),
    ("peft", "config.py", "PeftConfig"),
    ("peft", "tuners/lora/config.py", "LoraConfig"),
)
QUANTIZATION: tuple[Source, ...] = (("transformers", "utils/quantization_config.py", "BitsAndBytesConfig"),)


@cache
def field_names(sources: tuple[Source, ...]) -> tuple[str, ...]:
    """Return the names of the fields of the classes ``sources``, in the order of their definition.

    The result is empty if a class is not where it is expected, which is possible with other versions of the libraries.
    """
    names: dict[str, None] = {}
    for source in sources:
        fields = list(_fields(*source))
        if not fields:
            return ()
        names |= dict.fromkeys(fields)
    return tuple(names)


def _fields(package: str, file: str, cls: str) -> Iterator[str]:
    """Yield the names of a dataclass's public fields, or of the constructor's parameters for any other class."""
    spec = importlib.util.find_spec(package)
    path = Path(((spec and spec.submodule_search_locations) or [""])[0]) / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    body = next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls), [])
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_"):
                yield node.target.id
        elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
            yield from (argument.arg for argument in node.args.args[1:])
