"""Defines bundles: records that belong to the same split. A bundle contains images with the pairs or questions about
these images.
"""

from __future__ import annotations

from dataclasses import dataclass

from scramble.records import ImageRecord, PreferencePair, Question


@dataclass(frozen=True, slots=True)
class Bundle:
    """Contains images, pairs and questions. ``key``, which determines the split, is the id of the first image, or
    the id of the row if there are no images.

    An image can be in several bundles; the table of a split contains it once.
    """

    key: str
    images: tuple[ImageRecord, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    questions: tuple[Question, ...] = ()
