"""Checks a model and selects the weights that a run trains: a new LoRA adapter, the existing adapter, or all
weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from scramble.models import VLM, ModelError
from scramble.training.config import PreferenceConfig
from scramble.training.fields import (
    FLASH_ATTENTION_FAULT,
    PEFT_REFUSED,
    PEFT_RENAMED,
    default_of,
    unknown_field,
    vision_fault,
)
from scramble.training.losses import needs_pairs
from scramble.training.weights import is_adapter_weight
from scramble.trie.backbone import Backbone

log = logging.getLogger(__name__)

INITIALISATIONS = (True, False, "gaussian", "orthogonal")  # PEFT's initialisations that do not change the base model


def turn_off_dropout(model: nn.Module) -> None:
    """Disable all dropout in a base model, because its log-probabilities are compared with the reference's."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attention_probs_dropout_prob", "dropout", "drop_path", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def check_model(vlm: VLM, args: PreferenceConfig, backend: str) -> None:
    """Raise ValueError if the training settings contradict the model."""
    if not vlm.has_adapter and any("lora_" in name for name, _ in vlm.model.named_parameters()):
        raise ValueError(
            "the model was trained before and has an adapter in its layers: load the model again with load_vlm"
        )
    decoder: Any = vlm.backbone.decoder
    if backend == "trie" and decoder.config._attn_implementation == "flash_attention_2":
        raise ValueError(FLASH_ATTENTION_FAULT)
    if args.peft is not None and vlm.has_adapter:
        raise ValueError(
            "the model already has an adapter: set peft=null to continue training it, or merge the adapter first"
        )
    if fault := vision_fault(args.train_vision, new_adapter=args.peft is not None, has_adapter=vlm.has_adapter):
        raise ValueError(fault)
    names = (name for module in vlm.backbone.vision for name, _ in module.named_parameters())
    if args.feature_cache_dir is not None and vlm.has_adapter and any(map(is_adapter_weight, names)):
        raise ValueError(
            "trainer.feature_cache_dir needs a frozen vision tower, but the adapter has weights in the tower: set "
            "trainer.feature_cache_dir=null"
        )
    in_step = needs_pairs(args.losses) and not args.precompute_ref_log_probs
    # Without an adapter, TRL loads the reference model a second time.
    if in_step and (vlm.has_adapter or (args.peft is None and backend == "trie")):
        raise ValueError(
            "trainer.precompute_ref_log_probs=false works only with a new adapter (peft.r), because disabling any "
            "other adapter does not restore the starting model: set trainer.precompute_ref_log_probs=true"
        )


def select_trained_weights(vlm: VLM, args: PreferenceConfig) -> VLM:
    """Return the model with ``requires_grad`` set for a new adapter, for the existing adapter, or for all weights."""
    if args.peft is not None:
        return replace(vlm, model=add_lora(vlm, args.peft, args.seed, vision=args.train_vision == "lora"))
    if vlm.has_adapter:
        for name, parameter in vlm.model.named_parameters():
            parameter.requires_grad_(is_adapter_weight(name))
    else:
        set_trained(vlm, vision=args.train_vision is True)
    return vlm


def add_lora(vlm: VLM, peft: Mapping[str, Any], seed: int = 0, *, vision: bool = False) -> nn.Module:
    """Add a new LoRA adapter to the language model and freeze everything else.

    Args:
        vlm: the base model, without an adapter.
        peft: see :func:`lora_config`.
        seed: seed of the adapter's initial weights; TRL draws the same weights from the same seed.
        vision: see :func:`lora_config`.

    Raises:
        ModelError: see :func:`lora_config`.
    """
    from peft import get_peft_model
    from transformers import set_seed

    config = lora_config(vlm, peft, vision=vision)
    if config.lora_dropout:
        log.warning(
            f"peft.lora_dropout={config.lora_dropout}: sequences of one image share their common tokens, so they "
            "also share the dropout masks of these tokens"
        )
    set_seed(seed)
    try:
        return get_peft_model(vlm.model, config)
    except (TypeError, ValueError, ImportError) as error:
        raise ModelError(f"peft: {' '.join(str(error).split())}") from error


