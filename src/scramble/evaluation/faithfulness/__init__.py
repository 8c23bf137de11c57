"""Measure the faithfulness of rationales: the share of the reasoning steps that the scene graph supports.

In the embedded world, each step is parsed by the world's grammar and judged exactly. For real images, each step is
either parsed into a small graph (:mod:`scramble.scenegraphs.captions`), which is matched with the image's graph, or
judged by a language model (:class:`scramble.evaluation.judge.Judge`). SceneAlign's metrics are not public, so these
metrics were defined for this project.

Each reply gets the following scores in [0, 1]:

====================== =============================================================================================
``faithfulness``       share of steps that the graph supports; a step that cannot be parsed is unsupported, and a
                       reply without steps gets 0
``entities``,          share of the entities, attributes or relations stated in parsable steps that are true (1 if
``attributes``,        none is stated, 0 if no step can be parsed)
``relations``
``needed``             share of the steps needed for the answer that are stated (embedded world), or of the objects
                       needed for the answer that are named (English rationales)
``faithful``           whether all steps are supported and ``needed`` is 1
``accuracy``           whether the answer is right
``right_and_faithful`` whether the answer is right and the reply is faithful
====================== =============================================================================================
"""

from __future__ import annotations

from scramble.evaluation.faithfulness.english import judge_parsed
from scramble.evaluation.faithfulness.verdicts import Judged
from scramble.evaluation.faithfulness.world import judge_world
from scramble.evaluation.items import Item
from scramble.records import Question


def judge_reply(item: Item, text: str) -> Judged:
    """Judge a reply to an item of style ``rationale``, whose steps are in the item's language (``world`` or
    ``english``).
    """
    assert isinstance(item.record, Question)
    if item.details["language"] == "world":
        return judge_world(text, item.details["graph"], item.record)
    return judge_parsed(text, item.details["graph"], item.record, item.details["pipeline"])
