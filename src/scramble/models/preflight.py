"""Estimates a training job's memory per GPU, download size and disk space before weights are loaded.

The memory estimate is based on the config and should be within 25 % of the memory that the job uses. For each GPU, it
includes:

* the weights,
* the gradient and AdamW's two moments of every trained parameter,
* the activations that are stored for the backward pass: one hidden state per layer with gradient checkpointing,
  otherwise all intermediate results of every layer,
* the attention mask and a chunk of logits,
* the memory that CUDA and its allocator use.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scramble.models.family import Family, ModelError
from scramble.models.hub import is_folder
from scramble.models.loading import empty_model, identify, load_config
from scramble.models.vlm import VLM

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.53  # 4 bits per weight and doubly quantised scales
OVERHEAD = 1.5 * GIB  # CUDA context, workspaces of kernels, a chunk of logits
FRAGMENTATION = 1.05


@dataclass(frozen=True, slots=True)
class Preflight:
    """Holds the estimated requirements of a training job. Sizes are in bytes.

    Attributes:
        path, family: hub id or folder of the model, and name of its family.
        parameters, trained: number of parameters of the model, and number of trained parameters (with LoRA, the
            parameters of the adapter).
        memory: memory needed on one GPU, by purpose.
        available: memory of the smallest GPU, or of the machine if there is no GPU; None if unknown.
        download, disk_free: size of the remaining download, and free space on the disk of the cache.
        gated: whether users must accept terms on the hub; None if unknown or if the model is a folder.
        advice: settings that reduce memory, most useful first.
    """

    path: str
    family: str
    parameters: int
    trained: int
    memory: dict[str, float]
    available: float | None
    download: float
    disk_free: float
    gated: bool | None
    advice: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Estimated memory use per GPU in bytes."""
        return sum(self.memory.values()) * FRAGMENTATION

    def line(self) -> str:
        """Return a one-line summary."""
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.memory.items() if size >= 0.05 * GIB)
        share = "" if self.available is None else f" of {self.available / GIB:.0f}"
        if is_folder(self.path):
            source = "in a local folder"
        else:
            gate = {True: ", gated", False: ", not gated", None: ""}[self.gated]
            source = f"{self.download / GIB:.1f} GiB to download, {self.disk_free / GIB:.0f} GiB of disk free{gate}"
        return (
            f"{self.path} ({self.family}): {_amount(self.parameters)} parameters, {_amount(self.trained)} trained; "
            f"about {self.total / GIB:.1f}{share} GiB of memory ({parts}); {source}"
        )

    def check(self) -> None:
        """Raise ModelError with advice if the memory or the disk space is too small."""
        if self.available is not None and self.total > self.available:
            raise ModelError(
                f"{self.path} needs about {self.total / GIB:.1f} GiB of memory, but only "
                f"{self.available / GIB:.1f} GiB are available: try {'; '.join(self.advice)}"
            )
        if self.download > self.disk_free:
            raise ModelError(
                f"the download of {self.path} needs {self.download / GIB:.1f} GiB of disk space, but only "
                f"{self.disk_free / GIB:.1f} GiB are free: set HF_HOME to a folder on a larger disk"
            )


