"""Reads the usable examples of a data set folder, and creates their encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scramble.models import VLM
from scramble.storage.hashing import content_key
from scramble.training.config import PreferenceConfig
from scramble.training.data import Data, Example, load_examples, report_rejected
from scramble.training.encoder import Encoder, check_examples


@dataclass(frozen=True)
class PairDataset(Sequence[Example]):
    """The usable examples of a data set. The object can be pickled and sent to ``DataLoader`` workers.

    Attributes:
        examples: usable examples, in the order of the tables.
        rejected_rows: ``{"id": ..., "reason": ...}`` per row that cannot be used.
        encoder: encodes prompts and answers of the examples.
    """

    examples: list[Example]
    rejected_rows: list[dict[str, str]]
    encoder: Encoder

    @classmethod
    def read(
        cls,
        data: Data,
        vlm: VLM,
        args: PreferenceConfig,
        *,
        tables: Sequence[str],
        with_rejected: bool,
        rejected_file: Path,
    ) -> PairDataset:
        """Read the named tables, and write the rows that cannot be used to ``rejected_file``.

        Raises DataError if no row is usable, or if too many rows are rejected (see ``args.max_rejected_fraction``).
        """
        rows, images = load_examples(data, tables, args.caption_prompt)
        encoder = Encoder(vlm, images, args.image_cache_mb * 1_000_000, args.loss_on_history)
        limit = args.max_length or vlm.family.max_length(vlm.backbone.model.config)
        examples, rejected_rows = check_examples(encoder, rows, needs_rejected=with_rejected, max_length=limit)
        write = args.process_index == 0
        report_rejected(rejected_file, rejected_rows, len(examples), args.max_rejected_fraction, write=write)
        return cls(examples, rejected_rows, encoder)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # int or slice, as in Sequence
        return self.examples[index]

    @cached_property
    def texts_key(self) -> str:
        """The digest of all ids, prompts, answers and scored tokens."""
        texts = [[e.example_id, e.image_ids, e.prompt_key, e.chosen, e.rejected] for e in self.examples]
        return content_key(texts, "history") if self.encoder.score_history else content_key(texts)

    @cached_property
    def images_key(self) -> str:
        """The digest of the contents of all images."""
        images = sorted({image_id for example in self.examples for image_id in example.image_ids})
        return content_key([[image_id, self.encoder.images[image_id].sha256] for image_id in images])
