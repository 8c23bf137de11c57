"""Assigns images and their records to splits by image content, so that no image is in two splits."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping

from scramble.records import ImageFile, RecordError

FILLED_FIRST = ("train", "test", "val")  # the order in which splits are filled if there are few images


class Groups:
    """Collects groups of bundles that must be in the same split because they share an image.

    Two images are the same if their bytes are equal, regardless of ids and paths. A group is identified by a number.
    Bundles without images are grouped by their key. Groups need about 200 bytes of memory per image.
    """

    def __init__(self) -> None:
        self._parent = array("q")
        self._keys: list[str] = []  # key of each group before groups were joined
        self._by_content: dict[bytes, int] = {}
        self._by_path: dict[str, bytes] = {}
        self._images: dict[bytes, set[str]] = {}

    def add(self, key: str, images: Mapping[str, ImageFile]) -> int:
        """Add the bundle with this key and return its group. ``images`` are the bundle's images by id."""
        contents = [self._content(image_id, image) for image_id, image in images.items()]
        contents = contents or [hashlib.sha256(key.encode()).digest()]
        joined = [self._find(self._by_content[content]) for content in contents if content in self._by_content]
        group = min(joined) if joined else self._new(key)
        for other in joined:
            self._parent[other] = group  # keep the earlier group, whose key was read first
        for content in contents:
            self._by_content.setdefault(content, group)
        return group

    def duplicates(self) -> int:
        """Return the number of image ids whose image also has another id."""
        return sum(len(ids) for ids in self._images.values() if len(ids) > 1)

    def assign(self, fractions: Mapping[str, float], seed: int) -> list[str]:
        """Return the split of each group.

        A group's split depends only on its first key and the seed, so that added images do not move other groups to
        another split. There is one exception: every split with a fraction above 0 gets at least one group. If there are
        fewer groups than such splits, the splits are filled in the order of :data:`FILLED_FIRST`.
        """
        roots = [self._find(group) for group in range(len(self._parent))]
        places = {root: _place(self._keys[root], seed) for root in dict.fromkeys(roots)}
        split = {root: _split(place, fractions) for root, place in places.items()}
        self._fill(split, places, fractions)
        return [split[root] for root in roots]

    @staticmethod
    def _fill(split: dict[int, str], places: Mapping[int, float], fractions: Mapping[str, float]) -> None:
        ranges = {
            "test": (0.0, fractions["test"]),
            "val": (fractions["test"], fractions["test"] + fractions["val"]),
            "train": (fractions["test"] + fractions["val"], 1.0),
        }
        members = {name: [root for root, own in split.items() if own == name] for name in FILLED_FIRST}
        due = [name for name in FILLED_FIRST if ranges[name][0] < ranges[name][1]][: len(split)]
        for name in due:
            if members[name]:
                continue
            low, high = ranges[name]
            # Take a group from a split with fraction 0, if any, otherwise from the largest split, which has at least
            # two groups.
            giver = max(
                FILLED_FIRST, key=lambda other: (other not in due and bool(members[other]), len(members[other]))
            )
            nearest = min(members[giver], key=lambda root: max(low - places[root], places[root] - high))
            members[giver].remove(nearest)
            members[name].append(nearest)
            split[nearest] = name

    def _content(self, image_id: str, image: ImageFile) -> bytes:
        """Return the hash of an image's bytes. If the file cannot be read, which only happens without ``verify``,
        return the hash of its path.
        """
        content = self._by_path.get(image.path or "") if image.bytes is None else None
        if content is None:
            try:
                content = hashlib.sha256(image.read()).digest()
            except RecordError:
                content = hashlib.sha256(f"path {image.path}".encode()).digest()
            if image.bytes is None and image.path:
                self._by_path[image.path] = content
        self._images.setdefault(content, set()).add(image_id)
        return content

    def _new(self, key: str) -> int:
        self._parent.append(len(self._parent))
        self._keys.append(key)
        return len(self._parent) - 1

    def _find(self, group: int) -> int:
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group


def _place(key: str, seed: int) -> float:
    """Return a number from 0 to 1 that depends only on ``key`` and ``seed``."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split(place: float, fractions: Mapping[str, float]) -> str:
    if place < fractions["test"]:
        return "test"
    return "val" if place < fractions["test"] + fractions["val"] else "train"
