"""Writes files of preference data in the layouts that the projects publish.

Each function writes a data set of ``len(COLORS)`` rows and returns its path. Row ``n`` has an image of colour ``n``,
the question ``QUESTION`` and the answers ``answers(n)``.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from scramble.formats import write
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.tables import write_table

COLORS = ("red", "green", "blue", "yellow", "black", "white")
QUESTION = "What is this?"


def answers(number: int) -> tuple[str, str]:
    return f"a {COLORS[number]} square", f"a {COLORS[number]} circle"


def encoded(color: str, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder: Path) -> list[str]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for color in COLORS:
        (folder / "images" / f"{color}.png").write_bytes(encoded(color))
    return [f"images/{color}.png" for color in COLORS]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, columns: dict[str, Any], **features: Any) -> Path:
    """Write a parquet file as ``datasets`` does. ``features`` are the features that ``datasets`` does not infer."""
    from datasets import Dataset

    data = Dataset.from_dict(columns)
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(path))
    return path


def struct(number: int) -> dict[str, Any]:
    return {"bytes": encoded(COLORS[number]), "path": f"{COLORS[number]}.png"}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def typed(role: str, text: str, images: int = 0) -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}]


def sharegpt(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]


def trl_strings(folder: Path) -> Path:
    """Write TRL's standard format: strings and image paths."""
    names = write_images(folder)
    rows = [
        {"images": [name], "prompt": QUESTION, "chosen": answers(n)[0], "rejected": answers(n)[1]}
        for n, name in enumerate(names)
    ]
    return write_lines(folder / "train.jsonl", rows)


def trl_messages(folder: Path) -> Path:
    """Write TRL's conversational format: lists of messages and an explicit prompt."""
    names = write_images(folder)
    rows = [
        {
            "images": [name],
            "prompt": [{"role": "user", "content": QUESTION}],
            "chosen": said(answers(n)[0]),
            "rejected": said(answers(n)[1]),
        }
        for n, name in enumerate(names)
    ]
    return write_lines(folder / "train.jsonl", rows)


def rlaif_v_formatted(folder: Path) -> Path:
    """Write the layout of HuggingFaceH4/rlaif-v_formatted: typed messages and a list of images, in parquet files in
    ``data/``.
    """
    from datasets import Image as ImageFeature
    from datasets import List

    numbers = range(len(COLORS))
    columns = {
        "chosen": [typed("assistant", answers(n)[0]) for n in numbers],
        "rejected": [typed("assistant", answers(n)[1]) for n in numbers],
        "images": [[struct(n)] for n in numbers],
        "prompt": [typed("user", QUESTION, 1) for _ in numbers],
    }
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", columns, images=List(ImageFeature()))
    return folder


def rlaif_v(folder: Path) -> Path:
    """Write the layout of openbmb/RLAIF-V-Dataset: an image struct, and columns that give the origin of a row."""
    from datasets import Image as ImageFeature

    numbers = range(len(COLORS))
    columns = {
        "ds_name": ["RLAIF-V"] * len(COLORS),
        "image": [struct(n) for n in numbers],
        "question": [QUESTION] * len(COLORS),
        "chosen": [answers(n)[0] for n in numbers],
        "rejected": [answers(n)[1] for n in numbers],
        "origin_dataset": ["LCS-558K"] * len(COLORS),
        "origin_split": [""] * len(COLORS),
        "idx": list(numbers),
        "image_path": [f"{color}.jpg" for color in COLORS],
    }
    return write_parquet(folder / "RLAIF-V-Dataset_000.parquet", columns, image=ImageFeature())


def rlhf_v(folder: Path) -> Path:
    """Write the layout of openbmb/RLHF-V-Dataset: question and answers are a JSON string in ``text``."""
    from datasets import Image as ImageFeature

    numbers = range(len(COLORS))
    texts = [{"question": QUESTION, "chosen": answers(n)[0], "rejected": answers(n)[1]} for n in numbers]
    columns = {
        "ds_name": ["RLHF-V"] * len(COLORS),
        "image": [struct(n) for n in numbers],
        "text": [json.dumps(text) for text in texts],
        "origin_dataset": ["vqav2"] * len(COLORS),
        "origin_split": ["{}"] * len(COLORS),
        "idx": list(numbers),
        "image_path": [f"{color}.jpg" for color in COLORS],
    }
    return write_parquet(folder / "RLHF-V-Dataset.parquet", columns, image=ImageFeature())


