"""Reads and writes pair data sets in the formats of other projects, and writes the data set card."""

from __future__ import annotations

from scramble.formats.bad_rows import FormatError
from scramble.formats.card import dataset_card
from scramble.formats.files import FORMATS, write
from scramble.formats.pair_files import read_pairs

__all__ = ["FORMATS", "FormatError", "dataset_card", "read_pairs", "write"]
