"""Create models and data for the benchmarks: models with random weights, captions, hard negatives and noise images."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

COMMON_WORDS = (
    "a an the of on in with and near next to behind above under beside man woman dog cat child bus train street table "
    "plate pizza horse zebra giraffe bench kitchen bathroom clock tower red blue green white black large small old "
    "young sitting standing riding holding eating looking walking playing parked wooden tall grass field water beach"
)


@dataclass(frozen=True)
class Shape:
    """Describes the sizes of a model's tower (ViT) and decoder (Qwen2, or Qwen3.5 for the family ``qwen3_5``).

    ``tiles`` is the maximum number of crops of an image in addition to the whole image (Molmo only). ``vision_mlp`` is
    the width of the MLP in the tower (Qwen only). With None, the width is four times ``vision_width``.
    """

    vision_layers: int
    vision_width: int
    vision_heads: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab_size: int
    tied: bool = True
    image_size: int = 448
    tiles: int = 1
    family: str = "internvl"
    vision_mlp: int | None = None

    @property
    def keeps_aspect_ratio(self) -> bool:
        """Whether the processor keeps an image's aspect ratio, so that only square images fill ``image_size``."""
        return self.family.startswith("qwen")


SHAPES = {
    # One twentieth of InternVL3-1B with parts in the same proportion: tower 15 M, decoder 17 M, embeddings 8 M
    # parameters.
    "40m": Shape(8, 384, 6, 6, 512, 8, 2, 1408, 16384),
    "tiny": Shape(2, 96, 4, 2, 128, 4, 2, 352, 1024),
    "internvl3-1b": Shape(24, 1024, 16, 24, 896, 14, 2, 4864, 151674),
    "internvl3-2b": Shape(24, 1024, 16, 28, 1536, 12, 2, 8960, 151674),
    "internvl3-8b": Shape(24, 1024, 16, 28, 3584, 28, 4, 18944, 151674, tied=False),
}


# Molmo v1: 336 px and 144 features per crop.
MOLMO_SHAPES = {
    "molmo-40m": Shape(8, 384, 6, 6, 512, 8, 2, 1408, 16384, False, 336, 2, "molmo"),
    "molmo-tiny": Shape(2, 96, 4, 2, 128, 4, 2, 352, 1024, False, 112, 2, "molmo"),
    "molmo-7b-d": Shape(23, 1024, 16, 28, 3584, 28, 4, 18944, 152064, False, 336, 12, "molmo"),
}

# Qwen2.5-VL and Qwen3.5: each image token represents 28 x 28 px. In seven of eight layers of Qwen2.5-VL's tower, the
# attention windows cover 112 x 112 px.
QWEN_SHAPES = {
    # The parts have about the sizes of the shape "40m": tower 15 M, merger 3 M, decoder 17 M and embeddings 8 M
    # parameters. The decoder of qwen35-40m is narrower than the decoder of qwen-40m and has 8 layers, of which 6 are
    # recurrent.
    "qwen-40m": Shape(8, 384, 6, 6, 512, 8, 2, 1408, 16384, family="qwen2_5_vl", vision_mlp=1024),
    "qwen35-40m": Shape(8, 384, 6, 8, 384, 6, 2, 1024, 21504, family="qwen3_5"),
    "qwen-tiny": Shape(2, 96, 4, 2, 128, 4, 2, 352, 1024, True, 112, family="qwen2_5_vl", vision_mlp=256),
    "qwen35-tiny": Shape(2, 96, 4, 4, 128, 4, 2, 352, 1024, True, 112, family="qwen3_5"),
    "qwen2_5_vl-7b": Shape(
        32, 1280, 16, 28, 3584, 28, 4, 18944, 152064, tied=False, family="qwen2_5_vl", vision_mlp=3420
    ),
}
ALL_SHAPES = SHAPES | MOLMO_SHAPES | QWEN_SHAPES


def save_model(folder: Path, shape: Shape, texts: list[str], dtype: str = "float32") -> Path:
    """Write a model of the given shape with random weights, and a tokenizer made from ``texts``."""
    writers = {"internvl": save_internvl, "molmo": save_molmo, "qwen2_5_vl": save_qwen, "qwen3_5": save_qwen}
    return writers[shape.family](folder, shape, texts, dtype)


