"""Defines the records that stages exchange: images, preference pairs, questions and 2x2 items.

Every source (the embedded world, COCO, an image folder, ...) writes these records, and later stages read only these
records. The fields are plain Python values. :mod:`scramble.storage.tables` stores them as parquet files, which the
``datasets`` library can open.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "val", "test")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # labels of a question's choices
# Training pairs and 2x2 items use the same prompt, so that models are evaluated in the format of their training data.
YES_NO_PROMPT = "Does the image show '{caption}'? Please answer yes or no."


class RecordError(ValueError):
    """Raised if a record is invalid. The message names the record and says how to fix it."""


def decoding_fault(error: Exception) -> str:
    """Explain in one line why Pillow cannot decode an image.

    Memory addresses, which some of Pillow's messages contain, are omitted.
    """
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image, or in a format that Pillow cannot read: convert it to JPEG or PNG"
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An encoded image: its bytes or the path of its file (the two fields of ``datasets.Image``)."""

    bytes: builtins.bytes | None = None
    path: str | None = None

    def read(self) -> builtins.bytes:
        """Return the encoded bytes. Raises RecordError if the file is missing, empty or unreadable."""
        if self.bytes is not None:
            return self.bytes
        try:
            data = Path(self.path or "").read_bytes()
        except OSError as error:
            raise RecordError(
                f"image {self.path} cannot be read ({error.strerror or error}): correct its path or its permissions"
            ) from error
        if not data:
            raise RecordError(f"image {self.path} is empty: copy or download the file again")
        return data

    def open(self) -> Image.Image:
        """Return the decoded image, upright and in RGB on a white background; see :mod:`scramble.pixels`.

        Raises RecordError if the image cannot be decoded.
        """
        from scramble.pixels import upright_rgb

        with self.opened() as image:
            return upright_rgb(image)

    def check(self) -> None:
        """Raise RecordError if the file is not an image. Only the header is decoded, which takes less than 1 ms."""
        with self.opened():
            pass

    @contextmanager
    def opened(self) -> Iterator[Image.Image]:
        """Open the image with Pillow, and convert errors of Pillow within the block to RecordError."""
        from PIL import Image

        data = io.BytesIO(self.read())
        try:
            with Image.open(data) as image:
                yield image
        except Exception as error:  # Pillow raises exceptions of many types for broken files
            raise RecordError(f"image {self.path or '<bytes>'} cannot be decoded ({decoding_fault(error)})") from error

    @property
    def sha256(self) -> str:
        """The SHA-256 hex digest of the encoded bytes."""
        return hashlib.sha256(self.read()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image with its annotations.

    Attributes:
        captions: true captions of the image.
        graph: a scene graph as plain JSON (objects with attributes and boxes, and relations), if the source has one.
    """

    image_id: str
    image: ImageFile
    captions: tuple[str, ...] = ()
    source: str = ""
    graph: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One changed span: character offsets (end exclusive) in the chosen and in the rejected text."""

    chosen: tuple[int, int]
    rejected: tuple[int, int]


ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a conversation before the prompt.

    The next ``num_images`` images of the conversation precede the text of the turn.
    """

    role: str
    text: str
    num_images: int = 0

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RecordError(f"the role of a turn must be one of {', '.join(map(repr, ROLES))}, not {self.role!r}")


def conversation(prompt: str, num_images: int, history: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the turns of ``history`` and the user's last turn, ``prompt``.

    ``num_images`` is the number of images in all turns. The images that are not in ``history`` are in the last turn.
    """
    return (*history, Turn("user", prompt, num_images - sum(turn.num_images for turn in history)))


def conversation_text(prompt: str, history: Sequence[Turn]) -> str:
    """Return one line ``role: text`` per turn of ``history``, followed by the prompt."""
    return "\n".join([*(f"{turn.role}: {turn.text}" for turn in history), prompt])


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A preferred (chosen) and a rejected answer to the same prompt about the same images.

    Attributes:
        image_ids: the images in the order of the conversation. Images that are not in ``history`` precede ``prompt``.
        prompt: the last turn of the user.
        kind: kind of the rejected answer (``swap-object``, ``replace-attribute``, ...). The audit and the refinement
            group the pairs by kind.
        rule: the source of the rejected text (a rule, or a prompt hash and a model).
        edits: the differences between the two texts.
        seed: seed with which the pair was selected among candidates.
        scores: values computed by filters (probabilities in [0, 1] or log-probabilities in nats).
        details: plain JSON that a method stores with its pairs, for example the edited facts of a scene graph.
        history: the turns before ``prompt``: a system prompt, earlier questions and answers.
        other_rejected: further rejected answers to the same prompt; see :meth:`singles`.
    """

    pair_id: str
    image_ids: tuple[str, ...]
    prompt: str
    chosen: str
    rejected: str
    kind: str
    rule: str = ""
    edits: tuple[Edit, ...] = ()
    seed: int = 0
    source: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    history: tuple[Turn, ...] = ()
    other_rejected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for rejected in (self.rejected, *self.other_rejected):
            if not self.chosen.strip() or not rejected.strip():
                raise RecordError(f"pair {self.pair_id}: chosen and rejected must not be empty")
            if same_text(self.chosen, rejected):
                raise RecordError(f"pair {self.pair_id}: chosen and rejected are the same text")
        if (earlier := sum(turn.num_images for turn in self.history)) > len(self.image_ids):
            raise RecordError(
                f"pair {self.pair_id}: the number of images in the turns before the prompt ({earlier}) exceeds the "
                f"number of images of the pair ({len(self.image_ids)}): add the missing images"
            )

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """All turns before the answers: ``history`` and the prompt."""
        return conversation(self.prompt, len(self.image_ids), self.history)

    def singles(self) -> Iterator[PreferencePair]:
        """Yield one pair per rejected answer.

        The first pair keeps this pair's id, rejected text and edits. The ids of the following pairs are
        ``<id>/rejected2``, ..., and these pairs have no edits.
        """
        if not self.other_rejected:
            yield self
            return
        yield replace(self, other_rejected=())
        for number, rejected in enumerate(self.other_rejected, 2):
            pair_id = f"{self.pair_id}/rejected{number}"
            yield replace(self, pair_id=pair_id, rejected=rejected, edits=(), other_rejected=())


def same_text(one: str, other: str) -> bool:
    """Return whether two texts differ at most in outer whitespace and in the Unicode normalisation of accents.

    Such texts read the same, so neither can be preferred. Tokenizers that normalise texts to NFC even assign the same
    tokens to both forms of an accent.
    """
    return unicodedata.normalize("NFC", one.strip()) == unicodedata.normalize("NFC", other.strip())


@dataclass(frozen=True, slots=True)
class Question:
    """A question about images, and its answer.

    Attributes:
        answers: all accepted answers, for example the answers of VQAv2's ten annotators.
        choices: the options of a multiple-choice question, in letter order.
        rationale: short, true reasoning steps that lead to the answer.
    """

    question_id: str
    image_ids: tuple[str, ...]
    question: str
    answer: str
    kind: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    rationale: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TwoByTwoItem:
    """A Winoground-style item: two images and two captions, where caption ``i`` is true only of image ``i``."""

    item_id: str
    image_ids: tuple[str, str]
    captions: tuple[str, str]
    kind: str = ""
    tags: tuple[str, ...] = ()
