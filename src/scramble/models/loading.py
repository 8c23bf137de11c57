"""Loads a released or local model with its processor and, optionally, an adapter."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scramble.models.families.registry import check_version, family_of
from scramble.models.family import Family, ModelError
from scramble.models.hub import (
    adapter_weights,
    check_adapter_config,
    check_weight_files,
    explain,
    is_folder,
    one_line,
    read_config,
    tensor_names,
    unsupported,
)
from scramble.models.images import ImageOptions
from scramble.models.vlm import VLM
from scramble.project import shipped

log = logging.getLogger(__name__)

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("sdpa", "eager", "flex_attention", "flash_attention_2")


def load_vlm(
    path: str | Path,
    *,
    family: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    device: str | None = None,
    adapter: str | Path | None = None,
    quantization: Mapping[str, Any] | None = None,
    max_tiles: int | None = None,
    max_pixels: int | None = None,
    square_padding: bool = False,
    resize: int | None = None,
) -> VLM:
    """Load a model by hub id or folder, in evaluation mode. No code from a repository is ever run.

    Args:
        path: hub id or local folder.
        family: name of the family that the model must belong to; None accepts any family.
        revision: branch, tag or commit of the hub id.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        attn_implementation: ``sdpa``, ``eager``, ``flex_attention`` or ``flash_attention_2`` (only for chat and for
            training with TRL, because it does not support the masks of tries).
        device: ``cpu`` (or None), ``cuda``, ``cuda:N``, or ``auto``, which distributes the layers over the available
            devices.
        adapter: folder or hub id of a LoRA adapter to load.
        quantization: fields of :class:`transformers.BitsAndBytesConfig` (for QLoRA; needs a GPU and bitsandbytes).
        max_tiles: maximum number of tiles per image, for families that divide images into tiles.
        max_pixels: maximum number of pixels per image, for families without a fixed image size (Qwen-VL, GLM, Gemma 4).
        square_padding: first pad images to a square with the mean colour.
        resize: first stretch images to a square with this side in pixels.

    Raises:
        ModelError: the model cannot be loaded. The message names the cause and says how to fix it.

    Examples:
        >>> import scramble
        >>> vlm = scramble.load_vlm("data/tiny_internvl", device="cpu")
        >>> vlm.family.name, vlm.has_adapter
        ('internvl', False)
    """
    path = shipped(os.path.expanduser(path))
    adapter = None if adapter is None else os.path.expanduser(adapter)
    _check_arguments(dtype, attn_implementation, device, quantization)
    kind = identify(path, revision)
    if family not in (None, kind.name):
        raise ModelError(
            f"{path} is of family {kind.name}, not {family}: set model.family={kind.name}, or set model.path to a "
            f"model of family {family}"
        )
    if not kind.has_trie:
        log.info(
            f"{path}: token tries do not support models of type {kind.name}, so each sequence is a separate "
            "row, which is slower"
        )
    kind.image_options = ImageOptions(resize=resize, square_padding=square_padding)
    load_config(path, revision)
    processor = load_processor(kind, path, revision)
    if max_tiles is not None:
        if max_tiles < 1:
            raise ModelError(f"model.max_tiles must be at least 1, not {max_tiles}")
        kind.set_max_tiles(processor, max_tiles)
    if max_pixels is not None:
        kind.set_max_pixels(processor, max_pixels)
    options: dict[str, Any] = {
        "dtype": dtype if dtype == "auto" else getattr(torch, dtype),
        "attn_implementation": attn_implementation,
    }
    if device == "auto":
        options["device_map"] = "auto"
    if quantization is not None:
        options |= _quantization(kind, quantization, device)
    model = load_model(path, revision, **options)
    kind.check_processor(processor, model.config)
    if device not in (None, "auto") and quantization is None:
        model = model.to(device)
    if adapter is not None:
        model = load_adapter(model, adapter, path)
    model.eval()
    return VLM(model, processor, kind, path, revision, adapter)


def device_or_gpu(device: str | None) -> str | None:
    """Return the configured device. For None and ``cuda``, return this process's GPU if there is one."""
    if device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def identify(path: str, revision: str | None = None) -> Family:
    """Return the family of the model at a hub id or folder.

    Raises ModelError if the config cannot be read (see ``read_config``) or no family supports the model.
    """
    import transformers

    values = read_config(path, revision)
    try:
        family = family_of(values["model_type"])
    except ModelError as error:
        raise unsupported(values, path) or ModelError(f"{path}: {error}") from error
    check_version(transformers.__version__)
    if not family.has_trie:
        config = load_config(path, revision)
        try:
            family.find_parts(empty_model(config))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        except Exception as error:  # invalid sizes and missing packages (timm) raise exceptions of many types
            raise ModelError(
                f"{path} cannot be built ({_first_line(error)}): correct config.json, or install the missing package"
            ) from error
    return family


