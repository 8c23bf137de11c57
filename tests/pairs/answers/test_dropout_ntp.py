"""Tests DropoutNTP with a scripted vision server: the first part with the image, the continuation without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.pairs.answers.dropout_ntp import DropoutNTP, first_words, joined
from scramble.pairs.base import Skip
from scramble.records import ImageFile, PreferencePair, Question
from tests.loopback import Loopback

ANSWER = "A red circle is left of a\nblue square."  # nine words


def run(
    server: Loopback, folder: Path, questions: list[Question], images: dict[str, ImageFile], **options: Any
) -> tuple[DropoutNTP, list[Any]]:
    with OpenAIServer("m", server.url, concurrency=2) as engine, ReplyStore(folder) as store:
        maker = DropoutNTP(engine, store, max_tokens=64, **options)
        return maker, [outcome for _, outcome in maker.pairs(questions, images)]


def sees(payload: dict[str, Any]) -> bool:
    return isinstance(payload["messages"][0]["content"], list)


@pytest.mark.parametrize(
    ("ratio", "prefix"),
    [(0.25, "A red"), (0.5, "A red circle is"), (0.75, "A red circle is left of"), (0.0, "")],
)
def test_the_rejected_text_is_the_kept_part_with_a_continuation_without_the_image(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile], ratio: float, prefix: str
) -> None:
    server.answer = lambda _: ANSWER if sees(server.payloads[-1]) else " green cross above a ring.\n"
    (pair,) = run(server, tmp_path, [Question("q", ("red",), "Describe.", "")], images, start_ratio=ratio)[1]
    assert isinstance(pair, PreferencePair)
    assert (pair.prompt, pair.chosen, pair.kind) == ("Describe.", ANSWER, "dropout-ntp")
    assert pair.rejected == f"{prefix} green cross above a ring.".strip() and pair.details["kept"] == prefix
    (edit,) = pair.edits
    assert pair.chosen[: edit.chosen[0]] == pair.rejected[: edit.rejected[0]] == prefix
    first, second = server.payloads
    assert sees(first) and not sees(second) and first["temperature"] == 1.0 and first["top_k"] == 50
    assert second["messages"][0] == {"role": "user", "content": "Describe."}
    if prefix:
        assert second["messages"][1:] == [{"role": "assistant", "content": prefix}]
        assert second["continue_final_message"] is True and second["add_generation_prompt"] is False
    else:
        assert len(second["messages"]) == 1 and "continue_final_message" not in second


def test_reasons_and_order(server: Loopback, tmp_path: Path, images: dict[str, ImageFile]) -> None:
    def answer(text: str) -> str:
        return {"short": "One", "same": "a b", "a": " b", "good": "w x y z", "w x": " other"}[text]

    server.answer = answer
    questions = [
        Question("text-only", (), "good", ""),
        Question("short", ("red",), "short", ""),
        Question("same", ("green",), "same", ""),
        Question("good", ("blue",), "good", ""),
        Question("missing", ("nowhere",), "good", ""),
    ]
    maker, outcomes = run(server, tmp_path, questions, images)
    assert outcomes[:3] == [
        Skip("no image to leave out"),
        Skip("answer too short to truncate"),
        Skip("the continuation equals the answer"),
    ]
    assert outcomes[3].rejected == "w x other" and outcomes[4] == Skip("missing image")
    assert maker.counts["pairs"] == 1 and sum(maker.counts.values()) == 5
    again, same = run(server, tmp_path, questions, images)
    assert same == outcomes and again.totals()["generator"]["num_requests"] == 0


def test_cutting_and_joining() -> None:
    assert first_words("  a b  c d ", 0.5) == "  a b" and first_words("a", 0.5) == ""
    assert joined("a b", " c") == "a b c" and joined("a b", ", c") == "a b, c"
    assert joined("a b", "c") == "a b c"  # a server that strips the space
    assert joined("a b", "a b c") == "a b c"  # a server that repeats the beginning
    with pytest.raises(ValueError, match=r"start_ratio must be in \[0, 1\), not 1.0"):
        DropoutNTP(None, None, start_ratio=1.0)
