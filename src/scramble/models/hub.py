"""Finds models in folders and on the hub, reads their configs, checks their files, and explains errors on one line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.models.family import ModelError
from scramble.storage.similar_paths import did_you_mean, looks_local

# Hub ids that need remote code, and the ids of the same models with native classes (None if there is no such id).
REMOTE_CODE: tuple[tuple[str, str | None], ...] = (
    (r"OpenGVLab/InternVL3-(1B|2B|8B|14B|38B|78B)(-Instruct)?", r"OpenGVLab/InternVL3-\1-hf"),
    (r"OpenGVLab/InternVL3_5-(1B|2B|4B|8B|14B|38B|30B-A3B)(-Instruct|-MPO)?", r"OpenGVLab/InternVL3_5-\1-HF"),
    (r"OpenGVLab/InternVL2_5-(2B|8B)-MPO", r"OpenGVLab/InternVL2_5-\1-MPO-hf"),
    (r"OpenGVLab/InternVL\d?[-_.].*(?<!-hf)(?<!-HF)", None),
    (r"OpenGVLab/Mini-InternVL.*", None),
    (r"liuhaotian/llava-v1\.5-(7b|13b)(-lora)?", r"llava-hf/llava-1.5-\1-hf"),
    (r"allenai/MolmoE-.*", None),
)
NO_NATIVE = {
    "OpenGVLab": "use OpenGVLab/InternVL3-8B-hf, or OpenGVLab/InternVL2_5-8B-MPO-hf for the 2.5 generation",
    "allenai": "use allenai/Molmo-7B-D-0924, allenai/Molmo-7B-O-0924 or allenai/Molmo-72B-0924",
}
# Model types that transformers does not implement, and what to use instead. Their checkpoints need code from their
# repositories.
REMOTE_TYPES = {
    "internvl_chat": NO_NATIVE["OpenGVLab"],
    "qwen": "use Qwen/Qwen2.5-VL-7B-Instruct",
    "minicpmv": "use openbmb/MiniCPM-V-4.6",
    "minicpmo": "use openbmb/MiniCPM-V-4.6",
    "ovis": "use thisisiron/Ovis2-2B-hf",
    "ovis2_5": "use thisisiron/Ovis2-2B-hf",
    "kimi_vl": "use moonshotai/Kimi-K2.6",
    "multi_modality": "use deepseek-community/deepseek-vl-1.3b-chat",
    "deepseek_vl_v2": "use deepseek-community/deepseek-vl-1.3b-chat",
    "llava_llama": "use llava-hf/llava-1.5-7b-hf",
    "llava_mistral": "use llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "use llava-hf/llava-onevision-qwen2-7b-ov-hf",
}

PICKLE = (
    "has its weights in pickle format (.bin), which is not supported, because loading it can run code: use a copy "
    "with safetensors files, or convert the weights in a trusted environment"
)


def check_native(path: str) -> None:
    """Raise ModelError if ``path`` is a hub id that needs remote code. The message says how to fix it."""
    for pattern, replacement in REMOTE_CODE:
        if match := re.fullmatch(pattern, path):
            if replacement is None:
                raise ModelError(
                    f"{path} needs code from its repository, and there is no native checkpoint of this model: "
                    f"{NO_NATIVE[path.partition('/')[0]]}"
                )
            raise ModelError(f"{path} needs code from its repository: use model.path={match.expand(replacement)}")


def is_hub_id(path: str) -> bool:
    """Return whether a path that does not exist can be a hub id (``owner/name``)."""
    return path.count("/") == 1 and not path.startswith(("/", ".", "~", "data/", "runs/"))


def is_folder(path: str, key: str = "model.path") -> bool:
    """Return whether ``path``, the value of ``key``, is a local folder. Raises ModelError for a missing folder."""
    if Path(path).expanduser().is_dir():
        return True
    if not is_hub_id(path):
        raise ModelError(
            f"{key}={path}: there is no such folder, and hub ids have the form owner/name: correct the path or the id"
            f"{did_you_mean(path)}"
        )
    if looks_local(path) and not _is_cached(path):
        raise ModelError(
            f"{key}={path}: the folder {Path(path).parent} exists and does not contain {Path(path).name}: correct the "
            f"path{did_you_mean(path)}"
        )
    return False


def _is_cached(path: str) -> bool:
    """Return whether the hub's cache contains a model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(path, "config.json"), str)


