"""Faithfulness of rationales: how much of what a model says on its way to an answer the scene graph supports.

For the embedded world each step is parsed by the world's grammar and judged by its judge, exactly. For real images the
steps are parsed into small graphs (:mod:`scramble.scenegraphs.captions`) and looked for in the image's graph, or a
language model judges them (:class:`scramble.evaluation.judge.Judge`). Source: none of SceneAlign's metrics is public;
these are our own.

Scores, each in [0, 1] per reply: ``faithfulness``, share of steps that the graph supports (a step that cannot be read
is not supported; no step at all gives 0); ``entities``, ``attributes``, ``relations``, share of what the readable steps
say of each sort that is so (1 where nothing of the sort is said, 0 where no step can be read); ``needed``, share of the
steps that the answer needs which are said; ``faithful``, whether all steps are supported and all needed ones said;
``accuracy`` of the answer; ``right_and_faithful``, both.
"""

from __future__ import annotations

from scramble.evaluation.faithfulness.english import judge_parsed
from scramble.evaluation.faithfulness.verdicts import Judged
from scramble.evaluation.faithfulness.world import judge_world
from scramble.evaluation.items import EvaluationError, Item
from scramble.records import Question


def judge_reply(item: Item, text: str) -> Judged:
    """Judge a reply to an item of style ``rationale`` by the judge that it names (``world`` or ``parser``)."""
    assert isinstance(item.record, Question)
    if item.details["judge"] == "world":
        return judge_world(text, item.details["graph"], item.record)
    if item.details["judge"] == "parser":
        return judge_parsed(text, item.details["graph"], item.record, item.details.get("pipeline"))
    raise EvaluationError(f"item {item.item_id}: no judge of rationales is called {item.details['judge']!r}")
