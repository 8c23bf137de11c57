"""Token ids of prompts and answers, with the images of a prompt prepared once however many prompts share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from scramble.models.family import Family, Prompt
from scramble.trie.backbone import ImageInputs
from scramble.trie.build import common_prefix


@dataclass(frozen=True, slots=True)
class _Frame:
    """How the images sit in a prompt: ``short`` ids have one placeholder where ``head + block`` has features."""

    short: list[int]
    head: int
    placeholder: int
    block: list[int]
    full: list[int]
    images: ImageInputs | None


class PromptEncoder:
    """Encodes prompts and answers for one model: evaluation and the engines share it.

    The processor prepares the pixels of an image set once; the other prompts on it are tokenised as text and get the
    same image tokens spliced in. The first splice of every encoder is compared with the processor's own ids, and a
    family whose ids differ is encoded in full each time.
    """

    def __init__(self, family: Family, processor: Any) -> None:
        self.family = family
        self.processor = processor
        self._splices: bool | None = None

    def completion(self, text: str) -> list[int]:
        """Ids of an answer and its end of turn. Raises ModelError for a control token in it."""
        return list(self.family.encode_completion(self.processor, text))

    def prompts(self, texts: Sequence[str], images: Sequence[Image.Image]) -> list[Prompt]:
        """Ids of each text after the same images; all share one object of image inputs.

        Raises ModelError for a control token in a text.
        """
        first = self.family.encode_prompt(self.processor, texts[0], images)
        done = {texts[0]: first}
        frame: _Frame | None = None
        for text in texts[1:]:
            if text in done:
                continue
            if images:
                frame = frame or self._frame(texts[0], first, len(images))
                done[text] = self._splice(frame, text, images)
            else:
                done[text] = self.family.encode_prompt(self.processor, text)
        return [done[text] for text in texts]

    def _frame(self, text: str, full: Prompt, num_images: int) -> _Frame:
        short = self._short(text, num_images)
        head = common_prefix(short, full.input_ids)
        tail = min(common_suffix(short, full.input_ids), len(short) - head)
        block = full.input_ids[head : len(full.input_ids) - tail]
        return _Frame(short, head, len(short) - head - tail, block, full.input_ids, full.images)

    def _splice(self, frame: _Frame, text: str, images: Sequence[Image.Image]) -> Prompt:
        short = self._short(text, len(images))
        until = frame.head + frame.placeholder
        spliced = frame.full[: frame.head] + frame.block + short[until:]
        if self._splices is None:
            full = self.family.encode_prompt(self.processor, text, images)
            self._splices = full.input_ids == spliced
        if self._splices and short[:until] == frame.short[:until]:
            return Prompt(spliced, frame.images)
        return replace(self.family.encode_prompt(self.processor, text, images), images=frame.images)

    def _short(self, text: str, num_images: int) -> list[int]:
        return self.family.unexpanded_ids(self.processor, text, num_images)


def common_suffix(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two sequences have in common at their ends."""
    return common_prefix(a[::-1], b[::-1])
