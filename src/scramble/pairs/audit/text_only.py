"""Fit text-only classifiers, which measure whether chosen and rejected texts can be distinguished without the image.

There are two accuracies. For both, chance is 50 %, and a tie counts as half. The *in-sample accuracy* is measured out
of fold on one set of pairs. All pairs of an image are in the same fold. If the set was selected with text-only scores
of its own pairs (refinement), the in-sample accuracy is too low, because the patterns that the selection removed are
missing from the training folds and the test fold. The *transfer accuracy* is measured with classifiers that are fitted
on pairs of other images, which were not used for the selection. The transfer accuracy shows what a model can learn from
text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from scramble.pairs.audit import text_features
from scramble.pairs.audit.language_model import TrigramModel
from scramble.records import PreferencePair

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")

FOLDS = 5
MIN_PAIRS = 20  # with fewer pairs, the standard error of an accuracy is above 11 points, and no classifier is fitted
MAX_FITTED = 200_000  # maximum number of pairs for fitting; larger sets are sampled to bound time and memory
RESAMPLES = 1000  # number of resamples of the images for confidence intervals
TEXT_ONLY_COLUMN = (
    "text_only"  # this classifier prefers the text with the higher likelihood under a model without the image
)
LIKELIHOODS = ("likelihood.chosen", "likelihood.rejected")  # the columns with these likelihoods in nats (pairs.scores)

# A function from the features of pairs to scores (n,), which are positive if the chosen text is recognised.
Scorer = Callable[[Any], "np.ndarray"]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A text-only classifier.

    Attributes:
        features: function from pairs to features, an array or matrix with one row per pair.
        fit: function from the features of pairs and their weights (n,) (or None) to a scorer. The scores are log-odds,
            except that the scores of the language model are differences of log-probabilities in nats.
        per_kind: whether the classifier is also fitted on the pairs of each kind alone.
    """

    features: Callable[[Sequence[PreferencePair]], Any]
    fit: Callable[[Any, np.ndarray | None], Scorer]
    per_kind: bool = True


def fit_linear(features: Any, weights: np.ndarray | None = None) -> Scorer:
    """Fit a logistic regression without an intercept on differences (n, k), with an L2 penalty of strength 1.

    The signs of every second difference and of its label are flipped, so that the classifier cannot prefer a side.
    """
    import warnings

    import numpy as np
    from scipy.sparse import csr_matrix, diags
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    table = csr_matrix(features)
    columns = np.unique(table.indices[table.data != 0])
    if table.shape[0] < 2 or not len(columns):
        return lambda other: np.zeros(other.shape[0])
    side = np.where(np.arange(table.shape[0]) % 2 == 0, 1.0, -1.0)
    # 30 iterations of L-BFGS reach liblinear's held-out accuracy on 100,000 pairs of character n-grams to within 0.3
    # points in a tenth of its time.
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-3, max_iter=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(diags(side) @ table[:, columns], side, sample_weight=weights)
    # Use a sparse row: refinement stores about a hundred classifiers, each of which uses few of the hashed columns.
    row = csr_matrix((model.coef_[0], columns, [0, len(columns)]), shape=(1, table.shape[1]))
    return lambda other: _without_noise((csr_matrix(other) @ row.T).toarray()[:, 0])


def fit_boosting(features: np.ndarray, weights: np.ndarray | None = None) -> Scorer:
    """Fit gradient-boosted trees on differences (n, k).

    The trees are fitted on each pair in both orders. The score changes its sign if the order is reversed.
    """
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(features) < MIN_PAIRS:
        return lambda other: np.zeros(len(other))
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=0)
    both, labels = np.vstack([features, -features]), np.repeat([1, 0], len(features))
    model.fit(both, labels, sample_weight=None if weights is None else np.tile(weights, 2))
    return lambda other: _without_noise((model.decision_function(other) - model.decision_function(-other)) / 2)


def fit_language_model(features: np.ndarray, weights: np.ndarray | None = None) -> Scorer:
    """Fit a Kneser-Ney trigram model on the chosen texts.

    The score of a pair is the log-probability of the chosen text minus the log-probability of the rejected text.
    ``features`` are the result of :func:`text_features.texts`, and ``weights`` are ignored. A chosen text that several
    pairs of an image share counts once.
    """
    import numpy as np

    model = TrigramModel(text for _, text in dict.fromkeys(zip(features[:, 2], features[:, 0], strict=True)))

    def score(other: np.ndarray) -> np.ndarray:
        logp = {text: model.logp(text) for text in {*other[:, :2].ravel()}}
        return np.array([logp[chosen] - logp[rejected] for chosen, rejected in other[:, :2]])

    return score


