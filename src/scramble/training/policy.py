"""Defines the module that is trained. Its forward method takes a batch of tries and returns log-probabilities.

Image encoding, reference and policy run inside one call of this method. DistributedDataParallel and FSDP hook into the
forward method of the module that they wrap, so they need exactly one call per micro-batch, and this call must use every
trained parameter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scramble.models import VLM, ModelError
from scramble.trie.backbone import Backbone
from scramble.trie.engine import TOWER_TOKENS, enable_gradient_checkpointing, encode_images, logprobs, vision_is_trained
from scramble.trie.pack import TrieBatch
from scramble.trie.router import has_routers


class PolicyLogps(NamedTuple):
    """Log-probabilities (nats) of a batch's M scored tokens and Q sequences under the policy and its reference.

    The class is a tuple because the wrappers of distributed training search tuples for tensors with gradients.

    Attributes:
        tokens_M, sums_Q: log-probabilities of tokens, and their sums over each sequence.
        counts_Q: number of scored tokens in each sequence.
        reference_M, reference_Q: the log-probabilities and sums under the reference; None unless ``with_reference``.
        entropy_M, log_sum_squares_M: entropy and log sum p^2 of the next-token distribution at each scored token; None
            unless ``with_statistics``.
        router_loss: load-balancing loss of a mixture of experts; None unless ``with_router_loss``.
    """

    tokens_M: Tensor
    sums_Q: Tensor
    counts_Q: Tensor
    reference_M: Tensor | None = None
    reference_Q: Tensor | None = None
    entropy_M: Tensor | None = None
    log_sum_squares_M: Tensor | None = None
    router_loss: Tensor | None = None


def router_coefficient(backbone: Backbone, coefficient: float | None) -> float:
    """Return the weight of the load-balancing loss: ``coefficient`` or, if it is None, the model's own weight, as in
    TRL.

    Raises ModelError if a coefficient is set for a model that is not a mixture of experts.
    """
    if has_routers(backbone.decoder):
        decoder: Any = backbone.decoder
        return float(getattr(decoder.config, "router_aux_loss_coef", 0.0) if coefficient is None else coefficient)
    if coefficient:
        raise ModelError(
            f"trainer.router_aux_loss_coef={coefficient}: {type(backbone.model).__name__} is not a mixture of experts "
            "with a load-balancing loss: set trainer.router_aux_loss_coef=null"
        )
    return 0.0


class Policy(nn.Module):
    """A vision-language model whose forward method returns the log-probability of each sequence in a batch of tries.

    A frozen vision tower stays in evaluation mode even after ``train()``.
    """

    def __init__(self, vlm: VLM, backbone: Backbone, tower_tokens: int | None = TOWER_TOKENS) -> None:
        super().__init__()
        self.vlm = vlm
        self.tower_tokens = tower_tokens  # see :func:`scramble.trie.engine.encode_images`
        self.model: nn.Module = vlm.model  # the transformers model, PEFT-wrapped if it has an adapter
        self.backbone = backbone
        # FSDP shards these layer classes. FSDP fails if a class is missing, for example in a text-only model.
        present = {type(module).__name__ for module in self.model.modules()}
        self._no_split_modules = sorted(set(getattr(self.model, "_no_split_modules", None) or ()) & present)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding, whose output transformers perturbs for NEFTune."""
        model: Any = self.vlm.backbone.model
        return model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the output head, which accelerate must shard together with a token embedding that shares its
        weight.
        """
        return self.backbone.head

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the language model's layers in the backward pass.

        transformers calls this method. Options are ignored, because the configuration accepts only the defaults.
        """
        enable_gradient_checkpointing(self.backbone)

    def forward(
        self,
        tries: TrieBatch,
        with_reference: bool = False,
        with_statistics: bool = False,
        with_router_loss: bool = False,
    ) -> PolicyLogps:
        """Return the log-probabilities of the batch's Q sequences.

        Args:
            tries: the batch, on any device.
            with_reference: also score with the adapters disabled, without gradient.
            with_statistics: also return entropy and log sum of squared probabilities at each scored token.
            with_router_loss: also return the load-balancing loss of a mixture of experts.
        """
        tries = tries.to(self.backbone.head.weight.device, non_blocking=True)  # pinned by the data loader
        features = encode_images(self.backbone, tries.images, self.tower_tokens)
        reference = None
        if with_reference:
            in_tower = vision_is_trained(self.backbone)
            with torch.no_grad(), self.model.disable_adapter():  # type: ignore[operator]
                # An adapter in the tower also changes the features.
                plain = encode_images(self.backbone, tries.images, self.tower_tokens) if in_tower else features
                reference = logprobs(self.backbone, tries, plain)
        policy = logprobs(
            self.backbone, tries, features, with_statistics=with_statistics, with_router_loss=with_router_loss
        )
        sums = policy.sums_Q
        if self.training and vision_is_trained(self.backbone):
            sums = sums + self._untouched_vision()
        return PolicyLogps(
            policy.tokens_M,
            sums,
            policy.counts_Q,
            None if reference is None else reference.tokens_M,
            None if reference is None else reference.sums_Q,
            policy.entropy_M,
            policy.log_sum_squares_M,
            policy.router_loss,
        )

    def train(self, mode: bool = True) -> Policy:
        """Set training mode, but keep a frozen tower in evaluation mode."""
        super().train(mode)
        if not vision_is_trained(self.backbone):
            for module in self.backbone.vision:
                module.eval()
        return self

    def _untouched_vision(self) -> Tensor | float:
        """Return a zero that depends on the trained weights of the tower and the projector.

        A batch without images does not use the tower, and some towers have layers that no feature depends on (the last
        layer of CLIP in LLaVA, the pooling head of SigLIP). Without this term, the weights of such layers would get no
        gradient, and DistributedDataParallel would wait for the gradient or fail in the next step.
        """
        text = (self.backbone.decoder, self.backbone.head)
        used = {id(p) for module in text for p in module.parameters()}
        trained = [p for p in self.backbone.model.parameters() if p.requires_grad and id(p) not in used]
        return sum((p.sum() * 0.0 for p in trained), start=0.0)
