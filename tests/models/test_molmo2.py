"""Tests Molmo2: the decoder with handmade inputs, because its image processor needs torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from scramble.models import ModelError, load_vlm
from scramble.models.backbone import FamilyBackbone
from scramble.models.families.molmo2 import Molmo2
from scramble.models.family import Prompt
from scramble.models.tiny import save_tiny
from scramble.models.tiny.molmo2 import tiny_molmo2_config
from scramble.models.tiny.parts import random_model
from tests.exactness import CASES, SELECTED, assert_exact

VOCAB = 300


class HandMade(Molmo2):
    """Molmo2 with handmade prompts in the processor's layout: one crop and the low-resolution view."""

    def encode_prompt(self, processor: Any, text: str, images: Any = (), history: Any = ()) -> Prompt:
        """Return for every image the low-resolution view (2 x 2 features) and then the crop (2 x 1), of 4 x 4 patches
        each.
        """
        start, end, patch, column, low = (VOCAB + n for n in (0, 1, 2, 3, 4))
        view = [low, *[patch, patch, column] * 2, end, start, *[patch, column] * 2, end]
        ids = [1, *view * len(images), *self._ids(text)]
        if not images:
            return Prompt(ids)
        generator = torch.Generator().manual_seed(sum(images[0].size))
        pooling = []
        for n in range(len(images)):
            low_patches = torch.arange(16).view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
            crop = torch.tensor([[16, 17, 20, -1], [24, 25, -1, -1]])
            both = torch.cat([low_patches, crop])
            pooling.append(torch.where(both >= 0, both + 32 * n, both))
        tensors = {
            "pixel_values": torch.rand(2 * len(images), 16, 14 * 14 * 3, generator=generator),
            "image_token_pooling": torch.cat(pooling),
            "image_grids": torch.tensor([[2, 2, 2, 1]] * len(images)),
            "image_num_crops": torch.tensor([2] * len(images)),
        }
        return Prompt(ids, tensors)

    def encode_completion(self, processor: Any, text: str) -> list[int]:
        return [*self._ids(" " + text), 2]

    def _ids(self, text: str) -> list[int]:
        return [3 + byte for byte in text.encode()]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import Molmo2ForConditionalGeneration

    return random_model(Molmo2ForConditionalGeneration, tiny_molmo2_config(VOCAB), 0).eval()


@pytest.mark.parametrize("case", SELECTED)
def test_trie_equals_one_sequence_a_row(case: str, model: Any, with_lora: Any, images: list[Image.Image]) -> None:
    import copy

    family = HandMade()
    tuned = with_lora(copy.deepcopy(model), family.lora_targets)
    marked = {"mm_token_type_ids": family.block_tokens(model.config)}
    assert_exact(tuned, family, None, CASES[case], images, marked=marked)


def test_image_tokens_attend_in_both_directions(model: Any, images: list[Image.Image]) -> None:
    """The first image token's state depends on the last one's feature, unlike with a causal mask."""
    family = HandMade()
    prompt = family.encode_prompt(None, "", images[:1])
    ids = torch.tensor([prompt.input_ids])
    types = torch.isin(ids, torch.tensor(sorted(family.block_tokens(model.config)))).long()
    changed = dict(prompt.images or {})
    changed["pixel_values"] = changed["pixel_values"].clone()
    changed["pixel_values"][1] += 1  # the crop, which comes last
    with torch.no_grad():
        before = model(input_ids=ids, mm_token_type_ids=types, **(prompt.images or {})).logits
        after = model(input_ids=ids, mm_token_type_ids=types, **changed).logits
    assert torch.equal(before[0, 0], after[0, 0])  # BOS is before the block
    assert not torch.allclose(before[0, 1], after[0, 1])


@pytest.mark.skipif(not is_torchvision_available(), reason="Molmo2's image processor needs torchvision")
@pytest.mark.parametrize("case", SELECTED)
def test_trie_through_the_released_processor(
    case: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    vlm = load_vlm(tiny("molmo2"), dtype="float32")
    marked = {"mm_token_type_ids": vlm.family.block_tokens(vlm.model.config)}
    tuned = with_lora(vlm.model, vlm.family.lora_targets)
    assert_exact(tuned, vlm.family, vlm.processor, CASES[case], images, marked=marked)


@pytest.mark.skipif(not is_torchvision_available(), reason="Molmo2's image processor needs torchvision")
def test_prompt_is_the_processors_own(tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    """Ids and token types equal those of transformers' own call on the whole chat."""
    vlm = load_vlm(tiny("molmo2"))
    prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", images[:2])
    content = [{"type": "image", "image": image} for image in images[:2]]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": "describe the image"}]}]
    expected = vlm.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs = vlm.family.generation_inputs(prompt, vlm.model)
    for key in ("input_ids", "mm_token_type_ids", "pixel_values", "image_token_pooling", "image_grids"):
        assert torch.equal(inputs[key], expected[key]), key


def test_without_torchvision_one_clear_line(tmp_path: Any) -> None:
    if is_torchvision_available():
        pytest.skip("torchvision is installed")
    with pytest.raises(ModelError, match="pip install torchvision"):
        save_tiny("molmo2", tmp_path, ["a circle"])


def test_cache_changes_no_token(model: Any, images: list[Image.Image]) -> None:
    family = HandMade()
    inputs = family.generation_inputs(family.encode_prompt(None, "describe", images[:2]), model)
    with torch.inference_mode():
        answers = [
            model.generate(
                **inputs, do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=None, use_cache=use
            )
            for use in (True, False)
        ]
    assert torch.equal(*answers)
    assert len(set(answers[0][0, inputs["input_ids"].shape[1] :].tolist())) > 1


def test_image_ids_are_never_targets(model: Any, images: list[Image.Image]) -> None:
    from scramble.trie import TrieError, TrieItem, pack

    family = HandMade()
    backbone = FamilyBackbone(family, model)
    prompt = family.encode_prompt(None, "", images[:1])
    ids = [*prompt.input_ids, VOCAB + 2]
    item = TrieItem([ids], [[False] * (len(ids) - 1) + [True]], prompt.images, "a")
    with pytest.raises(TrieError, match=str(VOCAB + 2)):
        pack([item], vocab_size=backbone.head.weight.shape[0])
