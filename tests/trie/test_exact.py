from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tests.exactness import CASES, assert_exact


@pytest.mark.parametrize("name", CASES)
def test_internvl_equals_one_sequence_per_row(name: str, vlm: Any, images: list[Image.Image]) -> None:
    assert_exact(vlm.model, vlm.family, vlm.processor, CASES[name], images)
