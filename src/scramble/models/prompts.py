"""Encodes prompts and answers. Where possible, images that several prompts share are preprocessed only once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from PIL import Image

from scramble.models.family import Family, Prompt
from scramble.records import Turn
from scramble.trie.build import common_prefix


class PromptEncoder:
    """Encodes prompts and answers for one model, for evaluation and engines.

    The processor preprocesses the pixels of an image set once. Further prompts about the same images are tokenised as
    text, and the image tokens are inserted. The first prompt that an encoder builds in this way is compared with the
    processor's own ids. If the ids differ, the processor encodes this prompt and all later prompts. In families without
    a trie, the processor encodes every prompt, because the prompts have additional inputs per token.
    """

    def __init__(self, family: Family, processor: Any) -> None:
        self.family = family
        self.processor = processor
        self._can_insert: bool | None = None  # None until the first comparison with the processor's ids

    def completion(self, text: str) -> list[int]:
        """Return the token ids of an answer and its end of turn.

        Raises ModelError if ``text`` contains a control token.
        """
        return list(self.family.encode_completion(self.processor, text))

    def prompts(
        self, texts: Sequence[str], images: Sequence[Image.Image], history: Sequence[Turn] = ()
    ) -> list[Prompt]:
        """Encode texts as prompts about the same images, after the turns of ``history``.

        If the family has a trie, prompts with images share one ``images`` object. Raises ModelError if a text contains
        a control token.
        """
        first, *others = dict.fromkeys(texts)
        prompts = {first: self.family.encode_prompt(self.processor, first, images, history)}
        if others and images and self.family.has_trie:
            shared = self._with_images_of(first, prompts[first], others, images, history)
            prompts.update(zip(others, shared, strict=True))
        else:
            prompts.update((text, self.family.encode_prompt(self.processor, text, images, history)) for text in others)
        return [prompts[text] for text in texts]

    def _with_images_of(
        self,
        first: str,
        prompt: Prompt,
        texts: Iterable[str],
        images: Sequence[Image.Image],
        history: Sequence[Turn],
    ) -> Iterator[Prompt]:
        """Yield the prompts of ``texts``.

        These prompts share the image inputs of ``prompt``, which is the prompt of ``first``, and reuse its image tokens
        if possible.
        """
        ids = self.family.unexpanded_ids(self.processor, first, len(images), history)
        # The end of the images divides both lists of ids: the same ids follow, and different ids may precede.
        head = common_prefix(ids, prompt.input_ids)
        tail = min(common_suffix(ids, prompt.input_ids), len(ids) - head)
        start, expanded = ids[: len(ids) - tail], prompt.input_ids[: len(prompt.input_ids) - tail]
        for text in texts:
            ids = self.family.unexpanded_ids(self.processor, text, len(images), history)
            full = expanded + ids[len(start) :] if ids[: len(start)] == start else None
            if self._can_insert is None:
                self._can_insert = full == self.family.encode_prompt(self.processor, text, images, history).input_ids
            if full is None or not self._can_insert:
                full = self.family.encode_prompt(self.processor, text, images, history).input_ids
            yield Prompt(full, prompt.images)


def common_suffix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common suffix of two sequences."""
    return common_prefix(a[::-1], b[::-1])
