from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tests.exactness import CASES, assert_exact


@pytest.mark.parametrize("name", CASES)
def test_internvl_equals_one_sequence_a_row(name: str, loaded: Any, images: list[Image.Image]) -> None:
    assert_exact(loaded.model, loaded.family, loaded.processor, CASES[name], images)
