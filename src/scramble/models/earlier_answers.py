"""Finds the tokens of the assistant's earlier answers in a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scramble.models.family import Family, ModelError
from scramble.records import Turn
from scramble.trie.build import common_prefix


def answer_spans(
    family: Family, processor: Any, text: str, sizes: Sequence[tuple[int, int]], history: Sequence[Turn]
) -> list[tuple[int, int]]:
    """Return the first token position and the end (exclusive) of each answer in ``history``, including its end of turn.

    An answer begins at the first token where the conversation differs from the prompt before the answer. A token that
    contains both the prompt's last characters and the answer's first characters belongs to the answer.

    Args:
        text: the prompt after ``history``.
        sizes: (height, width) of all images of the conversation.

    Raises:
        ModelError: an answer does not follow a question, or the chat template changes an answer, so that it cannot be
            found.
    """
    ids = family.unexpanded_ids(processor, text, len(sizes), history)
    spans = []
    for place, turn in enumerate(history):
        if turn.role != "assistant":
            continue
        if not place or history[place - 1].role != "user":
            raise ModelError(
                "an earlier answer does not follow a question, so its tokens cannot be scored: set "
                "trainer.loss_on_history=false"
            )
        question, before = history[place - 1], history[: place - 1]
        seen = sizes[: sum(earlier.num_images for earlier in history[:place])]
        opened = family.unexpanded_ids(processor, question.text, len(seen), before)
        start = common_prefix(ids, opened)
        stop = start + len(family.encode_completion(processor, turn.text))
        decoded = processor.tokenizer.decode(ids[start:stop])
        if "".join(turn.text.split()) not in "".join(decoded.split()):
            raise ModelError(
                f"the chat template of {family.name} changes the earlier answer {turn.text[:60]!r}, so its tokens "
                "cannot be scored: set trainer.loss_on_history=false"
            )
        if family.has_trie:
            longer = sum(family.image_lengths(processor, sizes)[: len(seen)]) - len(seen)
        else:
            longer = family.num_tokens(processor, question.text, seen, before) - len(opened)
        spans.append((start + longer, stop + longer))
    return spans
