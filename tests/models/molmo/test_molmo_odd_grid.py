"""Tests grids with an odd side and 2 x 2 pooling, against a simple reimplementation of allenai/molmo at 793fa38.

Pooling: olmo/model.py, ``MolmoVisionBackbone.forward``. Tokens and order of the features:
olmo/data/model_preprocessor.py, ``image_to_patches_and_tokens``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scramble.models.backbone import FamilyBackbone
from scramble.models.molmo import MolmoConfig, MolmoForCausalLM, MolmoImageProcessor, MolmoProcessor
from scramble.models.molmo.family import Molmo
from scramble.models.molmo.modeling_molmo_vision import MolmoVisionBackbone
from scramble.models.molmo.tiny import save_tiny_molmo
from tests.exactness import CASES, assert_exact

TEXTS = ["describe the image", "a red circle above a blue square"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Molmo with 9 x 9 patches per crop, pooled to 5 x 5."""
    return save_tiny_molmo(tmp_path_factory.mktemp("odd") / "model", TEXTS, image_size=54)


def pooled_plainly(backbone: MolmoVisionBackbone, states_PX: Tensor, side: int) -> Tensor:
    """Compute the features (F, D) of one crop, window by window and head by head. Absent patches are zero vectors."""
    attention = backbone.image_pooling_2d
    grid, zero = states_PX.view(side, side, -1), states_PX.new_zeros(states_PX.shape[-1])
    features = []
    for top in range(0, side, 2):
        for left in range(0, side, 2):
            cells = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
            window_SX = torch.stack([grid[y, x] if y < side and x < side else zero for y, x in cells])
            query_E = attention.wq(window_SX.sum(0) / 4)
            keys_SE, values_SE = attention.wk(window_SX), attention.wv(window_SX)
            heads = []
            for start in range(0, len(query_E), attention.head_dim):
                head = slice(start, start + attention.head_dim)
                scores_S = keys_SE[:, head] @ query_E[head] / math.sqrt(attention.head_dim)
                heads.append(scores_S.softmax(0) @ values_SE[:, head])
            features.append(attention.wo(torch.cat(heads)))
    return backbone.image_projector(torch.stack(features))


@pytest.mark.parametrize("side", [3, 5, 7, 4])
def test_zeros_enter_mean_and_attention(side: int) -> None:
    torch.manual_seed(side)
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    vision |= {"image_size": 6 * side, "patch_size": 6, "feature_layers": [-1, -2], "initializer_range": 0.3}
    config = MolmoConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4, vision_config=vision)
    backbone = MolmoVisionBackbone(config).double().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(std=0.3)
        images_NPx = torch.randn(3, side * side, 108, dtype=torch.float64)
        masks_NP = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[torch.randint(3, (3, side * side))]
        states_NPX = backbone.image_vit(images_NPx)
        states_NPX = states_NPX + backbone.pad_embed[0] * (masks_NP == 0)[..., None]
        states_NPX = states_NPX + backbone.pad_embed[1] * (masks_NP == 0.5)[..., None]
        expected = torch.stack([pooled_plainly(backbone, states, side) for states in states_NPX])
        actual = backbone(images_NPx, masks_NP)
    assert actual.shape == (3, ((side + 1) // 2) ** 2, 64)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


def order_plainly(processor: MolmoImageProcessor, tiling: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the original's numbering of features, crop by crop, and the (rows, columns) of the original's tokens."""
    left, right = processor.overlap_margins
    side = processor.image_token_length_h
    patches = processor.base_image_input_size[0] // processor.image_patch_size
    window = patches - left - right
    numbering = np.full((*tiling, side, side), -1)
    number = 0
    for i in range(tiling[0]):
        first_row = 0 if i == 0 else left // 2
        rows = (window + (left if i == 0 else 0) + (right if i == tiling[0] - 1 else 0) + 1) // 2
        for j in range(tiling[1]):
            first_column = 0 if j == 0 else left // 2
            columns = (window + (left if j == 0 else 0) + (right if j == tiling[1] - 1 else 0) + 1) // 2
            block = np.arange(number, number + rows * columns).reshape(rows, columns)
            numbering[i, j, first_row : first_row + rows, first_column : first_column + columns] = block
            number += rows * columns
    by_crop = numbering.reshape(-1)
    by_row = numbering.transpose(0, 2, 1, 3).reshape(-1)
    # ``by_row[by_row >= 0]`` gives the feature of each token in reading order: invert it.
    place = np.empty(number, dtype=int)
    place[by_row[by_row >= 0]] = np.arange(number)
    order = np.where(by_crop >= 0, place[by_crop] + side * side, -1).reshape(-1, side * side)

    def tokens(count: int) -> int:
        if count == 1:
            return (patches + 1) // 2
        return (window + left + 1) // 2 + (count - 2) * ((window + 1) // 2) + (window + right + 1) // 2

    return np.concatenate([np.arange(side * side)[None], order]), (tokens(tiling[0]), tokens(tiling[1]))


@pytest.mark.parametrize(
    ("patches", "margins"), [(25, (4, 4)), (27, (4, 4)), (9, (2, 2)), (7, (0, 2)), (5, (0, 0)), (24, (4, 4))]
)
@pytest.mark.parametrize("tiling", [(1, 1), (1, 2), (2, 1), (3, 2), (2, 4), (1, 5)])
def test_tokens_and_order_are_the_original_ones(
    patches: int, margins: tuple[int, int], tiling: tuple[int, int]
) -> None:
    side = (patches + 1) // 2
    processor = MolmoImageProcessor(
        overlap_margins=margins,
        base_image_input_size=(14 * patches, 14 * patches),
        image_token_length_h=side,
        image_token_length_w=side,
    )
    order, grid = order_plainly(processor, tiling)
    assert processor.feature_grid(tiling) == grid
    np.testing.assert_array_equal(processor.feature_order(tiling), order)
    assert (order >= 0).sum() == side * side + grid[0] * grid[1]


def test_lengths_from_sizes_alone_are_those_of_the_processor(odd: Path, images: list[Image.Image]) -> None:
    family, processor = Molmo(), MolmoProcessor.from_pretrained(odd)
    model = MolmoForCausalLM.from_pretrained(odd).eval()
    backbone = FamilyBackbone(family, model)
    for image in images:
        prompt = family.encode_prompt(processor, TEXTS[0], [image])
        assert prompt.images is not None
        assert len(prompt.input_ids) == family.num_tokens(processor, TEXTS[0], [(image.height, image.width)])
        with torch.no_grad():
            (features,) = backbone.encode_images([prompt.images])
        assert len(features) == prompt.input_ids.count(processor.image_patch_token_id)


@pytest.mark.parametrize("name", ["five captions", "rows and padding", "two images"])
def test_tries_are_exact(name: str, odd: Path, with_lora: Any, images: list[Image.Image]) -> None:
    model = with_lora(MolmoForCausalLM.from_pretrained(odd).eval(), Molmo.lora_targets)
    assert_exact(model, Molmo(), MolmoProcessor.from_pretrained(odd), CASES[name], images)
