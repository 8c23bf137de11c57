"""Tests loading of released folders, saving, reloading, merging adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from scramble import models
from scramble.models.molmo import MolmoConfig, MolmoForCausalLM, MolmoImageProcessor, MolmoModel, MolmoProcessor
from scramble.models.molmo.family import Molmo
from scramble.models.molmo.tiny import save_tiny_molmo

TEXT = " User: describe the image Assistant:"


@pytest.fixture
def release(tmp_path: Path, golden_folder: Path, tiny: Callable[[str], Path]) -> Path:
    """Return a folder with the released configuration files, including their ``auto_map``, but with tiny sizes.

    The weights are in shards. As on the hub there is no chat template, and the tokenizer's settings do not mention the
    processor.
    """
    folder = save_tiny_molmo(tmp_path / "release", ["describe the image"], seed=3, max_shard_size="1MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2 and (folder / "model.safetensors.index.json").exists()
    for name in ("config.json", "preprocessor_config.json"):
        tiny_values = json.loads((folder / name).read_text())
        released = json.loads((golden_folder / "molmo_release" / name).read_text())
        sizes = {key: value for key, value in tiny_values.items() if key in released and isinstance(value, (int, list))}
        if name == "config.json":
            sizes["vision_config"] = tiny_values["vision_config"]
            sizes["architectures"] = released["architectures"]
        (folder / name).write_text(json.dumps({**released, **sizes}))
    shutil.copy(golden_folder / "molmo_release" / "processor_config.json", folder)
    (folder / "chat_template.jinja").unlink()
    settings = folder / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    values.pop("processor_class", None)
    settings.write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("trust", [False, None, True])
def test_auto_classes_take_the_native_ones_despite_the_remote_code(
    trust: bool | None, release: Path, images: list[Image.Image]
) -> None:
    """Remote code is not used: the folder names remote code that does not exist."""
    config = AutoConfig.from_pretrained(release, trust_remote_code=trust)
    assert type(config) is MolmoConfig and "AutoConfig" in config.auto_map
    assert type(AutoImageProcessor.from_pretrained(release, trust_remote_code=trust)) is MolmoImageProcessor
    processor = AutoProcessor.from_pretrained(release, trust_remote_code=trust)
    assert type(processor) is MolmoProcessor
    for auto, cls in (
        (AutoModelForImageTextToText, MolmoForCausalLM),
        (AutoModelForCausalLM, MolmoForCausalLM),
        (AutoModel, MolmoModel),
    ):
        loader: Any = auto
        model, report = loader.from_pretrained(release, trust_remote_code=trust, output_loading_info=True)
        assert type(model) is cls
        assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    batch = processor(images=images[0], text=TEXT)
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(release)(**batch).logits).all()


def test_released_configuration_has_the_vision_sizes_of_the_class(golden_folder: Path) -> None:
    config = AutoConfig.from_pretrained(golden_folder / "molmo_release")
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size) == (1024, 23, 336)
    assert config.image_patch_token_id == 152066
    assert config.vocab_size == config.embedding_size == 152064


def test_the_projects_loader(release: Path, images: list[Image.Image]) -> None:
    vlm = models.load_vlm(release, dtype="float32", resize=48, max_tiles=2)
    assert isinstance(vlm.family, Molmo)
    prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", [images[3]])
    assert len(prompt.input_ids) == vlm.family.num_tokens(vlm.processor, "describe the image", [(900, 7)])
    assert prompt.images is not None and prompt.images["images"].shape[1] == 2
    assert vlm.processor.image_processor.max_crops == 2
    vlm.family.check_processor(vlm.processor, vlm.model.config)


def test_processor_of_another_family_is_refused(tiny: Callable[[str], Path], processor: MolmoProcessor) -> None:
    with pytest.raises(ValueError, match="belongs to another model"):
        Molmo().check_processor(processor, MolmoConfig())
    with pytest.raises(ValueError, match="belongs to another model"):
        MolmoProcessor(processor.image_processor, models.load_vlm(tiny("llava")).processor.tokenizer)


@pytest.mark.parametrize("name", ["molmo_model", "molmo_model_o"])
def test_save_and_reload(
    name: str, tmp_path: Path, golden: Callable[..., Any], golden_folder: Path, inputs: dict[str, torch.Tensor]
) -> None:
    model = golden(name).eval()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    released = load_file(golden_folder / name / "model.safetensors")
    assert saved.keys() == released.keys() and all(torch.equal(saved[key], released[key]) for key in saved)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MolmoForCausalLM"]
    with torch.no_grad():
        wanted, found = model(**inputs).logits, MolmoForCausalLM.from_pretrained(tmp_path)(**inputs).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_processor_survives_saving(tmp_path: Path, processor: MolmoProcessor, images: list[Image.Image]) -> None:
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["max_crops"] == 4
    wanted, found = (p(images=images[3], text=TEXT) for p in (processor, again))
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert again.chat_template == processor.chat_template


def test_adapter_on_the_decoder_merges(
    tmp_path: Path, golden: Callable[..., Any], with_lora: Callable[[Any, str], Any], inputs: dict[str, torch.Tensor]
) -> None:
    import peft

    adapted = with_lora(golden().eval(), Molmo.lora_targets).eval()
    touched = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    blocks = [f"base_model.model.model.transformer.blocks.{n}" for n in range(2)]
    assert touched == {f"{b}.{m}" for b in blocks for m in ("att_proj", "attn_out", "ff_proj", "ff_out")}
    with torch.no_grad():
        plain, wanted = golden().eval()(**inputs).logits, adapted(**inputs).logits
    assert (wanted - plain).abs().max() > 1e-2

    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(golden().eval(), tmp_path / "adapter")
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    reloaded = MolmoForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        for model in (merged, reloaded):
            torch.testing.assert_close(model(**inputs).logits, wanted, atol=1e-5, rtol=0)


def test_a_shape_that_does_not_fit_is_named(release: Path) -> None:
    values = json.loads((release / "config.json").read_text())
    (release / "config.json").write_text(json.dumps({**values, "intermediate_size": 256}))
    with pytest.raises(ValueError, match="ff_proj"):
        models.load_vlm(release)


def test_a_missing_shard_is_named(release: Path) -> None:
    shard = sorted(release.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        MolmoForCausalLM.from_pretrained(release)


def test_tiny_models_repeat_and_have_the_switches_of_7b_o(tmp_path: Path) -> None:
    texts = ["describe the image", "a red circle"]
    first = save_tiny_molmo(tmp_path / "a", texts, seed=1, like_7b_o=True)
    second = save_tiny_molmo(tmp_path / "b", texts, seed=1, like_7b_o=True)
    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert "model.transformer.blocks.0.q_norm.weight" in weights[0]
    assert "model.transformer.blocks.0.att_proj.bias" not in weights[0]
