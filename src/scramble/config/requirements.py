"""Checks what a command needs on this machine before its work starts, such as API keys and spaCy pipelines."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scramble.field_checks import join
from scramble.storage.files import STAGE_FILE


def key_faults(value: Any, at: str) -> Iterator[str]:
    """Yield an error message for each ``api_key_env`` that names an environment variable without a value."""
    for name, item in value.items() if isinstance(value, Mapping) else ():
        if name == "api_key_env" and item is not None and not os.environ.get(str(item)):
            yield f"{join(at, name)}={item}: this environment variable has no value: set it to the API key"
        yield from key_faults(item, join(at, name))


def data_faults(folder: Path, pairs: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each condition of pair generation that this machine does not meet. If the folder
    already contains a data set, nothing is checked.
    """
    if (folder / STAGE_FILE).is_file():
        return
    yield from key_faults(pairs, "pairs")
    benchmarks = pairs.get("exclude_benchmarks")
    for name, place in benchmarks.items() if isinstance(benchmarks, Mapping) else ():
        if place is not None and not Path(place).exists():
            yield f"pairs.exclude_benchmarks.{name}={place} does not exist: set it to an existing file or folder"
    pipeline = (pairs.get("options") or {}).get("pipeline")
    if pairs["method"] != "rules" or not pipeline or Path(pipeline).exists():
        return
    if not pipeline.isidentifier() or importlib.util.find_spec(pipeline) is None:
        yield (
            f"pairs.options.pipeline={pipeline} is not installed: run `python -m spacy download en_core_web_sm`, "
            "or set the key to an installed spaCy pipeline or its folder"
        )


def wandb_faults(report_to: str | Sequence[str]) -> Iterator[str]:
    """Yield an error message if a run reports to Weights & Biases online and no API key is configured.

    Without this check, wandb would ask for the key, or fail only after the data has been prepared.
    """
    named = [report_to] if isinstance(report_to, str) else report_to
    if "wandb" not in named or os.environ.get("WANDB_API_KEY"):
        return
    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        login = file.is_file() and netrc.netrc(str(file)).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        login = None
    if not login:
        yield (
            "trainer.report_to=[wandb] needs an API key: run `wandb login`, or set the environment variable "
            "WANDB_API_KEY (or WANDB_MODE=offline)"
        )
