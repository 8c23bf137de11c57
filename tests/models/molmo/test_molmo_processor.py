"""Tests model inputs from images and texts: recorded cases, and properties for any size."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from scramble.models.molmo import MolmoImageProcessor, MolmoProcessor
from scramble.models.molmo.family import Molmo, in_token_order
from scramble.models.molmo.image_processing_molmo import resize, resize_and_pad, select_tiling, to_rgb

RELEASED = MolmoImageProcessor()
TEXT = " User: describe the image Assistant:"


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="session")
def released(shared: Path) -> MolmoProcessor:
    """Return the released tokenizer and settings."""
    from transformers import AutoTokenizer

    return MolmoProcessor(MolmoImageProcessor(), AutoTokenizer.from_pretrained(shared / "tokenizers" / "molmo-7b-d"))


def assert_pixels_are_recorded(images: np.ndarray, recorded: dict[str, np.ndarray], step: int) -> None:
    difference = np.abs(images.reshape(-1)[::step] - recorded["pixel_sample"])
    assert difference.max() <= 2e-3
    assert difference.mean() <= 1e-4
    assert abs(images.mean(dtype=np.float64) - recorded["pixel_mean"][0]) < 1e-4
    assert abs(images.std(dtype=np.float64) - recorded["pixel_std"][0]) < 1e-4


@pytest.mark.parametrize("case", range(4))
def test_recorded_cases_with_the_released_tokenizer(case: int, shared: Path, released: MolmoProcessor) -> None:
    folder = shared / "golden" / "molmo_processor"
    facts = json.loads((folder / "cases.json").read_text())[case]
    recorded = load_file(folder / f"case{case}.safetensors")
    image, text = Image.open(folder / facts["image"]), f" User: {facts['prompt']} Assistant:"
    batch = released(images=image, text=text, max_crops=facts["max_crops"], return_tensors="np")
    assert batch["input_ids"][0].tolist() == recorded["input_ids"].tolist()
    assert batch["image_input_idx"][0].tolist() == recorded["image_input_idx"].tolist()
    np.testing.assert_allclose(batch["image_masks"][0], recorded["image_masks"], atol=1e-6)
    assert list(batch["images"][0].shape) == facts["images_shape"]
    assert_pixels_are_recorded(batch["images"][0], recorded, facts["pixel_sample_step"])

    content: Any = [{"type": "image"}, {"type": "text", "text": facts["prompt"]}]
    templated = released.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert released(images=image, text=templated)["input_ids"][0].tolist() == recorded["input_ids"].tolist()
    if facts["max_crops"] == 12:
        assert Molmo().num_tokens(released, facts["prompt"], [(facts["height"], facts["width"])]) == facts["num_tokens"]


def test_recorded_case_without_the_released_tokenizer(golden_folder: Path, processor: MolmoProcessor) -> None:
    folder = golden_folder / "molmo_processor"
    facts = json.loads((folder / "cases.json").read_text())[2]
    recorded = load_file(folder / "case2.safetensors")
    full_size = MolmoProcessor(RELEASED, processor.tokenizer)
    batch = full_size(images=Image.open(folder / "case2.png"), text=TEXT, return_tensors="np")
    assert batch["image_input_idx"][0].tolist() == recorded["image_input_idx"].tolist()
    np.testing.assert_allclose(batch["image_masks"][0], recorded["image_masks"], atol=1e-6)
    assert_pixels_are_recorded(batch["images"][0], recorded, facts["pixel_sample_step"])


@pytest.mark.parametrize(("source", "target"), [((30, 47), (11, 60)), ((500, 33), (37, 33)), ((7, 5), (50, 41))])
def test_resize_is_the_triangle_filter(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Each output is the mean of the inputs under a triangle of half-width max(1, scale), in float64."""

    def weights(inputs: int, outputs: int) -> np.ndarray:
        scale = inputs / outputs
        centres = (np.arange(outputs) + 0.5) * scale
        distances = np.abs(np.arange(inputs)[None] + 0.5 - centres[:, None]) / max(scale, 1.0)
        triangle = np.clip(1 - distances, 0, None)
        return triangle / triangle.sum(axis=1, keepdims=True)

    values = np.asarray(picture(*source))
    expected = np.einsum("ah,bw,hwc->abc", weights(source[0], target[0]), weights(source[1], target[1]), values / 255)
    np.testing.assert_allclose(resize(values, *target), expected, atol=1e-5)


