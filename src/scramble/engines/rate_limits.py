"""Parses a server's rate-limit headers, and pauses all requests of a client for as long as the server asks."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|h|d)"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in ``Retry-After`` (number or HTTP date) or ``retry-after-ms``.

    The result is None if neither header has a valid value.
    """
    if milliseconds := headers.get("retry-after-ms"):
        try:
            return max(0.0, float(milliseconds) / 1e3)
        except ValueError:
            pass
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def seconds_until_reset(headers: Mapping[str, str]) -> float:
    """Return the seconds until all exhausted rate limits are reset, or 0 if no limit is exhausted.

    A limit is exhausted if its header ``x-ratelimit-remaining-*`` is 0.
    """
    wait = 0.0
    for what in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{what}") == "0":
            wait = max(wait, duration(headers.get(f"x-ratelimit-reset-{what}", "")))
    return wait


def duration(text: str) -> float:
    """Convert a duration (``"6m0s"``, ``"20ms"``, ``"1.5s"`` or a bare number) to seconds, and any other text to 0."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    if not re.fullmatch(rf"({_DURATION})+", text):
        return 0.0
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(_DURATION, text))


class Gate:
    """Blocks all requests of a client during a pause that the server has requested."""

    def __init__(self) -> None:
        self._open_at = 0.0

    def hold(self, seconds: float) -> None:
        """Close the gate for at least ``seconds`` from now."""
        self._open_at = max(self._open_at, time.monotonic() + seconds)

    async def wait(self) -> None:
        """Wait until the gate is open and then for a random delay, so that requests do not all continue at once."""
        while (left := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(left + random.uniform(0, 0.1 * min(left, 10)))
