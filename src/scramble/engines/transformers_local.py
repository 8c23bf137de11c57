"""A transformers model in this process: text models, and the vision-text families that the project knows.

Shape suffixes: B requests of a batch, L prompt tokens, V vocabulary.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scramble.engines.batches import BatchEngine
from scramble.engines.request import EngineError, Reply, Request


class TransformersEngine(BatchEngine):
    """Generates with a text model or a vision-text model loaded by transformers.

    A sample depends on its request alone, not on the batch it ran in: each row draws its noise from its own seed.
    Schemas are not enforced: the caller parses the reply, as it must anyway.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int = 8,
    ) -> None:
        """
        Args:
            path: hub id or folder.
            revision: branch, tag or commit; part of the content key.
            dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` (spread over what is there).

        Raises:
            EngineError: the model cannot be loaded, or has no chat template.
        """
        super().__init__(batch_size)
        self.model = f"{path}@{revision}" if revision else str(path)
        self._model, self._processor, self._sees = _load(str(path), revision, dtype, device)
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        if not (getattr(self._processor, "chat_template", None) or self._tokenizer.chat_template):
            raise EngineError(f"{path} has no chat template: use an instruction-tuned model")
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            images = sum(len(message.images) for message in request.messages)
            settings = (request.temperature, request.top_p, request.max_tokens, request.stop, images)
            groups.setdefault(settings, []).append(i)
        replies: dict[int, Reply] = {}
        for members in groups.values():
            answers = self._answer_alike([requests[i] for i in members])
            replies.update(zip(members, answers, strict=True))
        return [replies[i] for i in range(len(requests))]

    def _answer_alike(self, requests: list[Request]) -> list[Reply]:
        """Replies to requests with the same settings and number of images."""
        first = requests[0]
        if not self._sees and any(message.images for message in first.messages):
            return [Reply("", error="this model takes no images")] * len(requests)
        inputs = self._encode(requests)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        room = self._model.config.get_text_config().max_position_embeddings - max(lengths) - first.max_tokens
        if room < 0:
            if len(requests) > 1:  # only the long one pays
                return [reply for request in requests for reply in self._answer_alike([request])]
            return [Reply("", error=f"context overflow ({lengths[0]} + {first.max_tokens} tokens)")]
        sampler = RowSampler([r.sampling_seed for r in requests], first.temperature, first.top_p)
        with torch.inference_mode():
            ids_BL = self._model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=first.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                logits_processor=[sampler] if first.temperature > 0 else [],
                **({"stop_strings": list(first.stop), "tokenizer": self._tokenizer} if first.stop else {}),
            )
        prompt_length = inputs["input_ids"].shape[1]
        new = ids_BL[:, prompt_length:].tolist()
        return [self._reply(ids, length, first) for ids, length in zip(new, lengths, strict=True)]

    def _encode(self, requests: list[Request]) -> dict[str, Tensor]:
        if self._sees:
            chats: list[Any] = [_structured_messages(request) for request in requests]
        else:
            chats = [[{"role": m.role, "content": m.text} for m in request.messages] for request in requests]
        options = {"return_dict": True, "return_tensors": "pt", "padding": True}
        if self._sees:
            batch = self._processor.apply_chat_template(
                chats, add_generation_prompt=True, tokenize=True, processor_kwargs={"padding": True}, return_dict=True,
                return_tensors="pt",
            )  # fmt: skip
        else:
            batch = self._processor.apply_chat_template(chats, add_generation_prompt=True, **options)
        floating = self._model.dtype
        return {
            key: value.to(self._model.device, floating if value.is_floating_point() else None)
            for key, value in batch.items()
            if isinstance(value, Tensor) and key != "token_type_ids"
        }

    def _reply(self, ids: list[int], prompt_tokens: int, request: Request) -> Reply:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.eos_token_id}
        stop = next((k for k, token in enumerate(ids) if token in ends), None)
        kept = ids if stop is None else ids[:stop]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((text.find(word) for word in request.stop if word in text), default=-1)
        if cut >= 0:
            text = text[:cut]
        finished = stop is not None or cut >= 0
        return Reply(text.strip(), "stop" if finished else "length", prompt_tokens, len(kept) + (stop is not None))


class RowSampler:
    """Nucleus sampling by the Gumbel trick: the argmax of logits / T + noise is a draw from the softmax.

    Each row has its own generator, so its draws depend on its seed and its logits alone.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature, self._top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) whose argmax is the sampled token."""
        logits_BV = scores.float() / self._temperature
        if self._top_p < 1:
            sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
            before_BV = sorted_BV.softmax(-1).cumsum(-1) - sorted_BV.softmax(-1)
            sorted_BV = sorted_BV.masked_fill(before_BV >= self._top_p, -torch.inf)
            logits_BV = torch.empty_like(logits_BV).scatter_(-1, order_BV, sorted_BV)
        size = logits_BV.shape[-1]
        uniform_BV = torch.stack([torch.rand(size, generator=generator) for generator in self._generators])
        noise_BV = -torch.log(-torch.log(uniform_BV.clamp_min(1e-20)))
        return logits_BV + noise_BV.to(logits_BV.device)


def _structured_messages(request: Request) -> list[dict[str, Any]]:
    from PIL import Image

    turns = []
    for message in request.messages:
        parts: list[dict[str, Any]] = [
            {"type": "image", "image": Image.open(io.BytesIO(image)).convert("RGB")} for image in message.images
        ]
        turns.append({"role": message.role, "content": [*parts, {"type": "text", "text": message.text}]})
    return turns


def _load(path: str, revision: str | None, dtype: str, device: str | None) -> tuple[Any, Any, bool]:
    """Model, processor (or tokenizer), and whether it takes images."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            from scramble.models import load

            loaded = load(path, revision=revision, dtype=dtype, device=device)
            return loaded.model, loaded.processor, True
        torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
        spread = "auto" if device == "auto" else None
        model: Any = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=torch_dtype, device_map=spread)
        if device not in (None, "auto"):
            model = model.to(device)
        return model.eval(), AutoTokenizer.from_pretrained(path, revision=revision), False
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"cannot load {path}: {error}") from error
