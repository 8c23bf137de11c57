"""Define evaluation protocols: the prompts, and the rules by which replies are scored and parsed. Every score is
reported with its protocol.

The settings of each protocol are in ``configs/protocol/<name>.yaml``. :func:`queries` turns an item into queries under
a protocol, and :mod:`scramble.evaluation.scoring.outcomes` turns the replies into an outcome.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import yaml

from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item, Query, name_hint
from scramble.evaluation.scoring.metrics import TIE_POLICIES, TiePolicy
from scramble.grading import parsers, reasoned_answers, two_choices, vqa_accuracy
from scramble.project import CONFIGS
from scramble.records import LETTERS, Question, Turn, TwoByTwoItem

CAPTION_SCORES = ("yes", "yes_minus_no", "caption", "caption_mean", "caption_debiased", "two_choice", "replies")
FORMS = ("generate", "likelihood")
FREE_GRADERS = ("judge", "contains")
FOLDER = CONFIGS / "protocol"


@dataclass(frozen=True)
class Protocol:
    """All settings that can change a score, apart from the model and the data. ``configs/protocol/standard.yaml``
    explains each setting.
    """

    name: str
    version: int
    caption_score: str
    yes_template: str
    yes_answer: str
    no_answer: str
    score_end: bool
    caption_prompt: str
    two_choice_template: str
    yes_no_form: str
    yes_no_suffix: str
    letter_form: str
    letter_suffix: str
    short_suffix: str
    cot_prefix: str
    image_px: int | None
    max_new_tokens: int
    free_max_new_tokens: int
    yes_no_parser: str
    letter_parser: str
    vqa_accuracy: str
    free_grader: str
    tie_policy: TiePolicy
    choice_tie_policy: TiePolicy | Literal["same"]
    choice_reader: str = "vismin"
    caption_question: str = ""
    image_question: str = ""
    choice_template: str = "{hint}\n{question}\n{options}"
    hint_template: str = "{hint}"
    option_template: str = "{letter}. {option}"
    cot_answer: str = "marked"

    def __post_init__(self) -> None:
        for key, allowed in (
            ("caption_score", CAPTION_SCORES),
            ("yes_no_form", FORMS),
            ("letter_form", FORMS),
            ("tie_policy", TIE_POLICIES),
            ("choice_tie_policy", ("same", *TIE_POLICIES)),
            ("free_grader", FREE_GRADERS),
            ("yes_no_parser", parsers.YES_NO),
            ("letter_parser", parsers.LETTER),
            ("vqa_accuracy", vqa_accuracy.PROTOCOLS),
            ("choice_reader", two_choices.READERS),
            ("cot_answer", reasoned_answers.COT_ANSWERS),
        ):
            if (value := getattr(self, key)) not in allowed:
                raise EvaluationError(f"protocol {self.name}: {key}={value!r} is unknown {name_hint(value, allowed)}")
        if "{caption}" not in self.yes_template:
            raise EvaluationError(f"protocol {self.name}: yes_template={self.yes_template!r} must contain {{caption}}")
        for key, required in (
            ("choice_template", ("{question}", "{options}")),
            ("hint_template", ("{hint}",)),
            ("option_template", ("{letter}", "{option}")),
        ):
            if missing := [field for field in required if field not in getattr(self, key)]:
                raise EvaluationError(f"protocol {self.name}: {key}={getattr(self, key)!r} must contain {missing[0]}")


def protocol_names() -> list[str]:
    """Return the names of the protocols in ``configs/protocol``, except ``default``, which selects each benchmark's
    default protocol.
    """
    return sorted({path.stem for path in FOLDER.glob("*.yaml")} - {"default"})


def named_protocol(name: str, **overrides: Any) -> Protocol:
    """Return the named protocol with some settings changed. The name of a changed protocol lists the changed settings
    (``standard[tie_policy=half]``).
    """
    if name not in protocol_names():
        raise EvaluationError(f"unknown protocol {name!r} {name_hint(name, protocol_names())}")
    base = _read(name)
    fields = {f.name for f in dataclasses.fields(Protocol)} - {"name"}
    if unknown := sorted(set(overrides) - fields):
        raise EvaluationError(f"protocol {name} has no setting {unknown[0]!r} {name_hint(unknown[0], fields)}")
    changed = {key: value for key, value in overrides.items() if value != getattr(base, key)}
    if not changed:
        return base
    mark = ",".join(f"{key}={changed[key]}" for key in sorted(changed))
    return dataclasses.replace(base, name=f"{name}[{mark}]", **changed)


@cache
def _read(name: str) -> Protocol:
    values = _settings(name)
    fields = {f.name for f in dataclasses.fields(Protocol)}
    if wrong := sorted(fields ^ set(values)):
        problem = "has the unknown setting" if wrong[0] in values else "lacks the setting"
        raise EvaluationError(f"{FOLDER / name}.yaml {problem} {wrong[0]}: see standard.yaml for all settings")
    return Protocol(**values)


def _settings(name: str) -> dict[str, Any]:
    """Return the settings of a protocol file. As in Hydra, these settings override the settings of the files in the
    defaults list.
    """
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    parents = [parent for parent in values.pop("defaults", ()) if parent != "_self_"]
    return {key: value for parent in parents for key, value in _settings(parent).items()} | values


def resolve(selected: Protocol | str | Mapping[str, Any], benchmark: Benchmark) -> Protocol:
    """Return the protocol for one benchmark. ``default`` selects the benchmark's default protocol.

    Args:
        selected: a protocol, its name, or a mapping with its name and changed settings (``{"name": ..., "tie_policy":
            "half"}``).
    """
    if isinstance(selected, Protocol):
        return selected
    overrides = {} if isinstance(selected, str) else dict(selected)
    name = selected if isinstance(selected, str) else overrides.pop("name")
    return named_protocol(benchmark.default_protocol if name == "default" else name, **overrides)


# -------------------------------------------------------------------------------------------------- item -> queries


def queries(item: Item, protocol: Protocol, benchmark: Benchmark) -> list[Query]:
    """Return the queries to the model about one item. Query ids start with the item's id."""
    if isinstance(item.record, Question):
        return [_question_query(item, item.record, protocol)]
    captions = item.record.captions
    if protocol.caption_score == "replies":
        return _two_choices(item, item.record, protocol)
    result = [
        query
        for n, image_ids in enumerate(item.image_sets)
        for query in _caption_queries(f"{item.item_id}/{n}", image_ids, item.record, protocol, benchmark)
    ]
    if protocol.caption_score == "caption_debiased":
        prompt = _caption_prompt(item.record, protocol, benchmark)
        history = tuple(dataclasses.replace(turn, num_images=0) for turn in _history(item.record))
        result.append(Query(f"{item.item_id}/blind", (), prompt, captions, True, history=history))
    return result


