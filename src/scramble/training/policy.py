"""The model as the trainer sees it: one module whose forward takes a batch of tries and returns log-probabilities.

Image encoding, reference and policy run inside this one forward. DistributedDataParallel and FSDP hook into the
forward of the module that they wrap, so they need exactly one call per micro-batch that uses every trained parameter.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scramble.models import VLM, ModelError
from scramble.training.config import PreferenceConfig
from scramble.training.fields import PEFT_REFUSED, default_of
from scramble.trie.backbone import Backbone
from scramble.trie.engine import enable_gradient_checkpointing, encode_images, logprobs, vision_is_trained
from scramble.trie.pack import TrieBatch

log = logging.getLogger(__name__)

INITIALISATIONS = (True, False, "gaussian", "orthogonal")  # of PEFT, those that leave the base as it is


class PolicyLogps(NamedTuple):
    """Log-probabilities (nats) of a batch's M scored tokens and Q sequences under the policy and its reference.

    This is a tuple of tensors because the wrappers of distributed training search tuples for tensors with gradients.

    Attributes:
        tokens_M, sums_Q: log-probabilities of tokens, and their sums over each sequence.
        counts_Q: number of scored tokens in each sequence.
        reference_M, reference_Q: the same under the reference; None unless ``with_reference``.
        entropy_M, log_sum_squares_M: entropy and log sum p^2 of the next-token distribution at each scored token; None
            unless ``with_statistics``.
    """

    tokens_M: Tensor
    sums_Q: Tensor
    counts_Q: Tensor
    reference_M: Tensor | None = None
    reference_Q: Tensor | None = None
    entropy_M: Tensor | None = None
    log_sum_squares_M: Tensor | None = None


class Policy(nn.Module):
    """A vision-language model whose forward returns the log-probability of each sequence in a batch of tries.

    A frozen vision tower stays in evaluation mode even after ``train()``.
    """

    def __init__(self, vlm: VLM, backbone: Backbone) -> None:
        super().__init__()
        self.vlm = vlm
        self.model: nn.Module = vlm.model  # the transformers model, PEFT-wrapped if it has an adapter
        self.backbone = backbone
        # FSDP shards these layer classes. It fails for a class that the model lacks, as tiny or text-only models may.
        present = {type(module).__name__ for module in self.model.modules()}
        self._no_split_modules = sorted(set(getattr(self.model, "_no_split_modules", None) or ()) & present)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding; transformers attaches NEFTune noise to it."""
        model: Any = self.vlm.backbone.model
        return model.get_input_embeddings()

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the language model's layers in the backward pass.

        transformers calls this. Its options are ignored; the configuration refuses values other than the defaults.
        """
        enable_gradient_checkpointing(self.backbone)

    def forward(self, tries: TrieBatch, with_reference: bool = False, with_statistics: bool = False) -> PolicyLogps:
        """Log-probabilities of the batch's Q sequences.

        Args:
            tries: the batch, on any device.
            with_reference: also score with the adapters disabled, without gradient, on the same image features.
            with_statistics: also return entropy and log sum of squared probabilities at each scored token.
        """
        tries = tries.to(self.backbone.head.weight.device, non_blocking=True)  # pinned by the data loader
        features = encode_images(self.backbone, tries.images)
        reference = None
        if with_reference:
            with torch.no_grad(), self._adapters_off():
                reference = logprobs(self.backbone, tries, features)
        policy = logprobs(self.backbone, tries, features, with_statistics=with_statistics)
        sums = policy.sums_Q
        if self.training and not any(image is not None for image in tries.images):
            sums = sums + self._untouched_vision()
        return PolicyLogps(
            policy.tokens_M,
            sums,
            policy.counts_Q,
            None if reference is None else reference.tokens_M,
            None if reference is None else reference.sums_Q,
            policy.entropy_M,
            policy.log_sum_squares_M,
        )

    def train(self, mode: bool = True) -> Policy:
        """Set training mode; a frozen tower stays in evaluation mode."""
        super().train(mode)
        if not vision_is_trained(self.backbone):
            for module in self.backbone.vision:
                module.eval()
        return self

    def _adapters_off(self) -> contextlib.AbstractContextManager[Any]:
        return self.model.disable_adapter()  # type: ignore[operator]

    def _untouched_vision(self) -> Tensor | float:
        """Zero, connected to the weights of a trained tower.

        A batch without images does not use the tower. Without this term its weights would get no gradient in this
        process, and DistributedDataParallel would wait for them forever.
        """
        trained = [p for module in self.backbone.vision for p in module.parameters() if p.requires_grad]
        return sum((p.sum() * 0.0 for p in trained), start=0.0)


def turn_off_dropout(model: nn.Module) -> None:
    """Disable all dropout in a base model, because its log-probabilities are compared with the reference's."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attention_probs_dropout_prob", "dropout", "drop_path", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def select_trained_weights(vlm: VLM, args: PreferenceConfig) -> VLM:
    """Set ``requires_grad`` of the weights to train: a new adapter, the existing adapter, or all weights."""
    if args.peft is not None:
        return replace(vlm, model=add_lora(vlm, args.peft, args.seed))
    if vlm.has_adapter:
        for name, parameter in vlm.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        set_trained(vlm, vision=args.train_vision)
    return vlm


