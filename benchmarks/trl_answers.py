"""Defines a variant of TRL's DPOTrainer whose output head runs only at answer positions on every device."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import trl.trainer.utils
from trl import DPOTrainer


class AnswersDPOTrainer(DPOTrainer):
    """Extends TRL's ``DPOTrainer`` to select the answer positions before the output head even without Triton.

    TRL 1.16 selects the answer positions only on devices with Triton (``_use_triton`` in ``trl.trainer.utils``).
    Without Triton, its fused head computes the logits of all positions and masks the results. This class selects the
    answer positions for the policy and for the reference. The kernel of the head checks the device separately and is
    not changed.
    """

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of TRL's ``compute_loss`` with the answer positions selected before the output head."""
        with patch.object(trl.trainer.utils, "_use_triton", lambda device: True):
            return super().compute_loss(*args, **kwargs)