def ignored_conversations(benchmark: Benchmark, protocol: Protocol) -> int:
    """If the protocol asks its own question about each answer, return the number of items with earlier turns, several
    images or no image. Otherwise, return 0.
    """
    if protocol.caption_score not in ("yes", "yes_minus_no", "two_choice"):
        return 0
    choices = (item.record for item in benchmark.items if isinstance(item.record, CaptionChoice))
    return sum(bool(choice.history) or len(choice.image_ids) != 1 for choice in choices)


def _two_choices(item: Item, record: TwoByTwoItem | CaptionChoice, protocol: Protocol) -> list[Query]:
    """Return queries that ask which caption fits each image and which image fits each caption. Captions and images are
    always listed in the item's order.
    """
    if not isinstance(record, TwoByTwoItem):
        raise EvaluationError(
            f"item {item.item_id} does not consist of two images with one caption each, which protocol "
            f"{protocol.name} needs: choose another protocol"
        )
    values = {f"{{caption_{n}}}": caption for n, caption in enumerate(record.captions)}
    text = _filled(protocol.caption_question, values)
    px, length = protocol.image_px, protocol.max_new_tokens
    result = [
        Query(f"{item.item_id}/text{n}", (image,), text, max_new_tokens=length, image_px=px)
        for n, image in enumerate(record.image_ids)
    ]
    for n, caption in enumerate(record.captions):
        prompt = _filled(protocol.image_question, {"{caption}": caption})
        result.append(Query(f"{item.item_id}/image{n}", record.image_ids, prompt, max_new_tokens=length, image_px=px))
    return result


def _caption_prompt(record: TwoByTwoItem | CaptionChoice, protocol: Protocol, benchmark: Benchmark) -> str:
    if isinstance(record, CaptionChoice) and record.prompt is not None:
        return record.prompt
    return protocol.caption_prompt if benchmark.caption_prompt is None else benchmark.caption_prompt


