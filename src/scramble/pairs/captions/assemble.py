"""Build preference pairs from images with captions: select captions, generate negatives, and select negatives.

Images and pairs are streamed, so memory use does not grow with the data. Every caption without a pair is yielded as a
:class:`Skip` with the reason.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scramble.pairs.base import (
    CandidateSet,
    Caption,
    Generator,
    Negative,
    Similarity,
    Skip,
    changed_span,
    choose,
    expected_draws,
)
from scramble.pairs.captions.caption_choice import CaptionsPerImage, choose_captions
from scramble.pairs.captions.surface import normalise
from scramble.records import YES_NO_PROMPT, ImageRecord, PreferencePair

CAPTION_PROMPT = "caption:"  # SCRAMBLe's prompt, after the image

_WORD = re.compile(r"[^\W\d_]+")


def caption_pairs(
    images: Iterable[ImageRecord],
    generator: Generator,
    *,
    form: Literal["caption", "yes-no", "both"] = "caption",
    **options: Any,
) -> Iterator[PreferencePair | Skip]:
    """Yield preference pairs of captions and their hard negatives from a stream of images.

    Args:
        images, generator, options: see :func:`caption_candidates`.
        form: ``caption`` (a caption and its negative), ``yes-no`` (a yes/no question about each text), or ``both``.

    Yields:
        The pairs in the order of the captions, and a :class:`Skip` with ``image_id``, ``caption`` (its index) and
        ``text`` for each caption without a pair.
    Raises:
        ValueError: an option has an unknown value, or ``captions_per_image`` is ``clip`` and ``similarity`` is None.
    """
    for candidates in caption_candidates(images, generator, alternatives=False, **options):
        if isinstance(candidates, Skip):
            yield candidates
        else:
            for pair in candidates.pairs:
                yield from in_form(pair, form)


def caption_candidates(
    images: Iterable[ImageRecord],
    generator: Generator,
    *,
    prompt: str = CAPTION_PROMPT,
    per_caption: int = 1,
    seed: int = 0,
    captions_per_image: CaptionsPerImage = "all",
    kinds: Sequence[str] | None = None,
    similarity: Similarity | None = None,
    surface: bool = True,
    counts: Counter[str] | None = None,
    alternatives: bool = True,
) -> Iterator[CandidateSet | Skip]:
    """Yield the possible pairs for each caption in a stream of images, so that refinement can select from them.

    Args:
        images: the images, in any order, each with its true captions.
        generator: generates the candidates, for example :class:`scramble.pairs.captions.rules.generator.RuleGenerator`.
        prompt: the prompt of both sides.
        per_caption: maximum number of negatives per caption.
        seed: random seed. The selection for a caption depends only on the seed and the caption.
        captions_per_image: ``all`` uses all usable captions, ``one`` uses one caption, which depends on the seed, and
            ``clip`` uses the caption with the highest ``similarity``, which is stored in the column
            ``similarity.chosen``.
        kinds: kinds of negatives to use. None uses all.
        similarity: function that scores the similarity of texts and images
            (:func:`scramble.pairs.scoring.image_similarity.load_similarity`).
        surface: whether to write both sides in the same form (:func:`scramble.pairs.captions.surface.normalise`). Texts
            that a grammar generates already have the same form.
        counts: counter to which the numbers of selected ``captions`` and ``negatives`` are added.
        alternatives: whether to create all possible pairs, or only the ``per_caption`` selected pairs.
    """
    if captions_per_image not in ("all", "one", "clip"):
        raise ValueError(f"pairs.captions_per_image must be one of 'all', 'one', 'clip', not {captions_per_image!r}")
    if captions_per_image == "clip" and similarity is None:
        raise ValueError("pairs.captions_per_image=clip needs a CLIP or SigLIP model: set pairs.similarity.path")
    counts = Counter() if counts is None else counts
    # The generator reads ahead. These are the captions that it has read but not yet yielded, and the captions that were
    # skipped in the meantime.
    contexts: deque[_ImageCaptions] = deque()
    unusable: deque[Skip] = deque()

    def captions() -> Iterator[Caption]:
        for image, chosen in choose_captions(images, captions_per_image, seed, similarity, unusable):
            texts = {normalise(text).casefold() for text in image.captions}
            stems = [_stems(text) for text in image.captions]
            for index, score in chosen.items():
                contexts.append(_ImageCaptions(image, texts, stems, score))
                text = image.captions[index]
                counts["captions"] += 1
                yield Caption(image.image_id, index, normalise(text) if surface else text, image.graph)

    for caption, answer in generator.negatives(captions()):
        while unusable:
            yield unusable.popleft()
        image_captions = contexts.popleft()
        if isinstance(answer, Skip):
            yield _skip(caption, answer.reason)
            continue
        candidates, reason = _admissible(caption, image_captions, answer, kinds, surface)
        if not candidates:
            yield _skip(caption, reason)
            continue
        number = len(candidates) if alternatives else per_caption
        drawn = choose(candidates, number, seed, caption.image_id, caption.index, caption.text)
        counts["negatives"] += min(len(drawn), per_caption)
        pairs = [_pair(caption, negative, prompt, seed, image_captions, place) for place, negative in enumerate(drawn)]
        yield CandidateSet(tuple(pairs), tuple(expected_draws(drawn, per_caption)), per_caption)
    yield from unusable


def in_form(pair: PreferencePair, form: str) -> tuple[PreferencePair, ...]:
    """Convert a caption pair to a form: the pair itself (``caption``), two yes/no pairs (``yes-no``), or ``both``."""
    if form not in ("caption", "yes-no", "both"):
        raise ValueError(f"pairs.form must be one of 'caption', 'yes-no', 'both', not {form!r}")
    return ((pair,) if form != "yes-no" else ()) + (yes_no_pairs(pair) if form != "caption" else ())


def yes_no_pairs(pair: PreferencePair) -> tuple[PreferencePair, PreferencePair]:
    """Return the two yes/no pairs for a caption pair: "Yes" is preferred for the caption, "No" for the negative."""

    def ask(text: str, answer: str, other: str, suffix: str) -> PreferencePair:
        return replace(
            pair,
            pair_id=f"{pair.pair_id}-{suffix}",
            prompt=YES_NO_PROMPT.format(caption=text.removesuffix(".")),
            chosen=answer,
            rejected=other,
            kind=f"{pair.kind}-yes-no",
            edits=(),
            scores={},
        )

    return ask(pair.chosen, "Yes", "No", "yes"), ask(pair.rejected, "No", "Yes", "no")


@dataclass(frozen=True, slots=True)
class _ImageCaptions:
    """The captions of an image: the texts, the words of each text, and the similarity of the selected caption."""

    image: ImageRecord
    texts: set[str]
    words: list[set[str]]
    similarity: float | None


def _admissible(
    caption: Caption,
    image_captions: _ImageCaptions,
    candidates: Sequence[Negative],
    kinds: Sequence[str] | None,
    surface: bool,
) -> tuple[list[Negative], str]:
    """Return the candidates that no caption of the image supports, and the reason if there are none.

    A candidate is supported if it is one of the captions. A replacement is also supported if the other captions contain
    all of its new words. With ``surface``, the returned candidates are normalised.
    """
    if not candidates:
        return [], "no word that the rules can swap or replace"
    others: set[str] | None = None
    admissible, reason = [], "no candidate of the kinds in pairs.kinds"
    for candidate in candidates:
        if kinds is not None and candidate.kind not in kinds:
            continue
        text = normalise(candidate.text)
        if text.casefold() in image_captions.texts:
            reason = "another caption supports all candidates"
            continue
        if surface and text != candidate.text:
            candidate = replace(candidate, text=text, edits=changed_span(caption.text, text))
        if candidate.kind.startswith("replace") and len(image_captions.words) > 1:
            if others is None:
                others = set().union(*(w for i, w in enumerate(image_captions.words) if i != caption.index))
            spans = [candidate.text[slice(*edit.rejected)] for edit in candidate.edits] or [candidate.text]
            new = _stems(" ".join(spans)) - image_captions.words[caption.index]
            if new and new <= others:
                reason = "another caption supports all candidates"
                continue
        admissible.append(candidate)
    return admissible, reason


def _stems(text: str) -> set[str]:
    return {word.lower().removesuffix("s") for word in _WORD.findall(text)}


def _pair(
    caption: Caption, negative: Negative, prompt: str, seed: int, context: _ImageCaptions, number: int
) -> PreferencePair:
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
        source=context.image.source,
        scores={} if context.similarity is None else {"similarity.chosen": context.similarity},
    )


def _skip(caption: Caption, reason: str) -> Skip:
    return Skip(reason, {"image_id": caption.image_id, "caption": caption.index, "text": caption.text})
