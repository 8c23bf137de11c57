"""Tests the runner with a real tiny model: exact scores, resuming after SIGKILL, re-scoring, processes, limits, bad
input.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.evaluation import responses
from scramble.evaluation.answering import Answerer, LazyBackend
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.prompts import QueryEncoder
from scramble.evaluation.protocols import named_protocol, queries
from scramble.evaluation.runner import evaluate, identify, score_replies
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.paired import compare, compare_seeds
from scramble.records import ImageFile, Question, RecordError
from scramble.storage.jsonl import read_jsonl

CHILD = Path(__file__).with_name("run_evaluation.py")


@pytest.fixture(scope="module")
def model_id(model_folder):
    return identify(model_folder, dtype="float32")


def refuse():
    raise AssertionError("the model was loaded although no reply is missing")


def test_caption_likelihood_equals_a_plain_forward(world, vlm, model_id, tmp_path):
    """The runner's log-probabilities are those of the transformers model on each sequence alone."""
    benchmark = load_benchmark("world_winoground", world)
    evaluate(vlm, [benchmark], "world", tmp_path, model_id=model_id, limit=3)
    rows = list(read_jsonl(tmp_path / "world_winoground" / "responses.jsonl"))
    assert len(rows) == 6
    for row in rows[:2]:
        image = benchmark.images[row["images"][0]].open()
        prompt = vlm.family.encode_prompt(vlm.processor, row["prompt"], [image])
        for caption, logprob, tokens in zip(row["candidates"], row["logprobs"], row["tokens"], strict=True):
            answer = vlm.family.encode_completion(vlm.processor, caption)
            ids = torch.tensor([prompt.input_ids + answer])
            with torch.no_grad():
                logits = vlm.model(input_ids=ids, **prompt.images).logits[0].log_softmax(-1)
            start = len(prompt.input_ids)
            expected = sum(logits[start + k - 1, token].item() for k, token in enumerate(answer))
            assert tokens == len(answer)
            assert logprob == pytest.approx(expected, abs=2e-4)


