"""Tests held-out pairs with earlier turns, several images or no image: they are scored in their own conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.evaluation.backends.server import _requests
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import CaptionChoice, Query
from scramble.evaluation.protocols import queries, resolve
from scramble.evaluation.quick import quick_scores
from scramble.evaluation.responses import group_by_images, query_key
from scramble.evaluation.runner import evaluate, identify
from scramble.evaluation.scoring import results
from scramble.models import VLM, ModelError
from scramble.records import ImageRecord, PreferencePair, Turn
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table, write_table

SYSTEM = Turn("system", "Please answer.")
EARLIER = (SYSTEM, Turn("user", "Does the image show?", 1), Turn("assistant", "Yes"))


@pytest.fixture(scope="module")
def split(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pairs of each kind about images of the world."""
    folder = tmp_path_factory.mktemp("conversations")
    images = list(read_table(world, ImageRecord))[:3]
    a, b, c = (image.image_id for image in images)
    prompt = "Does the image show? Please answer yes or no."
    pairs = [
        PreferencePair("plain", (a,), prompt, "Yes", "No", "qa"),
        PreferencePair("system", (a,), prompt, "Yes", "No", "qa", history=(SYSTEM,)),
        PreferencePair("turns", (a,), prompt, "No", "Yes", "qa", history=EARLIER, other_rejected=("image",)),
        PreferencePair("images", (b, c), prompt, "Yes", "No", "qa"),
        PreferencePair("all", (b, c, b), prompt, "Yes", "No", "qa", history=EARLIER),
        PreferencePair("text", (), prompt, "Yes", "No", "qa"),
    ]
    write_table(folder, ImageRecord, images)
    write_table(folder, PreferencePair, pairs)
    return folder


def test_log_probabilities_are_those_of_the_conversation_alone(
    split: Path, vlm: VLM, model_folder: Path, tmp_path: Path
) -> None:
    benchmark = load_benchmark("heldout_pairs", split)
    (result,) = evaluate(vlm, [benchmark], "default", tmp_path, model_id=identify(model_folder, dtype="float32"))
    assert result.scores["accuracy"]["n"] == 7  # "turns" has two rejected answers
    rows = {row["id"].split("/0")[0]: row for row in read_jsonl(tmp_path / "heldout_pairs" / "responses.jsonl")}
    for item in benchmark.items:
        pair, row = item.record, rows[item.item_id]
        assert isinstance(pair, CaptionChoice) and pair.prompt is not None
        images = [benchmark.images[image_id].open() for image_id in pair.image_ids]
        history = pair.history
        prompt = vlm.family.encode_prompt(vlm.processor, pair.prompt, images, history)
        assert row.get("history", []) == [
            {"role": turn.role, "text": turn.text, "num_images": turn.num_images} for turn in history
        ]
        for text, logprob in zip(row["candidates"], row["logprobs"], strict=True):
            answer = vlm.family.encode_completion(vlm.processor, text)
            with torch.no_grad():
                output = vlm.model(input_ids=torch.tensor([prompt.input_ids + answer]), **prompt.images or {})
            logits = output.logits[0].log_softmax(-1)
            start = len(prompt.input_ids) - 1
            expected = sum(logits[start + k, token].item() for k, token in enumerate(answer))
            assert logprob == pytest.approx(expected, abs=2e-4), item.item_id
    # The conversations differ, except for the two rejected answers of "turns".
    assert len({row["logprobs"][0] for row in rows.values()}) == 6
    assert quick_scores(vlm, benchmark)["accuracy"] == pytest.approx(result.scores["accuracy"]["value"])


def test_queries_without_earlier_turns_keep_their_keys_and_groups(split: Path) -> None:
    benchmark = load_benchmark("heldout_pairs", split)
    protocol = resolve("default", benchmark)
    asked = [query for item in benchmark.items for query in queries(item, protocol, benchmark)]
    hashes = dict.fromkeys(benchmark.images, "h")
    assert query_key("m", asked[0], hashes) != query_key("m", asked[1], hashes)
    assert query_key("m", replace(asked[1], history=()), hashes) == query_key("m", asked[0], hashes)
    groups = [[query.query_id for query in group] for group in group_by_images(asked, benchmark.image_hashes)]
    assert ["turns/0", "turns/rejected2/0"] in groups and len(groups) == 6


def test_the_prior_of_a_conversation_has_no_images(split: Path) -> None:
    benchmark = load_benchmark("heldout_pairs", split)
    asked = {
        query.query_id: query
        for item in benchmark.items
        for query in queries(item, resolve("caption_debiased", benchmark), benchmark)
    }
    blind = asked["all/blind"]
    assert blind.image_ids == () and [turn.num_images for turn in blind.history] == [0, 0, 0]
    assert [turn.text for turn in blind.history] == [turn.text for turn in EARLIER]


def test_a_server_gets_each_image_in_its_turn(split: Path) -> None:
    benchmark = load_benchmark("heldout_pairs", split)
    ids = next(item.image_ids for item in benchmark.items if item.item_id == "all")
    query = Query("q", ids, "Which?", max_new_tokens=4, history=EARLIER)
    (request,) = _requests([[query]], benchmark.images)
    assert [(message.role, message.text, len(message.images)) for message in request.messages] == [
        ("system", "Please answer.", 0),
        ("user", "Does the image show?", 1),
        ("assistant", "Yes", 0),
        ("user", "Which?", 2),
    ]
    assert [image for message in request.messages for image in message.images] == [
        benchmark.images[image_id].read() for image_id in ids
    ]


def test_conversations_that_the_template_refuses_have_no_score(
    split: Path, vlm: VLM, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Training also rejects these pairs. The reasons are stored, so that a second run needs no model."""
    accepts = vlm.family.render_prompt

    def strict(processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> str:
        if SYSTEM in history:
            raise ModelError("the chat template of strict omits the system turn 'Please answer.'")
        return accepts(processor, text, num_images, history)

    monkeypatch.setattr(vlm.family, "render_prompt", strict)
    benchmark = load_benchmark("heldout_pairs", split)
    options: dict[str, Any] = {"model_id": identify(model_folder, dtype="float32")}
    for model in (vlm, None):
        (result,) = evaluate(lambda model=model: model, [benchmark], "default", tmp_path, **options)  # type: ignore[misc]
        assert result.scores["accuracy"]["n"] == 3 and (result.rates["n"], result.rates["unscored"]) == (7, 4)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith("heldout_pairs: 4 of 7 queries are not scored (first: system/0): the chat template of")
    assert set(quick_scores(vlm, benchmark)) == {"accuracy"}
    refused = next(o for o in results.read_outcomes(tmp_path / "heldout_pairs") if o.item_id == "all")
    assert refused.details["refusal"].startswith("the chat template of strict")


def test_a_protocol_with_its_own_question_warns(
    split: Path, vlm: VLM, model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    benchmark = load_benchmark("heldout_pairs", split)
    evaluate(vlm, [benchmark], "standard", tmp_path, model_id=identify(model_folder, dtype="float32"), test_groups=0)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "protocol standard asks about each answer" in warning and "the conversations of 6 items" in warning