def add_lora(vlm: VLM, peft: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Add a new LoRA adapter to the language model and freeze everything else.

    Args:
        vlm: the base model, without adapter.
        peft: fields of :class:`peft.LoraConfig`; ``target_modules`` defaults to the family's targets, as does
            ``all-linear``; a list names layers of the language model.
        seed: seed of the adapter's initial weights; TRL draws the same weights from the same seed.

    Raises:
        ModelError: if PEFT does not have a field, or if the targets match nothing or match a layer of the tower, the
            projector or the output head.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    fields = {"bias": "none", **peft}
    targets = fields.get("target_modules")
    if targets in (None, "all-linear"):
        fields["target_modules"] = vlm.family.lora_targets
    elif not isinstance(targets, str):
        fields["target_modules"] = _in_decoder(vlm.backbone, targets)
    for name, reason in PEFT_REFUSED.items():
        if name in fields and fields[name] != default_of(LoraConfig, name):
            raise ModelError(f"peft.{name}={fields[name]}: {reason}")
    if fields.get("init_lora_weights", True) not in INITIALISATIONS:
        raise ModelError(
            f"peft.init_lora_weights={fields['init_lora_weights']} changes the weights of the base, so the adapter "
            "would not fit the released model: choose true, false, gaussian or orthogonal"
        )
    check_lora_targets(vlm.backbone, fields["target_modules"])
    if fields.get("lora_dropout"):
        log.warning(
            f"peft.lora_dropout={fields['lora_dropout']}: sequences of one image share their common tokens, so they "
            "also share the dropout masks of these tokens"
        )
    set_seed(seed)
    try:
        config = LoraConfig(**fields)
        config.base_model_name_or_path, config.revision = vlm.path, vlm.revision
        return get_peft_model(vlm.model, config)
    except (TypeError, ValueError, ImportError) as error:
        raise ModelError(f"peft: {' '.join(str(error).split())}") from error


def _in_decoder(backbone: Backbone, names: Sequence[str]) -> str:
    """The modules of the language model whose names end in one of ``names``, as a regular expression.

    PEFT would match a list in the whole model, and towers have layers called ``q_proj`` too.
    """
    decoder = next(name for name, module in backbone.model.named_modules() if module is backbone.decoder)
    return rf"{re.escape(decoder)}\.(.*\.)?({'|'.join(map(re.escape, names))})"


def check_lora_targets(backbone: Backbone, targets: str) -> None:
    """Raise ModelError unless ``targets`` (a regular expression over whole module names) names linear layers of the
    language model and nothing else."""
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ModelError(f"peft.target_modules={targets} is not a regular expression: {error}") from error
    outside = {id(m): "vision tower or projector" for part in backbone.vision for m in part.modules()}
    outside[id(backbone.head)] = "output head"
    matched = [(name, module) for name, module in backbone.model.named_modules() if pattern.fullmatch(name)]
    if not any(isinstance(module, nn.Linear) for _, module in matched):
        linear = next((n for n, m in backbone.decoder.named_modules() if isinstance(m, nn.Linear)), "")
        raise ModelError(
            f"peft.target_modules={targets} matches no linear layer of {type(backbone.model).__name__}; its language "
            f"model has layers such as '...{linear}'"
        )
    for name, module in matched:
        if id(module) in outside:
            raise ModelError(
                f"peft.target_modules={targets} matches a layer of the {outside[id(module)]} ({name}): use a regular "
                "expression that matches only the language model"
            )


def set_trained(vlm: VLM, *, vision: bool) -> None:
    """Make all weights of decoder and head trainable, and those of tower and projector only if ``vision``."""
    vlm.model.requires_grad_(True)
    if not vision:
        for module in vlm.backbone.vision:
            module.requires_grad_(False)
