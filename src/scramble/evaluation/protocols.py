"""Named evaluation protocols: what is asked, how the reply is scored and read. A score is only a result with one.

A protocol turns an item into queries (:func:`queries`); :mod:`scramble.evaluation.scoring.outcomes` turns the replies
into outcomes. ``version`` rises whenever a protocol's meaning changes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scramble.evaluation.items import Benchmark, EvaluationError, Item, Query
from scramble.evaluation.scoring.metrics import TIE_POLICIES, TiePolicy
from scramble.records import LETTERS, YES_NO_PROMPT, Question

CAPTION_SCORES = ("yes", "yes_minus_no", "caption", "caption_mean", "caption_debiased", "two_choice")
FORMS = ("generate", "likelihood")
FREE_GRADERS = ("judge", "contains")


@dataclass(frozen=True)
class Protocol:
    """Everything that can change a score besides model and data.

    Attributes:
        caption_score: how well a caption fits an image: ``yes``, log P(Yes); ``yes_minus_no``, log P(Yes) - log P(No);
            ``caption``, the caption's summed log-probability as answer to ``caption_prompt``; ``caption_mean``, per
            token; ``caption_debiased``, minus the same without the image; ``two_choice``, the log-probability of the
            caption's letter among the item's captions, averaged over both orders.
        score_end: whether the end-of-turn token counts towards log P(Yes).
        yes_no_form, letter_form: ``generate`` and parse, or ``likelihood`` of the candidates.
        *_suffix: appended to the question; ``cot_prefix`` goes before it, and the reply is read after "Final answer:".
        image_px: images resized to this square first, None leaves them to the model's processor.
        free_grader: free answers wait for a ``judge``, or get the share of the ground truth's parts that they contain
            (``contains``: no judge, not MM-Vet's score).
        tie_policy, choice_tie_policy: see :mod:`scramble.evaluation.scoring.metrics`; the second for one caption of
            several, where it differs.
        *_parser, vqa_accuracy: see :mod:`scramble.grading.parsers` and :mod:`scramble.grading.vqa_accuracy`.
    """

    name: str
    version: int = 1
    caption_score: str = "yes"
    yes_template: str = YES_NO_PROMPT
    yes_answer: str = "Yes"
    no_answer: str = "No"
    score_end: bool = False
    caption_prompt: str = "caption:"
    two_choice_template: str = (
        "Which caption fits the image better?\n{options}\n"
        "Answer with the option's letter from the given choices directly."
    )
    yes_no_form: str = "generate"
    yes_no_suffix: str = "\nAnswer the question using a single word or phrase."
    letter_form: str = "generate"
    letter_suffix: str = "\nAnswer with the option's letter from the given choices directly."
    short_suffix: str = "\nAnswer the question using a single word or phrase."
    cot_prefix: str = ""
    image_px: int | None = None
    max_new_tokens: int = 32
    free_max_new_tokens: int = 1024
    yes_no_parser: str = "words"
    letter_parser: str = "can_infer"
    vqa_accuracy: str = "always_normalise"
    free_grader: str = "judge"
    tie_policy: TiePolicy = "wrong"
    choice_tie_policy: TiePolicy | Literal["same"] = "same"

    def __post_init__(self) -> None:
        from scramble.grading import parsers, vqa_accuracy

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
        ):
            if (value := getattr(self, key)) not in allowed:
                raise EvaluationError(f"protocol {self.name}: {key}={value!r} {nearest(value, allowed)}")
        if "{caption}" not in self.yes_template:
            raise EvaluationError(f"protocol {self.name}: yes_template has no {{caption}}: {self.yes_template!r}")


_VQASCORE = 'Does this figure show "{caption}"? Please answer yes or no.'

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("standard"),
        # The authors' scorer: log P(Yes) without end token, letters by prefix, Molmo's images at 336 px; of captions an
        # argmax with the true one first, so that a tie counts as right there (but not in a 2x2).
        Protocol(
            "scramble",
            max_new_tokens=10,
            letter_parser="startswith",
            yes_no_parser="pope_official",
            choice_tie_policy="first",
        ),
        Protocol(
            "scramble_molmo",
            image_px=336,
            max_new_tokens=10,
            letter_parser="startswith",
            yes_no_parser="pope_official",
            choice_tie_policy="first",
        ),
        Protocol("vqascore_3.0", yes_template=_VQASCORE),
        Protocol("vqascore_3.0_llava", yes_template=_VQASCORE, score_end=True),  # LLaVA-1.5's answer ends in </s>
        Protocol("yes_minus_no", caption_score="yes_minus_no"),
        Protocol("caption_likelihood", caption_score="caption_mean"),  # VisualGPTScore's monotone equivalent
        Protocol("caption_debiased", caption_score="caption_debiased"),
        Protocol("two_choice", caption_score="two_choice"),
        Protocol("likelihood", yes_no_form="likelihood", letter_form="likelihood"),
        Protocol(
            "cot",
            version=2,  # 2: wrapped final answers are read (scramble.grading.final_answers)
            cot_prefix="First reason step by step about the image, then give the answer after 'Final answer:'.\n",
            short_suffix="\nThe final answer is a single word or phrase.",
            yes_no_suffix="\nThe final answer is yes or no.",
            letter_suffix="\nThe final answer is the letter of an option.",
            max_new_tokens=1024,
        ),
        Protocol("lmms_eval", yes_no_parser="exact", letter_parser="priority", max_new_tokens=128),
        Protocol(
            "vlmevalkit",
            yes_no_parser="words",
            letter_parser="can_infer",
            vqa_accuracy="vlmevalkit",
            max_new_tokens=512,
        ),
        Protocol(
            "llava", yes_no_parser="pope_official", letter_parser="llava_sqa", vqa_accuracy="evalai", max_new_tokens=128
        ),
        Protocol("molmo", vqa_accuracy="molmo"),
        Protocol("naturalbench", yes_no_parser="first_match", letter_parser="naturalbench_ab", max_new_tokens=16),
        Protocol("mmvp_lmms_eval", letter_parser="mmvp", max_new_tokens=16),
        Protocol("mmmu_official", letter_parser="mmmu_official", max_new_tokens=128),
        Protocol("seed_lmms_eval", letter_parser="first_char", max_new_tokens=16),
        Protocol("world", caption_score="caption", yes_no_form="likelihood", letter_form="likelihood"),
        Protocol("world_yes", caption_score="yes_minus_no", yes_no_form="likelihood", letter_form="likelihood"),
    )
}


def protocol(name: str, **overrides: Any) -> Protocol:
    """The named protocol; ``overrides`` change fields and mark the name, so that it cannot pass for the original."""
    if name not in PROTOCOLS:
        raise EvaluationError(f"unknown protocol {name!r} {nearest(name, PROTOCOLS)}")
    base = PROTOCOLS[name]
    fields = {f.name for f in dataclasses.fields(Protocol)} - {"name", "version"}
    if unknown := sorted(set(overrides) - fields):
        raise EvaluationError(f"protocol {name}: no setting {unknown[0]!r} {nearest(unknown[0], fields)}")
    changed = {key: value for key, value in overrides.items() if value != getattr(base, key)}
    if not changed:
        return base
    mark = ",".join(f"{key}={changed[key]}" for key in sorted(changed))
    return dataclasses.replace(base, name=f"{name}[{mark}]", **changed)


def resolve(chosen: Protocol | str | Mapping[str, Any], benchmark: Benchmark) -> Protocol:
    """The protocol for one benchmark: ``default`` stands for the benchmark's own.

    Args:
        chosen: a protocol, its name, or its name with changed settings (``{"name": ..., "tie_policy": "half"}``).
    """
    if isinstance(chosen, Protocol):
        return chosen
    overrides = {} if isinstance(chosen, str) else dict(chosen)
    name = chosen if isinstance(chosen, str) else overrides.pop("name")
    return protocol(benchmark.default_protocol if name == "default" else name, **overrides)


def as_dict(value: Protocol) -> dict[str, Any]:
    """All settings as plain JSON, for results."""
    return dataclasses.asdict(value)


def nearest(name: object, known: Mapping[str, Any] | set[str] | tuple[str, ...] | frozenset[str], most: int = 3) -> str:
    """A hint for a message: at most so many of the nearest known names, or all of them where none is near."""
    close = difflib.get_close_matches(str(name), sorted(known), n=most, cutoff=0.4)
    return f"(did you mean {' or '.join(close)}?)" if close else f"(known: {', '.join(sorted(known))})"


# -------------------------------------------------------------------------------------------------- item -> queries


def queries(item: Item, chosen: Protocol, benchmark: Benchmark) -> list[Query]:
    """What the model is asked about one item. Query ids start with the item's id."""
    if isinstance(item.record, Question):
        return [_question_query(item, item.record, chosen)]
    captions = item.record.captions
    asked = [
        query
        for n, image_id in enumerate(item.image_ids)
        for query in _caption_queries(f"{item.item_id}/{n}", (image_id,), captions, chosen, benchmark)
    ]
    if chosen.caption_score == "caption_debiased":
        prompt = _caption_prompt(chosen, benchmark)
        asked.append(Query(f"{item.item_id}/blind", (), prompt, captions, True, image_px=None))
    return asked


def _caption_prompt(chosen: Protocol, benchmark: Benchmark) -> str:
    return chosen.caption_prompt if benchmark.caption_prompt is None else benchmark.caption_prompt


def _caption_queries(
    prefix: str, image_ids: tuple[str, ...], captions: tuple[str, ...], chosen: Protocol, benchmark: Benchmark
) -> list[Query]:
    px = chosen.image_px
    if chosen.caption_score in ("yes", "yes_minus_no"):
        template = chosen.yes_template if benchmark.yes_template is None else benchmark.yes_template
        answers = (chosen.yes_answer, chosen.no_answer)
        # Both log P(Yes) and log P(No) are always kept: other scores can be computed later without the model.
        return [
            Query(f"{prefix}/{c}", image_ids, template.format(caption=caption), answers, chosen.score_end, image_px=px)
            for c, caption in enumerate(captions)
        ]
    if chosen.caption_score == "two_choice":
        letters = tuple(LETTERS[: len(captions)])
        orders = (captions, captions[::-1])
        return [
            Query(
                f"{prefix}/order{k}",
                image_ids,
                chosen.two_choice_template.format(options=options(order)),
                letters,
                chosen.score_end,
                image_px=px,
            )
            for k, order in enumerate(orders)
        ]
    return [Query(prefix, image_ids, _caption_prompt(chosen, benchmark), captions, True, image_px=px)]


def _question_query(item: Item, record: Question, chosen: Protocol) -> Query:
    px, text = chosen.image_px, record.question
    hint = item.details.get("hint")
    if item.style == "closed":
        return Query(item.item_id, record.image_ids, text, tuple(item.details["candidates"]), True, image_px=px)
    if item.style == "rationale":
        length = item.details["max_new_tokens"]
        return Query(item.item_id, record.image_ids, item.details["prompt"], max_new_tokens=length, image_px=px)
    if item.style == "free":
        return Query(
            item.item_id,
            record.image_ids,
            chosen.cot_prefix + text,
            max_new_tokens=chosen.free_max_new_tokens,
            image_px=px,
        )
    suffix = {"yes_no": chosen.yes_no_suffix, "letter": chosen.letter_suffix, "short": chosen.short_suffix}[item.style]
    suffix = item.details.get("suffix", suffix)
    listed = f"\n{options(record.choices)}" if record.choices and not item.details.get("options_in_question") else ""
    prompt = f"{chosen.cot_prefix}{hint + chr(10) if hint else ''}{text}{listed}{suffix}"
    form = {"yes_no": chosen.yes_no_form, "letter": chosen.letter_form, "short": "generate"}[item.style]
    if form == "likelihood":
        letters = tuple(LETTERS[: len(record.choices)])
        candidates = letters if item.style == "letter" else (chosen.yes_answer, chosen.no_answer)
        return Query(item.item_id, record.image_ids, prompt, candidates, True, image_px=px)
    length = max(chosen.max_new_tokens, item.details.get("max_new_tokens", 0))
    return Query(item.item_id, record.image_ids, prompt, max_new_tokens=length, image_px=px)


def options(choices: tuple[str, ...]) -> str:
    """Options as lines ``A. ...``."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
