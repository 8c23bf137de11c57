"""Tests the language-model generator with a server that gives good replies, bad replies, or no reply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scramble.engines import Reply, ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.pairs.base import Caption, Skip
from scramble.pairs.captions.chain_of_thought import (
    MARKER,
    PROMPTS,
    CotGenerator,
    PromptError,
    load_prompt,
    read_answer,
    read_clean,
)
from scramble.pairs.captions.surface import normalise
from tests.loopback import Loopback

TYPO = "a brown dog chase a white cat"
# caption -> the model's text after its reasoning, or its whole reply (starting with "!")
ANSWERS = {
    "A brown dog chases a white cat.": "A white dog chases a brown cat.",
    "A man holds a red umbrella in the rain.": "NA",
    "A bus drives past a tall building.": "A bus drives past a tall building!",
    "A woman rides a horse on the beach.": "A woman rides a horse on the beach at night while many birds sing.",
    "Two boys kick a ball in a park.": "Three ducks swim on a lake.",
    "A cup stands on a book.": "!I cannot help with that.",
    "A girl feeds a small bird.": "!",
    "A boat lies near a pier.": "!1. The key elements ...\nFinal Output Caption:",
    "A plate of fruit is on a chair.": '"a chair of fruit is on a plate"',
    "A truck is behind a train.": "**A train is behind a truck**",
}
WANTED: dict[str, str] = {
    "A brown dog chases a white cat.": "A white dog chases a brown cat.",
    "A man holds a red umbrella in the rain.": "abstained",
    "A bus drives past a tall building.": "same words in the same order",
    "A woman rides a horse on the beach.": "length ratio",
    "Two boys kick a ball in a park.": "too few words in common with the caption",
    "A cup stands on a book.": "no final caption in the reply",
    "A girl feeds a small bird.": "empty reply",
    "A boat lies near a pier.": "no final caption in the reply",
    "A plate of fruit is on a chair.": "A chair of fruit is on a plate.",
    "A truck is behind a train.": "A train is behind a truck.",
}


def model(prompt: str) -> str:
    if prompt.startswith("Correct the spelling"):
        caption = prompt.rpartition("Caption: ")[2]
        return json.dumps({"caption": "A brown dog chases a white cat."}) if TYPO in caption.lower() else "{broken"
    caption = prompt.rpartition("Input Caption: ")[2].partition("\n")[0]
    answer = ANSWERS[caption]
    return answer[1:] if answer.startswith("!") else f"1. The key elements are ...\n{MARKER}\n{answer}"


@pytest.fixture
def server(server: Loopback) -> Loopback:
    server.answer = model
    return server


@pytest.fixture
def pipeline(shared: Path) -> Path:
    return shared / "models" / "en_core_standin"


def run(server: Loopback, folder: Path, captions: list[Caption], pipeline: Path, **options: Any) -> tuple[Any, Any]:
    cleaned = options.pop("clean", False)
    with OpenAIServer("m", server.url, concurrency=4) as engine, ReplyStore(folder) as store:
        cleaner = engine if cleaned else None
        generator = CotGenerator(engine, store, pipeline=pipeline, cleaner=cleaner, **options)
        return generator, list(generator.negatives(captions))


def test_each_kind_of_answer_gives_a_negative_or_a_counted_reason(
    server: Loopback, tmp_path: Path, pipeline: Path
) -> None:
    texts = [*ANSWERS, "", "see www.example.com for a dog", "!!! ..."]
    generator, outcomes = run(server, tmp_path, [Caption(f"i{i}", 0, t) for i, t in enumerate(texts)], pipeline)
    assert [caption.image_id for caption, _ in outcomes] == [f"i{i}" for i in range(len(texts))]
    outcome = {c.text: f.reason if isinstance(f, Skip) else f[0].text for c, f in outcomes}
    assert {text: outcome[text] for text in WANTED} == WANTED
    assert [f.reason for _, f in outcomes[-3:]] == ["empty", "contains a URL", "no words"]
    assert generator.counts["used"] == 3 and generator.counts["abstained"] == 1
    assert sum(generator.counts.values()) == len(texts)
    totals = generator.totals()
    assert totals["generator"]["num_requests"] == len(ANSWERS) and totals["generator"]["prompt_tokens"] == 11 * len(
        ANSWERS
    )
    negative = outcomes[0][1][0]
    assert negative.kind == "rearrange" and negative.rule == f"cot.rearrange@{load_prompt('rearrange').key} m"
    (edit,) = negative.edits
    assert "A brown dog chases a white cat."[slice(*edit.chosen)] == "brown dog chases a white"
    assert negative.text[slice(*edit.rejected)] == "white dog chases a brown"


def test_second_run_asks_nothing_and_a_changed_prompt_asks_itself_alone(
    server: Loopback, tmp_path: Path, pipeline: Path
) -> None:
    captions = [Caption(f"i{i}", 0, text) for i, text in enumerate(ANSWERS)]
    _, first = run(server, tmp_path / "a", captions, pipeline)
    assert sum(server.asked.values()) == len(captions)
    _, again = run(server, tmp_path / "a", captions, pipeline)
    assert again == first and sum(server.asked.values()) == len(captions)
    prompt = tmp_path / "mine.txt"
    prompt.write_text(load_prompt("rearrange").text + " Be brief.\n")
    generator, _ = run(server, tmp_path / "a", captions[:1], pipeline, prompt=prompt)
    assert sum(server.asked.values()) == len(captions) + 1
    assert generator.rule.startswith("cot.mine@") and generator.rule != f"cot.mine@{load_prompt('rearrange').key} m"


def test_settings_are_the_papers(server: Loopback, tmp_path: Path, pipeline: Path) -> None:
    run(server, tmp_path, [Caption("i", 0, next(iter(ANSWERS)))], pipeline)
    (payload,) = server.payloads
    assert (payload["temperature"], payload["top_p"], payload["max_tokens"]) == (0.2, 0.9, 800)
    assert payload["messages"][0]["content"].count("Example ") == 6
    assert payload["messages"][0]["content"].endswith("Reasoning:")


def test_cleaning_comes_first_and_its_text_is_the_caption(server: Loopback, tmp_path: Path, pipeline: Path) -> None:
    captions = [Caption("a", 0, TYPO), Caption("b", 0, "A truck is behind a train."), Caption("c", 0, "")]
    generator, outcomes = run(server, tmp_path, captions, pipeline, clean=True)
    assert [c.text for c, _ in outcomes] == ["A brown dog chases a white cat.", "A truck is behind a train.", ""]
    assert outcomes[0][1][0].text == "A white dog chases a brown cat."
    assert generator.counts["cleaned"] == 1 and generator.counts["kept uncleaned"] == 1
    cleaning = [p for p in server.payloads if p["messages"][0]["content"].startswith("Correct")]
    assert {p["temperature"] for p in cleaning} == {0.0} and all("response_format" in p for p in cleaning)


def test_several_samples_give_distinct_negatives(server: Loopback, tmp_path: Path, pipeline: Path) -> None:
    answers = iter(["A white dog chases a brown cat.", "NA", "A brown cat chases a white dog."])
    server.answer = lambda _: f"{MARKER} {next(answers)}"
    _, ((_, negatives),) = run(server, tmp_path, [Caption("a", 0, TYPO)], pipeline, samples=3)
    assert sorted(n.text for n in negatives) == ["A brown cat chases a white dog.", "A white dog chases a brown cat."]


def test_every_prompt_reads_well_formed() -> None:
    for name in [*PROMPTS, "clean"]:
        prompt = load_prompt(name)
        assert prompt.fill("A dog.").count("A dog.") >= 1 and "{caption}" not in prompt.fill("A dog.")
        assert name == "clean" or MARKER in prompt.text
    with pytest.raises(PromptError, match="choose one of rearrange"):
        load_prompt("shuffle")


def test_worked_examples_pass_their_own_check(server: Loopback, tmp_path: Path, pipeline: Path) -> None:
    """The validation must accept the examples that the prompt presents as correct."""
    with OpenAIServer("m", server.url) as engine, ReplyStore(tmp_path) as store:
        for name in PROMPTS:
            generator = CotGenerator(engine, store, prompt=name, pipeline=pipeline)
            examples = generator.prompt.text.split("Input Caption: ")[1:-1]
            assert len(examples) == (5 if name == "rearrange" else 1)
            for example in examples:
                caption = example.partition("\n")[0]
                text, reason = read_answer(Reply(example))
                assert reason == "" and generator._fault(normalise(caption), text) == "", (name, caption)


def test_replies_that_are_no_answers() -> None:
    assert read_answer(Reply("x", "length"))[1] == "reply truncated at the token limit"
    assert read_answer(Reply("x", "content_filter"))[1] == "reply ended by content_filter"
    assert read_answer(Reply("", error="context overflow (status 400: ...)"))[1] == "no reply: context overflow"
    assert read_answer(Reply("NA."))[1] == "abstained"
    assert read_clean(Reply('Sure: {"caption": "a dog"}')) == "A dog."
    assert read_clean(Reply('{"caption": ["a"]}')) == read_clean(Reply('["caption"]')) == read_clean(Reply("")) == ""
