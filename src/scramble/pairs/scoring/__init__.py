"""Models that score the texts of pairs. The scores are stored, so that an interrupted run can resume."""
