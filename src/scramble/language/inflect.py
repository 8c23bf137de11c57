"""Inflect the English words of captions: plurals, verb forms, and the choice between "a" and "an"."""

from __future__ import annotations

import re

_PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "sheep": "sheep",
    "deer": "deer",
    "fish": "fish",
    "knife": "knives",
    "shelf": "shelves",
    "leaf": "leaves",
    "loaf": "loaves",
    "half": "halves",
    "calf": "calves",
    "wolf": "wolves",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "scarf": "scarves",
    "bus": "buses",
    "cactus": "cacti",
    "aircraft": "aircraft",
    "photo": "photos",
    "piano": "pianos",
    "kimono": "kimonos",
    "burrito": "burritos",
    "skis": "skis",
    "roof": "roofs",
    "cattle": "cattle",
}
_VERBS = {  # base form: (past tense, past participle)
    "sit": ("sat", "sat"),
    "stand": ("stood", "stood"),
    "lie": ("lay", "lain"),
    "lay": ("laid", "laid"),
    "kneel": ("knelt", "knelt"),
    "run": ("ran", "run"),
    "ride": ("rode", "ridden"),
    "drive": ("drove", "driven"),
    "eat": ("ate", "eaten"),
    "cut": ("cut", "cut"),
    "feed": ("fed", "fed"),
    "hold": ("held", "held"),
    "throw": ("threw", "thrown"),
    "wear": ("wore", "worn"),
    "break": ("broke", "broken"),
    "sleep": ("slept", "slept"),
    "swing": ("swung", "swung"),
    "lead": ("led", "led"),
    "make": ("made", "made"),
    "pet": ("petted", "petted"),
    "catch": ("caught", "caught"),
}
_DOUBLED = {"sit", "run", "cut", "pet", "chat", "hug", "drop", "grab", "swim", "hit", "get", "put", "jog", "wrap"}
_CONSONANT_SOUND = re.compile(r"(?:uni(?!n|m)|us[eu]|ut[ei]|eu|one\b|once|ubiq)", re.IGNORECASE)


def plural(noun: str) -> str:
    """Return the plural of a singular noun or phrase. In a phrase, only the last word changes."""
    head, space, last = noun.rpartition(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")) or last in ("tomato", "potato", "mango"):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.endswith("man") and last not in ("human",):
        last = last[:-3] + "men"
    else:
        last += "s"
    return head + space + last


def verb_form(base: str, tag: str) -> str:
    """Return a verb in the form that a Penn Treebank tag denotes (VB, VBP, VBZ, VBG, VBD or VBN)."""
    if tag == "VBZ":
        return base[:-1] + "ies" if base.endswith("y") and base[-2] not in "aeiou" else base + _s(base)
    if tag == "VBG":
        if base.endswith("ie"):
            return base[:-2] + "ying"
        return (base + base[-1] if base in _DOUBLED else base.removesuffix("e")) + "ing"
    if tag in ("VBD", "VBN"):
        if base in _VERBS:
            return _VERBS[base][tag == "VBN"]
        if base.endswith("y") and base[-2] not in "aeiou":
            return base[:-1] + "ied"
        return (base + base[-1] if base in _DOUBLED else base.removesuffix("e")) + "ed"
    return base


def _s(base: str) -> str:
    return "es" if base.endswith(("s", "x", "z", "ch", "sh")) else "s"


_FINITE = {"is": "are", "was": "were", "has": "have", "does": "do", "'s": "are"}
_FINITE_BACK = {"are": "is", "were": "was", "have": "has", "do": "does"}


def agree(verb: str, to_plural: bool) -> str:
    """Return the form of a lower-case finite verb that agrees with a plural or singular subject.

    If ``to_plural`` is true, a verb whose form does not show number, such as "sat", is unchanged.
    """
    if to_plural:
        if verb in _FINITE:
            return _FINITE[verb]
        if verb.endswith("ies") and len(verb) > 4:
            return verb[:-3] + "y"
        if verb.endswith(("sses", "xes", "zes", "ches", "shes")):
            return verb[:-2]
        return verb[:-1] if verb.endswith("s") and not verb.endswith("ss") else verb
    return _FINITE_BACK.get(verb) or verb_form(verb, "VBZ")


def article(next_word: str) -> str:
    """Return ``a`` or ``an``, depending on the sound of the next word."""
    if _CONSONANT_SOUND.match(next_word):
        return "a"
    return "an" if next_word[:1].lower() in "aeiou" or re.match(r"hour|honest|heir", next_word, re.I) else "a"


def capitalised(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def decapitalised(text: str, keep: bool = False) -> str:
    """Return the text with its first letter in lower case.

    The text is unchanged if ``keep`` is true or if the second letter is also a capital ("TV").
    """
    if keep or (len(text) > 1 and text[1].isupper()):
        return text
    return text[:1].lower() + text[1:]


def word_set(text: str) -> frozenset[str]:
    """Return the set of words of a text, for lookup."""
    return frozenset(text.split())
