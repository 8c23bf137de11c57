"""Select the captions of each image for which to generate negatives: all, a random one, or the one most similar to the
image."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from scramble.pairs.base import Similarity, Skip, seeded
from scramble.pairs.captions.surface import problem
from scramble.records import ImageRecord

CaptionsPerImage = Literal["all", "one", "clip"]
BATCH = 64  # number of images whose captions are scored together


def choose_captions(
    images: Iterable[ImageRecord],
    captions_per_image: CaptionsPerImage,
    seed: int,
    similarity: Similarity | None,
    unusable: deque[Skip],
) -> Iterator[tuple[ImageRecord, dict[int, float | None]]]:
    """Yield each image with the indices of its selected captions, in order, and their similarity if it is computed.

    Captions that no method can use are added to ``unusable``. With ``clip``, which SCRAMBLe uses (arXiv 2504.04740),
    the images are read in batches, and the first of equally similar captions is selected.
    """
    if captions_per_image == "clip":
        assert similarity is not None  # caption_pairs checks this
        yield from _most_similar(images, similarity, unusable)
        return
    for image in images:
        usable = _usable(image, unusable)
        if captions_per_image == "one" and len(usable) > 1:
            usable = [seeded(seed, "caption", image.image_id).choice(usable)]
        yield image, dict.fromkeys(usable)


def _most_similar(
    images: Iterable[ImageRecord], similarity: Similarity, unusable: deque[Skip]
) -> Iterator[tuple[ImageRecord, dict[int, float | None]]]:
    stream = iter(images)
    while batch := list(islice(stream, BATCH)):
        usable = [_usable(image, unusable) for image in batch]
        items = [
            (image.image, image.captions[i]) for image, indices in zip(batch, usable, strict=True) for i in indices
        ]
        scores = iter(similarity(items) if items else ())
        for image, indices in zip(batch, usable, strict=True):
            of_image: dict[int, float] = {index: next(scores) for index in indices}
            best = max(of_image, key=of_image.__getitem__, default=None)
            yield image, {} if best is None else {best: of_image[best]}


def _usable(image: ImageRecord, unusable: deque[Skip]) -> list[int]:
    """Return the indices of the captions that a method can use, in order."""
    usable = []
    for index, text in enumerate(image.captions):
        if reason := problem(text):
            unusable.append(Skip(reason, {"image_id": image.image_id, "caption": index, "text": text[:500]}))
        else:
            usable.append(index)
    return usable