def save_internvl(folder: Path, shape: Shape, texts: list[str], dtype: str = "float32") -> Path:
    """Write an InternVL model of the given shape with random weights, and a tokenizer made from ``texts``."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from scramble.models.tiny import save_tiny_internvl

    save_tiny_internvl(
        folder, texts, image_size=shape.image_size, patch_size=14, vocab_size=min(shape.vocab_size, 8192)
    )
    config = AutoConfig.from_pretrained(folder)
    config.vision_config.update(
        {
            "hidden_size": shape.vision_width,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_heads,
            "intermediate_size": 4 * shape.vision_width,
        }
    )
    config.text_config.update(
        {
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.mlp,
            "vocab_size": shape.vocab_size,
            "layer_types": ["full_attention"] * shape.layers,
            "tie_word_embeddings": shape.tied,
        }
    )
    config.tie_word_embeddings = shape.tied
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    return _with_released_template(folder, "<IMG_CONTEXT>\n")


def save_molmo(folder: Path, shape: Shape, texts: list[str], dtype: str = "float32") -> Path:
    """Write a Molmo v1 model of the given shape with random weights, and a tokenizer made from ``texts``."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from scramble.models.molmo.tiny import save_tiny_molmo

    save_tiny_molmo(
        folder,
        texts,
        image_size=shape.image_size,
        patch_size=14,
        max_crops=shape.tiles,
        vocab_size=min(shape.vocab_size, 8192),
    )
    config = AutoConfig.from_pretrained(folder)
    image_ids = _widen_vocabulary(folder / "tokenizer.json", config.embedding_size, shape.vocab_size)
    config.vision_config.update(
        {
            "hidden_size": shape.vision_width,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_heads,
            "intermediate_size": 4 * shape.vision_width,
            "feature_layers": [-2, -9] if shape.vision_layers >= 9 else [-1, -2],
        }
    )
    config.update(
        {
            "hidden_size": shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": 2 * shape.mlp,  # the gate and up projections are one matrix
            "vocab_size": shape.vocab_size,
            "embedding_size": shape.vocab_size,
            "image_patch_token_id": image_ids["<im_patch>"],
        }
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    return folder


def save_qwen(folder: Path, shape: Shape, texts: list[str], dtype: str = "float32") -> Path:
    """Write a Qwen2.5-VL or Qwen3.5 model of the given shape with random weights, and a tokenizer made from
    ``texts``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from scramble.models.families.registry import family_named
    from scramble.models.tiny import save_tiny

    save_tiny(shape.family, folder, texts, vocab_size=min(shape.vocab_size, 8192))
    processor = family_named(shape.family).load_processor(str(folder))
    processor.image_processor.patch_size = 14
    # The only allowed number of pixels, so that a square image is resized to image_size.
    processor.image_processor.size = dict.fromkeys(("shortest_edge", "longest_edge"), shape.image_size**2)
    processor.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    config.vision_config.update(_qwen_tower(shape))
    config.text_config.update(_qwen_decoder(shape))
    config.tie_word_embeddings = shape.tied
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    return _with_released_template(folder, "<|vision_start|><|image_pad|><|vision_end|>")


def _with_released_template(folder: Path, image: str) -> Path:
    """Give the model in a folder a chat template and a pre-tokenizer that treat line breaks as the released models do.

    ms-swift and LLaMA-Factory render and tokenize conversations with their own code, and their token ids should equal
    ours.
    """
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ " + repr(image) + " }}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    values = json.loads((folder / "tokenizer.json").read_text())
    if values["pre_tokenizer"]["type"] == "ByteLevel":
        values["pre_tokenizer"]["add_prefix_space"] = False
        (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def _qwen_tower(shape: Shape) -> dict[str, Any]:
    """Return the fields of the tower's configuration."""
    tower = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "num_heads": shape.vision_heads,
        "intermediate_size": shape.vision_mlp or 4 * shape.vision_width,
        "out_hidden_size": shape.width,
        "patch_size": 14,
    }
    if shape.family == "qwen3_5":
        return tower | {"num_position_embeddings": 48**2}
    # As in the released models, every eighth layer attends to the whole image. In a tower with fewer than eight
    # layers, only the last layer does.
    whole = range(7, shape.vision_layers, 8) or [shape.vision_layers - 1]
    return tower | {"window_size": 112, "fullatt_block_indexes": list(whole)}


