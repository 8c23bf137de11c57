"""From images with captions to preference pairs: choose captions, ask a generator, choose negatives.

Streamed from end to end: memory does not grow with the data. Every caption that gives no pair is yielded as a
:class:`Skip` with its reason.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scramble.pairs.base import Caption, Generator, Negative, Skip, changed_span, choose, seeded
from scramble.pairs.captions.similarity import load_similarity
from scramble.pairs.captions.surface import normalise, problem
from scramble.records import YES_NO_PROMPT, ImageRecord, PreferencePair

CAPTION_PROMPT = "caption:"  # SCRAMBLe's prompt, after the image

Similarity = Callable[[ImageRecord, Sequence[str]], Sequence[float]]
_WORD = re.compile(r"[^\W\d_]+")


def caption_pairs(
    images: Iterable[ImageRecord],
    generator: Generator,
    *,
    prompt: str = CAPTION_PROMPT,
    per_caption: int = 1,
    seed: int = 0,
    captions_per_image: Literal["all", "one", "clip"] = "all",
    form: Literal["caption", "yes-no", "both"] = "caption",
    kinds: Sequence[str] | None = None,
    similarity: Similarity | str | None = None,
    surface: bool = True,
) -> Iterator[PreferencePair | Skip]:
    """Preference pairs of a stream of images: the caption preferred over a hard negative of it.

    Args:
        images: the images, in any order; each with its true captions.
        generator: makes the candidates (:class:`scramble.pairs.captions.rules.generator.RuleGenerator`, a language
            model, the world).
        prompt: the question both sides answer.
        per_caption: negatives drawn per caption, at most.
        seed: seed of all choices; a caption's draw depends on the seed and the caption alone.
        captions_per_image: ``all`` usable captions, ``one`` drawn by the seed, or the one most alike by ``similarity``.
        form: ``caption`` (caption against negative), ``yes-no`` (a question on each of them), or ``both``.
        kinds: if given, only negatives of these kinds.
        similarity: scores captions against an image, or the CLIP or SigLIP model that does
            (:func:`scramble.pairs.captions.similarity.load_similarity`).
        surface: write both sides in one form (:func:`scramble.pairs.captions.surface.normalise`); off for text made by
            a grammar, whose surface is one already.

    Returns:
        Pairs in the order of the captions, and for each caption without one a :class:`Skip` with ``image_id``,
        ``caption`` (its index) and ``text``.
    Raises:
        ValueError: for ``captions_per_image="clip"`` without ``similarity``, or an unknown choice.
    """
    if captions_per_image not in ("all", "one", "clip") or form not in ("caption", "yes-no", "both"):
        raise ValueError(f"no captions_per_image={captions_per_image!r} with form={form!r}")
    if captions_per_image == "clip" and similarity is None:
        raise ValueError("captions_per_image=clip needs a similarity model (pairs.similarity=<CLIP or SigLIP>)")
    if isinstance(similarity, str):
        similarity = load_similarity(similarity) if captions_per_image == "clip" else None
    rank = similarity
    contexts: deque[_Witness] = deque()  # of the captions that the generator has drawn but not answered
    unusable: deque[Skip] = deque()  # met while the generator drew captions; yielded before its next answer

    def captions() -> Iterator[Caption]:
        for image in images:
            witness = _Witness(
                image, {normalise(text).casefold() for text in image.captions}, [_stems(t) for t in image.captions]
            )
            for index in _usable(image, captions_per_image, seed, rank, unusable):
                contexts.append(witness)
                text = image.captions[index]
                yield Caption(image.image_id, index, normalise(text) if surface else text, image.graph)

    for caption, answer in generator.negatives(captions()):
        while unusable:
            yield unusable.popleft()
        witness = contexts.popleft()
        if isinstance(answer, Skip):
            yield _skip(caption, answer.reason)
            continue
        candidates, reason = _admissible(caption, witness, answer, kinds, surface)
        if not candidates:
            yield _skip(caption, reason)
            continue
        drawn = choose(candidates, per_caption, seed, caption.image_id, caption.index, caption.text)
        for number, negative in enumerate(drawn):
            pair = _pair(caption, negative, prompt, seed, witness.image.source, number)
            if form != "yes-no":
                yield pair
            if form != "caption":
                yield from yes_no_pairs(pair)
    yield from unusable


def yes_no_pairs(pair: PreferencePair, template: str = YES_NO_PROMPT) -> tuple[PreferencePair, PreferencePair]:
    """The two questions of a caption pair: "Yes" is preferred for the true caption, "No" for the negative."""

    def ask(text: str, answer: str, other: str, suffix: str) -> PreferencePair:
        return replace(
            pair,
            pair_id=f"{pair.pair_id}-{suffix}",
            prompt=template.format(caption=text.removesuffix(".")),
            chosen=answer,
            rejected=other,
            kind=f"{pair.kind}-yes-no",
            edits=(),
        )

    return ask(pair.chosen, "Yes", "No", "yes"), ask(pair.rejected, "No", "Yes", "no")


def _usable(
    image: ImageRecord, which: str, seed: int, similarity: Similarity | None, unusable: deque[Skip]
) -> list[int]:
    """The places of the captions to use, in order. Those that no method can use are added to ``unusable``."""
    usable = []
    for index, text in enumerate(image.captions):
        reason = problem(text)
        if reason:
            unusable.append(Skip(reason, {"image_id": image.image_id, "caption": index, "text": text[:500]}))
        else:
            usable.append(index)
    if len(usable) < 2 or which == "all":
        return usable
    if which == "one":
        return [seeded(seed, "caption", image.image_id).choice(usable)]
    if similarity is None:
        raise ValueError("no similarity model")
    scores = similarity(image, [image.captions[i] for i in usable])
    return [max(zip(scores, (-i for i in usable), strict=True))[1] * -1]


@dataclass(frozen=True, slots=True)
class _Witness:
    """What all captions of an image say: the texts, and the words of each."""

    image: ImageRecord
    texts: set[str]
    words: list[set[str]]


def _admissible(
    caption: Caption, witness: _Witness, candidates: Sequence[Negative], kinds: Sequence[str] | None, surface: bool
) -> tuple[list[Negative], str]:
    """The candidates that no other caption of the image supports, in normal form; and why there are none."""
    if not candidates:
        return [], "no candidate"
    others: set[str] | None = None
    kept, reason = [], "no candidate of the wanted kinds"
    for candidate in candidates:
        if kinds is not None and candidate.kind not in kinds:
            continue
        text = normalise(candidate.text)
        if text.casefold() in witness.texts:
            reason = "all candidates supported by another caption"
            continue
        if surface and text != candidate.text:
            candidate = replace(candidate, text=text, edits=changed_span(caption.text, text))
        if candidate.kind.startswith("replace") and len(witness.words) > 1:
            if others is None:
                others = set().union(*(w for i, w in enumerate(witness.words) if i != caption.index))
            spans = [candidate.text[slice(*edit.rejected)] for edit in candidate.edits] or [candidate.text]
            new = _stems(" ".join(spans)) - witness.words[caption.index]
            if new and new <= others:
                reason = "all candidates supported by another caption"
                continue
        kept.append(candidate)
    return kept, reason


def _stems(text: str) -> set[str]:
    return {word.lower().removesuffix("s") for word in _WORD.findall(text)}


def _pair(caption: Caption, negative: Negative, prompt: str, seed: int, source: str, number: int) -> PreferencePair:
    return PreferencePair(
        pair_id=f"{caption.image_id}-{caption.index}-{number}",
        image_ids=(caption.image_id,),
        prompt=prompt,
        chosen=caption.text,
        rejected=negative.text,
        kind=negative.kind,
        rule=negative.rule,
        edits=negative.edits,
        seed=seed,
        source=source,
    )


def _skip(caption: Caption, reason: str) -> Skip:
    return Skip(reason, {"image_id": caption.image_id, "caption": caption.index, "text": caption.text})
