"""Text-only classifiers: can the chosen and the rejected text be distinguished without the image?

The features of every classifier are *differences* between the two texts of a pair, which is all that preference
training uses. Accuracy is measured out of fold: the pairs of an image are never in training and test set at once. An
accuracy of 50 % is chance; a tie counts half. Texts are compared in lower case without punctuation, except by
``surface`` and ``length``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scramble.pairs.base import seeded
from scramble.records import PreferencePair

if TYPE_CHECKING:
    import numpy as np

_WORD = re.compile(r"\w+(?:'\w+)?")
_SURFACE = (
    lambda t: t[:1].islower(),
    lambda t: t[:1].isupper(),
    lambda t: t.rstrip().endswith("."),
    lambda t: t.rstrip()[-1:].isalnum(),
    lambda t: t != t.strip(),
    lambda t: bool(re.search(r"\s[.,;:!?]", t)),
    lambda t: bool(re.search(r"\s\s", t)),
    lambda t: t == t.lower(),
    lambda t: sum(c.isupper() for c in t),
    lambda t: sum(not c.isalnum() and not c.isspace() for c in t),
    lambda t: t.count(","),
)
CLASSIFIERS = ("length", "surface", "unigram", "bigram", "trigram")
FRESH = "character"  # refinement does not use this classifier, so this classifier can judge the result
FOLDS = 5
MIN_PAIRS = 20  # with fewer pairs, the accuracy's standard error is above 11 points, and no classifier is fitted


@dataclass(frozen=True, slots=True)
class TextOnlyResult:
    """One classifier's out-of-fold accuracy and standard error in percent, over ``n`` pairs."""

    classifier: str
    accuracy: float
    error: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, in percent."""
        return self.accuracy - 1.96 * self.error, self.accuracy + 1.96 * self.error


def plain(text: str) -> str:
    """The input of the word classifiers: lower case, words only."""
    return " ".join(_WORD.findall(text.lower()))


def group_of(pair: PreferencePair) -> str:
    """The group of dependent pairs: the (first) image. A pair without an image is its own group."""
    return pair.image_ids[0] if pair.image_ids else pair.pair_id


def judgeable(pairs: Sequence[PreferencePair], count: int = FOLDS) -> bool:
    """Whether there are enough pairs for a text-only accuracy: :data:`MIN_PAIRS`, and an image for each fold."""
    return len(pairs) >= MIN_PAIRS and len({group_of(pair) for pair in pairs}) >= count


def folds(pairs: Sequence[PreferencePair], count: int, seed: int) -> np.ndarray:
    """A fold number per pair (n,), which is the same for all pairs of an image."""
    import numpy as np

    number: dict[str, int] = {}
    for pair in pairs:
        number.setdefault(group_of(pair), 0)
    images = sorted(number)
    seeded(seed, "folds").shuffle(images)
    for place, image in enumerate(images):
        number[image] = place % count
    return np.array([number[group_of(pair)] for pair in pairs])


def differences(pairs: Sequence[PreferencePair], classifier: str) -> Any:
    """Features of the chosen text minus those of the rejected one: a sparse matrix (n, features)."""
    import numpy as np
    from scipy.sparse import csr_matrix

    chosen, rejected = [p.chosen for p in pairs], [p.rejected for p in pairs]
    if classifier == "surface":
        return csr_matrix(_table(chosen, _SURFACE) - _table(rejected, _SURFACE))
    if classifier == "length":
        sizes: tuple[Callable[[str], Any], ...] = (len, lambda t: len(t.split()))
        gap = _table(chosen, sizes) - _table(rejected, sizes)
        return csr_matrix(np.hstack([gap, np.sign(gap)]))
    from sklearn.feature_extraction.text import CountVectorizer

    if classifier == FRESH:
        vectorizer = CountVectorizer(analyzer="char", ngram_range=(2, 6), min_df=2, dtype=np.float32)
    else:
        longest = {"unigram": 1, "bigram": 2, "trigram": 3}[classifier]
        vectorizer = CountVectorizer(
            ngram_range=(1, longest), token_pattern=r"(?u)\S+", tokenizer=None, binary=False, dtype=np.float32
        )
    bounded = [f"<s> {plain(text)} </s>" if classifier != FRESH else plain(text) for text in chosen + rejected]
    try:
        table = vectorizer.fit_transform(bounded)
    except ValueError:  # scikit-learn's "empty vocabulary": one-letter answers have no character n-grams
        return csr_matrix((len(pairs), 1), dtype=np.float32)
    return table[: len(pairs)] - table[len(pairs) :]


def _table(texts: Sequence[str], features: Sequence[Callable[[str], Any]]) -> np.ndarray:
    import numpy as np

    return np.array([[float(feature(text)) for feature in features] for text in texts])


def cross_fit(features: Any, fold: np.ndarray, *, c: float = 1.0) -> np.ndarray:
    """Out-of-fold scores (n,), in log-odds; a score is positive if the chosen text is recognised.

    ``features`` (n, k) are differences. The classifier is a logistic regression without intercept. The sign of every
    second difference, and its label, is flipped, so that the classifier cannot prefer a side. Rows score 0 if there
    are no other folds to learn from.
    """
    import numpy as np
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros(features.shape[0])
    for number in np.unique(fold):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(train) < 2 or not features[train].count_nonzero():
            continue
        side = np.where(np.arange(len(train)) % 2 == 0, 1.0, -1.0)
        model = LogisticRegression(C=c, fit_intercept=False, solver="liblinear", random_state=0)
        scores[test] = model.fit(diags(side) @ features[train], side).decision_function(features[test])
    scores[np.abs(scores) < 1e-9] = 0.0
    return scores


def accuracy(scores: np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
    """Accuracy and its standard error in percent. Pairs of one group (image) are treated as dependent."""
    import numpy as np

    right = np.where(scores > 0, 1.0, np.where(scores < 0, 0.0, 0.5))
    mean = float(right.mean())
    sums: dict[str, float] = {}
    for group, value in zip(groups, right, strict=True):
        sums[group] = sums.get(group, 0.0) + value - mean
    error = float(np.sqrt(sum(v * v for v in sums.values()))) / len(right)
    return 100 * mean, 100 * error


def text_only_accuracy(
    pairs: Sequence[PreferencePair], classifier: str, *, seed: int = 0, count: int = 5
) -> TextOnlyResult:
    """Out-of-fold accuracy of one classifier at distinguishing chosen from rejected, with folds grouped by image."""
    scores = cross_fit(differences(pairs, classifier), folds(pairs, count, seed))
    mean, error = accuracy(scores, [group_of(p) for p in pairs])
    return TextOnlyResult(classifier, mean, error, len(pairs))


def text_only_accuracy_by_score(pairs: Sequence[PreferencePair], scores: Sequence[float], name: str) -> TextOnlyResult:
    """The same accuracy for score gaps, chosen minus rejected, such as those of a language model."""
    import numpy as np

    mean, error = accuracy(np.asarray(scores, dtype=float), [group_of(p) for p in pairs])
    return TextOnlyResult(name, mean, error, len(pairs))
