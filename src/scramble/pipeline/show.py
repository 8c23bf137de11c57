"""Shows one batch as the model sees it: the tries (or rows) as text, and a figure of the image tiles and the attention
mask.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.console import counted
from scramble.storage.files import atomic_path

if TYPE_CHECKING:
    from scramble.models import VLM
    from scramble.training.collator import PairBatch
    from scramble.training.data import Example
    from scramble.training.encoder import Encoder
    from scramble.trie.backbone import ImageInputs
    from scramble.trie.pack import TrieItem

log = logging.getLogger(__name__)


def show_batch(
    run: str | Path,
    data: str | Path,
    *,
    model: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> Path | None:
    """Print the first micro-batch (tokens, tries, padding) and draw ``<run>/batch.png``, without training.

    Scored tokens are printed in brackets. A line with a deeper indent continues the tokens of the line above it. With
    TRL's trainers there is no trie: each answer is printed as one row, and no figure is drawn.
    """
    from scramble.models import load_vlm
    from scramble.pipeline.new_model import make_model
    from scramble.training.collator import TrieCollator
    from scramble.training.data import group_by_image, load_examples
    from scramble.training.encoder import Encoder
    from scramble.training.losses import needs_pairs, resolve_loss_weights

    if model.get("new") is not None:
        make_model(model["path"], Path(data), model["family"], model["new"], trainer["seed"])
    vlm = load_vlm(**{k: v for k, v in model.items() if k not in ("name", "new")})
    all_examples, images = load_examples(Path(data) / "train", trainer["tables"], trainer["caption_prompt"])
    examples = list(islice(all_examples, 64))
    size = trainer["per_device_train_batch_size"] or trainer["global_batch_size"] or 8
    selected = [examples[n] for group in group_by_image(examples) for n in group][:size]
    with_rejected = needs_pairs(resolve_loss_weights(trainer["loss_type"], trainer["loss_weights"]))
    encoder = Encoder(vlm, images, score_history=trainer["loss_on_history"])
    if trainer["backend"] == "trl" or not vlm.family.has_trie:
        _print_rows(encoder, selected, vlm, with_rejected)
        return None
    collator = TrieCollator(encoder, with_rejected)
    items, _ = collator.items(selected)
    batch = collator(selected)
    for item in items:
        _print_item(item, vlm)
    rows, length = batch.tries.input_ids_BL.shape
    log.info(
        f"batch: {counted(len(selected), 'examples')}, {counted(len(items), 'tries')} in {counted(rows, 'rows')} of "
        f"{length} tokens, {batch.tries.padding_fraction:.1%} padding, LM head on {len(batch.tries.rows_R)} positions"
    )
    path = _draw(batch, Path(run) / "batch.png")
    log.info(f"the tiles and the attention mask are drawn in {path}")
    return path


def _print_rows(encoder: Encoder, examples: Sequence[Example], vlm: VLM, with_rejected: bool) -> None:
    """Print the answers of each example, each with its own copy of the prompt."""
    lengths = []
    for example in examples:
        prompt = encoder.prompt(example)
        log.info(f"\n{example.example_id}: inputs {_shapes(prompt.images)}")
        for answer in [example.chosen, example.rejected] if with_rejected else [example.chosen]:
            completion = encoder.completion(answer or "")
            lengths.append(len(prompt.input_ids) + len(completion))
            log.info(f"{lengths[-1]:5d}  {_words(prompt.input_ids, vlm)}[{_words(completion, vlm)}]")
    padding = 1 - sum(lengths) / (max(lengths) * len(lengths))
    log.info(
        f"batch: {counted(len(examples), 'examples')}, {counted(len(lengths), 'rows')} of {max(lengths)} tokens, "
        f"{padding:.1%} padding"
    )


def _shapes(images: ImageInputs | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in (images or {}).items()}


def _words(ids: Sequence[int], vlm: VLM) -> str:
    """Return tokens as text on one line. A run of image placeholders is shown with its length."""
    parts, image_ids = [], vlm.family.feature_tokens(vlm.backbone.model.config)
    for is_image, run in groupby(ids, key=lambda token: token in image_ids):
        tokens = list(run)
        parts.append(f"<image token x {len(tokens)}>" if is_image else vlm.processor.tokenizer.decode(tokens))
    return "".join(parts).replace("\n", "\\n")


def _print_item(item: TrieItem, vlm: VLM) -> None:
    tokens = sum(map(len, item.sequences))
    log.info(
        f"\n{item.item_id}: {counted(len(item.sequences), 'sequences')}, which would have {tokens} tokens in "
        f"separate rows; shapes of the image inputs: {_shapes(item.images)}"
    )

    def walk(numbers: list[int], start: int, indent: int) -> None:
        """Print the tokens that the sequences ``numbers`` share from ``start`` on, then each branch."""
        stop = start
        first = item.sequences[numbers[0]]
        while stop < len(first) and all(
            len(item.sequences[n]) > stop and item.sequences[n][stop] == first[stop] for n in numbers
        ):
            stop += 1
        if stop > start:
            scored = item.scored[numbers[0]]
            parts = [
                f"[{_words(first[run[0] : run[-1] + 1], vlm)}]" if marked else _words(first[run[0] : run[-1] + 1], vlm)
                for marked, group in groupby(range(start, stop), key=lambda place: scored[place])
                for run in [list(group)]
            ]
            log.info("  " * indent + f"{stop - start:5d}  " + "".join(parts))
        branches: dict[int, list[int]] = {}
        for n in numbers:
            if len(item.sequences[n]) > stop:
                branches.setdefault(item.sequences[n][stop], []).append(n)
        for branch in branches.values():
            walk(branch, stop, indent + 1)

    walk(list(range(len(item.sequences))), 0, 0)


def _draw(batch: PairBatch, path: Path) -> Path:
    from matplotlib.figure import Figure

    from scramble.trie.mask import dense_mask

    tiles = []
    for images in batch.tries.images[:4]:
        pixels = (images or {}).get("pixel_values")
        if pixels is not None and pixels.ndim == 4 and pixels.shape[1] == 3:  # (tiles, channel, height, width)
            tiles += list(pixels[:4].float().permute(0, 2, 3, 1).numpy())
    columns = 1 + len(tiles)
    figure = Figure(figsize=(5 + 1.6 * len(tiles), 5))
    axes = list(figure.subplots(1, columns, squeeze=False, width_ratios=[5] + [1.6] * len(tiles)).flat)
    axes[0].imshow(dense_mask(batch.tries.end_BL, batch.tries.block_BL)[0, 0].numpy(), cmap="Greys", aspect="auto")
    axes[0].set_title("row 0: queries (rows) attend to keys (columns)", fontsize=8)
    for axis, tile in zip(axes[1:], tiles, strict=True):
        low, high = tile.min(), tile.max()
        axis.imshow((tile - low) / max(high - low, 1e-6))
        axis.set_axis_off()
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
