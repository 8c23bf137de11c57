"""Passes the tensors of a batch from a ``DataLoader`` worker to the main process.

torch passes each tensor in a new shared-memory segment. Small tensors are pickled by value instead, because the
handshake for a segment takes longer than the copy. A handshake takes about a millisecond, and a batch
contains about a dozen index tensors. Pixels are copied to segments that the worker reuses, because the page faults of a
new segment take longer than the copy. Page faults take 2 µs per page of 4 kB in a virtual machine, which is 15 ms for
an image of 13 InternVL tiles (31 MB).
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

BY_VALUE_BYTES = 1 << 18  # larger tensors are passed in shared memory


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """Describes a tensor in a shared-memory segment.

    The worker reuses the segment after the main process has freed the tensor.

    Attributes:
        segment: the tensor's bytes in shared memory, and a last byte that is 1 until the tensor is freed.
        dtype: dtype of the tensor.
        shape: shape of the tensor.
    """

    segment: Tensor
    dtype: torch.dtype
    shape: torch.Size

    def tensor(self) -> Tensor:
        """Return the tensor.

        The tensor uses the segment's memory. The worker can reuse the segment once no tensor uses its memory.
        """
        num_bytes = self.dtype.itemsize * self.shape.numel()
        # The tensor's storage references this array, which is therefore freed with the last view of the tensor.
        array = self.segment.numpy()[:num_bytes]
        weakref.finalize(array, _release, self.segment, os.getpid()).atexit = False
        return torch.from_numpy(array).view(self.dtype).view(self.shape)


def _release(segment: Tensor, process: int) -> None:
    if os.getpid() == process:  # not in a forked process, which also frees its own copies of objects
        segment[-1] = 0


@dataclass(slots=True)
class Segments:
    """Manages the shared-memory segments of a worker.

    Their total size is about the total size of the tensors that exist at the same time.
    """

    segments: list[Tensor] = field(default_factory=list)

    def share(self, tensor: Tensor) -> SharedTensor:
        """Copy a tensor to the smallest free segment that is large enough, or to a new segment."""
        source = tensor.contiguous().view(-1).view(torch.uint8)
        free = [s for s in self.segments if not s[-1] and len(s) > len(source)]
        segment = min(free, key=len, default=None)
        if segment is None:
            # All free segments are too small. Drop them, because the new segment replaces them.
            self.segments = [s for s in self.segments if s[-1]]
            segment = torch.empty(len(source) + 1, dtype=torch.uint8).share_memory_()
            self.segments.append(segment)
        segment[: len(source)] = source
        segment[-1] = 1
        return SharedTensor(segment, tensor.dtype, tensor.shape)


_SEGMENTS = Segments()


def pickled(tensor: Tensor) -> Tensor | np.ndarray | SharedTensor:
    """Convert a tensor to the form in which it is pickled. :func:`unpickled` is the inverse."""
    if tensor.requires_grad or tensor.device.type != "cpu":
        return tensor
    if tensor.numel() * tensor.element_size() > BY_VALUE_BYTES:
        return tensor if get_worker_info() is None else _SEGMENTS.share(tensor)
    return tensor if tensor.dtype == torch.bfloat16 else tensor.numpy()


def unpickled(value: Tensor | np.ndarray | SharedTensor) -> Tensor:
    """Convert the result of :func:`pickled` back to the tensor."""
    if isinstance(value, SharedTensor):
        return value.tensor()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