def _without_noise(scores: np.ndarray) -> np.ndarray:
    """Set scores close to 0 to 0, so that rounding errors do not decide ties."""
    scores[abs(scores) < 1e-9] = 0.0
    return scores


CLASSIFIERS: dict[str, Classifier] = {
    "length": Classifier(text_features.length, fit_linear),
    "surface": Classifier(text_features.surface, fit_linear),
    "unigram": Classifier(text_features.word_ngrams(1), fit_linear),
    "bigram": Classifier(text_features.word_ngrams(2), fit_linear),
    "trigram": Classifier(text_features.word_ngrams(3), fit_linear),
    "character": Classifier(text_features.character_ngrams, fit_linear),
    "boosting": Classifier(text_features.lengths_and_tags, fit_boosting, per_kind=False),
    "language model": Classifier(text_features.texts, fit_language_model, per_kind=False),
}


# ------------------------------------------------------------------------------------------------- images and folds


def group_of(pair: PreferencePair) -> str:
    """Return the group of dependent pairs to which a pair belongs: its first image, or else the id of the pair."""
    return pair.image_ids[0] if pair.image_ids else pair.pair_id


def position_of(group: str, seed: int) -> float:
    """Return a number in [0, 1) that depends only on the group and the seed, for folds and samples of images."""
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def judgeable(pairs: Sequence[PreferencePair], count: int = FOLDS) -> bool:
    """Return whether there are enough pairs for an accuracy: :data:`MIN_PAIRS` pairs of at least ``count`` images."""
    return len(pairs) >= MIN_PAIRS and len({group_of(pair) for pair in pairs}) >= count


def folds(groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Return the fold of each group (n,). The distinct groups are divided evenly among the folds, in a random order."""
    import numpy as np

    order = sorted(set(groups), key=lambda group: position_of(group, seed))
    number = {group: place % count for place, group in enumerate(order)}
    return np.array([number[group] for group in groups])


def sampled(pairs: Sequence[PreferencePair], seed: int, limit: int = MAX_FITTED) -> list[PreferencePair]:
    """Return about ``limit`` pairs of a random sample of the images, or all pairs if there are fewer."""
    share = limit / max(limit, len(pairs))
    return [pair for pair in pairs if position_of(group_of(pair), seed) < share]


class ImageSample(Generic[Item]):
    """The items of a stream that belong to a random sample of the images, with a total size of at most ``limit``.

    An image belongs to the sample if its position (:func:`position_of`) is below ``share``, which is halved whenever
    the total size of the items exceeds ``limit``. The final sample therefore does not depend on the order of the
    images.

    Args:
        limit: maximum total size of the items.
        seed: seed of the positions.
        group: function from an item to its image.
        size: function from an item to its size.
    Attributes:
        items: the items of the sample in the order of the stream.
        total: the total size of all items of the stream.
        share: the fraction of the images in the sample.
    """

    def __init__(self, limit: int, seed: int, *, group: Callable[[Item], str], size: Callable[[Item], int]) -> None:
        self.items: list[Item] = []
        self.total, self.share = 0, 1.0
        self._limit, self._seed, self._group, self._size, self._held = limit, seed, group, size, 0

    def add(self, item: Item) -> None:
        self.total += self._size(item)
        if not self._contains(item):
            return
        self.items.append(item)
        self._held += self._size(item)
        while self._held > self._limit:
            self.share /= 2
            self.items = [item for item in self.items if self._contains(item)]
            self._held = sum(map(self._size, self.items))

    def _contains(self, item: Item) -> bool:
        return position_of(self._group(item), self._seed) < self.share


def sample_of_pairs(pairs: Iterable[PreferencePair], seed: int) -> ImageSample[PreferencePair]:
    """Return a sample of at most :data:`MAX_FITTED` pairs of a stream, for an audit."""
    sample = ImageSample[PreferencePair](MAX_FITTED, seed, group=group_of, size=lambda pair: 1)
    for pair in pairs:
        sample.add(pair)
    return sample


# -------------------------------------------------------------------------------------------------------- accuracies


@dataclass(frozen=True, slots=True)
class TextOnlyResult:
    """A classifier's accuracy over ``n`` pairs in percent, with its standard error and 95 % interval over images."""

    classifier: str
    accuracy: float
    error: float
    interval: tuple[float, float]
    n: int


def cross_fit(classifier: Classifier, features: Any, fold: np.ndarray) -> np.ndarray:
    """Return the score (n,) of each pair from a classifier that is fitted on the other folds.

    If the other folds have fewer than two pairs, the score is 0.
    """
    import numpy as np

    scores = np.zeros(len(fold))
    for number in np.unique(fold):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if len(train) >= 2:
            scores[test] = classifier.fit(features[train], None)(features[test])
    return scores


def in_sample_scores(pairs: Sequence[PreferencePair], *, seed: int, count: int = FOLDS) -> dict[str, np.ndarray]:
    """Return the scores (n,) of ``pairs`` from each classifier, by cross-validation.

    The score of a pair comes from a classifier that is fitted on the pairs of all kinds in the other folds.
    """
    fold = folds([group_of(pair) for pair in pairs], count, seed)
    return {name: cross_fit(c, c.features(pairs), fold) for name, c in CLASSIFIERS.items()}


def transfer_scores(pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair]) -> dict[str, np.ndarray]:
    """Return the scores (n,) of ``pairs`` from each classifier. The classifiers are fitted on ``held_out``.

    The images of ``held_out`` must not occur in ``pairs``. A classifier with ``per_kind`` is fitted separately on each
    kind that is :func:`judgeable` in ``held_out``. The pairs of the remaining kinds are scored by the classifier that
    is fitted on the pairs of all kinds.
    """
    import numpy as np

    scores: dict[str, np.ndarray] = {}
    kinds, fitted_kinds = np.array([p.kind for p in pairs]), np.array([p.kind for p in held_out])
    alone = {k for k in set(fitted_kinds) if judgeable([p for p in held_out if p.kind == k])}
    for name, classifier in CLASSIFIERS.items():
        train_features, test_features = classifier.features(held_out), classifier.features(pairs)
        scores[name] = classifier.fit(train_features, None)(test_features)
        for kind in sorted(alone & set(kinds)) if classifier.per_kind else ():
            rows = np.flatnonzero(kinds == kind)
            scores[name][rows] = classifier.fit(train_features[np.flatnonzero(fitted_kinds == kind)], None)(
                test_features[rows]
            )
    return scores