def _history(record: TwoByTwoItem | CaptionChoice) -> tuple[Turn, ...]:
    return record.history if isinstance(record, CaptionChoice) else ()


def _caption_queries(
    prefix: str,
    image_ids: tuple[str, ...],
    record: TwoByTwoItem | CaptionChoice,
    protocol: Protocol,
    benchmark: Benchmark,
) -> list[Query]:
    captions, px = record.captions, protocol.image_px
    if protocol.caption_score in ("yes", "yes_minus_no"):
        template = protocol.yes_template if benchmark.yes_template is None else benchmark.yes_template
        answers = (protocol.yes_answer, protocol.no_answer)
        # Log P(Yes) and log P(No) are both stored, so that other scores can be computed later without the model.
        return [
            Query(
                f"{prefix}/{c}", image_ids, template.format(caption=caption), answers, protocol.score_end, image_px=px
            )
            for c, caption in enumerate(captions)
        ]
    if protocol.caption_score == "two_choice":
        letters = tuple(LETTERS[: len(captions)])
        orders = (captions, captions[::-1])
        return [
            Query(
                f"{prefix}/order{k}",
                image_ids,
                protocol.two_choice_template.format(options=options(order)),
                letters,
                protocol.score_end,
                image_px=px,
            )
            for k, order in enumerate(orders)
        ]
    prompt, history = _caption_prompt(record, protocol, benchmark), _history(record)
    return [Query(prefix, image_ids, prompt, captions, True, image_px=px, history=history)]


def _question_query(item: Item, record: Question, protocol: Protocol) -> Query:
    px, text = protocol.image_px, record.question
    hint = item.details.get("hint") or ""
    hint = protocol.hint_template.replace("{hint}", hint) if hint else ""
    if item.style == "closed":
        return Query(item.item_id, record.image_ids, text, tuple(item.details["candidates"]), True, image_px=px)
    if item.style == "rationale":
        length = item.details["max_new_tokens"]
        return Query(item.item_id, record.image_ids, item.details["prompt"], max_new_tokens=length, image_px=px)
    if item.style == "free":
        return Query(
            item.item_id,
            record.image_ids,
            protocol.cot_prefix + text,
            max_new_tokens=protocol.free_max_new_tokens,
            image_px=px,
        )
    suffixes = {"yes_no": protocol.yes_no_suffix, "letter": protocol.letter_suffix, "short": protocol.short_suffix}
    suffix = item.details.get("suffix", suffixes[item.style])
    if item.options and not item.details.get("options_in_question"):
        listed = options(record.choices, item.options, protocol.option_template)
        values = {"{hint}": hint, "{question}": text, "{options}": listed}
        text = _filled(protocol.choice_template, values)
    elif hint:
        text = f"{hint}\n{text}"
    prompt = f"{protocol.cot_prefix}{text}{suffix}"
    form = {"yes_no": protocol.yes_no_form, "letter": protocol.letter_form, "short": "generate"}[item.style]
    if form == "likelihood" and (item.style == "yes_no" or item.options):
        candidates = tuple(item.options) if item.style == "letter" else (protocol.yes_answer, protocol.no_answer)
        return Query(item.item_id, record.image_ids, prompt, candidates, True, image_px=px)
    length = max(protocol.max_new_tokens, item.details.get("max_new_tokens", 0))
    return Query(item.item_id, record.image_ids, prompt, max_new_tokens=length, image_px=px)


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Fill in the fields of a template. A line with fields is omitted if all its fields are empty."""
    lines = []
    for line in template.split("\n"):
        fields = [field for field in values if field in line]
        if not fields or any(values[field] for field in fields):
            lines.append(_substituted(line, values))
    return "\n".join(lines)


def _substituted(text: str, values: Mapping[str, str]) -> str:
    """Replace all fields at once, because a value can contain the text of a field."""
    return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], text)


def options(choices: Sequence[str], letters: Iterable[str] = LETTERS, template: str = "{letter}. {option}") -> str:
    """Format each option as one line, by default ``A. ...``."""
    return "\n".join(
        _substituted(template, {"{letter}": letter, "{option}": choice})
        for letter, choice in zip(letters, choices, strict=False)
    )
