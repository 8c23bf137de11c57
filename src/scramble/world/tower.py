"""Pretrains a randomly initialised vision tower on images of the embedded world.

Linear heads predict the content of each cell of the image and are then discarded. Without pretraining, the tower would
have to learn shapes from the few words of captions, which works poorly (docs/results/world_log.md). Released vision
towers are also pretrained before they are connected to a language model.
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
# Number of position classes per axis. With a regression, a weak position signal in the features would be enough, but
# the language model does not learn from a position signal that is weak in comparison with colour and shape.
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
    """Train the tower and the projector to predict the content of each cell of an image from the features of the cell.

    Linear heads on the projected features of a cell predict whether the centre of an object is in the cell. For cells
    with an object, they also predict its colour, shape, size, column and row. Every step uses new scenes without
    held-out combinations. The language model is frozen.

    Args:
        vlm: a model with a square grid of features per image (see :func:`scramble.models.load_vlm`).
        steps, batch_size: number of steps, and number of scenes per step.
        learning_rate: peak learning rate of AdamW, which is reached after a tenth of the steps.
        image_size: pixels per side.
        objects: minimum and maximum number of objects in a scene.
        seed: seed of the scenes and of the initial weights of the heads.
    Returns:
        The mean loss and the mean accuracies over the last 50 steps.
    Raises:
        WorldError: the features of an image do not form a square grid.
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
    for _ in track(range(steps), "pretraining the tower"):
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
        sizes = {**{word: len(values) for word, values in WORDS.items()}, "is_object": 1, "column": BINS, "row": BINS}
        return nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})


def _loss(heads: nn.ModuleDict, features_BTD: Tensor, scenes: list[Scene]) -> tuple[Tensor, dict[str, float]]:
    side = math.isqrt(features_BTD.shape[1])
    if side * side != features_BTD.shape[1]:
        raise WorldError(
            f"the {features_BTD.shape[1]} features of an image do not form a square grid: use a model with a square "
            "number of image tokens"
        )
    things = [(b, thing) for b, scene in enumerate(scenes) for thing in scene.things]
    rows = torch.tensor([b for b, _ in things])
    cells = torch.tensor([int(t.y * side) * side + int(t.x * side) for _, t in things])
    is_object = torch.zeros(features_BTD.shape[:2])
    is_object[rows, cells] = 1.0
    loss = F.binary_cross_entropy_with_logits(heads["is_object"](features_BTD)[..., 0], is_object)
    object_features = features_BTD[rows, cells]
    right = {
        **{word: [values.index(getattr(t, word)) for _, t in things] for word, values in WORDS.items()},
        "column": [int(t.x * BINS) for _, t in things],
        "row": [int(t.y * BINS) for _, t in things],
    }
    figures = {}
    for name, targets in right.items():
        logits = heads[name](object_features)
        loss = loss + F.cross_entropy(logits, torch.tensor(targets))
        figures[name] = float((logits.argmax(-1) == torch.tensor(targets)).float().mean())
    return loss, {"loss": float(loss.detach()), **figures}
