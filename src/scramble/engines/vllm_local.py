"""Runs vLLM in the calling process.

Run ``pip install 'scramble[vllm]'`` in a separate environment, because vLLM pins the version of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scramble.engines.batches import BatchEngine
from scramble.engines.request import EngineError, Reply, Request, chat_messages


class VLLMEngine(BatchEngine):
    """Generates with ``vllm.LLM.chat``. Images are passed as data URLs and schemas as structured outputs.

    vLLM's samples are reproducible only with ``VLLM_BATCH_INVARIANT=1``. Stored replies are always reused.
    """

    def __init__(
        self,
        path: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        batch_size: int = 1024,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            path: hub id or folder.
            batch_size: number of requests per call; the replies of a batch are stored together.
            options: further arguments of ``vllm.LLM`` (``tensor_parallel_size``, ``quantization``, ...).

        Raises:
            EngineError: vLLM is not installed, or cannot load the model.
        """
        super().__init__(batch_size)
        try:
            from vllm import LLM
        except ImportError as error:
            raise EngineError(
                "vLLM is not installed: run `pip install vllm` in a separate environment, or run `vllm serve` and use "
                "the openai engine"
            ) from error
        self.model = f"{path}@{revision}" if revision else path
        try:
            self._llm = LLM(model=path, revision=revision, dtype=dtype, **(options or {}))
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM cannot load {path}: {error}") from error

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for continues in (False, True):
            numbers = [n for n, request in enumerate(requests) if request.continues == continues]
            if numbers:
                answers = self._answer_alike([requests[n] for n in numbers])
                replies.update(zip(numbers, answers, strict=True))
        return [replies[n] for n in range(len(requests))]

    def _answer_alike(self, requests: Sequence[Request]) -> list[Reply]:
        """Reply to requests that either all ask for a new answer or all continue the beginning of an answer."""
        chats = [chat_messages(request) for request in requests]
        template: dict[str, bool] = {}
        if requests[0].continues:
            template = {"add_generation_prompt": False, "continue_final_message": True}
        try:
            outputs = self._llm.chat(chats, [_sampling(request) for request in requests], use_tqdm=False, **template)
        except ValueError as error:
            if len(requests) == 1:  # vLLM rejects the whole batch because of one bad request, such as a long prompt
                return [Reply("", error=f"refused ({error})")]
            return [reply for request in requests for reply in self._answer_alike([request])]
        return [_reply(output) for output in outputs]


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams

    structured = None
    if request.schema is not None:
        from vllm.sampling_params import StructuredOutputsParams

        # If the grammar allowed arbitrary white space, a model could generate blanks up to max_tokens.
        structured = StructuredOutputsParams(json=dict(request.schema), disable_any_whitespace=True)
    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        max_tokens=request.max_tokens,
        seed=request.sampling_seed if request.temperature > 0 else None,
        stop=list(request.stop) or None,
        structured_outputs=structured,
    )


def _reply(output: Any) -> Reply:
    answer = output.outputs[0]
    prompt_tokens = len(output.prompt_token_ids or ())
    return Reply(answer.text, answer.finish_reason or "stop", prompt_tokens, len(answer.token_ids))