def test_yes_keeps_both_answers_without_the_end_token(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_winoground", world)
    evaluate(vlm, [benchmark], "standard", tmp_path, model_id=model_id, limit=1)
    rows = list(read_jsonl(tmp_path / "world_winoground" / "responses.jsonl"))
    assert len(rows) == 4
    end = len(vlm.family.encode_completion(vlm.processor, "Yes")) - rows[0]["tokens"][0]
    assert end >= 1
    assert all(row["candidates"] == ["Yes", "No"] for row in rows)


def test_log_probabilities_of_tokens_are_stored_on_request(world, vlm, model_id, tmp_path):
    """The sum of the tokens' log-probabilities is that of the answer, and their texts are the answer. Replies that were
    stored without log-probabilities are computed again.
    """
    benchmark = load_benchmark("world_winoground", world)
    folder = tmp_path / "world_winoground"
    evaluate(vlm, [benchmark], "world", tmp_path, model_id=model_id, limit=2)
    assert not any("token_logprobs" in row for row in read_jsonl(folder / "responses.jsonl"))
    assert not any("token_logprobs" in outcome.details for outcome in results.read_outcomes(folder))
    evaluate(vlm, [benchmark], "world", tmp_path, model_id=model_id, limit=2, token_logprobs=True)
    rows = list(read_jsonl(folder / "responses.jsonl"))
    assert len(rows) == 8 and {row["key"] for row in rows[:4]} == {row["key"] for row in rows[4:]}
    for row in rows[4:]:
        for caption, logprob, tokens in zip(row["candidates"], row["logprobs"], row["token_logprobs"], strict=True):
            assert "".join(text for text, _ in tokens).startswith(f" {caption}<|im_end|>")
            assert sum(value for _, value in tokens) == pytest.approx(logprob, abs=1e-3)  # rounded to 1e-4
    outcome = results.read_outcomes(folder)[0]
    assert list(outcome.details["token_logprobs"]) == [f"{outcome.item_id}/0", f"{outcome.item_id}/1"]
    evaluate(refuse, [benchmark], "world", tmp_path, model_id=model_id, limit=2, token_logprobs=True)


def test_texts_of_tokens_keep_spaces_and_whole_characters(vlm):
    encoder = QueryEncoder(vlm.family, vlm.processor)
    answer = "A naïve 🙂 cat – 東京 ."
    count = len(encoder.completion(answer))
    texts = encoder.token_texts(answer, count)
    assert len(texts) == count and "".join(texts).strip().startswith(f"{answer}<|im_end|>")
    assert all("\N{REPLACEMENT CHARACTER}" not in text for text in texts) and "" in texts
    assert encoder.token_texts(answer, 2) == texts[:2]


def test_one_image_under_several_ids_is_encoded_once(world, vlm, model_id, tmp_path):
    """The replies are those of a run in which the questions share one image id."""
    benchmark = load_benchmark("world_vqa", world)
    first = benchmark.items[0].image_ids[0]
    runs = {"shared": [first] * 3, "copies": ["copy0", "copy1", "copy2"]}
    encoded, logprobs = Counter[str](), {}
    for name, ids in runs.items():
        items = []
        for item, image_id in zip(benchmark.items, ids, strict=False):
            assert isinstance(item.record, Question)
            items.append(replace(item, record=replace(item.record, image_ids=(image_id,))))
        data = replace(benchmark, items=tuple(items), images=dict.fromkeys(ids, benchmark.images[first]))

        def count(module, inputs, output, name=name):
            encoded[name] += output.last_hidden_state.shape[0]

        hook = vlm.model.model.vision_tower.register_forward_hook(count)
        evaluate(vlm, [data], "world", tmp_path / name, model_id=model_id, test_groups=0)
        hook.remove()
        logprobs[name] = [row["logprobs"] for row in read_jsonl(tmp_path / name / "world_vqa" / "responses.jsonl")]
    assert logprobs["copies"] == logprobs["shared"]
    assert encoded["copies"] == encoded["shared"] > 0


def test_second_run_needs_no_model_and_changes_nothing(world, vlm, model_id, tmp_path):
    benchmarks = [load_benchmark(name, world) for name in ("world_winoground", "world_vqa")]
    first = evaluate(vlm, benchmarks, "default", tmp_path, model_id=model_id)
    before = (tmp_path / "world_vqa" / "responses.jsonl").read_bytes()
    second = evaluate(refuse, benchmarks, "default", tmp_path, model_id=model_id)
    assert [r.scores for r in first] == [r.scores for r in second]
    assert (tmp_path / "world_vqa" / "responses.jsonl").read_bytes() == before
    assert first[0].self_test["max_logprob_difference"] < 1e-4
    assert second[0].self_test == first[0].self_test
    assert first[0].times["scored_now"] == first[0].times["queries"] == 2 * 36


def test_other_tie_policy_needs_no_model_another_prompt_does(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_winoground", world)
    evaluate(vlm, [benchmark], "world", tmp_path, model_id=model_id)
    changed = {"name": "world", "tie_policy": "half"}
    result, _ = score_replies(benchmark, changed, tmp_path / "world_winoground", model_id=model_id)
    assert result.protocol["name"] == "world[tie_policy=half]"
    mean, _ = score_replies(
        benchmark, {"name": "world", "caption_score": "caption_mean"}, tmp_path / "world_winoground", model_id=model_id
    )
    assert mean.protocol["caption_score"] == "caption_mean"
    with pytest.raises(EvaluationError, match=r"has no reply to world/test/.* under protocol world_yes: run"):
        score_replies(benchmark, "world_yes", tmp_path / "world_winoground", model_id=model_id)


def test_any_number_of_processes_gives_the_same_scores(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_winoground", world)
    options: dict[str, Any] = {"model_id": model_id, "batch_tokens": 64, "test_groups": 0}
    alone = evaluate(vlm, [benchmark], "world", tmp_path / "one", **options)[0]
    for rank in (2, 1, 0):  # rank 0 is last because it scores the replies of all ranks
        step = {"process": (rank, 3), **options}
        if rank == 0:
            shared = evaluate(vlm, [benchmark], "world", tmp_path / "three", **step)[0]
        else:
            with pytest.raises(EvaluationError, match="no reply"):  # the other ranks' replies are still missing
                evaluate(vlm, [benchmark], "world", tmp_path / "three", **step)
    assert shared.scores == alone.scores
    assert len(list((tmp_path / "three" / "world_winoground").glob("responses-*.jsonl"))) == 3
    rows = [r["key"] for f in (tmp_path / "three").rglob("responses-*.jsonl") for r in read_jsonl(f)]
    assert len(rows) == len(set(rows)) == 72


def test_the_progress_of_each_share_reaches_its_total(world, vlm, model_id, tmp_path):
    benchmark, calls = load_benchmark("world_winoground", world), []
    for rank in range(3):
        answerer = Answerer(
            LazyBackend(vlm, 64, False),
            model_id.key,
            limit=None,
            process=(rank, 3),
            test_groups=0,
            progress=lambda name: lambda finished, total: calls.append((finished, total)),
        )
        answerer.answer(benchmark, named_protocol("world"), tmp_path / "world_winoground")
    last = [(finished, total) for finished, total in calls if finished == total]
    assert len(last) == 3 and sum(total for _, total in last) == 72
    scored = evaluate(refuse, [benchmark], "world", tmp_path, model_id=model_id)[0]
    assert (scored.times["queries"], scored.times["scored_now"], scored.self_test) == (72, 0, None)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.full)])