def test_resize_in_strips_equals_resize_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.asarray(picture(90, 40))
    expected = resize(values, 33, 17)
    monkeypatch.setattr("scramble.models.molmo.image_processing_molmo.ROWS_AT_ONCE", 16)
    np.testing.assert_array_equal(resize(values, 33, 17), expected)


@pytest.mark.parametrize(
    ("height", "width", "tiling"),
    [
        (224, 224, (1, 1)),  # fits exactly
        (225, 224, (2, 1)),  # one pixel more: the next tiling that covers it
        (448, 672, (2, 3)),
        (3000, 3000, (3, 3)),  # all tilings require downscaling; 3 x 3 is the largest square of at most 12 windows
        (100, 10_000, (1, 12)),
        (-48, -48, (1, 1)),  # a 64 x 64 image minus its margins
        (0, 0, (1, 1)),
        (-100, 600, (1, 1)),
    ],
)
def test_tiling_by_hand(height: int, width: int, tiling: tuple[int, int]) -> None:
    assert select_tiling(height, width, 224, 12) == tiling


SIZES = [(1, 1), (1, 20_000), (20_000, 1), (64, 64), (112, 112), (336, 336), (337, 700), (333, 500), (1000, 999)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_crops", [1, 6, 12])
def test_geometry_holds_for_any_size(size: tuple[int, int], max_crops: int) -> None:
    """Each patch token of an image gets exactly one feature, which shows the corresponding part of the image."""
    rows, cols = tiling = RELEASED.tiling(*size, max_crops)
    assert rows * cols <= max_crops
    order = RELEASED.feature_order(tiling)
    down, across = RELEASED.feature_grid(tiling)
    remaining = np.sort(order[order >= 0])
    assert remaining.tolist() == list(range(144 + down * across))
    assert RELEASED.num_image_tokens(*size, max_crops) == 12 * 13 + 2 + down * (across + 1) + 2
    # A crop starts 8 features after its neighbour: feature (a, b) of crop (i, j) shows place (8 i + a, 8 j + b).
    for crop, places in enumerate(order[1:]):
        for cell in np.flatnonzero(places >= 0):
            y, x = 8 * (crop // cols) + cell // 12, 8 * (crop % cols) + cell % 12
            assert places[cell] == 144 + y * across + x


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (48, 48), (49, 200), (130, 131), (400, 90)])
def test_crops_masks_and_tokens_agree(size: tuple[int, int], processor: MolmoProcessor) -> None:
    """Combined by their positions, the crops are the resized image; so are their masks, shifted by one row."""
    settings = processor.image_processor
    image = picture(*size)
    batch = processor(images=image, text=TEXT, return_tensors="np")
    ids, order = batch["input_ids"][0], batch["image_input_idx"][0]
    assert len(ids) == Molmo().num_tokens(processor, "describe the image", [size])
    patches = np.flatnonzero(ids == processor.image_patch_token_id)
    assert np.sort(order[order >= 0]).tolist() == patches.tolist()

    down, across = settings.feature_grid(settings.tiling(*size))
    canvas, mask = resize_and_pad(np.asarray(image), down * 12, across * 12)
    canvas = (canvas - np.array(settings.image_mean)) / np.array(settings.image_std)
    high = patches[16:]  # after the 4 x 4 features of the global view
    for crop in range(1, len(order)):
        pixels = batch["images"][0, crop].reshape(8, 8, 6, 6, 3).transpose(0, 2, 1, 3, 4).reshape(48, 48, 3)
        shares = batch["image_masks"][0, crop - 1].reshape(8, 8)
        for cell in np.flatnonzero(order[crop] >= 0):
            place = int(np.flatnonzero(high == order[crop, cell])[0])
            y, x = 12 * (place // across), 12 * (place % across)
            a, b = cell // 4, cell % 4
            shown = pixels[12 * a : 12 * a + 12, 12 * b : 12 * b + 12]
            np.testing.assert_allclose(shown, canvas[y : y + 12, x : x + 12], atol=1e-5)
            share = shares[2 * a : 2 * a + 2, 2 * b : 2 * b + 2]
            np.testing.assert_allclose(share.mean(), mask[y : y + 12, x : x + 12].mean(), atol=1e-6)
    assert (batch["image_masks"][0, -1] == -1).all()


def test_batches_pad_crops_and_move_positions(processor: MolmoProcessor) -> None:
    pair = [picture(48, 48), picture(60, 130)]
    texts = [TEXT, " User: circle Assistant:"]
    alone = [processor(images=image, text=text) for image, text in zip(pair, texts, strict=True)]
    for side in ("left", "right"):
        batch = processor(images=pair, text=texts, padding_side=side)
        for row, one in enumerate(alone):
            real, crops = batch["attention_mask"][row].bool(), one["images"].shape[1]
            assert torch.equal(batch["input_ids"][row][real], one["input_ids"][0])
            assert torch.equal(batch["images"][row, :crops], one["images"][0])
            assert (batch["images"][row, crops:] == -1).all()
            assert (batch["image_input_idx"][row, crops:] < 0).all()
            positions = batch["image_input_idx"][row, :crops]
            assert torch.equal(positions >= 0, one["image_input_idx"][0] >= 0)
            assert (batch["input_ids"][row][positions[positions >= 0]] == processor.image_patch_token_id).all()
    assert batch["images"].dtype == torch.float32


def test_lists_instead_of_tensors(processor: MolmoProcessor) -> None:
    rows = processor(images=[[picture(48, 48)], None], text=["a b c d", "a"], return_tensors=None)
    assert [type(ids) for ids in rows["input_ids"]] == [list, list]
    assert [len(ids) for ids in rows["input_ids"]] == [len(mask) for mask in rows["attention_mask"]]
    assert rows["images"][0].shape == (2, 64, 108) and rows["images"][1] is None


def test_images_are_shared_out_by_placeholders(processor: MolmoProcessor) -> None:
    a, b = picture(48, 48), picture(60, 130)
    two_then_none = processor(images=[a, b], text=["<|image|><|image|> User: x Assistant:", " User: x Assistant:"])
    patches = (two_then_none["input_ids"] == processor.image_patch_token_id).sum(1).tolist()
    assert patches[1] == 0
    assert patches[0] == (two_then_none["image_input_idx"][0] >= 0).sum()
    inside = processor(images=[a], text=" User: look at <|image|> now Assistant:")
    start = processor(images=[a], text=TEXT)
    assert inside["input_ids"][0].tolist().index(processor.image_patch_token_id) > 3
    assert start["input_ids"][0].tolist().index(processor.image_patch_token_id) == 2


def test_bos_stands_once_in_front_and_not_before_completions(processor: MolmoProcessor) -> None:
    bos = processor.tokenizer.eos_token_id
    plain = processor(text="circle")["input_ids"][0].tolist()
    given = processor(text="<|endoftext|>circle")["input_ids"][0].tolist()
    assert plain == given and plain.count(bos) == 1 and plain[0] == bos
    assert processor(text="circle", add_special_tokens=False)["input_ids"][0].tolist() == plain[1:]


def test_conversations_of_several_turns(processor: MolmoProcessor) -> None:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == "<|endoftext|><|image|> User: a Assistant: b<|endoftext|> User: c Assistant:"
    with pytest.raises(Exception, match="system"):
        processor.apply_chat_template([{"role": "system", "content": "x"}])


def test_features_in_token_order() -> None:
    """Two crops have three features each, at the positions (5, 2, dropped) and (7, dropped, 3). The order is 2, 3, 5,
    7.
    """
    features = torch.arange(6.0).view(2, 3, 1)
    positions = torch.tensor([[5, 2, -100], [7, -1, 3]])
    assert in_token_order(features, positions).flatten().tolist() == [1.0, 5.0, 0.0, 3.0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (30, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = (
            Image.fromarray(grey).convert("RGB").convert(mode) if mode != "F" else Image.fromarray(grey).convert("F")
        )
    assert image.mode == mode
    actual = to_rgb(image)
    assert actual.shape == (30, 40, 3) and actual.dtype == np.uint8
    # "1" and "P" are dithered, so only the mean grey of columns is unchanged.
    columns = actual.astype(float).mean(axis=(0, 2))
    assert np.abs(columns.mean() - grey.mean()) < 3
    assert np.corrcoef(columns, grey[0])[0, 1] > 0.97


def test_exif_rotation_is_applied() -> None:
    image, buffer = picture(20, 40), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer rotates it by 270 degrees
    image.save(buffer, "PNG", exif=exif)
    actual = to_rgb(Image.open(buffer))
    assert np.array_equal(actual, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4), (3, 30, 40), (1, 30, 40)])
def test_arrays_and_tensors(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    actual = to_rgb(values)
    assert actual.shape == (30, 40, 3)
    assert np.array_equal(to_rgb(torch.from_numpy(values)), actual)
    np.testing.assert_allclose(to_rgb(values.astype(np.float64) / 255), actual / 255, atol=1e-6)


def test_a_very_large_image(processor: MolmoProcessor) -> None:
    image = Image.fromarray(np.zeros((20_000, 300, 3), dtype=np.uint8))
    batch = processor(images=image, text=TEXT)
    assert batch["input_ids"].shape[1] == Molmo().num_tokens(processor, "describe the image", [(20_000, 300)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"images": np.zeros((2, 30, 40, 3), np.uint8)}, "is not an image"),
        ({"images": np.full((30, 40, 3), 255.0)}, r"values in \[0, 1\]"),
        ({"images": np.zeros((30, 40, 3), np.int64)}, "must be uint8"),
        ({"images": np.zeros((0, 40, 3), np.uint8)}, "is not an image"),
        ({"images": [picture(9, 9)], "text": "<|image|><|image|>"}, "the number of images is 1, but the texts need 2"),
        ({"images": [[picture(9, 9)]], "text": "<|image|><|image|>"}, "number of its images is 1"),
        ({"images": [picture(9, 9)] * 2, "text": ["a", "b", "c"]}, "the number of images is 2, but the texts need 3"),
        ({"images": [[picture(9, 9)]], "text": ["a", "b"]}, "the number of lists of images is 1"),
        ({"text": "what is <im_patch>?"}, "contains one of Molmo's image tokens"),
        ({"text": "a", "truncation": True}, "does not truncate"),
        ({"text": ["a b c", "a"], "padding": False}, "padding must be True"),
        ({"text": "a", "padding_side": "top"}, "padding_side"),
        ({"images": picture(9, 9), "text": None}, "needs a text"),
        ({"images": picture(9, 9), "max_crops": 0}, "max_crops"),
    ],
)
def test_bad_calls_are_named(call: dict[str, Any], message: str, processor: MolmoProcessor) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**{"text": TEXT, **call})


def test_unknown_options_are_refused(processor: MolmoProcessor) -> None:
    with pytest.raises(TypeError, match="do_resize"):
        processor(text="a", do_resize=True)


def test_a_tokenizer_without_image_tokens_is_refused(tmp_path: Path, processor: MolmoProcessor) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), eos_token="a"
    )
    with pytest.raises(ValueError, match="belongs to another model"):
        MolmoProcessor(processor.image_processor, other)


def test_an_empty_file_is_named(tmp_path: Path, processor: MolmoProcessor) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(OSError, match=r"empty\.png"):
        processor(images=str(empty), text=TEXT)


@pytest.mark.parametrize(
    "values",
    [
        {"base_image_input_size": (336, 300)},
        {"image_token_length_h": 11, "image_token_length_w": 11},
        {"overlap_margins": (3, 4)},
        {"overlap_margins": (12, 12)},
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"square|divide|margins"):
        MolmoImageProcessor(**values)
