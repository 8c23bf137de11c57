"""Tests training on conversations and on several rejected answers: they share the history, and both backends agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scramble.models import load_vlm
from scramble.records import PreferencePair, Turn
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import read_jsonl
from scramble.training.collator import TrieCollator
from scramble.training.data import pair_examples
from scramble.training.encoder import Encoder
from tests.training.conftest import make_pairs
from tests.training.settings import LORA, fit

HISTORY = (Turn("system", "red"), Turn("user", "Describe the image.", 1), Turn("assistant", "a red square"))


def conversations() -> list[PreferencePair]:
    """Return eight pairs with earlier turns and two rejected answers each."""
    return [
        PreferencePair(
            p.pair_id, p.image_ids, p.prompt, p.chosen, p.rejected, p.kind, history=HISTORY, other_rejected=("black",)
        )
        for p in make_pairs(8, 1)
    ]


def first_row(folder: Path) -> dict[str, Any]:
    return next(row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row)


def test_sequences_of_a_pair_share_its_history(base: Path, data: Path) -> None:
    vlm = load_vlm(base)
    examples = list(pair_examples(conversations()[:1]))
    assert [e.example_id for e in examples] == ["p0-0", "p0-0/rejected2"]
    items, members = TrieCollator(Encoder(vlm, ImageTable(data)), with_rejected=True).items(examples)
    (item,), ((first, second),) = items, members
    assert (first, second) == (0, 1) and len(item.sequences) == 4 and item.sequences[0] == item.sequences[2]
    prompt = Encoder(vlm, ImageTable(data)).prompt(examples[0]).input_ids
    assert all(sequence[: len(prompt)] == prompt for sequence in item.sequences)
    text = vlm.processor.tokenizer.decode(prompt)
    assert text.index("red") < text.index("a red square") < text.rindex("Describe the image.")
    batch = TrieCollator(Encoder(vlm, ImageTable(data)), with_rejected=True)(examples)
    answers = sum(len(sequence) - len(prompt) for sequence in (item.sequences[0], *item.sequences[1::2]))
    assert int((batch.tries.end_BL >= 0).sum()) >= 0 and batch.tries.input_ids_BL.numel() <= len(prompt) + answers


def test_earlier_answers_are_scored_by_option(base: Path, data: Path) -> None:
    vlm = load_vlm(base)
    (example, _) = pair_examples(conversations()[:1])
    encoder = Encoder(vlm, ImageTable(data), score_history=True)
    prompt = encoder.prompt(example)
    marked = [token for token, scored in zip(prompt.input_ids, encoder.scored(example, prompt), strict=True) if scored]
    assert "".join(vlm.processor.tokenizer.decode(marked).split()).startswith("aredsquare<|im_end|>")
    assert not any(Encoder(vlm, ImageTable(data)).scored(example, prompt))
    ((item,), _) = TrieCollator(encoder, with_rejected=True).items([example])
    completion = encoder.completion(example.chosen)
    assert sum(item.scored[0]) == len(marked) + len(completion)


@pytest.mark.parametrize("loss_on_history", [False, True])
@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_both_backends_agree(base: Path, data: Path, tmp_path: Path, objective: str, loss_on_history: bool) -> None:
    examples = list(pair_examples(conversations()))
    rows = {}
    for backend in ("trie", "trl"):
        fit(
            load_vlm(base),
            (examples, ImageTable(data)),
            tmp_path / backend,
            objective=objective,
            backend=backend,
            peft=LORA,
            max_steps=2,
            global_batch_size=16,
            per_device_train_batch_size=16,
            logging_steps=1,
            dataloader_num_workers=0,
            loss_on_history=loss_on_history,
            sft_mean="batch",
        )
        rows[backend] = first_row(tmp_path / backend)
    assert rows["trie"]["loss"] == pytest.approx(rows["trl"]["loss"], abs=1e-3)
    if objective == "dpo":  # the shared answers are part of both sums, and not of their difference
        assert rows["trie"]["logps/chosen"] == pytest.approx(rows["trl"]["logps/chosen"], abs=2e-3)
        assert rows["trie"]["loss"] == pytest.approx(0.6931, abs=1e-3)