def num_new_weights(vlm: VLM, peft: Mapping[str, Any], *, vision: bool = False) -> int:
    """Return the number of weights that :func:`add_lora` trains. The model may be on the ``meta`` device.

    Raises:
        ModelError: see :func:`lora_config`.
    """
    from peft import get_peft_model

    config = lora_config(vlm, peft, vision=vision)
    try:
        model = get_peft_model(vlm.model, config, low_cpu_mem_usage=True)  # an adapter on the meta device
    except (TypeError, ValueError, ImportError) as error:
        raise ModelError(f"peft: {' '.join(str(error).split())}") from error
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def lora_config(vlm: VLM, peft: Mapping[str, Any], *, vision: bool = False) -> Any:
    """Return the ``LoraConfig`` of a new adapter on the language model.

    Args:
        vlm: the base model, without an adapter.
        peft: fields of :class:`peft.LoraConfig`. ``target_modules`` defaults to the family's targets. ``all-linear``
            selects the same targets, and a list, or a single name such as ``q_proj``, names layers of the language
            model. ``target_parameters`` names parameters outside linear layers, such as the experts of a
            mixture-of-experts model.
        vision: whether to also adapt the vision tower and the projector: all their linear layers by default, or the
            layers that the regular expression ``target_modules`` matches.

    Raises:
        ModelError: a key of ``peft`` is not a field of ``LoraConfig``, a value is unsupported, or the targets match no
            linear layer, match the output head, match the tower or the projector without ``vision``, or name experts
            that are not linear layers.
    """
    from peft import LoraConfig

    if fault := unknown_field(LoraConfig, peft, PEFT_RENAMED):
        raise ModelError(f"peft: {fault}")
    fields = {"bias": "none", **peft}
    for name in ("modules_to_save", "target_parameters"):
        if isinstance(fields.get(name), str):  # PEFT would take its characters for names
            fields[name] = [fields[name]]
    targets, parameters = fields.get("target_modules"), list(fields.get("target_parameters") or ())
    if isinstance(targets, str) and targets in _layer_names(vlm.backbone):
        targets = [targets]  # as a regular expression, which PEFT matches with whole names, it would match nothing
    only_parameters = targets == [] and bool(parameters)
    if targets in (None, "all-linear"):
        fields["target_modules"] = vlm.family.lora_targets
        if vision:
            fields["target_modules"] = "|".join([f"({vlm.family.lora_targets})", *_linear_in_vision(vlm.backbone)])
    elif not isinstance(targets, str) and not only_parameters:
        fields["target_modules"] = _in_decoder(vlm.backbone, targets)
    for name, reason in PEFT_REFUSED.items():
        if name in fields and fields[name] != default_of(LoraConfig, name):
            raise ModelError(f"peft.{name}={fields[name]}: {reason}")
    if fields.get("init_lora_weights", True) not in INITIALISATIONS:
        raise ModelError(
            f"peft.init_lora_weights={fields['init_lora_weights']} changes the base model's weights, so the adapter "
            "would not match the released model: choose true, false, gaussian or orthogonal"
        )
    if not only_parameters:
        check_lora_targets(vlm.backbone, fields["target_modules"], vision=vision)
    check_target_parameters(vlm.backbone, parameters)
    try:
        config = LoraConfig(**fields)
    except (TypeError, ValueError, ImportError) as error:
        raise ModelError(f"peft: {' '.join(str(error).split())}") from error
    config.base_model_name_or_path, config.revision = vlm.path, vlm.revision
    return config


def _in_decoder(backbone: Backbone, names: Sequence[str]) -> str:
    """Return a regular expression that matches the modules of the language model whose names end in one of ``names``.

    PEFT would match a list in the whole model, and towers also have layers named ``q_proj``.

    Raises ModelError if a name matches no linear layer. PEFT would ignore such a name, for example ``v_projj``.
    """
    linear = [f".{name}" for name, module in backbone.decoder.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        if not any(layer.endswith(f".{name}") for layer in linear) and "experts" not in name:
            raise ModelError(
                f"peft.target_modules: the language model has no linear layer {name}: choose from its linear layers "
                f"{', '.join(_layer_names(backbone))}"
            )
    decoder = next(name for name, module in backbone.model.named_modules() if module is backbone.decoder)
    return rf"{re.escape(decoder)}\.(.*\.)?({'|'.join(map(re.escape, names))})"


def _layer_names(backbone: Backbone) -> list[str]:
    """Return the last parts of the names of the language model's linear layers (``q_proj``), without repetitions."""
    linear = (name for name, module in backbone.decoder.named_modules() if isinstance(module, nn.Linear))
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear))


