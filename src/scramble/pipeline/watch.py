"""Shows the progress of a run on the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def watch(run: str | Path, *, once: bool = False, seconds: float = 2.0) -> None:
    """Show the progress of all arms of a run until none is active or Ctrl-C is pressed. Nothing is written.

    Args:
        run: the run folder.
        once: whether to print one frame and return, as is always done without a terminal.
        seconds: time between two readings of the folder.
    """
    from rich.console import Console
    from rich.live import Live

    from scramble.reporting.watch import frame, read_progress

    run = Path(run)
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else 140)
    arms = read_progress(run)
    if once or not is_terminal or not any(arm.is_active for arm in arms):
        console.print(frame(run, arms, console.width))
        return
    try:
        with Live(frame(run, arms, console.width), console=console, auto_refresh=False) as live:
            while any(arm.is_active for arm in arms):
                time.sleep(seconds)
                arms = read_progress(run)
                live.update(frame(run, arms, console.width), refresh=True)
    except KeyboardInterrupt:  # the run continues
        pass