def load_config(path: str, revision: str | None = None) -> Any:
    """Return the transformers configuration of a hub id or folder. Raises ModelError if its values are invalid."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, revision=revision)
    except Exception as error:  # invalid fields raise exceptions of many types
        raise ModelError(
            f"the config.json of {path} cannot be used ({_first_line(error)}): correct the file, or download it again"
        ) from error


def empty_model(config: Any) -> nn.Module:
    """Return the model of a config on the meta device, that is, without weights."""
    from transformers import AutoModelForImageTextToText

    with quiet(), torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def load_processor(family: Family, path: str, revision: str | None = None) -> Any:
    """Load the processor from a hub id or folder.

    Raises ModelError if the processor is missing or belongs to another family.
    """
    from transformers.utils import is_torchvision_available

    if family.needs_torchvision and not is_torchvision_available():
        raise ModelError(
            f"the image processor of {family.name} ({path}) needs torchvision: run `pip install torchvision`"
        )
    try:
        return family.load_processor(path, revision)
    except ModelError:
        raise
    except OSError as error:
        if is_folder(path):
            raise ModelError(
                f"{path} has no complete processor ({_first_line(error)}): copy the processor from the base model"
            ) from error
        raise explain(error, path, revision) from error
    except ImportError as error:  # torchvision, num2words, ...
        raise ModelError(
            f"the processor saved in {path} cannot be built ({one_line(error)}): install the missing package or, if "
            f"this processor does not belong to {family.name}, use the processor saved with the base model"
        ) from error
    except Exception as error:  # tokenizers raises plain Exception for a truncated tokenizer.json
        raise ModelError(
            f"the processor saved in {path} is damaged or does not belong to {family.name} ({_first_line(error)}): "
            "use the processor saved with the base model"
        ) from error


def load_model(path: str, revision: str | None, **options: Any) -> Any:
    """Load the transformers model. All its weights must be in the checkpoint.

    Raises:
        ModelError: the model cannot be loaded, or tensors are missing or have a shape that differs from the config. The
            message names the cause.
    """
    from transformers import AutoModelForImageTextToText

    if is_folder(path):
        check_weight_files(Path(path))
    try:
        with quiet():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                path,
                revision=revision,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                use_safetensors=True,
                **options,
            )
    except OSError as error:
        raise explain(error, path, revision) from error
    except (ValueError, ImportError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        # Causes include an attention kernel that is not installed, and invalid sizes in config.json.
        raise ModelError(
            f"{path} cannot be loaded ({_first_line(error)}): correct the settings of the model, or its config.json"
        ) from error
    model, report = loaded
    mismatched = sorted(
        f"{name} ({tuple(saved)} in the file, {tuple(expected)} in the config)"
        for name, saved, expected in report["mismatched_keys"]
    )
    if mismatched:
        raise ModelError(
            f"{path}: the shape of {_count_and_names(mismatched, 'tensor')} differs from config.json: use the "
            "config.json that was saved with the weights"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{path}: the weight files lack {_count_and_names(missing, 'tensor')} of the model: copy or download the "
            "model again"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        log.warning(f"{path}: the model does not use {_count_and_names(unexpected, 'tensor')} of the weight files")
    return model


def load_adapter(model: Any, adapter: str, base: str | None = None) -> Any:
    """Wrap a model with a saved LoRA adapter.

    Args:
        model: the base model, without an adapter.
        adapter: folder or hub id of the adapter.
        base: hub id or folder of the model; None reads it from the model's configuration.

    Raises:
        ModelError: the adapter cannot be found, downloaded or read, or it belongs to another base model.
    """
    from peft import PeftConfig, PeftModel

    check_adapter_config(adapter)
    try:
        adapter_base = PeftConfig.from_pretrained(adapter).base_model_name_or_path or ""
    except (OSError, ValueError, TypeError, KeyError) as error:
        if not Path(adapter).is_dir():
            raise explain(error, adapter, key="model.adapter") from error
        raise ModelError(
            f"the adapter {adapter} cannot be read ({_first_line(error)}): copy the adapter again"
        ) from error
    base = base or str(model.config.name_or_path)
    # Folders may have been moved, so only hub ids are compared.
    if not Path(base).is_dir() and not Path(adapter_base).is_absolute() and adapter_base not in ("", base):
        raise ModelError(
            f"adapter {adapter} was trained on {adapter_base}, not on {base}: set model.path={adapter_base}"
        )
    saved = tensor_names(adapter_weights(adapter))
    complaint = f"adapter {adapter} (trained on {adapter_base}) does not match {base}"
    try:
        with warnings.catch_warnings(), no_checkpointing_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # reported below, by name
            wrapped = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{complaint} ({_first_line(error)}): set model.path to the model that the adapter was trained on"
        ) from error
    _check_adapter_tensors(wrapped, saved, complaint)
    return wrapped


def _check_adapter_tensors(model: Any, saved: frozenset[str], complaint: str) -> None:
    """Raise ModelError if the adapter and the model have different LoRA tensors.

    They differ, for example, if the adapter was trained on a model with more layers. This check is necessary because
    PEFT silently ignores missing and additional tensors.
    """
    from peft import get_peft_model_state_dict

    expected = {name for name in get_peft_model_state_dict(model, save_embedding_layers=False) if "lora_" in name}
    lora = {name for name in saved if "lora_" in name}
    if missing := sorted(expected - lora):
        raise ModelError(
            f"{complaint}, because the adapter lacks {_count_and_names(missing, 'tensor')}: set model.path to the "
            "model that the adapter was trained on"
        )
    if unexpected := sorted(lora - expected):
        raise ModelError(
            f"{complaint}, because the model lacks {_count_and_names(unexpected, 'tensor')} of the adapter: set "
            "model.path to the model that the adapter was trained on"
        )


def _check_arguments(dtype: str, attn_implementation: str, device: str | None, quantization: Any) -> None:
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype={dtype} is not supported: choose one of {', '.join(DTYPES)}")
    if attn_implementation not in ATTENTION:
        raise ModelError(
            f"model.attn_implementation={attn_implementation} is not supported: choose one of {', '.join(ATTENTION)}"
        )
    if attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ModelError(
            "model.attn_implementation=flash_attention_2 needs flash-attn: install flash-attn, or set "
            "model.attn_implementation=sdpa"
        )
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            f"device={device}, but torch finds no CUDA GPU: use device=cpu, or install a CUDA build of torch"
        )
    if quantization is not None and (importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available()):
        raise ModelError(
            "model.quantization needs a CUDA GPU and bitsandbytes: use a GPU and run `pip install bitsandbytes`, or "
            "set model.quantization=null"
        )


# Settings that QLoRA recommends for 4-bit weights (arXiv 2305.14314). Configured fields override these settings.
QLORA = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True}


def _quantization(family: Family, fields: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    # Tower, projector and head are not quantised, because they are small and images are encoded only once.
    unquantised = [path.rpartition(".")[2] for path in (*family.vision, family.head)]
    try:
        config = BitsAndBytesConfig(
            **{"llm_int8_skip_modules": unquantised, **(QLORA if fields.get("load_in_4bit") else {}), **fields}
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"model.quantization is invalid ({error}): correct its fields") from error
    return {"quantization_config": config, "device_map": {"": device or "cuda"} if device != "auto" else "auto"}


@contextmanager
def no_checkpointing_warnings() -> Iterator[None]:
    """Within the block, ignore transformers' FutureWarnings about names that contain ``gradient_checkpointing``.

    transformers 5 renamed gradient checkpointing to activation checkpointing, but PEFT and TRL still use the old names.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Disable transformers' loading report and, outside a terminal, progress bars.

    ``load_model`` checks the contents of the report.
    """
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _count_and_names(names: list[str], noun: str) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
