"""Saves and loads trained weights, and computes digests that identify weights, adapters and processors."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scramble.models import VLM, ModelError
from scramble.storage.files import read_json, write_json
from scramble.storage.hashing import content_key, file_key

BASE_FILE = "base.json"


def is_adapter_weight(name: str) -> bool:
    """Return whether a parameter belongs to an adapter: LoRA weights, or copies of modules in ``modules_to_save``."""
    return "lora_" in name or ".modules_to_save." in name


def weights_key(model: nn.Module) -> str:
    """Return the digest of an unwrapped model's base weights. An adapter in the layers does not change the digest."""
    return _digest((n, p) for n, p in model.state_dict().items() if not is_adapter_weight(n))


def adapter_key(model: nn.Module) -> str | None:
    """Return the digest of the adapter in an unwrapped model's layers, or None if it has no adapter."""
    adapter = {n: p for n, p in model.state_dict().items() if is_adapter_weight(n)}
    return _digest(adapter.items()) if adapter else None


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    # PEFT renames the base model's weights in wrapped modules.
    renamed = ((n.replace(".base_layer", "").replace(".original_module", ""), t) for n, t in tensors)
    for name, tensor in sorted(renamed, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()[:16]


def processor_key(vlm: VLM) -> str:
    """Return the digest of everything that determines a model's inputs: processor, chat template and image options."""
    with tempfile.TemporaryDirectory() as folder:
        vlm.processor.save_pretrained(folder)
        return content_key([file_key(folder), repr(vlm.family.image_options)])


def is_sharded(model: nn.Module) -> bool:
    """Return whether this process holds only a shard of the weights (FSDP2, ZeRO-3)."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in model.parameters())


def gathered(vlm: VLM) -> dict[str, torch.Tensor] | None:
    """Return the full weights for :func:`save_trained` if the weights are sharded (FSDP2, ZeRO-3), else None.

    Every process must call this collective operation.
    """
    model: nn.Module = vlm.model
    if not is_sharded(model):
        return None
    weights = model.state_dict(keep_vars=True)
    state = {name: t for name, t in weights.items() if not vlm.has_adapter or is_adapter_weight(name)}
    if any(hasattr(tensor, "ds_id") for tensor in state.values()):
        import deepspeed

        with deepspeed.zero.GatheredParameters([t for t in state.values() if hasattr(t, "ds_id")]):
            return _copies(state)
    return _copies(state)


def _copies(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return full tensors on the CPU. Tied weights remain one tensor, so that they are written once."""
    from torch.distributed.tensor import DTensor

    whole: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if id(tensor) not in whole:
            parts = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            whole[id(tensor)] = parts.detach().cpu().clone()
    return {name: whole[id(tensor)] for name, tensor in state.items()}


def save_trained(vlm: VLM, folder: str | Path, base_key: str, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter and a record of its base model, or the whole model and its processor. The weights are written
    as safetensors.

    If the model's weights are sharded, ``state`` contains the full weights; see :func:`gathered`.
    """
    folder = Path(folder)
    vlm.model.save_pretrained(folder, state_dict=state)
    if not vlm.has_adapter:
        vlm.processor.save_pretrained(folder)
    else:
        base = {"path": vlm.path, "revision": vlm.revision, "weights": base_key}
        write_json(folder / BASE_FILE, base)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def load_trained(vlm: VLM, folder: str | Path) -> None:
    """Load weights written by :func:`save_trained` into the model in place."""
    if not vlm.has_adapter:
        model: Any = vlm.model
        with _not_sharded():
            saved = type(model).from_pretrained(folder, dtype=vlm.backbone.head.weight.dtype)
        vlm.model.load_state_dict(saved.state_dict())
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result: Any = set_peft_model_state_dict(vlm.model, load_file(Path(folder) / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise ModelError(
            f"{folder}: the adapter has weights that the model lacks, such as {result.unexpected_keys[0]}: set "
            "model.path to the adapter's base model"
        )


@contextmanager
def _not_sharded() -> Iterator[None]:
    """Within the block, load whole weights under ZeRO-3, where ``from_pretrained`` would otherwise shard the
    weights.
    """
    from transformers.integrations import deepspeed

    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def check_base(adapter: str | Path, base_key: str) -> None:
    """Raise ModelError if an adapter folder records that the adapter was trained on other weights."""
    record = Path(adapter) / BASE_FILE
    if record.exists() and (base := read_json(record))["weights"] != base_key:
        raise ModelError(
            f"adapter {adapter} was trained on {base['path']} (weights {base['weights']}), not on this model (weights "
            f"{base_key}): set model.path to the adapter's base model"
        )


def replace_result(
    vlm: VLM,
    folder: Path,
    base_key: str,
    state: dict[str, torch.Tensor] | None = None,
    saved: Path | None = None,
) -> None:
    """Replace an earlier result with the finished result.

    ``folder`` never contains an incomplete result, and the earlier result is removed only after the new result is
    complete. ``state`` is as in :func:`save_trained`. If ``saved`` is given, the result is a copy of this folder, which
    ``save_trained`` has written.
    """
    working, earlier = (folder.with_name(f".{folder.name}{suffix}") for suffix in ("", ".earlier"))
    shutil.rmtree(working, ignore_errors=True)
    if saved is not None:
        shutil.copytree(saved, working)
    else:
        save_trained(vlm, working, base_key, state)
    if folder.exists():
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    working.rename(folder)
    shutil.rmtree(earlier, ignore_errors=True)
