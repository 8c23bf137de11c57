"""Faithfulness of rationales: which share of the reasoning before an answer the scene graph supports.

In the embedded world each step is parsed by the world's grammar and judged exactly. For real images the steps are
parsed into small graphs (:mod:`scramble.scenegraphs.captions`) and matched with the image's graph, or a language model
judges them (:class:`scramble.evaluation.judge.Judge`). Source: SceneAlign's metrics are not public; these metrics are
this project's own.

Scores per reply, each in [0, 1]:

====================== =============================================================================================
``faithfulness``       share of steps that the graph supports; a step that cannot be parsed is unsupported, and a
                       reply without steps gets 0
``entities``,          share of the entities, attributes or relations stated in parsable steps that are true (1 if
``attributes``,        none is stated, 0 if no step can be parsed)
``relations``
``needed``             share of the steps needed for the answer that are stated
``faithful``           whether all steps are supported and all needed steps are stated
``accuracy``           whether the answer is right
``right_and_faithful`` whether the answer is right and the reply faithful
====================== =============================================================================================
"""

from __future__ import annotations

from scramble.evaluation.faithfulness.english import judge_parsed
from scramble.evaluation.faithfulness.verdicts import Judged
from scramble.evaluation.faithfulness.world import judge_world
from scramble.evaluation.items import EvaluationError, Item
from scramble.records import Question


def judge_reply(item: Item, text: str) -> Judged:
    """Judge a reply to an item of style ``rationale`` with the item's judge (``world`` or ``parser``)."""
    assert isinstance(item.record, Question)
    if item.details["judge"] == "world":
        return judge_world(text, item.details["graph"], item.record)
    if item.details["judge"] == "parser":
        return judge_parsed(text, item.details["graph"], item.record, item.details.get("pipeline"))
    raise EvaluationError(f"item {item.item_id}: unknown judge of rationales {item.details['judge']!r}")