def test_killed_at_random_moments_and_resumed(world, model_folder, tmp_path, kills):
    """The final samples and scores are those of an uninterrupted run, and no query is in the file twice."""

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, str(CHILD), str(world), str(model_folder), str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    whole = start(tmp_path / "whole")
    lines = len(whole.communicate()[0].splitlines())
    assert lines > 20
    generator = random.Random(kills)
    for _ in range(kills):
        child = start(tmp_path / "killed")
        for _ in range(generator.randint(1, max(1, lines // kills))):
            if not child.stdout.readline():
                break
        time.sleep(generator.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    start(tmp_path / "killed").communicate()
    for name in ("world_winoground", "world_vqa"):
        one, two = (list(read_jsonl(tmp_path / run / name / "responses.jsonl")) for run in ("whole", "killed"))
        assert max(Counter(row["key"] for row in two).values()) == 1
        assert sorted(one, key=lambda row: row["key"]) == sorted(two, key=lambda row: row["key"])
        items = [(tmp_path / run / name / "items.jsonl").read_bytes() for run in ("whole", "killed")]
        assert items[0] == items[1]
        scores = [results.read(tmp_path / run / name).scores for run in ("whole", "killed")]
        assert scores[0] == scores[1]


@pytest.mark.full
def test_two_real_processes_give_the_scores_of_one(world, model_folder, tmp_path):
    arguments = [str(CHILD), str(world), str(model_folder)]
    subprocess.run([sys.executable, *arguments, str(tmp_path / "one")], check=True, stdout=subprocess.DEVNULL)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    subprocess.run([*launch, *arguments, str(tmp_path / "two")], check=True, stdout=subprocess.DEVNULL)
    for name in ("world_winoground", "world_vqa"):
        one, two = ((tmp_path / run / name / "items.jsonl").read_bytes() for run in ("one", "two"))
        assert one == two
        assert len(list((tmp_path / "two" / name).glob("responses-*.jsonl"))) == 2


def test_another_model_shares_no_replies(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_winoground", world)
    options: dict[str, Any] = {"limit": 2, "test_groups": 0}
    evaluate(vlm, [benchmark], "world", tmp_path, model_id=model_id, **options)
    other = replace(model_id, key="0" * 16)
    result = evaluate(vlm, [benchmark], "world", tmp_path, model_id=other, **options)[0]
    assert result.times["scored_now"] == 4


def test_comparison_of_runs(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_vqa", world)
    for name in ("a", "b"):
        evaluate(vlm, [benchmark], "world", tmp_path / name, model_id=replace(model_id, name=name))
    test = compare(tmp_path / "a" / "world_vqa", tmp_path / "b" / "world_vqa")["accuracy"]
    assert (test["difference"], test["p_value"], test["won"]) == (0.0, 1.0, 0)
    items = tmp_path / "a" / "world_vqa" / "items.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    flipped = [{**row, "values": {"accuracy": 1.0}} for row in rows]
    items.write_text("".join(json.dumps(row) + "\n" for row in flipped))
    test = compare_seeds([tmp_path / "a" / "world_vqa"] * 2, [tmp_path / "b" / "world_vqa"])["accuracy"]
    wrong = sum(row["values"]["accuracy"] == 0 for row in rows)
    assert test["difference"] == pytest.approx(100 * wrong / len(rows))
    assert (test["won"], test["lost"]) == (wrong, 0)
    assert test["p_value"] < 1e-3


def test_runs_under_different_protocols_are_not_compared(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_winoground", world)
    for protocol in ("world", "world_yes"):
        evaluate(vlm, [benchmark], protocol, tmp_path / protocol, model_id=model_id, limit=2, test_groups=0)
    with pytest.raises(EvaluationError, match=r"the protocols differ .*'caption' and 'yes_minus_no'"):
        compare(tmp_path / "world" / "world_winoground", tmp_path / "world_yes" / "world_winoground")


def test_broken_images_are_named_and_all_other_replies_stay(world, vlm, model_id, tmp_path, caplog):
    """The first image and one in the last chunk have valid headers, so that they fail only when they are decoded."""
    benchmark = load_benchmark("world_winoground", world)
    bad = [benchmark.items[0].image_ids[0], benchmark.items[-1].image_ids[1]]
    images = dict(benchmark.images) | {k: ImageFile(bytes=benchmark.images[k].bytes[:100]) for k in bad}
    for image_id in bad:
        images[image_id].check()
    broken = replace(benchmark, images=images)
    options: dict[str, Any] = {"model_id": model_id, "batch_tokens": 64}
    with pytest.raises(
        RecordError,
        match=rf"2 of \d+ images cannot .*'{bad[0]}': .*cannot be decoded.*replace the data that",
    ):
        evaluate(vlm, [broken], "world", tmp_path, **options)
    for image_id in bad:
        assert sum(f"image '{image_id}' cannot be used" in message for message in caplog.messages) == 1
    stored = responses.read(tmp_path / "world_winoground")
    asked = [query for item in benchmark.items for query in queries(item, named_protocol("world"), benchmark)]
    rest = {query.query_id for query in asked if not set(bad) & set(query.image_ids)}
    rows = list(read_jsonl(tmp_path / "world_winoground" / "responses.jsonl"))
    assert len(rest) == len(stored) == len(rows)
    missing = replace(benchmark, images={k: v for k, v in benchmark.images.items() if k != bad[1]})
    with pytest.raises(EvaluationError, match=f"the image '{bad[1]}' of an item is missing"):
        evaluate(vlm, [missing], "world", tmp_path, **options)


def test_prompt_longer_than_the_context_is_named(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_vqa", world)
    item = benchmark.items[0]
    long = replace(item, record=replace(item.record, question="red " * 5000))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match=r"item world/test/\S+ has \d+ tokens, but the model has 4096 positions"):
        evaluate(vlm, [replace(benchmark, items=(long,))], "world", tmp_path, model_id=model_id, test_groups=0)


def test_results_of_another_schema_are_refused(world, vlm, model_id, tmp_path):
    benchmark = load_benchmark("world_vqa", world)
    evaluate(vlm, [benchmark], "world", tmp_path, model_id=model_id, limit=3, test_groups=0)
    path = tmp_path / "world_vqa" / "result.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(EvaluationError, match="has schema 99, but this version of SCRAMBLe reads schema 1:"):
        results.read(path.parent)


def test_unknown_names_get_suggestions():
    with pytest.raises(EvaluationError, match="did you mean world_winoground"):
        load_benchmark("world_winogrond")
    with pytest.raises(EvaluationError, match="did you mean scramble"):
        from scramble.evaluation.protocols import named_protocol

        named_protocol("scrambel")
    with pytest.raises(EvaluationError, match=r"world_vqa needs local files: set benchmark\.world_vqa\.root"):
        load_benchmark("world_vqa")


def test_identity_follows_content(model_folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    assert identify(copy).key == identify(model_folder).key
    (copy / "chat_template.jinja").write_text("changed")
    assert identify(copy).key != identify(model_folder).key
    assert identify(model_folder, dtype="bfloat16").key != identify(model_folder).key
    with pytest.raises(EvaluationError, match=r"nowhere/model is n.* a folder.*correct model\.path"):
        identify("nowhere/model")
    with pytest.raises(EvaluationError, match=r"nowhere/adapter is n.* a folder.*correct adapter"):
        identify(model_folder, adapter="nowhere/adapter")


def test_the_batch_check_reaches_the_terminal_only_where_it_finds_a_difference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from scramble.pipeline.evaluate import _report_self_test

    with caplog.at_level("DEBUG", logger="scramble"):
        for difference, differ in ((9.5e-7, 0), (0.25, 0), (0.0, 2)):
            test = {"max_logprob_difference": difference, "texts": 12, "texts_differ": differ}
            _report_self_test("base: pope", test)
        _report_self_test("base: pope", None)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO", "INFO"]
    assert caplog.messages[0] == (
        "base: pope: batch-invariance check: max log-prob difference 9.5e-07 nats, 0 of 12 generations differ"
    )
