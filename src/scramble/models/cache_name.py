"""Defines the name of the argument that passes the key-value cache. transformers 5.24 renamed it to ``cache``."""

from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
"""Name of the key-value cache as an argument and output of ``forward`` in the installed version of transformers."""

# Version 0 is in the past, so the decorator only renames the argument and does not warn.
accepts_past_key_values = deprecate_kwarg("past_key_values", version="0", new_name="cache")
"""Decorator for methods with an argument ``cache``, which callers can also pass as ``past_key_values``."""


def cache_argument(cache: object) -> dict[str, Any]:
    """Return the cache as a keyword argument of the installed version of transformers."""
    return {CACHE: cache}
