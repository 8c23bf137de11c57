"""Misspelt paths are recognised before they are looked up on the hub, and answered with the most similar path."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from scramble.formats.bad_rows import SourceError
from scramble.formats.data_files import find_data_files
from scramble.models import ModelError
from scramble.models.hub import find_config
from scramble.storage.similar_paths import did_you_mean, looks_local


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checkpoints" / "qwen_tuned").mkdir(parents=True)
    (tmp_path / "my_pairs.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("my_pair.jsonl", "my_pairs.jsonl"),
        ("checkpoints/qwen_tune", "checkpoints/qwen_tuned"),
        ("checkpionts/qwen_tuned", "checkpoints/qwen_tuned"),
        ("checkpionts/qwn_tuned", "checkpoints/qwen_tuned"),
        ("checkpoints/other", None),
        ("Qwen/Qwen3-VL-2B-Instruct", None),
        ("my_pairs.jsonl", None),
    ],
)
def test_the_most_similar_path_is_named(path: str, meant: str | None, folder: Path) -> None:
    assert did_you_mean(path) == (f"; did you mean {meant}?" if meant else "")
    absolute = did_you_mean(folder / path)
    assert absolute == (f"; did you mean {folder / meant}?" if meant else "")


def test_a_path_in_a_folder_that_exists_is_local(folder: Path) -> None:
    assert looks_local("checkpoints/other") and looks_local(str(folder / "other"))
    assert not looks_local("Qwen/Qwen3-VL-2B") and not looks_local("imdb")


def test_a_misspelt_path_is_not_looked_up_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError, match=r"does not contain qwen_tune: .*did you mean checkpoints/qwen_tuned\?$"):
        find_config("checkpoints/qwen_tune")
    with pytest.raises(SourceError, match=r"does not exist: .*did you mean checkpoints/qwen_tuned\?$"):
        find_data_files("checkpoints/qwen_tune")


def test_without_a_connection_the_hub_is_asked_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """``load_dataset`` itself would retry for half a minute."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def no_address(*_: object, **__: object) -> None:
        raise socket.gaierror("no connection")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot be opened as a data set \(.*no connection") as error:
        find_data_files("nobody/nothing")
    assert time.monotonic() - started < 10 and "\n" not in str(error.value)
