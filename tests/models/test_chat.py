"""Invalid options of a chat are refused before the model is called."""

from __future__ import annotations

from typing import Any, cast

import pytest

from scramble.models.chat import answer
from scramble.models.family import ModelError
from scramble.models.loading import load_adapter
from scramble.models.vlm import VLM


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, not 0"),
        ({"max_new_tokens": "abc"}, "max_new_tokens must be a whole number of at least 1, not abc"),
        ({"temperature": -1}, "temperature must be 0 .* or a positive number, not -1"),
        ({"temperature": float("nan")}, "temperature must be 0 .* or a positive number, not nan"),
        ({"temperature": "hot"}, "temperature must be 0 .* or a positive number, not hot"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        answer(cast(VLM, None), "hi", **options)


def test_the_arms_folder_in_place_of_its_adapters(tmp_path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ModelError, match=rf"there is no adapter at {tmp_path}: did you mean {tmp_path}/adapter\?"):
        load_adapter(cast(Any, None), str(tmp_path))
