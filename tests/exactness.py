"""Compares tries, processed in one pass, with one sequence per row, for any model family.

A family's test calls :func:`assert_exact` with a model in float32 whose adapters are not zero. The cases cover what
occurs in data sets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from scramble.models import VLM, Prompt
from scramble.models.backbone import FamilyBackbone, unwrap
from scramble.models.family import Family
from scramble.models.generation import generate_ids, stop_tokens
from scramble.trie import TrieItem, logprobs, pack, score

Marked = Mapping[str, Collection[int]]  # argument of the ordinary forward pass -> the tokens that it marks


@dataclass(frozen=True)
class Case:
    """Prompts with numbers of images and completions; with ``row_tokens`` several tries share a row."""

    prompts: tuple[tuple[str, int, tuple[str, ...]], ...]
    row_tokens: int | None = None


ASK = "describe the image"
PAIR = ("a red circle above a blue square", "a blue circle above a red square")
FIVE = (
    "a red circle",
    "a red circle above a square",
    "a red square below a circle with a dot",
    "two circles",
    "a red circle above a blue square",
)
CASES = {
    "one pair": Case(((ASK, 1, PAIR),)),
    "five captions": Case(((ASK, 1, FIVE),)),
    "unequal lengths": Case(((ASK, 1, PAIR), ("is there a circle in this image of many shapes", 1, ("yes", FIVE[2])))),
    "several images in a row": Case(((ASK, 1, PAIR), (ASK, 1, FIVE), (ASK, 1, ("yes", "no"))), row_tokens=4000),
    "rows and padding": Case(((ASK, 1, PAIR), (ASK, 1, FIVE), (ASK, 1, ("yes",)), ("circle", 1, FIVE))),
    "prefix": Case(((ASK, 1, ("a red circle", "a red circle above a square")),)),
    "identical": Case(((ASK, 1, ("two circles", "two circles", "two circles")),)),
    "no image": Case(((ASK, 0, PAIR), ("name a shape", 0, ("circle", "a square")))),
    "with and without image": Case(((ASK, 1, PAIR), (ASK, 0, PAIR)), row_tokens=4000),
    "two images": Case((("which image shows a circle", 2, ("first", "second", "both")),)),
}
TEXTS = [ASK] + [text for case in CASES.values() for prompt in case.prompts for text in (prompt[0], *prompt[2])]
"""The texts of all cases. Tiny models get a vocabulary of the words in these texts."""

# One family runs all cases in the fast suite (tests/trie/test_engine.py). The other families run the most important
# cases there, and the rest in make test-full.
MOST = ("five captions", "several images in a row", "prefix", "with and without image", "two images")
SELECTED = [name if name in MOST else pytest.param(name, marks=pytest.mark.full) for name in CASES]


def make_items(family: Family, processor: Any, case: Case, images: Sequence[Image.Image]) -> list[TrieItem]:
    """Return one item per prompt, in which every completion token is scored."""
    items = []
    for n, (text, num_images, completions) in enumerate(case.prompts):
        pictures = [images[(n + m) % len(images)] for m in range(num_images)]
        prompt = family.encode_prompt(processor, text, pictures)
        answers = [family.encode_completion(processor, completion) for completion in completions]
        items.append(
            TrieItem(
                sequences=[prompt.input_ids + answer for answer in answers],
                scored=[[False] * len(prompt.input_ids) + [True] * len(answer) for answer in answers],
                images=prompt.images,
                item_id=f"prompt {n}",
            )
        )
    return items


def plain_logprobs(model: torch.nn.Module, items: Sequence[TrieItem], marked: Marked | None = None) -> list[Tensor]:
    """Return the log-probabilities of each sequence's scored tokens from an ordinary forward pass of this sequence."""
    results = []
    for item in items:
        for ids, mask in zip(item.sequences, item.scored, strict=True):
            row = torch.tensor([ids])
            types = {key: torch.isin(row, torch.tensor(list(kind))).long() for key, kind in (marked or {}).items()}
            logps = model(input_ids=row, **types, **(item.images or {})).logits[0, :-1].log_softmax(-1)
            where = torch.tensor(mask).nonzero()[:, 0]
            results.append(logps[where - 1, row[0, where]])
    return results


