"""Read the images of a question, for both of MPO's methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
