"""Teaching a tower of random weights to see the world, as a released tower has been taught before the language model
meets it: linear heads say what lies in each cell of the image, then they are thrown away.

Without it the tower has to learn shapes from the few words of captions, and hardly does (docs/results/world_log.md).
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scramble.world.drawing import SMALLEST, draw
from scramble.world.scenes import COLOURS, SHAPES, SIZES, Scene, WorldError, draw_scene

# Tensor suffixes: B images, T image tokens (cells, row by row), D width of a token's features.
WORDS = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}
# Place is told in so many columns and rows. A regression would do with a whisper of place in the features, and what the
# language model cannot hear next to colour and shape it does not learn from.
BINS = 8


def teach_vision(
    vlm: Any,
    *,
    steps: int,
    batch_size: int = 40,
    learning_rate: float = 2e-3,
    image_size: int = SMALLEST,
    objects: tuple[int, int] = (1, 4),
    seed: int = 0,
) -> dict[str, float]:
    """Train tower and projector until the features of each cell tell what lies in it; the language model is left alone.

    Linear heads on the projected features name colour, shape and size of the object whose centre lies in the cell,
    whether there is one, and in which column and row of the image it lies. Scenes are drawn anew for every step,
    without the combinations that training never shows.

    Args:
        vlm: a model with a square of features an image, see :func:`scramble.models.load_vlm`.
        steps, batch_size: scenes drawn: their product.
        learning_rate: highest rate of AdamW; it rises over the first tenth of the steps, then falls to nothing.
        image_size: pixels a side.
        objects: least and greatest number of objects in a scene.
        seed: of scenes and heads.
    Returns:
        Loss and shares of right answers over the last 50 steps, each on images not learned from before.
    Raises:
        WorldError: if the features of an image are no square.
    """
    from scramble.console import track

    backbone = vlm.backbone
    parameters = [p for module in backbone.vision for p in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    chance = random.Random(f"{seed}/vision")
    width = backbone.head.weight.shape[1]
    heads = _heads(width, seed)
    optimizer = torch.optim.AdamW([*parameters, *heads.parameters()], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    history: deque[dict[str, float]] = deque(maxlen=50)
    for _ in track(range(steps), "teaching the tower"):
        scenes = [draw_scene(chance, objects=objects) for _ in range(batch_size)]
        images = [vlm.family.encode_prompt(vlm.processor, "", [draw(s, image_size)]).images for s in scenes]
        loss, figures = _loss(heads, torch.stack(backbone.encode_images(images)), scenes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        history.append(figures)
    return {name: sum(figures[name] for figures in history) / len(history) for name in history[0]}


def _heads(width: int, seed: int) -> nn.ModuleDict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {**{word: len(values) for word, values in WORDS.items()}, "something": 1, "column": BINS, "row": BINS}
        return nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})


def _loss(heads: nn.ModuleDict, features_BTD: Tensor, scenes: list[Scene]) -> tuple[Tensor, dict[str, float]]:
    side = math.isqrt(features_BTD.shape[1])
    if side * side != features_BTD.shape[1]:
        raise WorldError(f"{features_BTD.shape[1]} features an image are no square of cells")
    things = [(b, thing) for b, scene in enumerate(scenes) for thing in scene.things]
    rows = torch.tensor([b for b, _ in things])
    cells = torch.tensor([int(t.y * side) * side + int(t.x * side) for _, t in things])
    something = torch.zeros(features_BTD.shape[:2])
    something[rows, cells] = 1.0
    loss = F.binary_cross_entropy_with_logits(heads["something"](features_BTD)[..., 0], something)
    here = features_BTD[rows, cells]
    right = {
        **{word: [values.index(getattr(t, word)) for _, t in things] for word, values in WORDS.items()},
        "column": [int(t.x * BINS) for _, t in things],
        "row": [int(t.y * BINS) for _, t in things],
    }
    figures = {}
    for name, targets in right.items():
        logits = heads[name](here)
        loss = loss + F.cross_entropy(logits, torch.tensor(targets))
        figures[name] = float((logits.argmax(-1) == torch.tensor(targets)).float().mean())
    return loss, {"loss": float(loss.detach()), **figures}