def povid(folder: Path) -> Path:
    """Write the layout of POVID: LLaVA's turns, and the turns of the rejected answer."""
    names = write_images(folder)
    rows = [
        {
            "id": str(n),
            "image": name,
            "conversations": sharegpt(f"<image>\n{QUESTION}", answers(n)[0]),
            "rejected_conversations": sharegpt(f"<image>\n{QUESTION}", answers(n)[1]),
        }
        for n, name in enumerate(names)
    ]
    (folder / "POVID_preference_data_for_VLLMs.json").write_text(json.dumps(rows))
    return folder / "POVID_preference_data_for_VLLMs.json"


def scramble(folder: Path) -> Path:
    """Write the layout of SCRAMBLe's release, which is that of POVID with the prompt ``caption:``."""
    path = povid(folder)
    path.write_text(path.read_text().replace(QUESTION, "caption:"))
    return path.rename(folder / "synthetic_data.json")


def ms_swift(folder: Path) -> Path:
    """Write the layout of ms-swift with ``rejected_response``."""
    names = write_images(folder)
    rows = [
        {
            "messages": [{"role": "user", "content": f"<image>{QUESTION}"}, *said(answers(n)[0])],
            "rejected_response": answers(n)[1],
            "images": [name],
        }
        for n, name in enumerate(names)
    ]
    return write_lines(folder / "dpo.jsonl", rows)


def ms_swift_messages(folder: Path) -> Path:
    """Write the layout of ms-swift with ``rejected_messages`` and ``rejected_images``."""
    names = write_images(folder)
    user = {"role": "user", "content": f"<image>{QUESTION}"}
    rows = [
        {
            "messages": [user, *said(answers(n)[0])],
            "images": [name],
            "rejected_messages": [user, *said(answers(n)[1])],
            "rejected_images": [name],
        }
        for n, name in enumerate(names)
    ]
    return write_lines(folder / "dpo.jsonl", rows)


def llama_factory(folder: Path) -> Path:
    """Write a data folder of LLaMA-Factory with a ``dataset_info.json`` that renames columns and the keys of
    messages.
    """
    names = write_images(folder)
    rows = [
        {
            "talk": [{"who": "user", "says": f"<image>{QUESTION}"}],
            "good": {"who": "assistant", "says": answers(n)[0]},
            "bad": {"who": "assistant", "says": answers(n)[1]},
            "pictures": [name],
        }
        for n, name in enumerate(names)
    ]
    (folder / "mine.json").write_text(json.dumps(rows))
    entry = {
        "file_name": "mine.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "images": "pictures"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "user", "assistant_tag": "assistant"},
    }
    other = {"file_name": "sft.json"}
    (folder / "dataset_info.json").write_text(json.dumps({"sft": other, "mine": entry}))
    return folder


def llama_factory_alpaca(folder: Path) -> Path:
    """Write LLaMA-Factory's Alpaca layout in one file."""
    names = write_images(folder)
    rows = [
        {"instruction": QUESTION, "input": "", "chosen": answers(n)[0], "rejected": answers(n)[1], "images": [name]}
        for n, name in enumerate(names)
    ]
    (folder / "dpo.json").write_text(json.dumps(rows))
    return folder / "dpo.json"


def mmpr_rows(folder: Path) -> Path:
    """Write a JSONL file of MMPR without ``meta.json``."""
    names = write_images(folder)
    rows = [
        {"image": name, "question": f"<image>\n{QUESTION}", "chosen": answers(n)[0], "rejected": answers(n)[1]}
        for n, name in enumerate(names)
    ]
    return write_lines(folder / "rows.jsonl", rows)


def mmpr(folder: Path) -> Path:
    """Write MMPR with a ``meta.json``."""
    path = mmpr_rows(folder)
    entry = {"root": ".", "annotation": path.name, "data_augment": False, "repeat_time": 1, "length": len(COLORS)}
    (folder / "meta.json").write_text(json.dumps({"set": entry}))
    return folder / "meta.json"


