"""Creates tiny models with random weights for scoring pairs.

The models have the architectures of the released scorers: DistilBERT (CoLA), T5 (Vera), GPT-2 and CLIP.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scramble.models.family import ModelError
from scramble.models.tiny.parts import TinyTokenizer, make_tokenizer, random_model
from scramble.storage.files import atomic_folder

_SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}


def save_tiny_scorer(kind: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a tiny scorer with random weights and a byte-level tokenizer, and return its folder.

    An existing folder is reused.

    Args:
        kind: ``grammar``, ``plausibility``, ``likelihood`` or ``similarity``.
        folder: output folder, which is created after all files have been written.
        seed: seed of the weights.

    Raises:
        ModelError: there is no scorer of this kind.
    """
    from scramble.models.loading import quiet

    makers: dict[str, Callable[[Path, int], None]] = {
        "grammar": _save_distilbert,
        "plausibility": _save_vera,
        "likelihood": _save_gpt2,
        "similarity": _save_clip,
    }
    if kind not in makers:
        raise ModelError(f"there is no tiny scorer {kind!r}: choose one of {', '.join(makers)}")
    folder = Path(folder)
    if not folder.is_dir():
        with atomic_folder(folder) as temporary, quiet():
            makers[kind](temporary, seed)
    return folder


def _save_distilbert(folder: Path, seed: int) -> None:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    tokens = _tokenizer(eos="[SEP]", pad="[PAD]")
    sizes: dict[str, Any] = {"dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 32, "num_labels": 2}
    config = DistilBertConfig(vocab_size=tokens.size, **sizes)
    random_model(DistilBertForSequenceClassification, config, seed).save_pretrained(folder)
    tokens.wrapped().save_pretrained(folder)


def _save_vera(folder: Path, seed: int) -> None:
    """Write a T5 encoder with 32,128 embedding rows, of which three spare rows contain the head, as in Vera."""
    import torch
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=32128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = random_model(T5EncoderModel, config, seed)
    with torch.no_grad():
        model.shared.weight[32097, 0] = 1.0  # the temperature, which must be above 0
    model.save_pretrained(folder)
    _tokenizer(eos="</s>", pad="<pad>").wrapped().save_pretrained(folder)


def _save_gpt2(folder: Path, seed: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = TinyTokenizer(
        [], ["<|endoftext|>"], eos="<|endoftext|>", pad="<|endoftext|>", bos="<|endoftext|>", vocab_size=512, roles=()
    )
    end = tokens.ids["<|endoftext|>"]
    config = GPT2Config(vocab_size=tokens.size, n_embd=16, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end)
    random_model(GPT2LMHeadModel, config, seed).save_pretrained(folder)
    tokens.wrapped().save_pretrained(folder)


def _save_clip(folder: Path, seed: int) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    backend = make_tokenizer([], 512, specials.values(), roles=())
    ids = {name: backend.token_to_id(token) for name, token in specials.items()}
    # CLIP takes the text's feature from the end token.
    backend.post_processor = TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(token, backend.token_to_id(token)) for token in specials.values()],
    )
    text = {
        **_SIZES,
        "vocab_size": backend.get_vocab_size(),
        "max_position_embeddings": 256,
        "bos_token_id": ids["bos_token"],
        "eos_token_id": ids["eos_token"],
        "pad_token_id": ids["eos_token"],
    }
    vision = {**_SIZES, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    random_model(CLIPModel, config, seed).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", model_max_length=256, **specials
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def _tokenizer(*, eos: str, pad: str) -> TinyTokenizer:
    return TinyTokenizer([], [pad, eos], eos=eos, pad=pad, vocab_size=512, roles=())
