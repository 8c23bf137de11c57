"""Record changed options of a benchmark in its data version."""

from __future__ import annotations

import re

from scramble.storage.hashing import content_key


def changed_options(**options: tuple[object, object]) -> str:
    """Return the end of a data version, which names the options whose value is not the default, for example
    ``-kind=open``. Each option is given as (value, default). Texts such as prompts are replaced with a hash.
    """
    changed = {name: value for name, (value, default) in options.items() if value != default}
    return "".join(f"-{name}={_short(str(value))}" for name, value in changed.items())


def _short(text: str) -> str:
    return text if re.fullmatch(r"[\w.]{1,40}", text) else content_key(text)[:8]
