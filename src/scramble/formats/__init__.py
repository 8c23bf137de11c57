"""Reads and writes pair data sets in the formats of other projects, and writes the data set card."""

from __future__ import annotations

from scramble.formats.card import dataset_card
from scramble.formats.files import FORMATS, write
from scramble.formats.pair_files import read_pairs
from scramble.formats.provenance import FormatError

__all__ = ["FORMATS", "FormatError", "dataset_card", "read_pairs", "write"]
