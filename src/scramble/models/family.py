"""Defines the interface of a model family, which covers loading, prompts, token counts and the parts of the model.

A family is a subclass of :class:`Family` in its own file. :mod:`scramble.models.families.registry` lists all families.
The rest of the project (trie, trainer, evaluation) uses only this interface and never a model class.

Shape legend: A axes of position ids, B batch, L tokens, D decoder width, F features of one prompt, S vectors per
feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor, nn

from scramble.models.control_tokens import find_control_token
from scramble.models.images import ImageOptions
from scramble.records import Turn, conversation
from scramble.trie.backbone import ImageInputs, Positions


class ModelError(ValueError):
    """Raised if a model, processor or adapter cannot be used. The message names the cause and says how to fix it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Holds an encoded prompt: token ids with expanded image placeholders, and the inputs of the vision tower.

    For families without a trie, ``images`` holds all inputs of ``model.forward`` except the token ids, even if there
    are no images.
    """

    input_ids: list[int]
    images: ImageInputs | None = None


class Family:
    """Defines the interface of a model family.

    Subclasses set the attributes and override the methods that differ from the defaults.

    The defaults work for native transformers models whose processor expands the image placeholders of a rendered chat
    template and whose image features replace the placeholders' embeddings.

    Attributes:
        name: the family's name in configs and reports.
        model_types: values of ``config.model_type`` of this family.
        language_model, head: module paths in the unwrapped model.
        vision: module paths of the tower and the projector.
        lora_targets: regular expression for the names of the linear layers that get a LoRA adapter by default. PEFT
            matches this expression against whole module names, so it must include the path of the language model.
        combine: see :class:`scramble.trie.backbone.Backbone`.
        has_trie: whether the family supports token tries. Without a trie, each sequence is scored as a separate row
            (:mod:`scramble.models.rows`), and models are trained with TRL's ``DPOTrainer``.
        block_per_run: see :class:`scramble.trie.backbone.TokenRules`.
        block_layers: see :class:`scramble.trie.backbone.Backbone`.
        recurrent: name of the modules in decoder layers of type ``linear_attention``, which run along the paths of a
            trie (see :mod:`scramble.trie.recurrent`); empty for decoders without such modules.
        template_options: variables that are passed to the chat template.
        position_inputs: image inputs from which :meth:`positions` computes position ids. The feature cache also stores
            these inputs.
        token_types: name of the argument of ``generate`` that is 1 at image tokens and 0 at all other tokens; empty if
            ``generate`` has no such argument.
        answer_token_type: value of ``token_type_ids`` at the tokens of an answer.
        processor_class: class of the processor; None selects the class that the checkpoint names.
        tile_limit: setting of the image processor that limits the tiles per image; empty if the image processor makes
            no tiles.
        needs_torchvision: whether the family's processor requires torchvision.
        image_options: preprocessing of an image before the family's own preprocessing.
    """

    name: str = ""
    model_types: tuple[str, ...] = ()
    language_model: str = "model.language_model"
    head: str = "lm_head"
    vision: tuple[str, ...] = ("model.vision_tower", "model.multi_modal_projector")
    lora_targets: str = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    combine: Literal["replace", "add"] = "replace"
    has_trie: bool = True
    block_per_run: bool = False
    block_layers: frozenset[str] | None = None
    recurrent: str = ""
    template_options: Mapping[str, object] = MappingProxyType({})
    position_inputs: tuple[str, ...] = ()
    token_types: str = ""
    answer_token_type: int = 0
    processor_class: Any = None
    tile_limit: str = ""
    needs_torchvision: bool = False

    def __init__(self) -> None:
        self.image_options = ImageOptions()

    def find_parts(self, model: nn.Module) -> None:
        """Set the module paths from a model (possibly without weights), in families that do not declare these paths."""

    # ---------------------------------------------------------------------------------------------------- loading

    def load_processor(self, path: str, revision: str | None = None) -> Any:
        """Load the processor from a hub id or folder."""
        from transformers import AutoProcessor

        return (self.processor_class or AutoProcessor).from_pretrained(path, revision=revision or "main")

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor belongs to another model."""
        token = getattr(processor, "image_token_id", None)
        if token is not None:
            check_image_token(processor, token, self.feature_tokens(config))

    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        """Limit the number of tiles per image, not counting the view of the whole image.

        With ``max_tiles=1``, most processors create only the view of the whole image. Raises ModelError if the family
        does not divide images into tiles.
        """
        if not self.tile_limit:
            raise ModelError(f"{self.name} does not divide images into tiles: remove model.max_tiles={max_tiles}")
        setattr(processor.image_processor, self.tile_limit, max_tiles)

    def set_max_pixels(self, processor: Any, max_pixels: int) -> None:
        """Limit the number of pixels per image. Raises ModelError if the family has no such limit."""
        raise ModelError(
            f"{self.name} does not support a limit on the pixels per image: remove model.max_pixels={max_pixels}"
        )

    def max_length(self, config: Any) -> int:
        """Return the decoder's maximum sequence length in tokens, including image tokens."""
        return int(config.get_text_config().max_position_embeddings)

    # ---------------------------------------------------------------------------------------------------- prompts

    def messages(self, text: str, num_images: int, history: Sequence[Turn] = ()) -> list[dict[str, Any]]:
        """Return the turns of ``history`` and a user turn in chat-template format. Images precede the text of a turn.

        Args:
            text: text of the user turn.
            num_images: number of images in all turns. Images that are not in ``history`` are in the user turn.
            history: the turns before the user turn.
        """

        def message(turn: Turn) -> dict[str, Any]:
            if turn.role == "assistant":
                return {"role": turn.role, "content": self.answer_content(turn.text)}
            images: list[dict[str, Any]] = [{"type": "image"} for _ in range(turn.num_images)]
            return {"role": turn.role, "content": [*images, {"type": "text", "text": turn.text}]}

        return [message(turn) for turn in conversation(text, num_images, history)]

    def render_prompt(self, processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> str:
        """Return the conversation and the start of the assistant's turn as text. Image placeholders are not expanded.

        See :meth:`messages` for the arguments. As in ``apply_chat_template(tokenize=True)``, BOS is added if the
        tokenizer adds BOS and the template does not.

        Raises:
            ModelError: the chat template does not accept the turns of ``history``, or omits one of them.
        """
        try:
            rendered: str = processor.apply_chat_template(
                self.messages(text, num_images, history),
                tokenize=False,
                add_generation_prompt=True,
                **self.template_options,
            )
        except TemplateError as error:
            if not history:
                raise
            raise ModelError(
                f"the chat template of {self.name} does not accept the conversation ({error}): remove the turns before "
                "the prompt from the data, or use a model with another chat template"
            ) from error
        for turn in history:
            # Templates may remove the reasoning of an answer. They must not omit any other turn, because nobody would
            # notice a missing system prompt.
            if turn.role != "assistant" and turn.text.strip() not in rendered:
                raise ModelError(
                    f"the chat template of {self.name} omits the {turn.role} turn {turn.text[:60]!r}: remove the turn "
                    "from the data, or use a model with another chat template"
                )
        tokenizer = processor.tokenizer
        bos = tokenizer.bos_token or ""
        if rendered.startswith(bos):  # also true without BOS; avoids a slow call of the tokenizer
            return rendered
        return bos + rendered if tokenizer("").input_ids[:1] == [tokenizer.bos_token_id] else rendered

    def render_completion(self, processor: Any, text: str) -> str:
        """Return what the chat template appends to the prompt: the answer ``text`` and the end-of-turn token."""
        messages = self.messages("", 0)
        opened = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self.template_options
        )
        answer = {"role": "assistant", "content": self.answer_content(text)}
        whole = processor.apply_chat_template([*messages, answer], tokenize=False, **self.template_options)
        if not whole.startswith(opened):
            raise ModelError(
                f"{self.name}: the chat template's generation prompt is not a prefix of the whole conversation, so "
                "prompt and completion cannot be separated: use a processor with a different chat template"
            )
        return whole[len(opened) :]

    def answer_content(self, text: str) -> list[dict[str, Any]] | str:
        """Return the content of the assistant's turn in chat-template format."""
        return [{"type": "text", "text": text}]

    def encode_prompt(
        self, processor: Any, text: str, images: Sequence[Image.Image] = (), history: Sequence[Turn] = ()
    ) -> Prompt:
        """Return the token ids of a prompt and its history, and the tower's inputs for all images.

        Images may have any Pillow mode. Raises ModelError; see :meth:`check_text`, :meth:`check_size` and
        :meth:`render_prompt`.
        """
        self.check_text(processor, text, history)
        for image in images:
            self.check_size(processor, (image.height, image.width))
        rendered = self.render_prompt(processor, text, len(images), history)
        batch = processor(
            images=[[self.image_options.apply(image) for image in images]] if images else None,  # one list per prompt
            text=[rendered],
            return_tensors="pt",
            add_special_tokens=False,
        )
        input_ids: list[int] = batch.pop("input_ids")[0].tolist()
        tensors = {key: value for key, value in batch.items() if key in self.image_keys(processor)}
        return Prompt(input_ids, tensors if images else None)

    def encode_completion(self, processor: Any, text: str) -> list[int]:
        """Return the token ids of the assistant's text and end of turn, tokenised separately from the prompt.

        TRL's ``DataCollatorForVisionPreference`` also tokenises prompt and completion separately, so this method
        returns the ids that TRL computes. Raises ModelError; see :meth:`check_text`.
        """
        self.check_text(processor, text)
        tokenizer = processor.tokenizer
        return list(tokenizer(self.render_completion(processor, text), add_special_tokens=False)["input_ids"])

    def num_tokens(
        self, processor: Any, text: str, sizes: Sequence[tuple[int, int]] = (), history: Sequence[Turn] = ()
    ) -> int:
        """Return the number of tokens of a prompt and its history, given the (height, width) of each image."""
        unexpanded = self.unexpanded_ids(processor, text, len(sizes), history)
        return len(unexpanded) + sum(n - 1 for n in self.image_lengths(processor, sizes))

    def unexpanded_ids(self, processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> list[int]:
        """Return the token ids of a prompt with one placeholder per image.

        Raises ModelError; see :meth:`encode_prompt`.
        """
        self.check_text(processor, text, history)
        rendered = self.mark_images(processor, self.render_prompt(processor, text, num_images, history))
        return list(processor.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def mark_images(self, processor: Any, rendered: str) -> str:
        """Return a rendered prompt with one placeholder token per image.

        Families whose chat template marks images with text other than this token override this method.
        """
        return rendered

    def image_lengths(self, processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Return the number of tokens of each image, including start and end tokens.

        ``sizes`` lists the (height, width) of each image. Raises ModelError; see :meth:`check_size`.
        """
        if not sizes:
            return []
        for size in sizes:
            self.check_size(processor, size)
        image_sizes = [list(self.image_options.size(size)) for size in sizes]
        return list(processor._get_num_multimodal_tokens(image_sizes=image_sizes)["num_image_tokens"])

    def check_size(self, processor: Any, size: tuple[int, int]) -> None:
        """Raise ModelError if the processor cannot process an image of this size (height, width)."""

    def image_keys(self, processor: Any) -> frozenset[str]:
        """Return the names of the processor's outputs that are inputs of the tower."""
        return frozenset(processor.image_processor.model_input_names)

    def check_text(self, processor: Any, text: str, history: Sequence[Turn] = ()) -> None:
        """Raise ModelError if a prompt, a turn before it, or an answer contains a control token
        (:mod:`scramble.models.control_tokens`).
        """
        for part in (*(turn.text for turn in history), text):
            token = find_control_token(processor, part)
            if token is not None:
                start = max(0, part.index(token) - 30)  # show the part of a long text that contains the token
                raise ModelError(
                    f"the text contains {token!r}, which {self.name} interprets as a control token or image "
                    f"placeholder: remove it from {part[start : start + 80]!r}"
                )

    # -------------------------------------------------------------------------------------------- parts of the model

    def feature_tokens(self, config: Any) -> frozenset[int]:
        """Return the ids of the tokens that receive image features."""
        return frozenset({int(config.image_token_id)})

    def block_tokens(self, config: Any) -> frozenset[int]:
        """Return the ids of the image tokens that attend to each other bidirectionally. Causal families have none."""
        return frozenset()

    def positions(self, config: Any) -> Positions | None:
        """Return a function that computes position ids, or None if a token's position is its depth in the trie.

        The function is picklable. See :class:`scramble.trie.backbone.TokenRules`.
        """
        return None

    def attention_windows(self, config: Any) -> dict[str, int | None]:
        """Return the attention windows (see :class:`scramble.trie.backbone.Backbone`).

        Raises ModelError for types of layers to which the mask of a trie cannot be applied.
        """
        return attention_windows(config.get_text_config(), {"linear_attention"} if self.recurrent else set())

    def num_patches(self, config: Any, images: ImageInputs) -> int:
        """Return the number of patches that the tower encodes for the images of a prompt."""
        size = config.vision_config.patch_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return int(images["pixel_values"].numel()) // (3 * height * width)

    def logit_softcap(self, config: Any) -> float | None:
        """Return the bound to which the head's logits are soft-capped, or None if they are not capped.

        By default, ``final_logit_softcapping`` in the decoder's config is ignored, as in most model classes.
        """
        return None

    def vectors_per_feature(self, config: Any) -> int:
        """Return the number S of vectors per image feature; see :class:`scramble.trie.backbone.Backbone`."""
        return 1

    def embed_tokens(self, model: Any, input_ids: Tensor) -> Tensor:
        """Return the token embeddings (..., D) of ids (...).

        Image features do not yet replace the embeddings of image placeholders.
        """
        return model.get_input_embeddings()(input_ids)

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute each prompt's features (F_i, S D) in token order, in one tower pass. A feature has S vectors."""
        tiles = [inputs["pixel_values"] for inputs in images]
        pooled = model.get_image_features(pixel_values=torch.cat(tiles), return_dict=True).pooler_output
        return by_prompt((tile.reshape(-1, tile.shape[-1]) for tile in pooled), [len(t) for t in tiles])

    def decoder_inputs(self, model: Any, input_ids: Tensor | None) -> dict[str, object]:
        """Return the additional inputs of the decoder that depend on the token ids (B, L)."""
        return {}

    def generation_inputs(self, prompt: Prompt, model: Any) -> dict[str, Tensor]:
        """Return the arguments of ``model.generate`` for one prompt, on the model's device."""
        ids = torch.tensor([prompt.input_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **(prompt.images or {})}
        if self.token_types:
            marked = self.feature_tokens(model.config) | self.block_tokens(model.config)
            inputs[self.token_types] = torch.isin(ids, torch.tensor(sorted(marked))).long()
        return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def check_image_token(processor: Any, token: int | None, expected: Set[int]) -> None:
    """Raise ModelError unless the processor marks images with a token that the model expects.

    ``token`` is None if the processor has no image token.
    """
    if token not in expected:
        marks = "has no image token" if token is None else f"marks images with token {token}"
        raise ModelError(
            f"the processor ({type(processor).__name__}) {marks}, but the model expects token "
            f"{' or '.join(map(str, sorted(expected)))}, so the processor belongs to another model: use the processor "
            "saved with the model"
        )


def by_prompt(per_image: Iterable[Tensor], num_images: Sequence[int]) -> list[Tensor]:
    """Return the features (F_i, D) of each prompt, given the features of each image (or tile)."""
    remaining = iter(per_image)
    return [torch.cat(list(islice(remaining, n))) for n in num_images]


def attention_windows(config: Any, others: Set[str] = frozenset()) -> dict[str, int | None]:
    """Return the attention window in tokens of each type of decoder layer (None means unlimited).

    The window includes the token itself.

    Configurations define the window in two ways. ``layer_types`` names the layers with a window (Qwen2, Qwen3, Gemma).
    If the configuration class does not declare ``layer_types``, ``sliding_window`` applies to all layers (Mistral,
    Mixtral, Phi3, Qwen3-MoE). The configuration classes convert ``use_sliding_window`` and ``max_window_layers`` into
    these two fields.

    Args:
        config: configuration of the language model.
        others: supported types of layers without attention.

    Raises:
        ModelError: the decoder has a type of layer that is neither full nor sliding attention and is not in ``others``.
    """
    sliding = getattr(config, "sliding_window", None) or None
    layer_types = getattr(config, "layer_types", None) if hasattr(type(config), "layer_types") else None
    if not layer_types:
        return {"full_attention": None} if sliding is None else {"sliding_attention": sliding}
    windows = {"full_attention": None, "sliding_attention": sliding}
    kinds = sorted(set(layer_types) - others)
    for kind in kinds:
        if kind not in windows:
            raise ModelError(
                f"a {config.model_type} decoder has layers of type {kind}, which do not use a trie's mask, so the "
                "decoder cannot be trained or scored: use a decoder with full or sliding attention"
            )
    return {kind: windows[kind] for kind in kinds}
