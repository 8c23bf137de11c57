"""What a job will need, before anything heavy is loaded: parameters, memory per GPU, disk, access.

Memory is an estimate from the config alone, meant to be within a quarter of what a job takes. It counts, per GPU:
weights; for every trained parameter its gradient and AdamW's two moments; the activations that the backward pass keeps
(one hidden state a layer with gradient checkpointing, all intermediate results of every layer without); the attention
mask; a chunk of logits; what CUDA and its allocator take.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scramble.models.family import Family, ModelError
from scramble.models.hub import is_folder
from scramble.models.loading import identify, load_config, quiet

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.53  # 4 bits a weight and doubly quantised scales
OVERHEAD = 1.5 * GIB  # CUDA context, kernels' workspaces, logits of a chunk
FRAGMENTATION = 1.05


@dataclass(frozen=True, slots=True)
class Preflight:
    """A job's needs. Sizes in bytes.

    Attributes:
        path, family: the model.
        parameters: of the model; ``trained`` of them (or of its adapters) are trained.
        memory: parts of the memory of one GPU.
        available: memory of the smallest GPU, or of the machine where there is none; None if unknown.
        download: what is still to be fetched; ``disk_free`` what the cache's disk has left.
        gated: whether the hub asks to accept terms first; None if it could not be asked or the model is a folder.
        advice: what would make the job smaller, most useful first.
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
    advice: tuple[str, ...] = field(default=())

    @property
    def total(self) -> float:
        """Estimated memory of one GPU in bytes."""
        return sum(self.memory.values()) * FRAGMENTATION

    def line(self) -> str:
        """All of it in one line."""
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.memory.items() if size >= 0.05 * GIB)
        share = "" if self.available is None else f" of {self.available / GIB:.0f}"
        if is_folder(self.path):
            source = "in a folder"
        else:
            gate = {True: ", gated", False: ", not gated", None: ""}[self.gated]
            source = f"{self.download / GIB:.1f} GiB to download, {self.disk_free / GIB:.0f} GiB of disk free{gate}"
        return (
            f"{self.path} ({self.family}): {_amount(self.parameters)} parameters, {_amount(self.trained)} trained; "
            f"about {self.total / GIB:.1f}{share} GiB of memory ({parts}); {source}"
        )

    def check(self) -> None:
        """Raises ModelError with advice when the job cannot fit."""
        if self.available is not None and self.total > self.available:
            raise ModelError(
                f"{self.path} needs about {self.total / GIB:.1f} GiB of memory and finds {self.available / GIB:.1f}: "
                f"try {'; '.join(self.advice)}"
            )
        if self.download > self.disk_free:
            raise ModelError(
                f"the download of {self.path} needs {self.download / GIB:.1f} GiB of disk and finds "
                f"{self.disk_free / GIB:.1f}: set HF_HOME to a folder on a larger disk"
            )


def preflight(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    quantization: Mapping[str, Any] | None = None,
    train: bool = True,
    lora_r: int | None = 32,
    lora_targets: str | None = None,
    train_vision: bool = False,
    batch_tokens: int = 4096,
    row_tokens: int | None = None,
    gradient_checkpointing: bool = False,
    available: float | None = None,
) -> Preflight:
    """What a job with this model needs; only its config is read (and, with a connection, its page on the hub).

    Args:
        path, revision, dtype, quantization: see :func:`scramble.models.load_vlm`.
        train: False for scoring and chat.
        lora_r: rank of LoRA; None trains the whole language model.
        lora_targets: default the family's.
        train_vision: tower and projector too (without LoRA).
        batch_tokens: tokens in one forward pass of one GPU, image tokens and padding included.
        row_tokens: of these, tokens in one row; default all.
        gradient_checkpointing: whether layers are recomputed in the backward pass.
        available: bytes of memory per GPU; default what this machine has.

    Raises:
        ModelError: as :func:`scramble.models.load_vlm` does for ids and configs.
    """
    family = identify(path, revision)
    config = load_config(path, revision)
    model = empty_model(config)
    parameters = _count(model)
    saved_bytes = BYTES[str(config.dtype or torch.float32).removeprefix("torch.")]
    weight_bytes = saved_bytes if dtype == "auto" else BYTES[dtype]
    layers = _linear(model, family.lora_targets)
    adapted = _linear(model, lora_targets) if lora_targets else layers
    quantised = sum(m.weight.numel() for m in layers) if quantization else 0
    quantised_bytes = 1.0 if (quantization or {}).get("load_in_8bit") else NF4_BYTES
    memory: dict[str, float] = {"weights": (parameters - quantised) * weight_bytes + quantised * quantised_bytes}
    trained = 0
    if train:
        trained, held = _trained(model, family, adapted, lora_r, train_vision, weight_bytes)
        memory["gradients and optimizer"] = held
    text = config.get_text_config()
    memory |= _activations(
        text, layers, batch_tokens, row_tokens or batch_tokens, weight_bytes, train, gradient_checkpointing
    )
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
        disk_free=float(shutil.disk_usage(_existing(_cache_folder())).free),
        gated=gated,
        advice=_advice(train, lora_r, bool(quantization), gradient_checkpointing, weight_bytes),
    )


