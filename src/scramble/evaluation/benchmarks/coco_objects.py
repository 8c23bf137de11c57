"""Read the objects in COCO images as CHAIR and Object HalBench define them: the annotated instances, and the objects
that the reference captions mention.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.grading.objects import Vocabulary
from scramble.storage.files import StoreError, read_text


@dataclass
class CocoImages:
    """COCO images by id: the file name, the categories in the image (``objects``), and the number of reference captions
    (``captions``) of each image. ``sources`` lists the annotation files.
    """

    files: dict[int, str] = field(default_factory=dict)
    objects: dict[int, set[str]] = field(default_factory=dict)
    captions: dict[int, int] = field(default_factory=dict)
    sources: list[Path] = field(default_factory=list)

    def truth(self, name: str, where: str, image_id: int) -> frozenset[str]:
        """Return the categories in an image. Raises EvaluationError if the annotations do not contain the image or its
        captions.
        """
        if image_id in self.files and self.captions.get(image_id):
            return frozenset(self.objects[image_id])
        missing = "reference captions" if image_id in self.files else "ground truth"
        listed = ", ".join(path.name for path in self.sources)
        setting = "root" if name == "chair" else "annotations"
        raise EvaluationError(
            f"{name}: {where}: image_id {image_id} has no {missing} in {listed}: set benchmark.{name}.{setting} to the "
            "folder with instances_*.json and captions_*.json of the image's split"
        )


def image_number(name: str, where: str, row: Mapping[str, Any]) -> int:
    """Return the id of the COCO image that a row names. Raises EvaluationError if ``image_id`` is neither an integer
    nor a string of digits.
    """
    value = row.get("image_id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not str(value).isdecimal():
        raise EvaluationError(f"{name}: {where}: image_id must be a COCO image id, not {value!r:.60}: correct this row")
    return int(str(value))


def read(name: str, folder: str | Path, vocabulary: Vocabulary, wanted: Collection[int] | None = None) -> CocoImages:
    """Read all ``instances_*.json`` and ``captions_*.json`` below a folder.

    Args:
        name: name of the benchmark.
        folder: folder of the annotations.
        vocabulary: words that denote categories.
        wanted: ids of the images to read (default: all images). Reading the captions of all images takes seconds.

    Raises:
        EvaluationError: a file is missing or damaged, or a category is unknown.
    """
    images = CocoImages()
    for pattern in ("instances_*.json", "captions_*.json"):
        paths = sorted(Path(folder).rglob(pattern))
        if not paths:
            setting = "root" if name == "chair" else "annotations"
            raise EvaluationError(f"{name}: there is no {pattern} below {folder}: check benchmark.{name}.{setting}")
        images.sources += paths
        for path in paths:
            try:
                _add(path, images, vocabulary, wanted)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                reason = f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)
                raise EvaluationError(
                    f"{name}: {path} is not a file of COCO annotations ({reason}): download the file again"
                ) from error
            except StoreError as error:
                raise EvaluationError(f"{name}: {error}") from error
    return images


def _add(path: Path, images: CocoImages, vocabulary: Vocabulary, wanted: Collection[int] | None) -> None:
    content = json.loads(read_text(path), object_hook=_without_outlines)
    if "categories" in content:
        for image in content["images"]:
            if type(image["id"]) is not int or not isinstance(image["file_name"], str):
                raise ValueError(
                    "the id and file_name of each image must be an integer and a string, not "
                    f"{image['id']!r:.40} and {image['file_name']!r:.40}"
                )
            if wanted is None or image["id"] in wanted:
                images.files[image["id"]] = image["file_name"]
                images.objects.setdefault(image["id"], set())
        names = {category["id"]: category["name"] for category in content["categories"]}
        if unknown := sorted(set(names.values()) - set(vocabulary.category)):
            raise ValueError(f"unknown category {unknown[0]!r}")
        for note in content["annotations"]:
            if isinstance(note["image_id"], str):  # a string would match no image, so the object would be missing
                raise ValueError(f"the image_id of an annotation must be an integer, not {note['image_id']!r:.40}")
            if note["image_id"] in images.objects:
                images.objects[note["image_id"]].add(vocabulary.category[names[note["category_id"]]])
        return
    for note in content["annotations"]:
        if (image_id := note["image_id"]) in images.objects:
            images.captions[image_id] = images.captions.get(image_id, 0) + 1
            images.objects[image_id].update(category for _, category in vocabulary.mentions(note["caption"]))


def _without_outlines(entry: dict[str, Any]) -> Mapping[str, Any]:
    """Drop the outlines of objects while the file is parsed, because the outlines take most of the memory."""
    entry.pop("segmentation", None)
    return entry