def read_config(path: str, revision: str | None = None) -> dict[str, Any]:
    """Return the ``config.json`` of a hub id or folder as a dict. No other file is downloaded.

    Raises:
        ModelError: the file cannot be found, downloaded or read, it has no ``model_type``, the model needs remote code,
            or the checkpoint is quantised.
    """
    check_native(path)
    values = _read_object(find_config(path, revision), "download the model again")
    _check_config(values, path)
    return values


def find_config(path: str, revision: str | None = None, key: str = "model.path") -> Path:
    """Return the path of the ``config.json`` of a folder or a hub id.

    The file is downloaded if necessary. ``key`` is the configuration key of ``path``, for messages.

    Raises:
        ModelError: the folder is missing, the id is unknown or gated, or there is no connection.
    """
    if not is_folder(path, key):
        return _fetch_config(path, revision, key)
    file = Path(path).expanduser() / "config.json"
    if not file.is_file():
        raise ModelError(f"{path} has no config.json, so it is not a saved model: set {key} to the folder of a model")
    return file


def _read_object(file: Path, remedy: str) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not JSON ({one_line(error)}): {remedy}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} is not a JSON object: {remedy}")
    return values


def _fetch_config(path: str, revision: str | None, key: str) -> Path:
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from transformers.utils import cached_file

    try:
        if not isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            # Test the connection with one request, because the download would retry for half a minute without a
            # connection.
            get_hf_file_metadata(hf_hub_url(path, "config.json", revision=revision), timeout=10)
        return Path(str(cached_file(path, "config.json", revision=revision)))
    except (OSError, errors.HTTPError) as error:
        raise explain(error, path, revision, key) from error


def _check_config(values: dict[str, Any], path: str) -> None:
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(
            f"{path} is not a transformers model, because its config.json has no model_type: choose another model"
        )
    if quantization := values.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{path} is a quantised checkpoint ({method or 'unknown method'}), which cannot be tuned or merged: use "
            "the unquantised checkpoint, and set model.quantization.load_in_4bit=true to quantise it while loading"
        )


