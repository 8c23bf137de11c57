"""Runs ``train`` with the JSON options in its argument. ``kill_at`` kills the process with SIGKILL at that step, and
``file_limit`` limits the size of files in bytes.

It is a separate script, so that tests can kill it and start it in several processes with ``accelerate launch``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from itertools import count
from typing import Any

from scramble.models import load_vlm
from scramble.training.callbacks import ScoreBenchmarks
from tests.training.settings import fit


def shard_on_cpu() -> None:
    """Let accelerate shard weights on the CPU. torch supports that, but accelerate disables FSDP without a GPU."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def patched(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP

    AcceleratorState.__init__ = patched


def main() -> None:
    options = json.loads(sys.argv[1])
    kill_at, file_limit = options.pop("kill_at", None), options.pop("file_limit", None)
    if file_limit is not None:  # simulates a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if options.pop("share_out", False):
        shard_on_cpu()
    calls = count()

    def evaluate(vlm: Any) -> Mapping[str, float]:
        if next(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    if kill_at is not None:
        options |= {"callbacks": [ScoreBenchmarks(evaluate)], "eval_steps": 1}
    summary = fit(load_vlm(options.pop("model")), options.pop("data"), options.pop("out"), **options)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