def assert_exact(
    model: torch.nn.Module,
    family: Family,
    processor: Any,
    case: Case,
    images: Sequence[Image.Image],
    *,
    marked: Marked | None = None,
    float32_rtol: float = 1e-6,
) -> None:
    """Assert that the trie's log-probabilities and gradients equal those of one sequence per row.

    The tolerance is 1e-5 per token and 1e-6 of the gradient norm, in float32 for a sum of all sequences with positive
    weights. With weights of both signs, as in a preference loss, chosen and rejected cancel, and in float32 even one
    sequence per row has an error above 1e-6. These weights are therefore tested in float64. ``float32_rtol`` is the
    gradients' tolerance in float32, for a family whose gradients from one sequence per row have a larger error there.
    """
    assert next(model.parameters()).dtype == torch.float32
    _compare(model, family, processor, case, images, marked, atol=1e-5, gradient_rtol=float32_rtol, smallest_weight=1)
    unwrap(model).set_experts_implementation("eager")  # grouped matrix products of experts do not support float64
    _compare(model.double(), family, processor, case, images, marked, atol=1e-8, gradient_rtol=1e-6, smallest_weight=-1)


def continuation(vlm: VLM, inputs: Mapping[str, Any], max_new_tokens: int) -> list[int]:
    """Return the tokens that transformers' ``generate`` appends to a prompt, without the stop token."""
    stops = stop_tokens(vlm)
    with torch.inference_mode():
        options = {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": sorted(stops)}
        output = vlm.model.generate(**inputs, **options)
    new = output[0, inputs["input_ids"].shape[1] :].tolist()
    return next((new[:n] for n, token in enumerate(new) if token in stops), new)


def assert_generates(vlm: VLM, images: Sequence[Image.Image], max_new_tokens: int = 12, **template: object) -> None:
    """Assert that prompts on shared images continue token by token as with ``generate`` on the processor's own batch.

    ``template`` contains variables of the chat template.
    """
    texts = ["describe the image", "is there a circle in this image of many shapes", "two circles"]
    groups: list[list[Prompt]] = []
    expected: list[list[list[int]]] = []
    for image in images:
        prompts = [vlm.family.encode_prompt(vlm.processor, text, [image]) for text in texts]
        groups.append([Prompt(prompt.input_ids, prompts[0].images) for prompt in prompts])
        expected.append([])
        for text in texts:
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
            rendered = vlm.processor.apply_chat_template(
                [message], tokenize=False, add_generation_prompt=True, **template
            )
            inputs = vlm.processor(images=[[image]], text=[rendered], return_tensors="pt", add_special_tokens=False)
            expected[-1].append(continuation(vlm, inputs, max_new_tokens))
    assert generate_ids(vlm, groups, [[max_new_tokens] * len(texts)] * len(groups)) == expected


def _compare(
    model: torch.nn.Module,
    family: Family,
    processor: Any,
    case: Case,
    images: Sequence[Image.Image],
    marked: Marked | None,
    *,
    atol: float,
    gradient_rtol: float,
    smallest_weight: float,
) -> None:
    backbone = FamilyBackbone(family, model)
    items = make_items(family, processor, case, images)
    batch = pack(
        items,
        backbone.token_rules,
        vocab_size=backbone.head.weight.shape[0],
        row_tokens=case.row_tokens,
    )
    result = logprobs(backbone, batch)
    expected = plain_logprobs(model, items, marked)
    torch.testing.assert_close(result.tokens_M, torch.cat(expected), atol=atol, rtol=0)
    sums = torch.stack([tokens.sum() for tokens in expected])
    torch.testing.assert_close(result.sums_Q, sums, atol=atol * max(len(t) for t in expected), rtol=0)

    scores = [token for item in score(backbone, items, batch_tokens=200) for s in item for token in s.tokens]
    torch.testing.assert_close(torch.tensor(scores).to(sums), torch.cat(expected), atol=max(atol, 1e-6), rtol=0)

    weights = torch.linspace(smallest_weight, 2, len(sums))  # a different weight for every sequence
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad((result.sums_Q * weights).sum(), trained)
    wanted = torch.autograd.grad((sums * weights).sum(), trained)
    assert all(g.abs().max() > 0 for g in wanted), "a trained weight has no gradient: the comparison would be empty"
    difference = torch.cat([(g - w).flatten() for g, w in zip(gradients, wanted, strict=True)]).norm()
    norm = torch.cat([w.flatten() for w in wanted]).norm()
    assert difference <= gradient_rtol * norm, f"relative gradient error {difference / norm:.2e}"
