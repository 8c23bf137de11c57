"""Score the texts of pairs with models, and store the scores, so that an interrupted run can resume."""
