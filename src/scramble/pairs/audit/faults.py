"""Detect faults in pairs: identical texts, texts with the same meaning, and grammatical errors in the rejected text.

Faults are detected by fixed patterns, so the counts are lower bounds. Texts alone cannot show whether the rejected text
is true of the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from scramble.language.inflect import article
from scramble.language.lexicon import Lexicon, load_lexicon
from scramble.language.scripts import is_unspaced
from scramble.pairs.audit.text_features import lower_words
from scramble.records import PreferencePair

FAULTS = ("identity", "meaning-preserving", "ungrammatical")
_COUNTS = frozenset({"two", "three", "four", "five", "six", "several", "many"})
_SAME_FORM = frozenset({"sheep", "deer", "fish", "ski"})


def faults(pair: PreferencePair) -> set[str]:
    """Return the faults of a pair, a subset of :data:`FAULTS`.

    Formal errors that also occur in the chosen text do not count.
    """
    result = set()
    chosen, rejected = lower_words(pair.chosen).split(), lower_words(pair.rejected).split()
    if chosen == rejected:
        result.add("identity")
    elif is_reordering(chosen, rejected, load_lexicon()):
        result.add("meaning-preserving")
    if form_errors(pair.rejected, load_lexicon()) - form_errors(pair.chosen, load_lexicon()):
        result.add("ungrammatical")
    return result


def is_reordering(chosen: list[str], rejected: list[str], lexicon: Lexicon) -> bool:
    """Return whether two texts differ only in the order of the two parts of a coordination or of a symmetric relation.

    For example, "a cat and a dog" and "a dog and a cat" differ only in order. The texts are lists of lower-case words.
    Articles are ignored, and the synonyms of a lexicon entry count as the same word. The result is also True if the
    texts differ only in articles and synonyms.
    """
    first, second = _entries(chosen, lexicon), _entries(rejected, lexicon)
    if first == second:
        return True
    if sorted(first) != sorted(second):
        return False
    start = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    end = next(i for i, (a, b) in enumerate(zip(first[::-1], second[::-1], strict=True)) if a != b)
    left, right = first[start : len(first) - end], second[start : len(second) - end]
    if start and first[start - 1] not in lexicon.phrases["symmetric"] | {"of", "two", "three"}:
        return False  # the first object is part of another relation, as in "hitting a ball with a racquet"
    for size in (1, 2, 3):
        for at in range(1, len(left) - size):
            relation = left[at : at + size]
            if " ".join(relation) in lexicon.phrases["symmetric"] and left[at + size :] + relation + left[:at] == right:
                # If the words after the relation refer only to the second object, the order matters.
                return len(first) - end == len(first) or first[len(first) - end] in ("and", "in", "on", "at")
    return False


def _entries(words: Iterable[str], lexicon: Lexicon) -> list[str]:
    content = [w for w in words if w not in ("a", "an", "the")]
    return [f"{lexicon.nouns[w][0].lemma}#{lexicon.nouns[w][1]}" if w in lexicon.nouns else w for w in content]


def form_errors(text: str, lexicon: Lexicon) -> set[str]:
    """Return the formal errors of a text.

    Formal errors are a wrong "a" or "an", a repeated word, a noun that does not agree with "a", "an" or a number, and a
    stray space.
    """
    result = set()
    words = lower_words(text).split()
    for place, (this, following) in enumerate(pairwise(words)):
        if this in ("a", "an") and this != article(following):
            result.add(f"{this} {following}")
        if this == following and this not in ("had", "that") and not is_unspaced(this):
            result.add(f"{this} {following}")
        entry = lexicon.nouns.get(following)
        if entry is None or following in _SAME_FORM or following in lexicon.adjectives:
            continue
        if this in ("a", "an") and entry[1]:
            result.add(f"{this} {following}")
        is_compound = place + 2 < len(words) and words[place + 2] in lexicon.nouns  # "two street signs"
        is_counted = following not in lexicon.phrases["partitives"] and entry[0].category not in ("part", "sport")
        if this in _COUNTS and not entry[1] and is_counted and not is_compound:
            result.add(f"{this} {following}")
    if re.search(r"\s[.,;:!?]|\s\s", text):
        result.add("stray space")
    return result
