"""Provide what MPO's two methods share: questions with encoded images, and reasons to skip questions and replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scramble.engines import Reply
from scramble.engines.request import encoded
from scramble.pairs.base import Skip
from scramble.records import ImageFile, Question, RecordError


@dataclass(frozen=True, slots=True)
class Case:
    """A question and the encoded images that it is about."""

    question: Question
    images: tuple[bytes, ...]


def case_of(question: Question, images: Mapping[str, ImageFile]) -> tuple[Case, Skip | None]:
    """Return the question with its images, and a :class:`Skip` if an image is missing or unreadable."""
    encoded_images = []
    for image_id in question.image_ids:
        if image_id not in images:
            return Case(question, ()), Skip("missing image")
        try:
            encoded_images.append(encoded(images[image_id]))
        except RecordError:
            return Case(question, ()), Skip("unreadable image")
    return Case(question, tuple(encoded_images)), None


def unusable_reason(reply: Reply) -> str:
    """Return the reason why a reply cannot be used, or "" if it can be used."""
    if reply.error:
        return f"no reply: {reply.error.split(' (')[0]}"
    if reply.finish_reason == "length":
        return "reply truncated at the token limit"
    if reply.finish_reason != "stop":
        return f"reply ended by {reply.finish_reason}"
    return "" if reply.text.strip() else "empty reply"
