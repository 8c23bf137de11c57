"""Image features of a frozen tower on disk: what an image becomes once, it becomes in every epoch and every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scramble.store import StoreError, atomic_path
from scramble.trie.backbone import Backbone, ImageInputs
from scramble.trie.engine import vision_is_trained


def features_bytes(num_features: int, width: int, dtype: torch.dtype) -> int:
    """Bytes on disk for ``num_features`` image features (image tokens of the whole data set) of the decoder's width.

    1000 images of 256 tokens at width 3584 in bfloat16: 1.84e9 bytes.
    """
    return num_features * width * dtype.itemsize


def tensors_key(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest (32 digits) of named tensors: names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


class CachedBackbone:
    """A backbone whose ``encode_images`` reads features from disk and runs the tower only for images it has not seen.

    Features lie in ``folder/<key of the tower's and projector's weights>/``, one file for the images of a prompt,
    named by the content of what the processor made of them; a folder may serve several models and runs at once.

    Raises:
        ValueError: the tower or projector is trained, so that its features change.
        StoreError: a file that cannot be read or written; the message names it.
    """

    def __init__(self, backbone: Backbone, folder: str | Path) -> None:
        if vision_is_trained(backbone):
            raise ValueError("features of a trained tower cannot be cached: freeze it, or turn the feature cache off")
        self.backbone = backbone
        self.model = backbone.model
        self.feature_tokens = backbone.feature_tokens
        self.combine: Literal["replace", "add"] = backbone.combine
        self.bidirectional_images = backbone.bidirectional_images
        self.block_tokens = backbone.block_tokens
        weights = (
            (f"{n}.{name}", p) for n, part in enumerate(backbone.vision) for name, p in part.state_dict().items()
        )
        self.folder = Path(folder) / tensors_key(weights)

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """For each prompt its features (F_i, D); one tower pass over those that are not on disk yet."""
        paths = [self._path(inputs) for inputs in images]
        missing = {path: inputs for path, inputs in zip(paths, images, strict=True) if not path.exists()}
        for path, features in zip(missing, self.backbone.encode_images(list(missing.values())), strict=True):
            with atomic_path(path) as temporary:
                save_file({"features": features.contiguous()}, temporary)
        device = self.head.weight.device
        return [self._read(path).to(device) for path in paths]

    def _path(self, inputs: ImageInputs) -> Path:
        key = tensors_key(inputs.items())
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, path: Path) -> Tensor:
        try:
            return load_file(path)["features"]
        except (OSError, SafetensorError, KeyError) as error:
            raise StoreError(f"image features {path} cannot be read ({error}): remove the file") from error

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """As the wrapped backbone."""
        return self.backbone.embed_tokens(input_ids)

    def decode(self, inputs_embeds: Tensor, attention_mask: object, position_ids: Tensor) -> Tensor:
        """As the wrapped backbone."""
        return self.backbone.decode(inputs_embeds, attention_mask, position_ids)

    @property
    def head(self) -> nn.Linear:
        """As the wrapped backbone."""
        return self.backbone.head

    @property
    def decoder(self) -> nn.Module:
        """As the wrapped backbone."""
        return self.backbone.decoder

    @property
    def vision(self) -> Sequence[nn.Module]:
        """As the wrapped backbone."""
        return self.backbone.vision