def _linear_in_vision(backbone: Backbone) -> list[str]:
    """Return the names of the linear layers of the tower and the projector, escaped for a regular expression.

    Layers inside ``nn.MultiheadAttention`` are omitted: it reads their weights without calling them, so an adapter
    would have no effect.
    """
    attention = [part for part in backbone.model.modules() if isinstance(part, nn.MultiheadAttention)]
    vision = {id(m) for part in backbone.vision for m in part.modules()}
    vision -= {id(m) for part in attention for m in part.modules()}
    return [re.escape(n) for n, m in backbone.model.named_modules() if id(m) in vision and isinstance(m, nn.Linear)]


def check_lora_targets(backbone: Backbone, targets: str, *, vision: bool = False) -> None:
    """Raise ModelError if ``targets`` matches no linear layer, or matches the tower, the projector or the output head.

    ``targets`` is a regular expression over whole module names. With ``vision``, the expression may match layers of the
    tower and the projector. It must not name experts that are fused parameters.
    """
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ModelError(
            f"peft.target_modules={targets} is not a valid regular expression ({error}): correct the expression"
        ) from error
    outside = {} if vision else {id(m): "vision tower or projector" for part in backbone.vision for m in part.modules()}
    outside[id(backbone.head)] = "output head"
    matched = [(name, module) for name, module in backbone.model.named_modules() if pattern.fullmatch(name)]
    _check_experts(backbone, targets, [name for name, module in matched if isinstance(module, nn.Linear)])
    if not any(isinstance(module, nn.Linear) for _, module in matched):
        linear = next((n for n, m in backbone.decoder.named_modules() if isinstance(m, nn.Linear)), "")
        raise ModelError(
            f"peft.target_modules={targets} matches no linear layer of {type(backbone.model).__name__}: name layers "
            f"of its language model, such as '...{linear}'"
        )
    for name, module in matched:
        if id(module) in outside:
            raise ModelError(
                f"peft.target_modules={targets} matches a layer of the {outside[id(module)]} ({name}): use a regular "
                "expression that matches only the language model (trainer.train_vision=lora also allows layers of the "
                "tower and the projector)"
            )


def _check_experts(backbone: Backbone, targets: str, matched: Sequence[str]) -> None:
    """Raise ModelError if ``targets`` names experts that are fused parameters and not linear layers."""
    fused = _fused_experts(backbone)
    if fused and re.search(r"experts\b", targets) and not any(".experts." in name for name in matched):
        raise ModelError(
            f"peft.target_modules={targets} names experts, which are fused parameters of "
            f"{type(backbone.model).__name__} and not linear layers: remove the experts from peft.target_modules and "
            f"set peft.target_parameters=[{','.join(fused)}]"
        )


def _fused_experts(backbone: Backbone) -> list[str]:
    """Return the names, within a layer, of parameters that contain one matrix per expert (mlp.experts.gate_up_proj)."""
    names = (name for name, parameter in backbone.decoder.named_parameters() if parameter.ndim == 3)
    return list(dict.fromkeys(re.sub(r".*layers\.\d+\.", "", name) for name in names if ".experts." in name))


def check_target_parameters(backbone: Backbone, names: Sequence[str]) -> None:
    """Raise ModelError if one of ``names`` is not the end of a parameter name in the language model."""
    present = [name for name, _ in backbone.decoder.named_parameters()]
    for name in names:
        if not any(f".{parameter}".endswith(f".{name}") for parameter in present):
            fused = _fused_experts(backbone)
            raise ModelError(
                f"peft.target_parameters: {type(backbone.model).__name__} has no parameter {name} in its language "
                "model; " + (f"its experts are {', '.join(fused)}" if fused else "it is not a mixture of experts")
            )


def set_trained(vlm: VLM, *, vision: bool) -> None:
    """Make the decoder, the head and the input embeddings trainable, and freeze all other weights unless ``vision``.

    The other weights are those of the tower and the projector, and any learned vector that ends each row of image
    features.
    """
    backbone = vlm.backbone
    vlm.model.requires_grad_(vision)
    for module in (backbone.decoder, backbone.head, vlm.model.get_input_embeddings()):
        module.requires_grad_(True)
