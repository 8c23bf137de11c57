"""Suggests ``key=value`` arguments for options that Hydra does not have, such as TRL's ``--num_train_epochs 3``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence

from scramble.config.keys import key_hint, known_keys
from scramble.config.library_fields import PEFT, QUANTIZATION, TRAINER, field_names
from scramble.config.overrides import VALUED_OPTIONS, is_valid, quoted
from scramble.config.roots import ROOTS
from scramble.field_checks import ConfigError, Section, as_override, hints
from scramble.project import CONFIGS, choices_of
from scramble.training.fields import PEFT_REFUSED, PEFT_RENAMED, REFUSED_FIELDS, RENAMED

HYDRA_OPTIONS = {
    *VALUED_OPTIONS,
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc"),
}
# Options of TRL's scripts, LLaMA-Factory and ms-swift, and the arguments to write instead, without the value.
OTHER_NAMES = {
    "model_name_or_path": "model=any model.path",
    "model_revision": "model.revision",
    "torch_dtype": "model.dtype",
    "adapter_name_or_path": "model.adapter",
    "adapters": "model.adapter",
    "dataset": "data=pairs data.path",
    "dataset_name": "data=pairs data.path",
    "dataset_config": "data.name",
    "dataset_train_split": "data.split",
    "output_dir": "run.dir",
    "lr": "trainer.learning_rate",
    "num_epochs": "trainer.num_train_epochs",
    "cutoff_len": "trainer.max_length",
    "pref_beta": "trainer.beta",
    "pref_loss": "trainer.loss_type",
    "lora_rank": "peft.r",
    "lora_modules_to_save": "peft.modules_to_save",
    "lora_target_parameters": "peft.target_parameters",
    "load_in_8bit": "model.quantization.load_in_8bit",
    "load_in_4bit": "model.quantization.load_in_4bit",
    "use_bnb_nested_quant": "model.quantization.bnb_4bit_use_double_quant",
}


def check_options(arguments: Sequence[str], root: str) -> None:
    """Raise ConfigError if a command line contains options that Hydra does not have.

    The message contains the arguments to write instead.
    """
    given, written, faults = [], [], []
    for words in _unknown_options(arguments):
        name, equals, value = words[0].partition("=")
        try:
            values = [value] if equals else words[1:]
            written.append(_argument(name.lstrip("-").replace("-", "_"), values, root))
            given.append(" ".join(words))
        except ConfigError as error:
            faults.append(f"{name}: {error}")
    if written:
        faults.insert(0, f"settings have the form key=value: write {' '.join(written)} instead of {' '.join(given)}")
    if faults:
        raise ConfigError(faults)


def _unknown_options(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Yield each option that Hydra does not have, followed by its values if they are separate arguments."""
    remaining = list(arguments)
    while remaining:
        words = [remaining.pop(0)]
        name, equals, _ = words[0].partition("=")
        if not re.match(r"-{1,2}[A-Za-z]", name):
            continue
        while remaining and not equals and not re.match(r"-{1,2}[A-Za-z]|[+~]*[\w.@/]+=", remaining[0]):
            words.append(remaining.pop(0))
        if name not in HYDRA_OPTIONS:
            yield words


def _argument(name: str, values: Sequence[str], root: str) -> str:
    """Return the argument for an option. Raises ConfigError if there is none; the message explains why."""
    value = _value(values)
    key = _key(name, value, root)
    if key is None and name.startswith("no_") and not values:  # transformers' parser has --no_bf16 for --bf16
        key, value = _key(name[3:], "false", root), "false"
    if key is None:
        raise ConfigError(f"there is no such option; {key_hint(name, known_keys({}, ROOTS[root]))}")
    if "=" in key and " " not in key:  # the key contains the value
        return shlex.quote(key)
    group, _, key = key.rpartition(" ")
    argument = shlex.quote(f"{key}={value}") if is_valid(f"{key}={value}") else quoted(key, value)
    return f"{group} {argument}".lstrip()


def _value(values: Sequence[str]) -> str:
    if len(values) != 1:
        return f"[{','.join(values)}]" if values else "true"
    try:
        content = json.loads(values[0])
    except ValueError:
        return values[0]
    return as_override(content) if isinstance(content, Mapping) else values[0]


def _key(name: str, value: str, root: str) -> str | None:
    """Return the key for an option, or None if no key is known. Raises ConfigError if the option is not supported or if
    it must be replaced with more than a key.
    """
    keys = hints(ROOTS[root])
    if name in ("experiment", "debug") and value in choices_of(name):
        return f"+{name}"
    if (CONFIGS / name).is_dir() and name in keys:  # --model <path>, --model internvl3_1b
        is_choice = value in choices_of(name)
        path = {"model": "model=any model.path", "data": "data=pairs data.path"}
        return name if is_choice or name not in path else path[name]
    if name in OTHER_NAMES and _has_section(OTHER_NAMES[name], keys):
        return OTHER_NAMES[name]
    if name in keys and not (isinstance(keys[name], type) and issubclass(keys[name], Section)):
        return name
    refused = {"trainer": REFUSED_FIELDS, "peft": PEFT_REFUSED, "model.quantization": {}}
    for section, sources in {"trainer": TRAINER, "peft": PEFT, "model.quantization": QUANTIZATION}.items():
        if name in field_names(sources) and name != "peft" and _has_section(section, keys):
            if name in refused[section]:
                raise ConfigError(f"{section}.{name} is not supported: {refused[section][name]}")
            return f"{section}.{name}"
    advice = {**PEFT_RENAMED, **RENAMED}.get(name)
    if advice is not None and not re.fullmatch(r"[a-z_0-9.]+", advice):
        raise ConfigError(f"use {advice}")
    if advice is None:
        same = [key for key in known_keys({}, ROOTS[root]) if key.rpartition(".")[2] == name]
        advice = same[0] if len(same) == 1 else None
    return advice if advice is not None and _has_section(advice, keys) else None


def _has_section(key: str, keys: Collection[str]) -> bool:
    return key.rpartition(" ")[2].lstrip("+").partition(".")[0] in {*keys, "experiment"}
