"""Compute outcomes from replies: the scores of an item, and how its reply was parsed. No model is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scramble.evaluation import faithfulness
from scramble.evaluation.items import CaptionChoice, EvaluationError, Item, QueryReply
from scramble.evaluation.protocols import Protocol
from scramble.evaluation.scoring import mentions, metrics
from scramble.evaluation.scoring.answer_rules import LETTER_RULES, SHORT_RULES, UNSCORED, check_rule
from scramble.grading import final_answers, open_answers, parsers, reasoned_answers, two_choices
from scramble.records import Question, TwoByTwoItem


@dataclass(frozen=True)
class Outcome:
    """The result of one item.

    Attributes:
        cluster: label that statistically dependent items share. The label is the group or, for an item without a group,
            the first image.
        values: outcome by metric, in [0, 1].
        status: ``ok``, ``unparsed`` or ``refused`` (both wrong), ``judge`` (no rule can grade the answer), ``unread``
            (the judge's reply cannot be read, so the item is excluded from the scores) or ``unscored`` (the answer is
            not public, or the model's chat template does not accept the conversation).
        ties: number of tied comparisons.
    """

    item_id: str
    kind: str
    group: str
    tags: tuple[str, ...]
    cluster: str
    values: dict[str, float]
    prediction: str | None
    target: str
    status: str = "ok"
    ties: int = 0
    details: dict[str, Any] = field(default_factory=dict)


def outcome(item: Item, replies: Mapping[str, QueryReply], protocol: Protocol) -> Outcome:
    """Compute the outcome of an item. ``replies`` maps the ids of its queries to the replies."""
    check_rule(item)
    if refusal := next((reply.refusal for reply in replies.values() if reply.refusal), ""):
        return _outcome(item, {}, None, "", UNSCORED, details={"refusal": refusal})
    if isinstance(item.record, Question):
        return _outcome_of_question(item, item.record, replies[item.item_id], protocol)
    captions = item.record.captions
    if protocol.caption_score == "replies":
        return _outcome_of_two_choices(item, replies, protocol)
    scores = caption_scores(item, replies, protocol)
    if isinstance(item.record, CaptionChoice):
        ties = protocol.tie_policy if protocol.choice_tie_policy == "same" else protocol.choice_tie_policy
        if "true_captions" in item.details:
            true, count = metrics.two_true_captions(scores[0].tolist(), ties)
            best, details = captions[int(np.argmax(scores[0]))], {"scores": scores[0].tolist()}
            return _outcome(item, true, best, captions[0], ties=count, details=details)
        value, tied = metrics.choice(scores[0].tolist(), item.record.target, ties)
        best, target = captions[int(np.argmax(scores[0]))], captions[item.record.target]
        return _outcome(item, {"accuracy": value}, best, target, ties=int(tied), details={"scores": scores[0].tolist()})
    result = metrics.two_by_two(scores[None], protocol.tie_policy)
    values = {name: float(getattr(result, name)[0]) for name in ("text", "image", "group", "group_match")}
    return _outcome(item, values, None, "", ties=int(result.ties[0]), details={"scores": scores.tolist()})


def _outcome_of_two_choices(item: Item, replies: Mapping[str, QueryReply], protocol: Protocol) -> Outcome:
    """Compute the text, image and group scores from the replies to four questions: which caption fits each of the two
    images, and which image fits each of the two captions. A reply that chooses neither option is wrong.
    """
    assert isinstance(item.record, TwoByTwoItem)
    read = two_choices.READERS[protocol.choice_reader]
    texts, right, unread = {}, [], 0
    for part, labels in (("text", two_choices.CAPTION_LABELS), ("image", two_choices.IMAGE_LABELS)):
        for n, label in enumerate(labels):
            texts[f"{part}{n}"] = text = replies[f"{item.item_id}/{part}{n}"].text or ""
            chosen = read(text, labels, item.record.captions)
            right.append(label in chosen)
            unread += not chosen
    values = {"text": float(right[0] and right[1]), "image": float(right[2] and right[3]), "group": float(all(right))}
    status = "unparsed" if unread == len(right) else "ok"
    return _outcome(item, values, None, "", status, details={"response": texts, "unread": unread})


def caption_scores(item: Item, replies: Mapping[str, QueryReply], protocol: Protocol) -> np.ndarray:
    """Return the scores (image sets, captions) of a 2x2 or caption-choice item under the protocol's caption score."""
    assert not isinstance(item.record, Question)
    count = len(item.record.captions)
    return np.array([_scores_for_image(item, n, count, replies, protocol) for n in range(len(item.image_sets))])


def _scores_for_image(
    item: Item, image: int, count: int, replies: Mapping[str, QueryReply], protocol: Protocol
) -> list[float]:
    """Return the scores of an item's ``count`` captions for its image set with index ``image``."""
    kind, prefix = protocol.caption_score, f"{item.item_id}/{image}"
    if kind in ("yes", "yes_minus_no"):
        rows = [replies[f"{prefix}/{c}"] for c in range(count)]
        # The mean per token is used, as in the original scorers. For a one-token answer it equals the sum.
        yes = [r.logprobs[0] / r.tokens[0] for r in rows]
        return yes if kind == "yes" else [y - r.logprobs[1] / r.tokens[1] for y, r in zip(yes, rows, strict=True)]
    if kind == "two_choice":
        straight, reverse = replies[f"{prefix}/order0"].logprobs, replies[f"{prefix}/order1"].logprobs[::-1]
        return [(a + b) / 2 for a, b in zip(straight, reverse, strict=True)]
    reply = replies[prefix]
    if kind == "caption_mean":
        return [logprob / n for logprob, n in zip(reply.logprobs, reply.tokens, strict=True)]
    if kind == "caption_debiased":
        prior = replies[f"{item.item_id}/blind"].logprobs
        return [seen - unseen for seen, unseen in zip(reply.logprobs, prior, strict=True)]
    return list(reply.logprobs)


def _outcome_of_question(item: Item, record: Question, reply: QueryReply, protocol: Protocol) -> Outcome:
    if reply.text is None:
        return _outcome_of_likelihoods(item, record, reply, protocol)
    details: dict[str, Any] = {"response": reply.text}
    if item.style == "rationale":
        judged = faithfulness.judge_reply(item, reply.text)
        status = "ok" if judged.answer else "unparsed"
        details["steps"] = judged.steps
        return _outcome(item, judged.values, judged.answer, record.answer, status, details=details)
    if "extraction" in item.details:
        details["extraction"] = item.details["extraction"]
    text = reasoned_answers.COT_ANSWERS[protocol.cot_answer](reply.text) if protocol.cot_prefix else reply.text
    rule = item.details.get("rule", "")
    if item.style in ("yes_no", "letter"):
        answer = record.answer.lower() if item.style == "yes_no" else record.answer
        right, parsed = _read_choice(item, answer, reply.text, text, protocol)
        if rule == UNSCORED:
            return _outcome(item, {}, parsed, "", UNSCORED, details=details)
        return _outcome(item, {"accuracy": float(right)}, parsed, answer, _status(parsed, text), details=details)
    if rule == UNSCORED:
        return _outcome(item, {}, text.strip(), "", UNSCORED, details=details)
    if item.style == "short":
        # A marked answer may be wrapped ("**red**."), so the first right form counts, starting with the unchanged text.
        # All other replies are parsed unchanged, as for the published numbers.
        is_marked = _reads_mark(protocol) and final_answers.find(reply.text) is not None
        forms = final_answers.forms(text) if is_marked else (text,)
        readings = [SHORT_RULES[rule or "vqa"](item, record, form, protocol) for form in forms]
        value, prediction = max(readings, key=lambda reading: reading[0])
        status = "ok" if prediction else "unparsed"
        return _outcome(item, {"accuracy": value}, prediction, record.answer, status, details=details)
    if rule in mentions.RULES:
        values, counts = mentions.RULES[rule](item, reply.text)
        return _outcome(item, values, text.strip(), record.answer, details=details | counts)
    if protocol.free_grader == "contains" and "judge" not in item.details:
        value = open_answers.parts_contained(text, record.answer)
        return _outcome(item, {"score": value}, text.strip(), record.answer, details=details)
    return _outcome(item, {}, text.strip(), record.answer, "judge", details=details)


def _reads_mark(protocol: Protocol) -> bool:
    """Return whether the protocol asks for reasoning and reads the answer after the mark that introduces it."""
    return bool(protocol.cot_prefix) and protocol.cot_answer == "marked"


def _read_choice(item: Item, answer: str, reply: str, text: str, protocol: Protocol) -> tuple[bool, str | None]:
    """Return whether a reply to a yes/no or multiple-choice question is right, and the parsed answer. ``text`` is the
    part of the reply from which the answer is parsed.
    """
    rule = item.details.get("rule", "")
    if item.style == "yes_no":
        parser = protocol.yes_no_parser
        parsed = reasoned_answers.final_yes_no(reply, parser) if _reads_mark(protocol) else parsers.YES_NO[parser](text)
        return parsed == answer, parsed
    if rule in LETTER_RULES:
        return LETTER_RULES[rule](text, answer, item.options)
    parser = protocol.letter_parser
    if _reads_mark(protocol):
        parsed = reasoned_answers.final_letter(reply, item.options, parser)
    else:
        parsed = parsers.LETTER[parser](text, item.options)
    return parsed == answer, parsed


def _outcome_of_likelihoods(item: Item, record: Question, reply: QueryReply, protocol: Protocol) -> Outcome:
    answer = record.answer
    if item.style == "closed":
        names = tuple(item.details["candidates"])
    elif item.style == "yes_no":
        names, answer = ("yes", "no"), answer.lower()
    else:
        names = tuple(item.options)
    best = names[int(np.argmax(reply.logprobs))]
    if item.details.get("rule") == UNSCORED:
        return _outcome(item, {}, best, "", UNSCORED)
    if answer not in names:
        raise EvaluationError(
            f"item {item.item_id}: the answer {record.answer!r} is not one of {', '.join(map(repr, names))}: correct "
            "the answer in the benchmark's file"
        )
    value, tied = metrics.choice(reply.logprobs, names.index(answer), protocol.tie_policy)
    details = {"scores": list(reply.logprobs)}
    return _outcome(item, {"accuracy": value}, best, answer, ties=int(tied), details=details)


def _status(parsed: str | None, text: str) -> str:
    if parsed is not None:
        return "ok"
    return "refused" if parsers.is_refusal(text) else "unparsed"


def _outcome(
    item: Item,
    values: dict[str, float],
    prediction: str | None,
    target: str,
    status: str = "ok",
    *,
    ties: int = 0,
    details: dict[str, Any] | None = None,
) -> Outcome:
    image_ids = item.image_ids
    cluster = item.group or (image_ids[0] if image_ids else item.item_id)
    return Outcome(
        item.item_id, item.kind, item.group, item.tags, cluster, values, prediction, target, status, ties, details or {}
    )
