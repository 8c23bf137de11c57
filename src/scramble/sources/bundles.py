"""Records that belong to the same split: images with the pairs or questions about them."""

from __future__ import annotations

from dataclasses import dataclass

from scramble.records import ImageRecord, PreferencePair, Question


@dataclass(frozen=True, slots=True)
class Bundle:
    """Images, pairs and questions. ``key`` determines the split: the first image's id, or the row's id without images.

    An image can be in several bundles; the table of a split contains it once.
    """

    key: str
    images: tuple[ImageRecord, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    questions: tuple[Question, ...] = ()