def vlfeedback(folder: Path) -> Path:
    """Write the layout of MMInstruction/VLFeedback: answers of four models, each rated in three aspects."""
    from datasets import Image as ImageFeature

    aspects = ("Ethical Considerations", "Helpfulness", "Visual Faithfulness")

    def rated(response: str, rating: str) -> dict[str, Any]:
        annotations = {aspect: {"Rating": rating, "Rationale": "..."} for aspect in aspects}
        return {"annotations": annotations, "idx": 0, "model": "m", "response": response}

    numbers = range(len(COLORS))
    columns = {
        "id": [str(n) for n in numbers],
        "prompt": [QUESTION] * len(COLORS),
        "models": [["a", "b", "c", "d"]] * len(COLORS),
        "completions": [
            [
                rated("something", "3"),
                rated(answers(n)[1], "1"),
                rated(answers(n)[0], "5"),
                rated("no rating", "N/A"),
            ]
            for n in numbers
        ],
        "image": [struct(n) for n in numbers],
    }
    return write_parquet(folder / "train.parquet", columns, image=ImageFeature())


def llava_rlhf(folder: Path) -> Path:
    """Write the layout of zhiqings/LLaVA-Human-Preference-10K: a JSON list. ``preference`` is the number of the better
    output, and the last turn of ``conversations`` is neither of the two outputs.
    """
    names = write_images(folder)
    rows = []
    for n, name in enumerate(names):
        outputs = [{"from": "llava", "value": text} for text in answers(n)]
        better = 1 + n % 2
        rows.append(
            {
                "id": n,
                "image": name,
                "conversations": sharegpt(f"<image>\n{QUESTION}", "the answer of GPT-4"),
                "output_1": outputs[better - 1],
                "output_2": outputs[2 - better],
                "hallucination": n == 0,
                "preference": better,
            }
        )
    (folder / "llava_7b_v1_preference.json").write_text(json.dumps(rows))
    return folder / "llava_7b_v1_preference.json"


def openai(folder: Path) -> Path:
    """Write OpenAI's preference data. The images are data URLs in messages."""
    rows = []
    for n, color in enumerate(COLORS):
        url = f"data:image/png;base64,{base64.b64encode(encoded(color)).decode()}"
        parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
        rows.append(
            {
                "input": {"messages": [{"role": "user", "content": parts}], "tools": [], "parallel_tool_calls": True},
                "preferred_output": said(answers(n)[0]),
                "non_preferred_output": said(answers(n)[1]),
            }
        )
    return write_lines(folder / "preferences.jsonl", rows)


def shared(folder: Path) -> Path:
    """Write the parquet file that ``scripts/share.py what=data`` writes."""
    return write("trl-parquet", *own_records(), folder)[0]


def own_tables(folder: Path) -> Path:
    """Write the tables of a split of this project's data folder."""
    images, pairs = own_records()
    write_table(folder, ImageRecord, images)
    write_table(folder, PreferencePair, pairs)
    return folder


def own_records() -> tuple[list[ImageRecord], list[PreferencePair]]:
    images = [ImageRecord(f"no {color}", ImageFile(encoded(color)), source="world") for color in COLORS]
    pairs = [
        PreferencePair(f"p{n}", (f"no {color}",), QUESTION, *answers(n), "swap-object", "rule", seed=n, source="world")
        for n, color in enumerate(COLORS)
    ]
    return images, pairs


# layout -> function that writes it, name of its format in the log
LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "TRL, strings": (trl_strings, "trl"),
    "TRL, messages": (trl_messages, "trl"),
    "rlaif-v_formatted": (rlaif_v_formatted, "trl"),
    "RLAIF-V": (rlaif_v, "rlaif-v"),
    "RLHF-V": (rlhf_v, "rlhf-v"),
    "POVID": (povid, "povid"),
    "SCRAMBLe": (scramble, "scramble"),
    "ms-swift": (ms_swift, "ms-swift"),
    "ms-swift, messages": (ms_swift_messages, "ms-swift"),
    "LLaMA-Factory": (llama_factory, "llama-factory"),
    "LLaMA-Factory, Alpaca": (llama_factory_alpaca, "llama-factory"),
    "MMPR": (mmpr, "mmpr"),
    "MMPR, rows": (mmpr_rows, "mmpr"),
    "VLFeedback": (vlfeedback, "vlfeedback"),
    "LLaVA-RLHF": (llava_rlhf, "llava-rlhf"),
    "OpenAI": (openai, "openai"),
    "share.py": (shared, "trl"),
    "own tables": (own_tables, "pair tables that SCRAMBLe wrote"),
}
