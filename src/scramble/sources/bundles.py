"""Rows that belong to one split together: images with the pairs or questions about them."""

from __future__ import annotations

from dataclasses import dataclass

from scramble.records import ImageRecord, PreferencePair, Question


@dataclass(frozen=True, slots=True)
class Bundle:
    """Images, pairs and questions. ``key`` decides the split: the (first) image's id, or the row's where it has none.

    An image may stand in several bundles; a split's table holds it once.
    """

    key: str
    images: tuple[ImageRecord, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    questions: tuple[Question, ...] = ()