def measured(name: str, scores: np.ndarray, groups: Sequence[str], *, seed: int = 0) -> TextOnlyResult:
    """Return the accuracy of a classifier from its scores (n,) of pairs. ``groups`` (n,) names the image of each pair.

    A pair with a positive score counts 1, and a pair with the score 0 counts one half.
    """
    import numpy as np

    right = np.where(scores > 0, 1.0, np.where(scores < 0, 0.0, 0.5))
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.bincount(number, right), np.bincount(number)
    mean = sums.sum() / counts.sum()
    error = float(np.sqrt(((sums - mean * counts) ** 2).sum())) / len(right)
    rng, means = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        means.append(sums[drawn].sum() / counts[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return TextOnlyResult(name, 100 * float(mean), 100 * error, (100 * float(low), 100 * float(high)), len(right))


def text_only_accuracy(
    pairs: Sequence[PreferencePair], classifier: str, *, seed: int = 0, count: int = FOLDS
) -> TextOnlyResult:
    """Return the in-sample accuracy with which a classifier distinguishes chosen and rejected texts."""
    groups, reader = [group_of(pair) for pair in pairs], CLASSIFIERS[classifier]
    scores = cross_fit(reader, reader.features(pairs), folds(groups, count, seed))
    return measured(classifier, scores, groups, seed=seed)


def transfer_accuracies(
    pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair], *, seed: int = 0
) -> dict[str, TextOnlyResult]:
    """Return the accuracy on ``pairs`` of each classifier.

    The classifiers are fitted on ``held_out`` as in :func:`transfer_scores`.
    """
    groups = [group_of(pair) for pair in pairs]
    scores = transfer_scores(pairs, held_out)
    return {name: measured(name, values, groups, seed=seed) for name, values in scores.items()}


def other_images(held_out: Sequence[PreferencePair], pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Return the pairs of ``held_out`` whose images do not occur in ``pairs``."""
    images = {image for pair in pairs for image in (pair.image_ids or (group_of(pair),))}
    return [p for p in held_out if images.isdisjoint(p.image_ids or (group_of(p),))]


def column_scores(pairs: Sequence[PreferencePair]) -> np.ndarray | None:
    """Return the gaps (n,) of the stored :data:`LIKELIHOODS` in nats, or None if a pair lacks these columns."""
    import numpy as np

    chosen, rejected = LIKELIHOODS
    if not pairs or any(chosen not in pair.scores or rejected not in pair.scores for pair in pairs):
        return None
    return np.array([pair.scores[chosen] - pair.scores[rejected] for pair in pairs])


def accuracies(
    scores: Mapping[str, np.ndarray], rows: Sequence[int], groups: Sequence[str], *, seed: int = 0
) -> dict[str, TextOnlyResult]:
    """Return the accuracy of each classifier on the given rows of its scores (n,).

    ``groups`` (n,) names the image of each score.
    """
    return {name: measured(name, s[list(rows)], [groups[i] for i in rows], seed=seed) for name, s in scores.items()}
