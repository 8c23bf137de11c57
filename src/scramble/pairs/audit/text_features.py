"""Compute features for text-only classifiers: differences between the chosen and the rejected text of a pair.

Words are compared in lower case without punctuation. In scripts without spaces between words, such as Chinese, each
character is a word (:mod:`scramble.language.scripts`). N-grams are hashed into :data:`COLUMNS` columns, so that a
classifier that was fitted on one set of pairs can be applied to another set.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scramble.language.inflect import word_set
from scramble.language.lexicon import Lexicon, load_lexicon
from scramble.language.scripts import MARKS, SPACED_WORD, UNSPACED, word_count
from scramble.records import PreferencePair

if TYPE_CHECKING:
    import numpy as np

COLUMNS = 2**20
_WORD = re.compile(rf"[{UNSPACED}]|{SPACED_WORD}(?:'{SPACED_WORD})?")
_RUN = re.compile(rf"[\w{MARKS}{UNSPACED}]+(?:'{SPACED_WORD})?")  # words without spaces between them
_SURFACE: tuple[Callable[[str], Any], ...] = (
    lambda t: t[:1].islower(),
    lambda t: t[:1].isupper(),
    lambda t: t.rstrip().endswith("."),
    lambda t: t.rstrip()[-1:].isalnum(),
    lambda t: t != t.strip(),
    lambda t: bool(re.search(r"\s[.,;:!?]", t)),
    lambda t: bool(re.search(r"\s\s", t)),
    lambda t: t == t.lower(),
    lambda t: sum(c.isupper() for c in t),
    lambda t: sum(not c.isalnum() and not c.isspace() and unicodedata.category(c)[0] != "M" for c in t),
    lambda t: t.count(","),
)
_LENGTH: tuple[Callable[[str], Any], ...] = (len, word_count)
_FUNCTION_WORDS = (
    word_set("a an the this that his her its their some each every no"),
    word_set("and or but"),
    word_set("is are was were has have being be"),
    word_set("in on at of with by to from into onto for through over under near behind above below between"),
)
_ENDINGS = ("ing", "ed", "s", "ly")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def lower_words(text: str) -> str:
    """Return the words of a text in lower case, separated by spaces."""
    return " ".join(words(text))


def surface(pairs: Sequence[PreferencePair]) -> Any:
    """Return the differences in case, spacing and punctuation as a sparse matrix (n, k)."""
    from scipy.sparse import csr_matrix

    return csr_matrix(_gaps(pairs, _SURFACE))


def length(pairs: Sequence[PreferencePair]) -> Any:
    """Return the differences in the numbers of characters and words, and their signs, as a sparse matrix (n, 4)."""
    import numpy as np
    from scipy.sparse import csr_matrix

    gaps = _gaps(pairs, _LENGTH)
    return csr_matrix(np.hstack([gaps, np.sign(gaps)]))


def word_ngrams(longest: int) -> Callable[[Sequence[PreferencePair]], Any]:
    """Return a function from pairs to differences of word n-gram counts, as a sparse matrix (n, COLUMNS).

    The n-grams include the boundaries of the text and have at most ``longest`` words.
    """

    def features(pairs: Sequence[PreferencePair]) -> Any:
        sides = ((("<s>", *words(p.chosen), "</s>"), ("<s>", *words(p.rejected), "</s>")) for p in pairs)
        return _ngram_gaps(sides, range(1, longest + 1), " ".join)

    return features


def character_ngrams(pairs: Sequence[PreferencePair]) -> Any:
    """Return the differences of the counts of character n-grams (n from 2 to 6) as a sparse matrix (n, COLUMNS)."""
    sides = ((_without_punctuation(p.chosen), _without_punctuation(p.rejected)) for p in pairs)
    return _ngram_gaps(sides, range(2, 7), str)


def _without_punctuation(text: str) -> str:
    return " ".join(_RUN.findall(text.lower()))


def lengths_and_tags(pairs: Sequence[PreferencePair]) -> np.ndarray:
    """Return the differences of lengths, and of the number and mean position of the words of each class (n, k).

    The classes are derived from the shipped lexicon and from word endings, so no spaCy pipeline is needed.
    """
    import numpy as np

    lexicon = load_lexicon()
    classes = _classes(lexicon)
    place = {name: i for i, name in enumerate(sorted(set(classes.values()) | {*_ENDINGS, "other"}))}

    def row(text: str) -> np.ndarray:
        counts, positions = np.zeros(len(place)), np.zeros(len(place))
        tokens = words(text)
        for position, word in enumerate(tokens):
            name = classes.get(word) or next((end for end in _ENDINGS if word.endswith(end)), "other")
            counts[place[name]] += 1
            positions[place[name]] += position
        return np.concatenate([[len(text), len(tokens)], counts, positions / np.maximum(counts, 1)])

    rows: dict[str, np.ndarray] = {}
    for pair in pairs:
        for text in (pair.chosen, pair.rejected):
            if text not in rows:
                rows[text] = row(text)
    return np.stack([rows[p.chosen] - rows[p.rejected] for p in pairs]) if pairs else np.zeros((0, 2 + 2 * len(place)))


def texts(pairs: Sequence[PreferencePair]) -> np.ndarray:
    """Return the chosen text, the rejected text and the image id of each pair, as an array (n, 3) of strings.

    For a pair without an image, the id of the pair is returned instead of an image id.
    """
    import numpy as np

    table = np.empty((len(pairs), 3), dtype=object)
    for i, pair in enumerate(pairs):
        table[i] = pair.chosen, pair.rejected, pair.image_ids[0] if pair.image_ids else pair.pair_id
    return table


def _classes(lexicon: Lexicon) -> dict[str, str]:
    """Return the class of each word of the lexicon and of each function word.

    The class is the category and number of a noun, the class of an adjective, or a group of function words.
    """
    classes = {word: f"function {i}" for i, group in enumerate(_FUNCTION_WORDS) for word in group}
    for word, adjective in lexicon.adjectives.items():
        classes.setdefault(word, f"adjective {adjective.cls}")
    for word, (noun, is_plural) in lexicon.nouns.items():
        classes.setdefault(word, f"noun {noun.category}{' plural' if is_plural else ''}")
    return classes


def _gaps(pairs: Sequence[PreferencePair], features: Sequence[Callable[[str], Any]]) -> np.ndarray:
    import numpy as np

    rows = [[float(f(p.chosen)) - float(f(p.rejected)) for f in features] for p in pairs]
    return np.array(rows, dtype=float).reshape(len(pairs), len(features))


def _changed(chosen: Any, rejected: Any, context: int) -> tuple[Any, Any]:
    """Return both sequences without their common beginning and end, except ``context`` elements next to the difference.

    N-grams of at most ``context + 1`` elements in the removed parts occur in both sequences and cancel out.
    """
    shorter = min(len(chosen), len(rejected))
    start = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    end = next((i for i in range(shorter - start) if chosen[-1 - i] != rejected[-1 - i]), shorter - start)
    first, last = max(0, start - context), max(0, end - context)
    return chosen[first : len(chosen) - last], rejected[first : len(rejected) - last]


def _ngram_gaps(sides: Iterable[tuple[Any, Any]], sizes: range, join: Callable[[Any], str]) -> Any:
    """Return the differences of the n-gram counts of the two sequences of each pair as a sparse matrix (n, COLUMNS).

    ``join`` converts a part of a sequence to an n-gram.
    """
    import numpy as np
    from sklearn.feature_extraction import FeatureHasher

    def grams(sequence: Any) -> Iterator[str]:
        for size in sizes:
            for at in range(len(sequence) - size + 1):
                yield join(sequence[at : at + size])

    def gaps() -> Iterator[dict[str, int]]:
        for pair in sides:
            chosen, rejected = _changed(*pair, sizes[-1] - 1)
            counts = Counter(grams(chosen))
            counts.subtract(Counter(grams(rejected)))
            yield {gram: count for gram, count in counts.items() if count}

    return FeatureHasher(COLUMNS, alternate_sign=False, dtype=np.float32).transform(gaps()).tocsr()
