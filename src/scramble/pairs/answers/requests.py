"""What both of MPO's methods ask with: a question with its encoded images, ready to be sent or a reason to skip it."""

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
    """The question with its images, and why it cannot be asked (a missing or broken image)."""
    found = []
    for image_id in question.image_ids:
        if image_id not in images:
            return Case(question, ()), Skip("missing image")
        try:
            found.append(encoded(images[image_id]))
        except RecordError:
            return Case(question, ()), Skip("unreadable image")
    return Case(question, tuple(found)), None


def no_reply(reply: Reply) -> str:
    """Why a reply cannot be used, as a reason to count; "" where it can."""
    if reply.error:
        return f"no reply: {reply.error.split(' (')[0]}"
    if reply.finish_reason == "length":
        return "reply cut at the token limit"
    if reply.finish_reason != "stop":
        return f"reply ended by {reply.finish_reason}"
    return "" if reply.text.strip() else "empty reply"
