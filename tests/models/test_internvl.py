"""Tests InternVL: the project's tiny model loads like a released model, and its parts are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models import VLM, ModelError, load_vlm
from scramble.models.backbone import as_model_mask
from scramble.models.family import attention_windows
from scramble.models.tiny import save_tiny_internvl
from scramble.storage.hashing import file_key

TEXTS = ["A red circle is left of a blue square.", "the large green triangle is above a small star", "Describe it."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_internvl(tmp_path_factory.mktemp("internvl"), TEXTS, seed=3)


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VLM:
    return load_vlm(folder)


def test_size(vlm: VLM) -> None:
    assert 1.0e6 < sum(p.numel() for p in vlm.model.parameters()) < 1.5e6


def test_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert file_key(save_tiny_internvl(tmp_path / "again", TEXTS, seed=3)) == file_key(folder)
    assert file_key(save_tiny_internvl(tmp_path / "other", TEXTS, seed=4)) != file_key(folder)


def test_auto_classes_load_the_folder(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert type(AutoModelForImageTextToText.from_pretrained(folder)).__name__ == "InternVLForConditionalGeneration"
    processor = AutoProcessor.from_pretrained(folder)
    assert processor(images=[Image.new("RGB", (48, 48))], text=["<IMG_CONTEXT>"])["pixel_values"]


def test_prompt_is_short_and_holds_the_image_tokens(vlm: VLM) -> None:
    prompt = vlm.family.encode_prompt(vlm.processor, "Describe it.", [Image.new("RGB", (48, 48), "red")])
    (token,) = vlm.backbone.token_rules.features
    assert prompt.input_ids.count(token) == 16
    assert len(prompt.input_ids) < 32
    assert prompt.images is not None and prompt.images["pixel_values"].shape == (1, 3, 48, 48)


def test_ids_agree_with_trl(vlm: VLM) -> None:
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    image, family, processor = Image.new("RGB", (48, 48), "red"), vlm.family, vlm.processor
    chosen, rejected = "A red circle.", "A blue circle is left of it."
    row = {
        "images": [image],
        "prompt": [{"role": "user", "content": "Describe it."}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    batch = DataCollatorForVisionPreference(processor)([row])
    prompt = family.encode_prompt(processor, "Describe it.", [image])
    for row_index, text in enumerate((chosen, rejected)):
        remaining = batch["input_ids"][row_index][batch["attention_mask"][row_index].bool()].tolist()
        assert remaining == prompt.input_ids + family.encode_completion(processor, text)


def test_backbone_equals_forward(vlm: VLM) -> None:
    family, processor, backbone = vlm.family, vlm.processor, vlm.backbone
    image = Image.effect_mandelbrot((60, 40), (-2, -1, 1, 1), 50)
    prompt = family.encode_prompt(processor, "Describe it.", [image])
    assert prompt.images is not None
    ids = torch.tensor([prompt.input_ids + family.encode_completion(processor, "A red circle.")])
    with torch.no_grad():
        (features,) = backbone.encode_images([prompt.images])
        embeds = backbone.embed_tokens(ids)
        embeds[torch.isin(ids, torch.tensor(list(backbone.token_rules.features)))] = features
        length = ids.shape[1]
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        logits = backbone.head(backbone.decode(embeds, {"full_attention": mask}, torch.arange(length)[None, None]))
        expected = vlm.model(input_ids=ids, pixel_values=prompt.images["pixel_values"]).logits
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(48, 48), (96, 48), (60, 300), (500, 500), (30, 20000), (20000, 30), (1, 9)])
@pytest.mark.parametrize("max_tiles", [1, 2, 6, 12])
def test_dynamic_tiling(max_tiles: int, size: tuple[int, int], folder: Path) -> None:
    """A tile has 16 tokens, two tiles or more have a thumbnail, and the count is also computed from the size."""
    vlm = load_vlm(folder, max_tiles=max_tiles)
    image = Image.new("RGB", (size[1], size[0]), "red")
    prompt = vlm.family.encode_prompt(vlm.processor, "Describe it.", [image])
    assert prompt.images is not None
    tiles = len(prompt.images["pixel_values"])
    (token,) = vlm.backbone.token_rules.features
    assert prompt.input_ids.count(token) == 16 * tiles
    assert tiles == 1 or 3 <= tiles <= max_tiles + 1
    assert vlm.family.num_tokens(vlm.processor, "Describe it.", [size]) == len(prompt.input_ids)
    if max_tiles == 12 and max(size) > 40 * min(size):
        assert tiles == 13


def test_eager_attention_takes_the_same_masks(vlm: VLM, folder: Path) -> None:
    ids = torch.tensor([vlm.family.encode_completion(vlm.processor, "A red circle is left of it.")])
    length = ids.shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask[..., 3:, 1] = False
    states = []
    for model in (vlm, load_vlm(folder, attn_implementation="eager")):
        with torch.no_grad():
            positions = torch.arange(length)[None, None]
            embeddings = model.backbone.embed_tokens(ids)
            states.append(model.backbone.decode(embeddings, {"full_attention": mask}, positions))
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


def test_flash_attention_cannot_follow_a_trie(vlm: VLM) -> None:
    from types import SimpleNamespace

    language_model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="flash_attention_2"))
    with pytest.raises(ModelError, match="does not support the attention mask of a trie"):
        as_model_mask(language_model, None, torch.float32)


QWEN_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "model_type": "qwen3_moe"}
WINDOWS: dict[str, tuple[dict[str, Any], int | None]] = {
    "mistral": ({"model_type": "mistral", "sliding_window": 12}, 12),
    "mistral, layer types that its class ignores": (
        {"model_type": "mistral", "sliding_window": 12, "layer_types": ["full_attention"] * 2},
        12,
    ),
    "mistral, none": ({"model_type": "mistral", "sliding_window": None}, None),
    "mixtral": ({"model_type": "mixtral", "sliding_window": 12, "num_local_experts": 4}, 12),
    "phi3": ({"model_type": "phi3", "sliding_window": 12, "pad_token_id": 0}, 12),
    "qwen3_moe": ({**QWEN_MOE, "use_sliding_window": True, "sliding_window": 12}, 12),
    "qwen3_moe, all layers whatever max_window_layers says": (
        {**QWEN_MOE, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
        12,
    ),
    "qwen3_moe, off": ({**QWEN_MOE, "use_sliding_window": False, "sliding_window": 12}, None),
    "qwen2": ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}, 12),
    "qwen2, beyond the last layer": (
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
        None,
    ),
    "qwen2, off": ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 12}, None),
    "llama": ({"model_type": "llama"}, None),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_the_decoder(name: str) -> None:
    """With our masks the decoder gives the same results as with its own, for sequences shorter and longer than its
    window."""
    from transformers import AutoModel, InternVLConfig

    from scramble.models.families.internvl import InternVL
    from scramble.trie import TrieItem, pack
    from scramble.trie.mask import attention_masks

    values, window = WINDOWS[name]
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    config = InternVLConfig(text_config={**sizes, **values})
    windows = attention_windows(config.text_config)
    assert (window in windows.values()) if window else set(windows.values()) == {None}
    assert InternVL().max_length(config) == 64
    torch.manual_seed(0)
    decoder = AutoModel.from_config(config.text_config).eval()
    for length in (12, 13, 30):
        states, positions = torch.randn(1, length, 32), torch.arange(length)[None]
        batch = pack([TrieItem([[1] * (length + 1)], [[False] * length + [True]])])
        masks = attention_masks(batch, windows)
        with torch.no_grad():
            wanted = decoder(inputs_embeds=states, position_ids=positions).last_hidden_state
            ready = masks if len(masks) > 1 else next(iter(masks.values()))
            actual = decoder(inputs_embeds=states, position_ids=positions, attention_mask=ready).last_hidden_state
        assert (actual - wanted).abs().max() < 1e-5


def test_layers_without_a_mask_are_refused() -> None:
    from transformers import Qwen3NextConfig

    with pytest.raises(ModelError, match="layers of type linear_attention"):
        attention_windows(Qwen3NextConfig())


def test_generation_beyond_a_sliding_window(folder: Path) -> None:
    """Tokens that share a prompt attend as far back as with transformers' own ``generate``."""
    from scramble.models.generation import generate_ids, stop_tokens

    vlm = load_vlm(folder)
    config = vlm.backbone.decoder.config
    config.sliding_window, config.layer_types = 6, ["sliding_attention", "full_attention"] * 2
    vlm.backbone.decoder.has_sliding_layers = True  # type: ignore[assignment]
    prompts = [vlm.family.encode_prompt(vlm.processor, text) for text in ("A red circle is left of it.", "A red dot")]
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    wanted = []
    for prompt in prompts:
        output = vlm.model.generate(**vlm.family.generation_inputs(prompt, vlm.model), **options)
        wanted.append(output[0, len(prompt.input_ids) :].tolist())
    stops = stop_tokens(vlm)

    def never_stops(logits_BQV: torch.Tensor) -> torch.Tensor:
        logits_BQV[..., sorted(stops)] = -torch.inf
        return logits_BQV.argmax(-1)

    assert generate_ids(vlm, [prompts], [[12, 12]], never_stops) == [wanted]
    config.layer_types = ["full_attention"] * 4
    assert generate_ids(vlm, [prompts], [[12, 12]], never_stops) != [wanted]  # so the window has an effect here