def preflight(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    quantization: Mapping[str, Any] | None = None,
    num_adapter_weights: Callable[[VLM], int] | None = None,
    train_vision: bool = False,
    batch_tokens: int = 4096,
    gradient_checkpointing: bool = False,
    available: float | None = None,
) -> Preflight:
    """Estimate the requirements of a training job from the model's config and, with a connection, the hub's metadata.

    Args:
        path, revision, dtype, quantization: see :func:`scramble.models.load_vlm`.
        num_adapter_weights: a function that returns the number of trained weights of an adapter, given the model
            without weights (:func:`scramble.training.trainable.num_new_weights`); None means that the whole language
            model is trained.
        train_vision: whether the tower and the projector are also trained (without LoRA).
        batch_tokens: tokens per forward pass and GPU, including image tokens and padding.
        gradient_checkpointing: whether layers are recomputed in the backward pass.
        available: bytes of memory per GPU; None uses :func:`memory_per_device`.

    Raises:
        ModelError: an id or a config is invalid (see :func:`scramble.models.load_vlm`), or the adapter does not match
            the model.
    """
    family = identify(path, revision)
    config = load_config(path, revision)
    model = empty_model(config)
    parameters = _count(model)
    saved_bytes = BYTES[str(config.dtype or torch.float32).removeprefix("torch.")]
    weight_bytes = saved_bytes if dtype == "auto" else BYTES[dtype]
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    layers = [module for name, module in linear.items() if re.fullmatch(family.lora_targets, name)]
    quantised = sum(m.weight.numel() for m in layers) if quantization else 0
    quantised_bytes = 1.0 if (quantization or {}).get("load_in_8bit") else NF4_BYTES
    memory: dict[str, float] = {"weights": (parameters - quantised) * weight_bytes + quantised * quantised_bytes}
    if num_adapter_weights is None:
        trained = _num_trained(model, family, train_vision)
        memory["gradients and optimizer"] = trained * weight_bytes * 3.0  # gradient and two moments, in the dtype
    else:
        trained = num_adapter_weights(VLM(model, None, family, path, revision))
        memory["gradients and optimizer"] = trained * 4 * 4.0  # float32 in PEFT: weight, gradient, two moments
    text = config.get_text_config()
    memory["activations"] = _activations(text, layers, batch_tokens * weight_bytes, gradient_checkpointing)
    memory["attention mask"] = batch_tokens**2 * (1.0 + weight_bytes)
    memory["overhead"] = OVERHEAD
    gated, download = _on_the_hub(path, revision, parameters * saved_bytes)
    return Preflight(
        path=path,
        family=family.name,
        parameters=parameters,
        trained=trained,
        memory=memory,
        available=memory_per_device() if available is None else available,
        download=download,
        disk_free=_free_disk(),
        gated=gated,
        advice=_advice(num_adapter_weights is not None, bool(quantization), gradient_checkpointing, weight_bytes),
    )


def memory_per_device() -> float | None:
    """Return the memory in bytes of the smallest GPU, or of the machine if there is no GPU. Return None if the memory
    is unknown.
    """
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return float(min(torch.cuda.get_device_properties(n).total_memory for n in range(count)))
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def _num_trained(model: nn.Module, family: Family, train_vision: bool) -> int:
    """Return the number of trained parameters of a training job without an adapter."""
    frozen = () if train_vision else family.vision
    return _count(model) - sum(_count(model.get_submodule(path)) for path in frozen)


def _activations(text: Any, layers: list[nn.Linear], batch_bytes: int, gradient_checkpointing: bool) -> float:
    """Return the bytes of the stored activations. ``batch_bytes`` is the number of tokens in the batch times
    the bytes per value.
    """
    width, depth = text.hidden_size, text.num_hidden_layers
    # Values per token that the backward pass needs from one layer: the outputs of its linear layers, the widest input
    # (the input of the MLP's last layer), and about eight hidden states (norms, residuals, attention).
    layer = sum(m.out_features for m in layers) / depth + max(m.in_features for m in layers) + 8 * width
    if experts := getattr(text, "num_experts_per_tok", None):  # experts are not separate linear layers
        layer += 3 * experts * text.moe_intermediate_size
    if gradient_checkpointing:
        return batch_bytes * (depth * width + 2.0 * layer)
    return float(batch_bytes * layer * depth)


def _on_the_hub(path: str, revision: str | None, size: float) -> tuple[bool | None, float]:
    """Return whether users must accept terms on the hub (None if unknown), and the bytes still to be downloaded."""
    if is_folder(path):
        return None, 0.0
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(path, revision=revision, local_files_only=True))
        if any(folder.glob("*.safetensors")):
            return None, 0.0
    except LocalEntryNotFoundError:
        pass
    try:
        info = HfApi().model_info(path, revision=revision, files_metadata=True, timeout=10)
    except (HTTPError, OSError):
        return None, size
    weights = sum(f.size or 0 for f in info.siblings or () if f.rfilename.endswith(".safetensors"))
    return bool(info.gated), float(weights or size)


def _advice(has_adapter: bool, quantized: bool, gradient_checkpointing: bool, weight_bytes: int) -> tuple[str, ...]:
    ways = []
    if weight_bytes == 4:
        ways.append("model.dtype=bfloat16")
    if not gradient_checkpointing:
        ways.append("trainer.gradient_checkpointing=true")
    if not has_adapter:
        ways.append("LoRA instead of all weights (peft.r=32)")
    ways.append(
        "fewer pairs per forward pass (trainer.per_device_train_batch_size) or fewer image tiles (model.max_tiles)"
    )
    if not quantized:
        ways.append("model.quantization.load_in_4bit=true")
    ways.append("a smaller model")
    return tuple(ways)


def _amount(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _free_disk() -> float:
    """Return the free bytes on the disk of the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    return float(shutil.disk_usage(folder).free)
