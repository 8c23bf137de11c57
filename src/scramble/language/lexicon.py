"""Load the shipped lexicon: nouns by category and co-hyponym group, adjectives by class, verbs and spatial relations.

The word lists are text files in ``words/``. The first lines of each file explain its format. The lists contain word
frequencies, and rules draw replacements in proportion to these frequencies. Otherwise a text-only classifier would
recognise an edited caption by its rare words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from scramble.language.inflect import plural, verb_form

WORDS = Path(__file__).parent / "words"
VERB_TAGS = ("VB", "VBP", "VBZ", "VBG", "VBD", "VBN")
MAX_ALTERNATIVES = 8  # co-hyponyms per noun; the most frequent ones are used

# American and British spellings of the words that rules insert. The lexicon's entries have the American spelling.
SPELLINGS = {"gray": "grey", "donut": "doughnut"}


class LexiconError(ValueError):
    """Raised if a word list cannot be read or is malformed. The message names the file and the malformed line."""


@dataclass(frozen=True, slots=True)
class NounEntry:
    """Describes a noun: its lemma, category and frequency, and whether it is a count noun, a mass noun, or both."""

    lemma: str
    category: str
    weight: float = 5.0
    count: bool = True
    mass: bool = False


@dataclass(frozen=True, slots=True)
class Adjective:
    """Describes an adjective: its written form, class and frequency."""

    word: str
    cls: str
    weight: float


@dataclass(slots=True)
class Lexicon:
    """Stores the lookup tables of the lexicon. The words in their keys are in lower case."""

    nouns: dict[str, tuple[NounEntry, bool]] = field(default_factory=dict)  # form -> entry, is plural
    noun_swaps: dict[str, list[NounEntry]] = field(default_factory=dict)  # lemma -> co-hyponyms
    alike: dict[str, set[str]] = field(default_factory=dict)  # lemma or adjective -> words with a similar meaning
    adjectives: dict[str, Adjective] = field(default_factory=dict)
    adjective_swaps: dict[str, list[Adjective]] = field(default_factory=dict)  # word -> alternatives
    # (what must follow: a category, "-" or "place"; verb form) -> (tag, verb form that may replace it, frequency)
    verbs: dict[tuple[str, str], list[tuple[str, str, float]]] = field(default_factory=dict)
    # (relation, category of its second argument) -> (relation that may replace it, frequency)
    relations: dict[tuple[str, str], list[tuple[str, float]]] = field(default_factory=dict)
    # section of phrases.txt -> words
    phrases: dict[str, frozenset[str]] = field(default_factory=lambda: defaultdict(frozenset))


@cache
def load_lexicon(folder: Path = WORDS) -> Lexicon:
    """Read the word lists of a folder, by default the shipped lists. Raises LexiconError."""
    lexicon = Lexicon()
    _read_objects(folder / "objects.txt", lexicon)
    _read_attributes(folder / "attributes.txt", lexicon)
    _read_verbs(folder / "verbs.txt", lexicon)
    _read_relations(folder / "relations.txt", lexicon)
    _read_phrases(folder / "phrases.txt", lexicon)
    return lexicon


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LexiconError(
            f"cannot read the word list {path} ({error.strerror or error}): the folder of a lexicon must contain all "
            "word lists"
        ) from error
    lines = ((number, line.split("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line]


def _items(path: Path, number: int, line: str) -> list[tuple[list[str], float, str]]:
    """Parse the items of a line. For example, ``a/b*:7, c`` becomes [(["a", "b"], 7.0, "*"), (["c"], 5.0, "")]."""
    items = []
    for part in filter(None, (p.strip() for p in line.split(","))):
        match = re.fullmatch(r"([^:~*]+)([~*]?)(?::(\d+(?:\.\d+)?))?", part)
        if match is None:
            raise LexiconError(f"{path}, line {number}: {part!r} must have the form 'word' or 'word/synonym:frequency'")
        items.append(([w.strip() for w in match[1].split("/")], float(match[3] or 5), match[2]))
    return items


def _mark_alike(lexicon: Lexicon, words: list[str]) -> None:
    for word in words:
        lexicon.alike.setdefault(word, set()).update(w for w in words if w != word)


def _read_objects(path: Path, lexicon: Lexicon) -> None:
    category = ""
    groups: list[list[NounEntry]] = []
    for number, line in _lines(path):
        if line.startswith("["):
            category = line.strip("[]")
            continue
        if line.startswith("!"):
            _mark_alike(lexicon, [names[0] for names, _, _ in _items(path, number, line[1:])])
            continue
        group = []
        for names, weight, mark in _items(path, number, line.removeprefix("=")):
            noun = NounEntry(names[0], category, weight, count=mark != "~", mass=mark != "")
            group.append(noun)
            for name in names:
                lexicon.nouns.setdefault(name, (noun, False))
                lexicon.nouns.setdefault(plural(name), (noun, True))
        if not line.startswith("="):
            groups.append(group)
    for group in groups:
        for noun in group:
            alike = lexicon.alike.get(noun.lemma, set())
            others = [n for n in group if n is not noun and n.lemma not in alike]
            swaps = lexicon.noun_swaps.setdefault(noun.lemma, [])
            swaps += [n for n in others if n.lemma not in {k.lemma for k in swaps}]
    for lemma, others in lexicon.noun_swaps.items():
        lexicon.noun_swaps[lemma] = sorted(others, key=lambda n: (-n.weight, n.lemma))[:MAX_ALTERNATIVES]


def _read_attributes(path: Path, lexicon: Lexicon) -> None:
    cls, mode = "", ""
    groups: list[list[Adjective]] = []
    for number, line in _lines(path):
        header = re.fullmatch(r"\[(\w+)\] (any|pairs):", line)
        if header:
            cls, mode = header[1], header[2]
            groups.append([])
            continue
        if line.startswith("[") or not cls:
            raise LexiconError(f"{path}, line {number}: a class must start with '[class] any:' or '[class] pairs:'")
        if line.startswith("!"):
            _mark_alike(lexicon, [names[0] for names, _, _ in _items(path, number, line[1:])])
            continue
        if mode == "pairs" and groups[-1]:
            groups.append([])
        for names, weight, _ in _items(path, number, line.removeprefix("=")):
            adjective = Adjective(names[0], cls, weight)
            for name in names:
                lexicon.adjectives.setdefault(name, adjective)
            if not line.startswith("="):
                groups[-1].append(adjective)
    for group in groups:
        for adjective in group:
            alike = lexicon.alike.get(adjective.word, set())
            others = [a for a in group if a.word != adjective.word and a.word not in alike]
            lexicon.adjective_swaps.setdefault(adjective.word, []).extend(others)


def _read_verbs(path: Path, lexicon: Lexicon) -> None:
    for number, line in _lines(path):
        category, bar, rest = (part.strip() for part in line.partition("|"))
        if not bar:
            raise LexiconError(f"{path}, line {number}: the line must have the form 'category | verb, verb'")
        plain: list[tuple[list[str], float]] = []
        for part in rest.split(","):
            if ">" in part:
                source, _, target = part.partition(">")
                for names, weight, _ in _items(path, number, target):
                    _add_verb(lexicon, category, [source.strip()], names[0], weight)
            else:
                plain.extend((names, weight) for names, weight, _ in _items(path, number, part))
        for names, _ in plain:
            for others, weight in plain:
                if others is not names:
                    _add_verb(lexicon, category, names, others[0], weight)


def _add_verb(lexicon: Lexicon, category: str, sources: list[str], target: str, weight: float) -> None:
    for source in sources:
        for tag in VERB_TAGS:
            key = (category, verb_form(source, tag))
            lexicon.verbs.setdefault(key, []).append((tag, verb_form(target, tag), weight))


def _read_relations(path: Path, lexicon: Lexicon) -> None:
    for number, line in _lines(path):
        fields = [part.strip() for part in line.split("|")]
        if len(fields) != 3:
            raise LexiconError(
                f"{path}, line {number}: the line must have the form 'relation | categories | replacements'"
            )
        replacements = [(names[0], weight) for names, weight, _ in _items(path, number, fields[2])]
        for relation in fields[0].split(","):
            for category in fields[1].split():
                lexicon.relations[relation.strip(), category] = replacements


def _read_phrases(path: Path, lexicon: Lexicon) -> None:
    section = ""
    for number, line in _lines(path):
        if line.startswith("["):
            section = line.strip("[]")
        elif not section:
            raise LexiconError(f"{path}, line {number}: the words must follow a line '[section]'")
        else:
            lexicon.phrases[section] |= {w.strip() for w in line.split(",") if w.strip()}
