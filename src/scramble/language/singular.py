"""Form singulars by the rules of hallucination benchmarks, including the errors of these rules.

:func:`singular` follows the Python package pattern, which CHAIR uses and which is no longer on PyPI. The errors of this
package are part of CHAIR: "bus" becomes "bu", "glass" becomes "glas", and "ties" becomes "ty". :func:`noun_lemma`
returns WordNet's noun lemmas for the words of a vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache, lru_cache
from importlib.resources import files


def sections(name: str) -> dict[str, list[str]]:
    """Return the lines of each ``[section]`` of a word list, without comments.

    The lines before the first section have the key "".
    """
    result: dict[str, list[str]] = {"": []}
    current = ""
    for line in files("scramble.language").joinpath("words", name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line:
            continue
        if line.startswith("["):
            current = line.strip("[]")
            result[current] = []
        else:
            result[current].append(line)
    return result


@cache
def _rules() -> tuple[
    tuple[str, ...], tuple[str, ...], dict[str, str], frozenset[str], list[tuple[re.Pattern[str], str]]
]:
    parts = sections("singular.txt")
    words = {name: tuple(" ".join(lines).split()) for name, lines in parts.items() if name != "endings"}
    irregular = dict(pair.split(":") for pair in words["irregular"])
    endings = [line.partition(" ") for line in parts["endings"]]
    compiled = [(re.compile(ending, re.IGNORECASE), form) for ending, _, form in endings]
    return words["unchanged"], words["ie"], irregular, frozenset(words["prepositions"]), compiled


@lru_cache(maxsize=100_000)
def singular(word: str) -> str:
    """Return the singular that pattern's ``singularize`` returns for a word."""
    unchanged, ie, irregular, prepositions, endings = _rules()
    head, *rest = word.split("-")
    if rest and rest[0] in prepositions:
        return "-".join((singular(head), *rest))
    if word.endswith("'"):
        return singular(word[:-1]) + "'s"
    lower = word.lower()
    # pattern tests whether a listed word ends with the word, not the reverse, so "rice" and even "ice" are unchanged.
    if any(listed.endswith(lower) for listed in unchanged):
        return word
    if any(lower.endswith(f"{listed}s") for listed in ie):
        return lower
    for plural, form in irregular.items():
        if lower.endswith(plural):
            return word[: -len(plural)] + form
    for ending, form in endings:
        if ending.search(word):
            return ending.sub(form, word)
    return word


@cache
def _noun_forms() -> dict[str, str]:
    parts = sections("wordnet_nouns.txt")
    listed = dict(pair.split(":") for pair in " ".join(parts["lemmas"]).split())
    return listed | {word: word for word in " ".join(parts["unknown"]).split()}


_NOUN_ENDINGS = {
    "s": "",
    "ses": "s",
    "ves": "f",
    "xes": "x",
    "zes": "z",
    "ches": "ch",
    "shes": "sh",
    "men": "man",
    "ies": "y",
}
"""WordNet's endings of nouns: maps each plural ending to the singular ending that replaces it."""


def noun_lemma(word: str, vocabulary: Collection[str]) -> str:
    """Return the WordNet lemma of a noun, or the noun itself if no lemma is known.

    ``vocabulary`` contains the object words of COCO or AMBER. Irregular forms are looked up in a list, which covers
    only these words. The lemmas of other forms must be in ``vocabulary``.
    """
    if (lemma := _noun_forms().get(word)) is not None:
        return lemma
    forms = [word, *(word[: -len(old)] + new for old, new in _NOUN_ENDINGS.items() if word.endswith(old))]
    return min((form for form in forms if form in vocabulary), key=len, default=word)
