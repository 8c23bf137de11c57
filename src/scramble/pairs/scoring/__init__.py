"""Models score the texts of pairs. Their scores are stored, so that an interrupted run can resume."""
