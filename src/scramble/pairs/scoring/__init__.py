"""Models that score the texts of pairs, and the store of their scores."""
