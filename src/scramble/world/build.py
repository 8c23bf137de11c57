"""Generates a world as train, val and test folders, with the same kinds of records as real data."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.records import SPLITS, ImageFile, ImageRecord, Question, TwoByTwoItem
from scramble.storage.tables import write_table
from scramble.world.captions import CAPTION_STYLES, SIZED, captions
from scramble.world.drawing import SMALLEST, png
from scramble.world.grammar import Wording
from scramble.world.graphs import scene_graph
from scramble.world.quads import QUAD_KINDS, Square, draw_square
from scramble.world.questions import QUESTION_KINDS, ask
from scramble.world.scenes import Scene, WorldError, draw_scene

SOURCE = "world"
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class _SceneSettings:
    """The settings that all scenes of a world share."""

    image_size: int
    objects: tuple[int, int]
    lookalikes: float
    captions_per_image: int
    styles: Mapping[str, float]
    sized: float


def build_world(
    folder: str | Path,
    *,
    n_train: int,
    n_val: int,
    n_test: int,
    image_size: int = SMALLEST,
    seed: int = 0,
    objects: tuple[int, int] = (2, 4),
    lookalikes: float = 0.0,
    captions_per_image: int = 3,
    styles: Mapping[str, float] | None = None,
    sized: float = SIZED,
    questions_per_image: int = 3,
    question_kinds: Sequence[str] = QUESTION_KINDS,
    quads_val: int = 200,
    quads_test: int = 1000,
    first_train: int = 0,
) -> dict[str, Any]:
    """Write tables of images and questions for the splits train, val and test, and 2x2 items for val and test.

    The tables of a split are in the split's folder under ``folder``, for example ``train/``. No scene is in two splits.
    Two scenes are the same if they have the same objects in the same relations. The 2x2 items have these tags:

    - ``seen`` (val and test): combinations of colour and shape that occur in training
    - ``unseen`` (test): combinations of colour and shape that do not occur in training
    - ``new-wording`` (test, in addition to ``seen``): wordings that do not occur in training

    The same arguments produce the same bytes.

    Args:
        n_train, n_val, n_test: number of images with captions and questions. The 2x2 items have separate images.
        image_size: pixels per side, at least 48.
        seed: seed of all random choices.
        objects: minimum and maximum number of objects in a scene.
        lookalikes: probability that an object gets the shape or colour of an earlier object.
        captions_per_image: number of different true captions per image.
        styles: weights of the caption styles; None means ``scramble.world.captions.CAPTION_STYLES``.
        sized: fraction of captions that mention sizes.
        questions_per_image: maximum number of questions per image. Some scenes do not allow every kind of question.
        question_kinds: the kinds of questions.
        quads_val, quads_test: number of 2x2 items per kind and tag.
        first_train: index of the first training scene. The sequence of training scenes is unlimited, so another index
            selects other training images. The val and test splits stay the same.
    Returns:
        Counts per split: ``{"train": {"images": ..., "questions": ..., "quads": ...}, ...}``.
    Raises:
        WorldError: the arguments are invalid, or require more different scenes than exist.
    """
    settings = _SceneSettings(image_size, objects, lookalikes, captions_per_image, styles or CAPTION_STYLES, sized)
    signatures: set[Any] = set()  # the signatures of the splits that have already been written
    counts: dict[str, Any] = {}
    # Draw the test split first, so that it does not depend on the number of training images.
    for split, size, quads in (("test", n_test, quads_test), ("val", n_val, quads_val), ("train", n_train, 0)):
        seen: set[Any] = set()
        target = Path(folder) / split
        squares = list(_squares(split, quads, seed, settings, signatures, seen))
        first = first_train if split == "train" else 0
        scenes = list(_scenes(split, range(first, first + size), seed, settings, signatures, seen))
        questions = list(_questions(scenes, seed, questions_per_image, question_kinds))
        counts[split] = {
            "images": write_table(target, ImageRecord, _images(scenes, squares, seed, settings)),
            "questions": write_table(target, Question, questions),
            "quads": write_table(target, TwoByTwoItem, [quad for quad, _ in squares]) if quads else 0,
        }
        signatures |= seen
    return {split: counts[split] for split in SPLITS}


def _scenes(
    split: str, indices: range, seed: int, settings: _SceneSettings, signatures: set[Any], seen: set[Any]
) -> Iterator[tuple[str, Scene]]:
    for index in indices:
        rng = random.Random(f"{seed}/{split}/scene/{index}")
        for _ in range(_TRIES):
            scene = draw_scene(rng, objects=settings.objects, lookalikes=settings.lookalikes)
            if scene.signature not in signatures:
                break
        else:
            raise WorldError(
                f"{split}: no new scene was found in {_TRIES} tries: lower data.n_{split} or raise data.objects"
            )
        seen.add(scene.signature)
        yield f"{SOURCE}/{split}/{index:06d}", scene


def _squares(
    split: str, size: int, seed: int, settings: _SceneSettings, signatures: set[Any], seen: set[Any]
) -> Iterator[tuple[TwoByTwoItem, Square]]:
    parts: list[tuple[str, bool, Wording]] = [("seen", False, "train")]
    if split == "test":  # val contains only combinations and wordings of the training split
        parts += [("unseen", True, "train"), ("new-wording", False, "new")]
    for kind in QUAD_KINDS:
        for tag, held_out, wording in parts:
            for index in range(size):
                item = f"{SOURCE}/{split}/{kind}/{tag}/{index:05d}"
                rng = random.Random(f"{seed}/{item}")
                for _ in range(_TRIES):
                    square = draw_square(
                        rng,
                        kind,
                        objects=settings.objects,
                        lookalikes=settings.lookalikes,
                        held_out=held_out,
                        wording=wording,
                    )
                    if not any(scene.signature in signatures for scene in square.scenes):
                        break
                else:
                    raise WorldError(
                        f"{split}: no new {kind} item was found in {_TRIES} tries: lower data.quads_{split}"
                    )
                seen.update(scene.signature for scene in square.scenes)
                tags = ("seen", "new-wording") if tag == "new-wording" else (tag,)
                yield TwoByTwoItem(item, (f"{item}/0", f"{item}/1"), square.captions, kind, tags), square


def _images(
    scenes: Sequence[tuple[str, Scene]],
    squares: Sequence[tuple[TwoByTwoItem, Square]],
    seed: int,
    settings: _SceneSettings,
) -> Iterator[ImageRecord]:
    for image_id, scene in scenes:
        rng = random.Random(f"{seed}/{image_id}/captions")
        texts = captions(scene, rng, settings.captions_per_image, styles=settings.styles, sized=settings.sized)
        yield _record(image_id, scene, texts, settings)
    for quad, square in squares:
        for image_id, scene in zip(quad.image_ids, square.scenes, strict=True):
            yield _record(image_id, scene, (), settings)  # the captions are stored with the 2x2 item


def _record(image_id: str, scene: Scene, texts: tuple[str, ...], settings: _SceneSettings) -> ImageRecord:
    image = ImageFile(bytes=png(scene, settings.image_size))
    return ImageRecord(image_id, image, texts, SOURCE, scene_graph(scene, settings.image_size))


def _questions(
    scenes: Sequence[tuple[str, Scene]], seed: int, per_image: int, kinds: Sequence[str]
) -> Iterator[Question]:
    unknown = sorted(set(kinds) - set(QUESTION_KINDS))
    if unknown:
        raise WorldError(
            f"unknown kinds of questions {unknown}: choose data.question_kinds from {list(QUESTION_KINDS)}"
        )
    for image_id, scene in scenes:
        rng = random.Random(f"{seed}/{image_id}/questions")
        for kind in rng.sample(list(kinds), min(per_image, len(kinds))):
            if (question := ask(scene, rng, kind)) is not None:
                yield Question(
                    f"{image_id}/{kind}",
                    (image_id,),
                    question.question,
                    question.answer,
                    kind,
                    rationale=question.rationale,
                )