def empty_model(config: Any) -> nn.Module:
    """The model of a config without weights (meta device)."""
    from transformers import AutoModelForImageTextToText

    with quiet(), torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def memory_per_device() -> float | None:
    """Bytes of the smallest GPU, of the machine's memory where there is none, None where neither is known."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return float(min(torch.cuda.get_device_properties(n).total_memory for n in range(count)))
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def _trained(
    model: nn.Module,
    family: Family,
    adapted: list[nn.Linear],
    lora_r: int | None,
    train_vision: bool,
    weight_bytes: int,
) -> tuple[int, float]:
    """Trained parameters, and the bytes of what comes with them."""
    if lora_r is not None:
        count = sum(lora_r * (m.in_features + m.out_features) for m in adapted)
        return count, count * 4 * 4.0  # PEFT keeps adapters in float32: weight, gradient, two moments
    count = _count(model)
    if not train_vision:
        count -= sum(_count(model.get_submodule(path)) for path in family.vision)
    return count, count * weight_bytes * 3.0  # gradient and two moments in the weights' own type


def _activations(
    text: Any,
    layers: list[nn.Linear],
    batch_tokens: int,
    row_tokens: int,
    weight_bytes: int,
    train: bool,
    gradient_checkpointing: bool,
) -> dict[str, float]:
    width, depth = text.hidden_size, text.num_hidden_layers
    # Values a token that the backward pass needs of one layer: what its linear layers put out, the widest input (of the
    # MLP's last layer), and about eight hidden states (norms, residuals, attention).
    layer = sum(m.out_features for m in layers) / depth + max(m.in_features for m in layers) + 8 * width
    if experts := getattr(text, "num_experts_per_tok", None):  # not linear layers of their own
        layer += 3 * experts * text.moe_intermediate_size
    tokens = batch_tokens * weight_bytes
    if not train:
        kept = 2.0 * tokens * layer
    elif gradient_checkpointing:
        kept = tokens * (depth * width + 2.0 * layer)
    else:
        kept = float(tokens * layer * depth)
    rows = max(1, batch_tokens // row_tokens)
    return {"activations": kept, "attention mask": rows * row_tokens**2 * (1.0 + weight_bytes)}


def _on_the_hub(path: str, revision: str | None, size: float) -> tuple[bool | None, float]:
    """Whether the hub asks to accept terms (None: not known), and the bytes still to be fetched."""
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


def _advice(
    train: bool, lora_r: int | None, quantized: bool, gradient_checkpointing: bool, weight_bytes: int
) -> tuple[str, ...]:
    ways = []
    if weight_bytes == 4:
        ways.append("model.dtype=bfloat16")
    if train and not gradient_checkpointing:
        ways.append("trainer.gradient_checkpointing=true")
    if train and lora_r is None:
        ways.append("LoRA instead of all weights (peft.r=32)")
    ways.append("fewer pairs per pass (trainer.per_device_train_batch_size) or image tiles (model.max_tiles)")
    if not quantized:
        ways.append("model.quantization.load_in_4bit=true")
    ways.append("a smaller model")
    return tuple(ways)


def _linear(model: nn.Module, pattern: str) -> list[nn.Linear]:
    return [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(pattern, n)]


def _amount(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _cache_folder() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
