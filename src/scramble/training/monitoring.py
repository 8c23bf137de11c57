"""Measures memory use for the log, and looks up the device's peak throughput."""

from __future__ import annotations

import os

import torch

# Dense bfloat16 TFLOP/s (V100: float16) by a part of the GPU's name, from the vendors' data sheets. The first match is
# used.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "V100": 125.0,
}


def peak_flops(device: torch.device, tflops: float | None = None) -> float | None:
    """Return the peak FLOP/s of a device, from ``tflops`` if given, else from the GPU's name. Return None for an
    unknown GPU and for other devices.
    """
    if tflops is not None:
        return tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def memory_use(device: torch.device) -> dict[str, float]:
    """Return the resident memory of this process and the peak GPU memory since the last call, in GiB."""
    memory = {}
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        memory["memory/resident_gib"] = pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    if device.type == "cuda":
        memory["memory/gpu_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return memory