def unsupported(values: Mapping[str, Any], path: str) -> ModelError | None:
    """Return the error for a model that transformers does not support, or None for a supported model."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = values["model_type"]
    if model_type in REMOTE_TYPES:
        return ModelError(
            f"{path} (model_type {model_type}) needs code from its repository, which is never run: "
            f"{REMOTE_TYPES[model_type]}"
        )
    if model_type in CONFIG_MAPPING_NAMES:
        return None
    if values.get("auto_map"):
        return ModelError(
            f"{path} (model_type {model_type}) needs code from its repository, which is never run: use a checkpoint "
            "with classes of transformers (their names often end in -hf)"
        )
    saved = values.get("transformers_version", "an unknown version")
    advice = (
        "The model was saved with this version: correct model_type in config.json"
        if saved == transformers.__version__
        else f"The model was saved with transformers {saved}: run `pip install -U transformers`, or use another model"
    )
    return ModelError(
        f"{path} has model_type {model_type}, which transformers {transformers.__version__} does not support. {advice}"
    )


def explain(error: BaseException, path: str, revision: str | None = None, key: str = "model.path") -> ModelError:
    """Return the ModelError for an error that occurred when ``path`` was downloaded or read."""
    from huggingface_hub import errors as hub

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    at = f"{path} (revision {revision})" if revision else path

    def has(*types: type[BaseException]) -> bool:
        return any(isinstance(link, types) for link in chain)

    if has(hub.GatedRepoError):
        return ModelError(
            f"{path} is gated: accept its terms at https://huggingface.co/{path} and log in with 'hf auth login'"
        )
    if has(hub.RevisionNotFoundError):
        return ModelError(f"{path} has no revision {revision!r}: set model.revision to one of its branches or commits")
    if has(hub.RepositoryNotFoundError):
        return ModelError(
            f"the hub has no model {path}, or the model is private: correct {key}, or log in with 'hf auth login'"
            f"{did_you_mean(path)}"
        )
    unanswered = any(isinstance(link, hub.HTTPError) and not isinstance(link, hub.HfHubHTTPError) for link in chain)
    if unanswered or has(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        return ModelError(
            f"{at} could not be downloaded (no connection) and is not in the cache: on a machine with a connection run "
            f"'hf download {path}{f' --revision {revision}' if revision else ''} --local-dir FOLDER', then set "
            f"{key}=FOLDER{did_you_mean(path)}"
        )
    if has(hub.EntryNotFoundError):
        return ModelError(f"{at} lacks a required file ({one_line(error)}): choose another model or revision")
    return ModelError(f"{at} could not be read ({one_line(error)}): correct {key}, or download the model again")


def check_weight_files(folder: Path) -> None:
    """Raise ModelError if a weight file of a saved model is missing, empty or truncated. The message names the file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise ModelError(f"{index} is not a valid index of shards ({error}): download the model again") from error
        if absent := [name for name in names if not (folder / name).is_file()]:
            raise ModelError(
                f"{folder} lacks {len(absent)} of {len(names)} weight files ({', '.join(absent[:5])}): copy or "
                "download the model again"
            )
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif any(folder.glob("pytorch_model*.bin")):
        raise ModelError(f"{folder} {PICKLE}")
    else:
        raise ModelError(
            f"{folder} has no model.safetensors, so it is not a saved model or its download is incomplete: copy or "
            "download the model again"
        )
    for name in names:
        tensor_names(folder / name)


def tensor_names(file: Path) -> frozenset[str]:
    """Return the tensor names in a safetensors file. Raises ModelError if the file is missing, empty or truncated."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return frozenset(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({one_line(error)}): copy or download the file again") from error


def check_adapter_config(adapter: str) -> None:
    """Raise ModelError if an adapter's folder does not exist, or its configuration is missing or invalid."""
    folder = Path(adapter)
    if not folder.is_dir():
        if not is_hub_id(adapter) or folder.parent.is_dir():
            raise ModelError(f"there is no adapter at {adapter}, because this folder does not exist: correct the path")
        return
    file = folder / "adapter_config.json"
    if not file.is_file():
        inside = folder / "adapter"
        if inside.is_dir():
            raise ModelError(f"there is no adapter at {adapter}: did you mean {inside}?")
        raise ModelError(f"{adapter} has no adapter_config.json, so it is not an adapter: correct the path")
    if not isinstance(_read_object(file, "copy the adapter again").get("peft_type"), str):
        raise ModelError(f"{file} has no peft_type, so it does not belong to an adapter: copy the adapter again")


def adapter_weights(adapter: str) -> Path:
    """Return the file with the weights of an adapter in a folder or on the hub.

    Raises:
        ModelError: the weights are missing or not in safetensors format, or there is no connection for the download.
    """
    from huggingface_hub import errors, hf_hub_download

    folder = Path(adapter)
    try:
        if not folder.is_dir():
            return Path(hf_hub_download(adapter, "adapter_model.safetensors"))
        file = folder / "adapter_model.safetensors"
        if not file.is_file():
            if (folder / "adapter_model.bin").is_file():
                raise ModelError(f"adapter {adapter} {PICKLE}")
            raise ModelError(
                f"adapter {adapter} has no adapter_model.safetensors: copy the adapter again, or train it again"
            )
        return file
    except errors.LocalEntryNotFoundError as error:
        raise explain(error, adapter, key="model.adapter") from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"adapter {adapter} {PICKLE}") from error


def num_adapter_weights(adapter: str) -> int:
    """Return the number of weights of an adapter in a folder or on the hub. Raises ModelError; see
    :func:`adapter_weights` and :func:`tensor_names`.
    """
    from safetensors import safe_open

    file = adapter_weights(adapter)
    names = tensor_names(file)
    with safe_open(file, framework="pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())
