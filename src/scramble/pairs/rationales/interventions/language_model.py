"""Write the text of interventions with a language model, from the steps and the edited facts.

The changes of the graph are drawn as in :mod:`~scramble.pairs.rationales.interventions.english`. The model rewrites the
affected steps more fluently than rules do. Each reply is checked word by word, and replies with unintended changes
are rejected and counted. The prompt and the settings are our choice. The ``rule`` of each pair contains the hash of the
prompt.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request, ask_each
from scramble.pairs.rationales.cases import Perturbed, RationaleCase, Settings
from scramble.pairs.rationales.graph_edits import Cooccurrence, apply, facts_changed
from scramble.pairs.rationales.interventions.english import WordInterventions, unintended
from scramble.storage.hashing import content_key

PROMPT = """\
Below are the steps of an argument about an image. Rewrite them for another image that differs in these facts alone:

{facts}

Change only the words that these facts require, in every step that they touch, and keep everything else as it is: the
number of steps, their order, and their style. Add nothing. Write fluent English with the right articles and plurals.

Steps:
{steps}

Reply with JSON: {{"steps": ["...", "..."]}} with exactly {count} steps."""


def _schema(count: int) -> dict[str, Any]:
    step = {"type": "string", "maxLength": 400}
    steps = {"type": "array", "minItems": count, "maxItems": count, "items": step}
    return {
        "type": "object",
        "properties": {"steps": steps},
        "required": ["steps"],
        "additionalProperties": False,
    }


class EngineInterventions(WordInterventions):
    """Draws changes by rule, and rewrites the affected steps with a language model.

    Args:
        engine, store: the engine of the language model, and the store of its replies.
        generate_rationales: see :class:`~scramble.pairs.rationales.interventions.english.WordInterventions`.
    """

    def __init__(
        self,
        settings: Settings,
        seen: Cooccurrence,
        engine: Engine,
        store: ReplyStore,
        *,
        generate_rationales: bool = True,
        temperature: float = 0.2,
        top_p: float = 0.9,
        max_tokens: int = 600,
        seed: int = 0,
    ) -> None:
        super().__init__(settings, seen, generate_rationales=generate_rationales)
        self.rule = f"scenealign.engine@{content_key(PROMPT)} {engine.model}"
        self.counts: Counter[str] = Counter()
        self._engine, self._store = engine, store
        self._settings: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }

    def rewritten(
        self, stream: Iterable[tuple[RationaleCase, Perturbed]]
    ) -> Iterator[tuple[RationaleCase, Perturbed | str]]:
        """Yield each perturbation in the model's words, or the reason why the reply cannot be used.

        A perturbation that only omits steps is yielded unchanged, without a request.

        Raises:
            EngineError: the server, model or key cannot work. Earlier replies are stored.
        """
        cases = ((pair, pair[1] if pair[1].kind == "shorten" else None) for pair in stream)
        for (case, perturbed), answer in ask_each(self._engine, self._store, cases, self._requests):
            if isinstance(answer, Perturbed):
                yield case, answer
                continue
            result = self._read(perturbed, answer[0])
            self.counts[result if isinstance(result, str) else "used"] += 1
            yield case, result

    def totals(self) -> dict[str, Any]:
        """Return the totals of the engine, and the number of replies for each outcome."""
        return {"rewriter": dataclasses.asdict(self._engine.totals), "replies": dict(self.counts.most_common())}

    def _requests(self, pair: tuple[RationaleCase, Perturbed]) -> list[Request]:
        case, perturbed = pair
        changed = facts_changed(case.graph, apply(case.graph, perturbed.changes))
        facts = [f"- no longer true: {fact}" for fact in changed["removed"]]
        facts += [f"- true instead: {fact}" for fact in changed["added"]]
        steps = "\n".join(f"{i}. {step}" for i, step in enumerate(perturbed.chosen, 1))
        text = PROMPT.format(facts="\n".join(facts), steps=steps, count=len(perturbed.chosen))
        return [Request((Message("user", text),), schema=_schema(len(perturbed.chosen)), **self._settings)]

    def _read(self, perturbed: Perturbed, reply: Reply) -> Perturbed | str:
        """Return the perturbation in the words of a reply, or the reason why the reply cannot be used."""
        steps = read_steps(reply)
        if isinstance(steps, str):
            return steps
        if len(steps) != len(perturbed.chosen):
            return "rewriting: the number of steps changed"
        changed = tuple(i for i, step in enumerate(steps) if step != perturbed.chosen[i])
        worded = dataclasses.replace(
            perturbed,
            rejected=steps,
            false_steps=changed,
            missing=tuple(perturbed.chosen[i] for i in changed),
            rule=self.rule,
        )
        if changed != perturbed.false_steps:
            return "rewriting: the changed steps are not the affected steps"
        reason = unintended(worded)
        return f"rewriting: {reason.split(':')[0]}" if reason else worded


def read_steps(reply: Reply) -> tuple[str, ...] | str:
    """Return the steps in a reply, or the reason why the reply has no steps."""
    if reply.fault:
        return reply.fault
    match = re.search(r"\{.*\}", reply.text, re.DOTALL)
    try:
        steps = json.loads(match.group())["steps"] if match else None
    except (ValueError, KeyError, TypeError):
        steps = None
    if not isinstance(steps, list) or not steps or not all(isinstance(s, str) and s.strip() for s in steps):
        return "no steps in the reply"
    return tuple(re.sub(r"^\d+\.\s*", "", " ".join(step.split())) for step in steps)
