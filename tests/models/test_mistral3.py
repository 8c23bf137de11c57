"""Tests Mistral 3 with prompts made by hand on Pillow's image processor, because Pixtral's processor needs
torchvision.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Mistral3ForConditionalGeneration, PixtralImageProcessorPil
from transformers.utils import is_torchvision_available

from scramble.models import ModelError
from scramble.models.backbone import FamilyBackbone
from scramble.models.families.mistral3 import Mistral3
from scramble.models.family import Prompt
from scramble.models.tiny import save_tiny
from scramble.models.tiny.mistral3 import SPECIALS, tiny_mistral3_config
from scramble.models.tiny.parts import random_model
from tests.exactness import CASES, SELECTED, assert_exact

IDS = {token: number for number, token in enumerate(SPECIALS)}


class HandMade(Mistral3):
    """Mistral 3 with one token per byte, and with the rows of image tokens that Pixtral's processor writes."""

    def encode_prompt(self, processor: Any, text: str, images: Any = (), history: Any = ()) -> Prompt:
        """Return BOS, ``[INST]``, the rows of each image (``[IMG_BREAK]`` after all rows but the last), the text and
        ``[/INST]``.
        """
        tensors, ids = None, [IDS["<s>"], IDS["[INST]"]]
        if images:
            batch = processor(list(images), patch_size=16, return_tensors="pt")
            tensors = {"pixel_values": batch["pixel_values"], "image_sizes": batch["image_sizes"]}
            for height, width in (batch["image_sizes"] // 16).tolist():
                ids += ([IDS["[IMG]"]] * width + [IDS["[IMG_BREAK]"]]) * height
                ids[-1] = IDS["[IMG_END]"]
        return Prompt([*ids, *self._ids(text), IDS["[/INST]"]], tensors)

    def encode_completion(self, processor: Any, text: str) -> list[int]:
        return [*self._ids(text), IDS["</s>"]]

    def _ids(self, text: str) -> list[int]:
        return [len(SPECIALS) + byte for byte in text.encode()]


@pytest.mark.parametrize("decoder", ["mistral", "ministral3"])
@pytest.mark.parametrize("case", SELECTED)
def test_trie_equals_one_sequence_a_row(case: str, decoder: str, with_lora: Any, images: list[Image.Image]) -> None:
    """Images of several sizes are in one tower pass, and Ministral's queries are scaled by position."""
    config = tiny_mistral3_config(IDS, len(SPECIALS) + 256, decoder)
    model = random_model(Mistral3ForConditionalGeneration, config, 0).eval()
    model = with_lora(model, Mistral3.lora_targets)
    processor = PixtralImageProcessorPil(size={"longest_edge": 64})
    assert_exact(model, HandMade(), processor, CASES[case], images)


def test_features_do_not_depend_on_the_batch(images: list[Image.Image]) -> None:
    """The tower runs once over padded images of different sizes."""
    config = tiny_mistral3_config(IDS, len(SPECIALS) + 256)
    model = random_model(Mistral3ForConditionalGeneration, config, 0).eval()
    processor = PixtralImageProcessorPil(size={"longest_edge": 64})
    family = HandMade()
    inputs: list[Any] = [family.encode_prompt(processor, "", group).images for group in (images[:2], images[2:3])]
    assert len({tuple(i["pixel_values"].shape[-2:]) for i in inputs}) == 2
    together = FamilyBackbone(family, model).encode_images(inputs)
    for one, features in zip(inputs, together, strict=True):
        alone = model.get_image_features(**one, return_dict=True).pooler_output
        torch.testing.assert_close(features, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.skipif(is_torchvision_available(), reason="the error is raised without torchvision")
def test_without_torchvision_the_error_names_it(tmp_path: Any) -> None:
    for name in ("mistral3", "cohere2_vision"):
        with pytest.raises(ModelError, match="needs torchvision: run `pip install torchvision`"):
            save_tiny(name, tmp_path, ["a circle"])
