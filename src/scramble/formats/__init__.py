"""Pair data sets in the formats of other projects, both ways."""
