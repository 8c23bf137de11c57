"""Parses rows of other projects' preference data into a conversation, answers and images.

The layouts follow the documentation of TRL's vision preference data, LLaMA-Factory's ranking data, ms-swift's RLHF
data, OpenAI's preference data, MMPR, RLAIF-V, RLHF-V, VLFeedback, LLaVA-RLHF, and SCRAMBLe's release. POVID has the
layout of SCRAMBLe's release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scramble.console import counted
from scramble.formats.bad_rows import FormatError
from scramble.formats.conversations import (
    IMAGE,
    ChatMessage,
    answer_of,
    answers_of,
    decoded_image,
    history_and_prompt,
    messages_of,
    require_string,
    same_conversation,
)
from scramble.formats.provenance import PROVENANCE_COLUMN, pair_from
from scramble.formats.scramble import release_row
from scramble.formats.word_diff import word_edits
from scramble.records import Edit, PreferencePair, same_text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ParsedRow:
    """Contains the texts and images of a row in a form that is the same for all formats.

    Attributes:
        messages: the conversation before the answers; empty if the row has no prompt.
        chosen: the preferred answer.
        rejected: one or several rejected answers.
        images: bytes, paths, mappings with ``bytes`` or ``path``, or ids.
        provenance: all other fields of the pair, if this project wrote the row.
        edits: the spans that differ between the chosen and the first rejected answer, if the format marks them.
        details: further fields of the row to store with the pair.
    """

    messages: Sequence[ChatMessage]
    chosen: str
    rejected: tuple[str, ...]
    images: list[Any]
    provenance: Any = None
    edits: tuple[Edit, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


def parsed_pair(parsed: ParsedRow, image_ids: tuple[str, ...]) -> PreferencePair:
    """Create a pair from a parsed row. ``image_ids`` are the ids of the row's images.

    Raises FormatError if the texts cannot form a pair, or if the number of placeholders is neither 0 nor the number
    of images.
    """
    history, prompt = history_and_prompt(parsed.messages, len(image_ids))
    rejected, *others = parsed.rejected
    named = [("prompt", prompt), ("chosen", parsed.chosen), *(("rejected", text) for text in parsed.rejected)]
    for name, text in (*named, *(("a turn", turn.text) for turn in history)):
        try:
            require_string(text, name).encode()
        except UnicodeEncodeError as error:
            raise FormatError(f"{name} contains a lone surrogate, which is not valid Unicode") from error
        if name in ("chosen", "rejected") and not text.strip():
            raise FormatError(f"empty {name}")
    pair = pair_from((prompt, parsed.chosen, rejected), parsed.provenance, image_ids, history, tuple(others))
    if parsed.edits or parsed.details:
        pair = replace(pair, edits=parsed.edits or pair.edits, details=parsed.details | pair.details)
    return pair


# ------------------------------------------------------------------------------------------------------------- formats


ANSWERS = (("chosen", "rejected"), ("response", "rejected_response"), ("caption", "negative_caption"))
PROMPTS = ("prompt", "question", "instruction", "query", "input")
CONTEXT = ("system", "history")  # columns of the Alpaca layout that precede the prompt
IMAGE_NAMES = ("filename", "image_path", "image_id", "img_path")  # columns with an image's name or path
OTHER_MEDIA = ("video", "videos", "audio", "audios")
ORIGIN = ("origin_dataset", "ds_name")  # columns with the name of the data set that a row is from


def from_answers(row: Row) -> ParsedRow:
    """Parse a row with answers (:data:`ANSWERS`) and a prompt (:data:`PROMPTS`), each as text or messages.

    The prompt may be in a separate column, or consist of the turns before the answers (TRL's implicit prompt). Without
    a prompt, the result has no messages.
    """
    names = max(ANSWERS, key=lambda pair: len(set(pair) & set(row)))
    before, chosen = answer_of(row[names[0]], names[0])
    others, rejected = answers_of(row[names[1]], names[1])
    prompt = next((name for name in PROMPTS if row.get(name) is not None), "")
    if prompt:
        messages = _with_columns(row, messages_of(row[prompt], prompt), prompt)
    elif same_conversation(before, others):
        messages = before
    else:
        raise FormatError(f"{names[0]} and {names[1]} answer different prompts")
    return ParsedRow(messages, chosen, rejected, _images(row, messages), row.get(PROVENANCE_COLUMN))


def from_trl(row: Row) -> ParsedRow:
    """Parse a row of TRL like :func:`from_answers`, but require a prompt."""
    parsed = from_answers(row)
    if not parsed.messages:
        raise FormatError("no prompt")
    return parsed


def from_llama_factory(row: Row) -> ParsedRow:
    """Parse a row of LLaMA-Factory's ranking data, in the ShareGPT or Alpaca layout."""
    if "conversations" not in row:
        return from_answers(row)
    messages = _with_columns(row, messages_of(row["conversations"], "conversations"))
    chosen = answer_of(row["chosen"], "chosen")[1]
    rejected = answers_of(row["rejected"], "rejected")[1]
    return ParsedRow(messages, chosen, rejected, _images(row, messages), row.get(PROVENANCE_COLUMN))


def from_ms_swift(row: Row) -> ParsedRow:
    """Parse a row of ms-swift.

    ``messages`` ends with the chosen answer. The rejected answer is in ``rejected_response``, or at the end of
    ``rejected_messages``. ``rejected_images``, if any, must be equal to the row's other images, because both
    answers of a pair have the same images.
    """
    *before, last = messages_of(row["messages"], "messages")
    if last.role != "assistant":
        raise FormatError(f"the conversation in messages ends with a turn by {last.role}, not by the assistant")
    messages = _with_columns(row, before)
    if row.get("rejected_messages") is not None:
        others, text = answer_of(row["rejected_messages"], "rejected_messages")
        rejected: tuple[str, ...] = (text,)
        if others and not same_conversation(before, others):
            raise FormatError("messages and rejected_messages differ before the last turn")
    else:
        rejected = answers_of(row["rejected_response"], "rejected_response")[1]
    texts = [message.text for message in (*messages, last)] + list(rejected)
    if row.get("objects") and any(place in text for text in texts for place in ("<ref-object>", "<bbox>")):
        raise FormatError(
            "<ref-object> and <bbox> are not supported, because ms-swift fills them in differently for each model: "
            "write the names and coordinates of the objects into the texts"
        )
    images = _images(row, messages)
    other_images = row.get("rejected_images")
    if other_images and images_of({"images": other_images}) != images:
        raise FormatError(
            "rejected_images differ from images: both answers of a pair must have the same images, because training on "
            "answers to different images is not supported"
        )
    return ParsedRow(messages, last.text, rejected, images, row.get(PROVENANCE_COLUMN))


def from_mmpr(row: Row) -> ParsedRow:
    """Parse a row of MMPR. Placeholders in the question are removed, because the images precede the question."""
    images = images_of(row)
    texts = []
    for key in ("question", "chosen", "rejected"):
        texts.append(require_string(row.get(key), key))
        if not row[key].strip():
            raise FormatError(f"empty {key}")
    question = ChatMessage("user", without_placeholders(texts[0], len(images)), len(images))
    return ParsedRow([question], texts[1], (texts[2],), images, row.get(PROVENANCE_COLUMN))


def without_placeholders(text: str, images: int) -> str:
    """Return a question without its image placeholders.

    Raises FormatError if the number of placeholders is neither 0 nor ``images``.
    """
    places = text.count(IMAGE)
    if places and places != images:
        raise FormatError(f"{counted(places, 'image placeholders')} for {counted(images, 'images')}")
    opening = f"{IMAGE}\n" * places
    return text.removeprefix(opening) if text.startswith(opening) else text.replace(IMAGE, "").strip()


def from_rlhf_v(row: Row) -> ParsedRow:
    """Parse a row of RLHF-V, whose ``text`` is a JSON object with question, chosen and rejected.

    The spans that differ between the two answers become the pair's edits.
    """
    text = row["text"]
    try:
        content = json.loads(text, strict=False) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise FormatError(f"text is not JSON ({error})") from error
    if not isinstance(content, Mapping) or not {"question", "chosen", "rejected"} <= set(content):
        raise FormatError("text is not a JSON object with the keys question, chosen and rejected")
    parsed = from_answers({**row, **content})
    return replace(parsed, edits=word_edits(parsed.chosen, parsed.rejected[0]))


def from_vlfeedback(row: Row, all_pairs: bool = False) -> list[ParsedRow]:
    """Parse the pairs of a VLFeedback row, which has answers of several models.

    Several aspects of each answer are rated from 1 to 5. The rating of an answer is the mean over these aspects.
    ``details`` contains the ratings of the chosen and rejected answers.

    Args:
        all_pairs: whether to pair each answer with all answers of a lower rating. If false, only the best answer is
            paired with the worst.

    Raises:
        FormatError: fewer than two answers are rated, or no answer both has a lower rating than the best
            answer and differs from it.
    """
    messages = messages_of(row["prompt"], "prompt")
    images = _images(row, messages)
    rated = sorted(_rated(row["completions"]), key=lambda pair: -pair[1])  # stable: ties keep the order of the row
    if len(rated) < 2:
        raise FormatError("fewer than two rated answers")
    pairs = []
    for place, (text, rating) in enumerate(rated if all_pairs else rated[:1]):
        lower = [(other, value) for other, value in rated[place + 1 :] if value < rating and not same_text(other, text)]
        if not all_pairs:
            lower = lower[-1:]
        if lower:
            details = {"ratings": [rating, *(value for _, value in lower)]}
            pairs.append(ParsedRow(messages, text, tuple(other for other, _ in lower), images, details=details))
    if not pairs:
        raise FormatError("no answer both differs from the best answer and has a lower rating")
    return pairs


def _rated(completions: Any) -> list[tuple[str, float]]:
    """Return the text and mean rating of each rated answer. Some tables store completions as a mapping of lists."""
    if isinstance(completions, Mapping):
        columns = {name: values for name, values in completions.items() if isinstance(values, list)}
        rows = zip(*columns.values(), strict=False)
        completions = [dict(zip(columns, values, strict=True)) for values in rows]
    if not isinstance(completions, list) or not all(isinstance(each, Mapping) for each in completions):
        raise FormatError("the column completions does not contain a list of answers")
    rated: dict[str, float] = {}
    for each in completions:
        aspects = each.get("annotations")
        aspects = aspects.values() if isinstance(aspects, Mapping) else ()
        ratings = (_number(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, Mapping))
        numbers = [rating for rating in ratings if rating is not None]
        text = each.get("response")
        if numbers and isinstance(text, str) and text.strip():
            rated.setdefault(text.strip(), sum(numbers) / len(numbers))
    return list(rated.items())


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None  # "N/A"


def from_llava_rlhf(row: Row) -> ParsedRow:
    """Parse a row of LLaVA-RLHF's human preferences.

    ``preference`` is the number of the preferred output. ``conversations`` may end with an answer of LLaVA-Instruct,
    which annotators did not compare. This answer is removed, as in LLaVA-RLHF's reward model. If the row states whether
    annotators saw a hallucination, ``details`` contains the value as ``hallucination``.
    """
    number = str(row["preference"]).removesuffix(".0")  # a column with an empty cell contains floats
    if number not in ("1", "2"):
        raise FormatError(f"preference is {row['preference']!r:.20}, but it must be 1 or 2")
    messages = messages_of(row["conversations"], "conversations")
    if messages[-1].role == "assistant":
        messages.pop()
    messages = _with_columns(row, messages)
    outputs = [_output(row[name], name) for name in ("output_1", "output_2")]
    chosen, rejected = outputs if number == "1" else reversed(outputs)
    details = {"hallucination": row["hallucination"]} if isinstance(row.get("hallucination"), bool) else {}
    return ParsedRow(messages, chosen, (rejected,), _images(row, messages), row.get(PROVENANCE_COLUMN), details=details)


def _output(value: Any, what: str) -> str:
    """Return the text of an output, which is a string or a ShareGPT message from any sender, such as a model."""
    return require_string(value.get("value") if isinstance(value, Mapping) else value, what).strip()


def from_openai(row: Row) -> ParsedRow:
    """Parse a row of OpenAI's preference data.

    ``input`` contains ``messages``. ``preferred_output`` and ``non_preferred_output`` contain one message each. Images
    are typed parts of the messages.
    """
    given = row["input"]
    messages = messages_of(given.get("messages") if isinstance(given, Mapping) else given, "input.messages")
    before, chosen = answer_of(row["preferred_output"], "preferred_output")
    others, rejected = answer_of(row["non_preferred_output"], "non_preferred_output")
    if before or others:
        raise FormatError("preferred_output and non_preferred_output must contain one message each")
    return ParsedRow(messages, chosen, (rejected,), _images(row, messages), row.get(PROVENANCE_COLUMN))


def from_scramble_release(row: Row) -> ParsedRow:
    """Parse a row of SCRAMBLe's release or of POVID."""
    parsed = release_row(dict(row))
    return ParsedRow(parsed.messages, parsed.chosen, (parsed.rejected,), [parsed.image], row.get(PROVENANCE_COLUMN))


# -------------------------------------------------------------------------------------------------------------- images


def images_of(row: Row) -> list[Any]:
    """Return the images of a row in ``images`` or ``image``: bytes, paths, mappings with bytes or a path, or ids."""
    for key in OTHER_MEDIA:
        if row.get(key):
            raise FormatError(f"{key.removesuffix('s')} is not supported: remove the rows with a value in {key}")
    images: Any = next((row[key] for key in ("images", "image") if row.get(key) not in (None, "", [])), [])
    if isinstance(images, (str, bytes, Mapping, int)) and not isinstance(images, bool):
        return [decoded_image(images)]
    if not isinstance(images, list):
        raise FormatError("the value of image is neither an image nor a list of images")
    return [decoded_image(image) for image in images]


def _images(row: Row, messages: Sequence[ChatMessage]) -> list[Any]:
    """Return the images of a row or of its messages. If there are none, return the row's image name or path, if any."""
    inline = [image for message in messages for image in message.images]
    return images_of(row) or inline or [row[name] for name in IMAGE_NAMES if row.get(name) not in (None, "")][:1]


def _with_columns(row: Row, messages: list[ChatMessage], prompt: str = "") -> list[ChatMessage]:
    """Return the conversation, extended with the content of the columns of the Alpaca layout.

    These columns are ``system``, ``history`` as (question, answer) pairs, and ``input`` or ``query``, which continues
    the text of ``instruction``.
    """
    system, history = (row.get(name) for name in CONTEXT)
    if prompt == "instruction" and len(messages) == 1:
        more = next((row[name] for name in ("query", "input") if isinstance(row.get(name), str) and row[name]), "")
        last = messages[0]
        messages = [replace(last, text=f"{last.text}\n{more}") if more else last]
    if isinstance(history, list) and len(messages) == 1:
        for turn in history:
            if not isinstance(turn, list) or len(turn) != 2:
                raise FormatError("history is not a list of [question, answer] pairs")
        earlier = [
            message
            for question, answer in history
            for message in (
                messages_of(require_string(question, "history"), "history")[0],
                ChatMessage("assistant", require_string(answer, "history").strip()),
            )
        ]
        messages = [*earlier, *messages]
    if isinstance(system, str) and system.strip() and all(message.role != "system" for message in messages):
        messages = [ChatMessage("system", system.strip()), *messages]
    return messages
