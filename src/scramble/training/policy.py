"""The model as the trainer sees it: one module whose forward takes a batch of tries and returns log-probabilities.

Everything goes through this one forward, so that DistributedDataParallel and its kin see one call a micro-batch with
every trained parameter in it.
"""

from __future__ import annotations

import contextlib
import logging
import re
from typing import Any

import torch
from torch import Tensor, nn

from scramble.models import Loaded, ModelError
from scramble.trie.backbone import Backbone
from scramble.trie.engine import enable_gradient_checkpointing, encode_images, logprobs, vision_is_trained
from scramble.trie.pack import TrieBatch

log = logging.getLogger(__name__)


class Policy(nn.Module):
    """A vision-language model that answers: how likely is each sequence of these tries?

    A frozen tower stays in evaluation mode whatever mode is asked for.
    """

    def __init__(self, model: nn.Module, backbone: Backbone) -> None:
        super().__init__()
        self.model = model  # the transformers model, PEFT-wrapped if it has an adapter
        self.backbone = backbone
        # What FSDP shares out one by one: the layers that the model names and has (a tiny or text-only one lacks some).
        present = {type(module).__name__ for module in model.modules()}
        self._no_split_modules = sorted(set(getattr(model, "_no_split_modules", None) or ()) & present)

    def forward(self, tries: TrieBatch, with_reference: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities of the batch's Q sequences.

        Args:
            tries: the batch, on any device.
            with_reference: also score with the adapters off, without gradient, on the same image features.

        Returns:
            Sums over scored tokens (Q,) in nats, numbers of scored tokens (Q,), and the reference's sums (Q,) or None.
        """
        tries = tries.to(self.backbone.head.weight.device, non_blocking=True)  # pinned by the data loader
        features = encode_images(self.backbone, tries.images)
        reference = None
        if with_reference:
            with torch.no_grad(), self._adapters_off():
                reference = logprobs(self.backbone, tries, features).sums_Q
        policy = logprobs(self.backbone, tries, features)
        sums = policy.sums_Q
        if self.training and not any(image is not None for image in tries.images):
            sums = sums + self._untouched_vision()
        return sums, policy.counts_Q, reference

    def train(self, mode: bool = True) -> Policy:
        """Training mode for what is trained; a frozen tower keeps evaluation mode."""
        super().train(mode)
        if not vision_is_trained(self.backbone):
            for module in self.backbone.vision:
                module.eval()
        return self

    def _adapters_off(self) -> contextlib.AbstractContextManager[Any]:
        return self.model.disable_adapter()  # type: ignore[operator]

    def _untouched_vision(self) -> Tensor | float:
        """Zero, with a gradient of zero to a trained tower that a batch without images does not reach: otherwise one
        process would wait for gradients that the others never send."""
        trained = [p for module in self.backbone.vision for p in module.parameters() if p.requires_grad]
        return sum((p.sum() * 0.0 for p in trained), start=0.0)


def turn_off_dropout(model: nn.Module) -> None:
    """No dropout anywhere in a base model: its log-probabilities are compared with the reference's."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attention_probs_dropout_prob", "dropout", "drop_path", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def add_lora(
    loaded: Loaded, *, r: int, alpha: float, dropout: float = 0.0, targets: str | None = None, seed: int = 0
) -> nn.Module:
    """The model with a fresh LoRA adapter on its language model; everything else frozen.

    Args:
        loaded: the base model, without adapter.
        r, alpha, dropout: rank, scale (alpha / r) and dropout of LoRA.
        targets: regular expression over module names, default the family's.
        seed: of the adapter's initial weights; with it they equal those that TRL draws.

    Raises:
        ModelError: the expression matches nothing, or touches the tower, the projector or the output head.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    targets = targets or loaded.family.lora_targets
    check_lora_targets(loaded.backbone, targets)
    if dropout > 0:
        log.warning(f"LoRA dropout {dropout}: the sequences of an image share tokens here, and with them dropout masks")
    set_seed(seed)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
    )
    config.base_model_name_or_path, config.revision = loaded.path, loaded.revision
    return get_peft_model(loaded.model, config)


def check_lora_targets(backbone: Backbone, targets: str) -> None:
    """Raise ModelError unless ``targets`` (a regular expression over whole module names) names linear layers of the
    language model and nothing else."""
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise ModelError(f"the LoRA targets {targets!r} are no regular expression: {error}") from error
    outside = {id(m): "vision tower or projector" for part in backbone.vision for m in part.modules()}
    outside[id(backbone.head)] = "output head"
    matched = [(name, module) for name, module in backbone.model.named_modules() if pattern.fullmatch(name)]
    if not any(isinstance(module, nn.Linear) for _, module in matched):
        linear = next((n for n, m in backbone.decoder.named_modules() if isinstance(m, nn.Linear)), "")
        raise ModelError(
            f"the LoRA targets {targets!r} match no linear layer of {type(backbone.model).__name__}; its language "
            f"model has layers such as '...{linear}'"
        )
    for name, module in matched:
        if id(module) in outside:
            raise ModelError(
                f"the LoRA targets {targets!r} touch the {outside[id(module)]} ({name}): anchor the expression on the "
                "language model"
            )


def set_trained(loaded: Loaded, *, vision: bool) -> None:
    """Train all weights of the decoder and head; those of tower and projector only if ``vision``."""
    loaded.model.requires_grad_(True)
    if not vision:
        for module in loaded.backbone.vision:
            module.requires_grad_(False)


def make_policy(loaded: Loaded, backbone: Backbone | None = None, *, gradient_checkpointing: bool) -> Policy:
    """The policy around a model whose trained weights are chosen; ``backbone`` may read image features from a cache."""
    backbone = backbone or loaded.backbone
    if gradient_checkpointing:
        enable_gradient_checkpointing(backbone)
    return Policy(loaded.model, backbone)
