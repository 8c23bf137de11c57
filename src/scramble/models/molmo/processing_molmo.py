"""Converts images and texts to ids, crops, masks and positions of image features for Molmo v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin

IMAGE_TOKEN = "<|image|>"
IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", IMAGE_TOKEN)

CHAT_TEMPLATE = (
    "{{ bos_token or eos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ('user', 'assistant') %}"
    "{{ raise_exception('Molmo v1 supports only the roles user and assistant, not ' ~ message['role']) }}"
    "{%- endif %}"
    "{%- set texts = namespace(joined='') %}"
    "{%- if message['content'] is string %}"
    "{%- set texts.joined = message['content'] %}"
    "{%- else %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{%- else %}{%- set texts.joined = texts.joined ~ part['text'] %}"
    "{%- endif %}{%- endfor %}{%- endif %}"
    "{{ ' ' ~ message['role'].capitalize() ~ ': ' ~ texts.joined }}"
    "{%- if message['role'] == 'assistant' %}{{ eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ ' Assistant:' }}{%- endif %}"
)
"""Renders ``<bos><|image|> User: {text} Assistant: {text}<eos>``. The released tokenizers use EOS as BOS."""

PADDING = {"images": -1.0, "image_masks": -1.0, "image_input_idx": -100}
IGNORED = {"return_token_type_ids", "return_mm_token_type_ids", "return_attention_mask"}
"""These options have no effect. They are accepted because trainers pass them to every processor."""


class MolmoProcessor(ProcessorMixin):
    """Combines a tokenizer and an image processor (see :meth:`__call__`)."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        ids = dict(zip(IMAGE_TOKENS, tokenizer.convert_tokens_to_ids(list(IMAGE_TOKENS)), strict=True))
        missing = [token for token, number in ids.items() if number in (None, tokenizer.unk_token_id)]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {' and '.join(missing)}, with which Molmo's prompts mark images, so the "
                "tokenizer belongs to another model: use the tokenizer saved with Molmo"
            )
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.image_token = IMAGE_TOKEN
        self._ids = ids
        self.image_token_id = self._ids[IMAGE_TOKEN]
        self.image_patch_token_id = self._ids["<im_patch>"]

    @property
    def bos_token(self) -> str:
        return self.tokenizer.bos_token or self.tokenizer.eos_token

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        padding_side: str | None = None,
        max_crops: int | None = None,
        add_special_tokens: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """Create a batch for the model.

        Args:
            images: an image, a list of images, or one list of images per text. The images of a single list are assigned
                to the texts by their ``<|image|>`` placeholders. Without placeholders, a single text receives all
                images, and each of several texts receives one image. An image may be any input of the image processor.
            text: complete prompts, usually from ``apply_chat_template``: ``" User: {text} Assistant:"``. Images are
                inserted at ``<|image|>``, or before a text without placeholders.
            return_tensors: "pt" or "np"; None returns lists with one entry per text, without padding.
            padding_side: "left" for generation; by default the tokenizer's side.
            max_crops: maximum number of crops per image, instead of the image processor's setting.
            add_special_tokens: whether to add BOS to texts without it (False for completions).

        Returns:
            ``input_ids``, ``attention_mask`` (B, L) and, if any text has an image, ``images`` float32 (B, C, P,
            pixels), ``image_masks`` (B, C, P), ``image_input_idx`` int64 (B, C, F). In crops that pad the batch, pixels
            and masks are -1 and positions are -100.

        Raises:
            ValueError: the numbers of images and placeholders differ, a text contains an image token other than
                ``<|image|>``, or truncation is requested.
            TypeError: an option is unknown.
        """
        options = {key: value for key, value in kwargs.items() if key not in ("videos", "audio") or value is not None}
        for group in ("common_kwargs", "text_kwargs", "images_kwargs"):
            options.update(options.pop(group, {}))
        return_tensors = options.pop("return_tensors", return_tensors)
        padding, padding_side = options.pop("padding", padding), options.pop("padding_side", padding_side)
        max_crops = options.pop("max_crops", max_crops)
        add_bos = options.pop("add_special_tokens", add_special_tokens)
        if options.pop("truncation", False) or options.pop("max_length", None) is not None:
            raise ValueError(
                "MolmoProcessor does not truncate, because image tokens would be lost: remove texts that are too long"
            )
        unknown = sorted(set(options) - IGNORED)
        if unknown:
            raise TypeError(f"MolmoProcessor does not accept {' or '.join(unknown)}: remove the unsupported arguments")
        if text is None:
            raise ValueError("MolmoProcessor needs a text for each list of images: pass text")

        texts = [text] if isinstance(text, str) else list(text)
        shares = self._share_out(images, texts)
        rows = [self._row(text, share, max_crops, add_bos) for text, share in zip(texts, shares, strict=True)]
        if return_tensors is None:
            return BatchFeature({key: [row[key] for row in rows] for key in rows[0]})
        if padding not in (True, "longest") and len({len(row["input_ids"]) for row in rows}) > 1:
            raise ValueError(f"padding must be True for texts of different lengths, not {padding!r}")
        side = padding_side or self.tokenizer.padding_side
        return BatchFeature(_collate(rows, self._pad_id, side), tensor_type=return_tensors)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Save as the parent class does, and write ``preprocessor_config.json``, as in the released layout."""
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        return [*files, *self.image_processor.save_pretrained(save_directory)]

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def _share_out(self, images: Any, texts: Sequence[str]) -> list[list[Any]]:
        """Return the images of each text."""
        if images is None:
            return [[] for _ in texts]
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if any(isinstance(group, (list, tuple)) or group is None for group in images):
            if len(images) != len(texts):
                raise ValueError(
                    f"the number of lists of images is {len(images)} and the number of texts is {len(texts)}: pass one "
                    "list per text"
                )
            return [
                [] if group is None else list(group) if isinstance(group, (list, tuple)) else [group]
                for group in images
            ]
        counts = [text.count(IMAGE_TOKEN) for text in texts]
        if not any(counts):
            counts = [len(images)] if len(texts) == 1 else [1] * len(texts)
        if sum(counts) != len(images):
            raise ValueError(
                f"the number of images is {len(images)}, but the texts need {sum(counts)}: pass one image per "
                f"placeholder {IMAGE_TOKEN} or, without placeholders, one image per text"
            )
        ends = np.cumsum(counts)
        return [images[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _row(self, text: str, images: Sequence[Any], max_crops: int | None, add_bos: bool) -> dict[str, Any]:
        """Return the inputs for one text with its images, without padding.

        The ids are a list, and the crops are arrays.
        """
        prepared = self.image_processor.preprocess(images, max_crops=max_crops) if images else {"tilings": []}
        ids, positions = self._tokenise(text, prepared["tilings"], add_bos)
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        row["images"] = _joined(prepared["images"]) if images else None
        row["image_masks"] = _joined(prepared["image_masks"]) if images else None
        row["image_input_idx"] = _joined(positions) if images else None
        return row

    def _tokenise(
        self, text: str, tilings: Sequence[tuple[int, int]], add_bos: bool
    ) -> tuple[list[int], list[np.ndarray]]:
        """Return the ids of a text with expanded placeholders, and the feature positions (C, F) of each image.

        Dropped features have the position -100.
        """
        bos = self.bos_token
        body = text.removeprefix(bos)
        pieces = body.split(IMAGE_TOKEN)
        if len(pieces) == 1:
            pieces = [""] * len(tilings) + pieces
        if len(pieces) - 1 != len(tilings):
            raise ValueError(
                f"the number of placeholders {IMAGE_TOKEN} in the text {text[:80]!r} is {len(pieces) - 1} and the "
                f"number of its images is {len(tilings)}: pass one image per placeholder"
            )
        ids: list[int] = [self.tokenizer.convert_tokens_to_ids(bos)] if add_bos or body != text else []
        positions = []
        for index, piece in enumerate(pieces):
            if index:
                tokens = self._image_tokens(tilings[index - 1])
                places = np.flatnonzero(tokens == self.image_patch_token_id) + len(ids)
                order = self.image_processor.feature_order(tilings[index - 1])
                positions.append(np.where(order >= 0, places[order], PADDING["image_input_idx"]))
                ids += tokens.tolist()
            ids += self._encode(piece)
        return ids, positions

    def _encode(self, piece: str) -> list[int]:
        ids = self.tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
        if set(ids) & set(self._ids.values()):
            raise ValueError(
                f"the text {piece[:80]!r} contains one of Molmo's image tokens {', '.join(IMAGE_TOKENS)}: remove the "
                "token"
            )
        return ids

    def _image_tokens(self, tiling: tuple[int, int]) -> np.ndarray:
        """Return the token ids of one image, in which the global view precedes the grid of crops.

        A column token follows each row.
        """
        processor = self.image_processor
        parts: list[list[int]] = []
        for rows, cols in (
            (processor.image_token_length_h, processor.image_token_length_w),
            processor.feature_grid(tiling),
        ):
            line = [self.image_patch_token_id] * cols + [self._ids["<im_col>"]]
            parts += [[self._ids["<im_start>"]], line * rows, [self._ids["<im_end>"]]]
        return np.concatenate(parts)

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Return the numbers of tokens and crops (with the global view) of upright images of sizes (height, width)."""
        if image_sizes is None:
            return MultiModalData()
        most = kwargs.get("max_crops")
        tilings = [self.image_processor.tiling(*size, most) for size in image_sizes]
        return MultiModalData(
            num_image_tokens=[self.image_processor.num_image_tokens(*size, most) for size in image_sizes],
            num_image_patches=[1 + rows * cols for rows, cols in tilings],
        )


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate the arrays of several images. The array of a single image is not copied."""
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _collate(rows: Sequence[dict[str, Any]], pad_id: int, side: str) -> dict[str, np.ndarray]:
    """Pad rows to the same length and number of crops. Padding on the left shifts the features' positions."""
    if side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', not {side!r}")
    if len(rows) == 1:  # a single row needs no padding, so nothing is copied
        present = [key for key, value in rows[0].items() if value is not None]
        return {key: np.asarray(rows[0][key])[None] for key in present}
    length = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": np.full((len(rows), length), pad_id, dtype=np.int64),
        "attention_mask": np.zeros((len(rows), length), dtype=np.int64),
    }
    example = next((row for row in rows if row["images"] is not None), None)
    if example is not None:
        crops = max(len(row["images"]) for row in rows if row["images"] is not None)
        for key, value in PADDING.items():
            batch[key] = np.full((len(rows), crops, *example[key].shape[1:]), value, dtype=example[key].dtype)
    for index, row in enumerate(rows):
        start = length - len(row["input_ids"]) if side == "left" else 0
        columns = slice(start, start + len(row["input_ids"]))
        batch["input_ids"][index, columns] = row["input_ids"]
        batch["attention_mask"][index, columns] = 1
        if row["images"] is not None:
            count = len(row["images"])
            batch["images"][index, :count] = row["images"]
            batch["image_masks"][index, :count] = row["image_masks"]
            positions = row["image_input_idx"]
            batch["image_input_idx"][index, :count] = np.where(positions >= 0, positions + start, positions)
    return batch


__all__ = ["MolmoProcessor"]
