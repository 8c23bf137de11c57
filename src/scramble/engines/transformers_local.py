"""Runs a text model of transformers, or a vision-text model that this project supports, in the calling process.

Shape suffixes: B requests of a batch, L tokens of the prompt and the reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scramble.engines.batches import BatchEngine
from scramble.engines.request import EngineError, Reply, Request
from scramble.engines.sampling import RowSampler
from scramble.engines.shared_images import answer as answer_sharing
from scramble.engines.shared_images import reply, takes
from scramble.models import VLM, load_vlm
from scramble.models.control_tokens import find_control_token
from scramble.models.loading import device_or_gpu
from scramble.records import ImageFile
from scramble.storage.hashing import content_key


class TransformersEngine(BatchEngine):
    """Generates with a text model or a vision-text model loaded by transformers.

    A sample depends only on its request and not on its batch, because the noise of each row has its own seed. Requests
    of a batch about the same image share the forward pass of the image (:mod:`scramble.engines.shared_images`), so a
    batch should contain all samples of a question. Schemas are not enforced, because the caller parses and checks the
    reply anyway.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int = 8,
        loading: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            path: hub id or folder.
            revision: branch, tag or commit; part of the content key.
            dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, which distributes the layers over the available devices.
                None selects the GPU if there is one.
            loading: further options of :func:`scramble.models.load_vlm`, for a model that accepts images.

        Raises:
            EngineError: the model cannot be loaded, or has no chat template.
        """
        super().__init__(batch_size)
        options = {key: value for key, value in (loading or {}).items() if value}
        self.model = f"{path}@{revision}" if revision else str(path)
        if options:
            self.model += f" {content_key(options)}"
        self._model, self._processor, self._loaded = _load(str(path), revision, dtype, device, options)
        self._sees = self._loaded is not None
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        if not self._sees and not self._tokenizer.chat_template:
            raise EngineError(f"{path} has no chat template: use an instruction-tuned model")
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        groups: dict[tuple[Any, ...], list[int]] = {}
        replies: dict[int, Reply] = {}
        for i, request in enumerate(requests):
            tokens = (find_control_token(self._processor, message.text) for message in request.messages)
            if token := next(filter(None, tokens), None):
                replies[i] = Reply("", error=f"refused (the text contains the control token {token!r})")
                continue
            settings: tuple[Any, ...] = (request.temperature, request.top_p, request.top_k)
            shares = self._sees and takes(request)
            if not shares:
                images = sum(len(message.images) for message in request.messages)
                settings += (request.max_tokens, request.stop, request.continues, images)
            groups.setdefault((shares, settings), []).append(i)
        for (shares, _), members in groups.items():
            some = [requests[i] for i in members]
            answers = answer_sharing(self._loaded, some) if shares and self._loaded else self._answer_alike(some)
            replies.update(zip(members, answers, strict=True))
        return [replies[i] for i in range(len(requests))]

    def _answer_alike(self, requests: list[Request]) -> list[Reply]:
        """Reply to requests with the same settings and number of images."""
        first = requests[0]
        if not self._sees and any(message.images for message in first.messages):
            return [Reply("", error="this model does not accept images: use a vision-language model")] * len(requests)
        try:
            inputs = self._encode(requests)
        except (ValueError, IndexError, KeyError, OSError) as error:  # a placeholder in a text, or a broken image
            if len(requests) > 1:  # answer one by one, so that only the bad request fails
                return [reply for request in requests for reply in self._answer_alike([request])]
            return [Reply("", error=f"refused ({' '.join(str(error).split())[:200]})")]
        lengths = inputs["attention_mask"].sum(-1).tolist()
        room = self._model.config.get_text_config().max_position_embeddings - max(lengths) - first.max_tokens
        if room < 0:
            if len(requests) > 1:  # answer one by one, so that only the long request fails
                return [reply for request in requests for reply in self._answer_alike([request])]
            sizes = f"{lengths[0]} prompt tokens + max_tokens={first.max_tokens} exceed the limit by {-room}"
            return [Reply("", error=f"context overflow ({sizes}: lower max_tokens)")]
        sampler = RowSampler([r.sampling_seed for r in requests], first.temperature, first.top_p, first.top_k)
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
        return [self._reply(*each) for each in zip(new, lengths, requests, strict=True)]

    def _encode(self, requests: list[Request]) -> dict[str, Tensor]:
        if self._sees:
            chats: list[Any] = [_structured_messages(request) for request in requests]
        else:
            chats = [[{"role": m.role, "content": m.text} for m in request.messages] for request in requests]
        continues = requests[0].continues
        options = {"return_dict": True, "return_tensors": "pt"}
        options |= {"add_generation_prompt": not continues, "continue_final_message": continues}
        if self._sees:
            batch = self._processor.apply_chat_template(
                chats, tokenize=True, processor_kwargs={"padding": True}, **options
            )
        else:
            batch = self._processor.apply_chat_template(chats, padding=True, **options)
        floating = self._model.dtype
        # Tokenizers return token types even if the model does not use them. Models without a trie may need token types
        # to mark image tokens.
        dropped = () if self._loaded and not self._loaded.family.has_trie else ("token_type_ids",)
        return {
            key: value.to(self._model.device, floating if value.is_floating_point() else None)
            for key, value in batch.items()
            if isinstance(value, Tensor) and key not in dropped
        }

    def _reply(self, ids: list[int], prompt_tokens: int, request: Request) -> Reply:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.eos_token_id}
        stop = next((k for k, token in enumerate(ids) if token in ends), None)
        answer_ids = ids if stop is None else ids[:stop]
        return reply(self._tokenizer, request, answer_ids, prompt_tokens, stop is not None)


def _structured_messages(request: Request) -> list[dict[str, Any]]:
    turns = []
    for message in request.messages:
        parts: list[dict[str, Any]] = [{"type": "image", "image": ImageFile(image).open()} for image in message.images]
        turns.append({"role": message.role, "content": [*parts, {"type": "text", "text": message.text}]})
    return turns


def _load(
    path: str, revision: str | None, dtype: str, device: str | None, options: Mapping[str, Any]
) -> tuple[Any, Any, VLM | None]:
    """Load the model, its processor (or tokenizer), and its VLM wrapper if the model accepts images."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    device = device_or_gpu(device)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            vlm = load_vlm(path, revision=revision, dtype=dtype, device=device, **options)
            return vlm.model, vlm.processor, vlm
        torch_dtype = dtype if dtype == "auto" else getattr(torch, dtype)
        spread = "auto" if device == "auto" else None
        model: Any = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=torch_dtype, device_map=spread)
        if device not in (None, "auto"):
            model = model.to(device)
        return model.eval(), AutoTokenizer.from_pretrained(path, revision=revision), None
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"cannot load {path}: {error}") from error
