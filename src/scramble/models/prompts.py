"""Encodes prompts and answers. Images that several prompts share are preprocessed only once."""

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
    """The position of the images in a prompt's token ids.

    Attributes:
        short: ids with one placeholder per image.
        head: number of ids before the images.
        placeholder: number of ids of the images in ``short``.
        block: expanded ids of the images, which replace the placeholders.
        full: expanded ids of the whole prompt.
        images: the tower's inputs.
    """

    short: list[int]
    head: int
    placeholder: int
    block: list[int]
    full: list[int]
    images: ImageInputs | None


class PromptEncoder:
    """Encodes prompts and answers for one model, for evaluation and engines.

    The processor preprocesses the pixels of an image set once. Further prompts about the same images are tokenised as
    text, and the image tokens are inserted. The first prompt that an encoder builds in this way is compared with the
    processor's own ids. If the ids differ, the processor encodes every prompt. The processor also encodes every prompt
    in families without a trie, because their prompts have additional inputs per token.
    """

    def __init__(self, family: Family, processor: Any) -> None:
        self.family = family
        self.processor = processor
        self._splices: bool | None = None

    def completion(self, text: str) -> list[int]:
        """Return the token ids of an answer and its end of turn. Raises ModelError if ``text`` has a control token."""
        return list(self.family.encode_completion(self.processor, text))

    def prompts(self, texts: Sequence[str], images: Sequence[Image.Image]) -> list[Prompt]:
        """Encode texts as prompts about the same images.

        If the family has a trie, all prompts share one object of image inputs. Raises ModelError if a text contains a
        control token.
        """
        first = self.family.encode_prompt(self.processor, texts[0], images)
        prompts = {texts[0]: first}
        frame: _Frame | None = None
        for text in texts[1:]:
            if text in prompts:
                continue
            if images and self.family.has_trie:
                frame = frame or self._frame(texts[0], first, len(images))
                prompts[text] = self._splice(frame, text, images)
            else:
                prompts[text] = self.family.encode_prompt(self.processor, text, images)
        return [prompts[text] for text in texts]

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
    """Return the length of the longest common suffix of two sequences."""
    return common_prefix(a[::-1], b[::-1])