def _qwen_decoder(shape: Shape) -> dict[str, Any]:
    """Return the fields of the decoder's configuration."""
    head_dim = shape.width // shape.heads
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6}
    decoder: dict[str, Any] = {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.mlp,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied,
        "rope_parameters": rope,
    }
    pairs = head_dim // 2  # pairs of rotated dimensions, which are divided among the three axes
    if shape.family == "qwen2_5_vl":
        decoder["layer_types"] = ["full_attention"] * shape.layers
    else:
        pairs //= 4
        rope["partial_rotary_factor"] = 0.25
        decoder |= {
            "head_dim": head_dim,
            "layer_types": ["full_attention" if n % 4 == 3 else "linear_attention" for n in range(shape.layers)],
            # As in Qwen3.5-4B, keys are about as wide as the hidden states, and values are twice as wide.
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": shape.width // 128,
            "linear_num_value_heads": 2 * shape.width // 128,
        }
    columns = rows = 3 * pairs // 8
    rope["mrope_section"] = [pairs - rows - columns, rows, columns]
    return decoder


def _widen_vocabulary(path: Path, size: int, new_size: int) -> dict[str, int]:
    """Fill a tokenizer's vocabulary with tokens that occur in no text. Return the new ids of the added special
    tokens.
    """
    values = json.loads(path.read_text())
    values["model"]["vocab"] |= {f"<unused {n}>": n for n in range(size, new_size)}
    moved = [token for token in values["added_tokens"] if token["id"] >= size]
    for token in moved:
        token["id"] += max(0, new_size - size)
    path.write_text(json.dumps(values))
    return {token["content"]: token["id"] for token in moved}


def read_captions(path: str | None, images: int, per_image: int) -> list[list[str]]:
    """Return the captions of each image.

    The captions come from a JSONL file with the keys "image" and "caption". Without a file, they consist of common
    words and have the lengths of COCO's captions (11 words on average).
    """
    if path is None:
        rng, words = random.Random(0), COMMON_WORDS.split()
        return [
            [" ".join(rng.choices(words, k=min(25, max(8, round(rng.gauss(11, 2.5)))))) for _ in range(per_image)]
            for _ in range(images)
        ]
    grouped: dict[str, list[str]] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            grouped.setdefault(row["image"], []).append(row["caption"].strip())
    captions = list(grouped.values())
    # Images with too few captions get captions of other images, because only the lengths matter here.
    flat = [caption for group in captions for caption in group]
    return [(captions[n % len(captions)] + flat[n * per_image % len(flat) :])[:per_image] for n in range(images)]


def swap_two_words(caption: str, seed: int) -> str:
    """Make a hard negative by exchanging two different words of the caption, or by adding a word if no different words
    are found.
    """
    words = caption.split()
    rng = random.Random(seed)
    for _ in range(100):
        first, second = sorted(rng.sample(range(len(words)), 2))
        if words[first].strip(".,").lower() != words[second].strip(".,").lower():
            words[first], words[second] = words[second], words[first]
            return " ".join(words)
    return caption + " again"


def noise_image(seed: int, size: int, height: int | None = None) -> Any:
    """Make an image of smooth noise that is ``size`` px wide and, by default, three quarters of ``size`` px high."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, height or size * 3 // 4), Image.Resampling.BICUBIC)


def noise_jpeg(seed: int, size: int, height: int | None = None) -> bytes:
    """Return the bytes of a JPEG file with the image of :func:`noise_image`."""
    file = io.BytesIO()
    noise_image(seed, size, height).save(file, "JPEG")
    return file.getvalue()


def make_pairs(captions: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Yield rows that consist of an image number, a chosen caption and a rejected caption."""
    for image, texts in enumerate(captions):
        for index, text in enumerate(texts):
            yield {"image": image, "chosen": text, "rejected": swap_two_words(text, 1000 * image + index)}


def step_pairs(data: str | None, images: int, captions: int, pairs: int) -> list[dict[str, Any]]:
    """Return the rows of :func:`make_pairs` for ``captions`` captions per image, without the last rows that do not fill
    a step of ``pairs`` rows.
    """
    rows = list(make_pairs(read_captions(data, images, captions)))
    return rows[: len(rows) // pairs * pairs]
