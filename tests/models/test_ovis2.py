"""Tests Ovis2: indicators from the visual vocabulary, the number of tiles, a processor of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from scramble.models import ModelError, load_vlm
from scramble.models.families.ovis2 import INDICATORS, PATCH


def test_indicators_are_the_last_rows_of_the_visual_table(tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny("ovis2"))
    tokenizer = vlm.processor.tokenizer
    ids = torch.tensor([tokenizer.convert_tokens_to_ids([*INDICATORS, "<|im_end|>"])])
    embedded = vlm.backbone.embed_tokens(ids)
    torch.testing.assert_close(embedded[0, :5], vlm.model.model.visual_embeddings_table.weight[-5:])
    torch.testing.assert_close(embedded[0, 5], vlm.model.get_input_embeddings().weight[ids[0, 5]])


@pytest.mark.parametrize("max_tiles", [1, 2, 6])
def test_max_tiles(max_tiles: int, tiny: Callable[[str], Path]) -> None:
    """A grid has at most 3 x 2 tiles, with 4 tokens per tile and thumbnail, start, grid, end, and separators of columns
    and rows.
    """
    vlm = load_vlm(tiny("ovis2"), max_tiles=max_tiles)
    prompt = vlm.family.encode_prompt(vlm.processor, "describe", [Image.new("RGB", (300, 200))])
    tokens = vlm.processor.tokenizer.convert_ids_to_tokens(prompt.input_ids)
    tiles = {1: 0, 2: 2, 6: 6}[max_tiles]
    assert tokens.count(PATCH) == 4 * (1 + tiles)
    assert tokens.count("<IMG_COL>") + tokens.count("<IMG_ROW>") == max(0, tiles - 1)
    assert vlm.family.num_tokens(vlm.processor, "describe", [(200, 300)]) == len(prompt.input_ids)


def test_a_processor_of_another_model(tiny: Callable[[str], Path]) -> None:
    vlm, other = load_vlm(tiny("ovis2")), load_vlm(tiny("llava_onevision"))
    vlm.family.check_processor(vlm.processor, vlm.model.config)
    with pytest.raises(
        ModelError, match=r"image tokens \[.*\], but the model has .* \[.*the processor belongs to another model"
    ):
        vlm.family.check_processor(other.processor, vlm.model.config)
