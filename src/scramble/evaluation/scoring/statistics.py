"""Estimate the uncertainty of benchmark scores and of differences between runs on the same items.

Values are outcomes of items (usually 0 or 1). ``clusters`` contains one label per item, and items that share an image
or a group have the same label. Array axes: S seeds, N items, C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # not scipy.stats, which takes a second to import

from scramble.evaluation.scoring.metrics import MetricError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score of ``n`` items in ``clusters`` independent clusters, with its standard error and confidence interval.

    A bootstrap resamples clusters instead of items, so its ``n`` is the number of clusters.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The difference between a run and a baseline on the same items.

    ``test`` is the name of the test that computed the p-value. ``won`` is the number of items on which the run is
    better, and ``lost`` is the number of items on which the baseline is better. Both are 0 for
    :func:`paired_bootstrap`, which does not compare single items.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    test: str
    won: int
    lost: int
    n: int


LEVEL = 0.95
"""Level of all confidence intervals."""

MIN_ITEMS = 10
"""Minimum number of items for which standard errors, intervals and p-values are shown. With fewer items, the normal
approximation does not hold.
"""


def is_few(n: int | None) -> bool:
    """Return whether there are too few items to show errors, intervals and p-values."""
    return n is not None and n < MIN_ITEMS


def standard_error(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the cluster-robust standard error of the mean (Miller 2024, section 2.2), or NaN for fewer than two
    clusters.

    The formula is sqrt(C / (C - 1) * sum over clusters of (sum of deviations)^2) / N. Without ``clusters``, every item
    is its own cluster, and the formula reduces to the usual s / sqrt(N).
    """
    values_N = _values(values)
    sums_C = _cluster_sums(values_N - values_N.mean(), clusters)
    if len(sums_C) < 2:
        return float("nan")
    return float(np.sqrt(len(sums_C) / (len(sums_C) - 1) * np.sum(sums_C**2)) / len(values_N))


def estimate(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Return the mean with its confidence interval. The interval uses quantiles of the t distribution with C - 1
    degrees of freedom for C clusters.
    """
    values_N = _values(values)
    count = len(values_N) if clusters is None else len(set(clusters))
    mean, error = float(values_N.mean()), standard_error(values_N, clusters)
    margin = error * float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) if count > 1 else math.nan
    return Estimate(mean, error, mean - margin, mean + margin, len(values_N), count)


def mcnemar_exact(run: ArrayLike, baseline: ArrayLike) -> tuple[int, int, float]:
    """Apply McNemar's exact test to the outcomes (0 or 1) of two runs on the same items.

    Returns:
        The number of items that only ``run`` answers correctly, the number of items that only ``baseline`` answers
        correctly, and the two-sided binomial p-value (1 if both numbers are 0).
    """
    run_N, baseline_N = _paired(run, baseline)
    if not np.isin(run_N, (0, 1)).all() or not np.isin(baseline_N, (0, 1)).all():
        raise MetricError("McNemar's test needs outcomes that are 0 or 1")
    won, lost = int(((run_N == 1) & (baseline_N == 0)).sum()), int(((run_N == 0) & (baseline_N == 1)).sum())
    return won, lost, min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5)))


def paired_test(run: ArrayLike, baseline: ArrayLike, clusters: Sequence[Hashable] | None = None) -> PairedTest:
    """Return the difference between two runs on the same items (in the same order), with its confidence interval and
    p-value.

    :func:`estimate` computes the interval from the differences per item. The test is McNemar's exact test if the
    outcomes are 0 or 1 and the items are independent. Otherwise it is a t test over clusters.
    """
    run_N, baseline_N = _paired(run, baseline)
    differences_N = run_N - baseline_N
    summary = estimate(differences_N, clusters)
    independent = clusters is None or summary.clusters == summary.n
    binary = bool(np.isin(run_N, (0, 1)).all() and np.isin(baseline_N, (0, 1)).all())
    if binary and independent:
        p_value, test = mcnemar_exact(run_N, baseline_N)[2], "McNemar exact"
    else:
        test = "paired t" if independent else "paired t over clusters"
        if not differences_N.any():
            p_value = 1.0
        elif summary.standard_error > 0:
            ratio = abs(summary.mean) / summary.standard_error
            p_value = float(2 * special.stdtr(summary.clusters - 1, -ratio))
        else:
            p_value = float("nan")  # one cluster, or the same difference everywhere: there is no variance to test with
    return PairedTest(
        summary.mean,
        summary.standard_error,
        summary.low,
        summary.high,
        p_value,
        test,
        int((differences_N > 0).sum()),
        int((differences_N < 0).sum()),
        summary.n,
    )


def pooled_over_seeds(run: ArrayLike, baseline: ArrayLike, clusters: Sequence[Hashable] | None = None) -> PairedTest:
    """Return the difference between two methods, each trained with S seeds, on the same N items. Seeds and items are
    both treated as random effects.

    Let d[s, n] be the difference on item n with seed s. In a crossed design, the variance of the mean of d is
    var_item / N + var_seed / S + var_residual / (S N). Its moment estimate is s2_items / N + s2_seeds / S -
    s2_residual / (S N), where s2_items is the variance of the item means, s2_seeds is the variance of the seed means,
    and s2_residual is the residual variance. The degrees of freedom follow Satterthwaite's approximation.

    Args:
        run, baseline: outcomes (S, N); rows are paired by seed. A baseline (N,) or (1, N) is shared by all seeds.
        clusters: labels of the N items. If labels are given, the clusters are the random effects instead of the items.
    """
    run_SN = np.atleast_2d(np.asarray(run, dtype=np.float64))
    baseline_SN = np.atleast_2d(np.asarray(baseline, dtype=np.float64))
    if baseline_SN.shape != run_SN.shape and baseline_SN.shape != (1, run_SN.shape[1]):
        raise MetricError(
            f"run has the shape {run_SN.shape} and baseline has the shape {baseline_SN.shape}, but the shapes (seeds, "
            "items) must be equal, or baseline must have one seed"
        )
    differences_SN = run_SN - baseline_SN
    if len(differences_SN) < 2:
        return paired_test(run_SN[0], baseline_SN[0], clusters)
    means_N = differences_SN.mean(axis=0)
    won, lost, n = int((means_N > 0).sum()), int((means_N < 0).sum()), len(means_N)
    if clusters is not None:  # cluster sums, scaled so that their mean is the mean over items
        sums = [_cluster_sums(row, clusters) for row in differences_SN]
        differences_SN = np.stack(sums) * len(sums[0]) / n
    seeds, items = differences_SN.shape
    mean = float(differences_SN.mean())
    if items < 2:  # the variance over items cannot be estimated
        return PairedTest(mean, math.nan, math.nan, math.nan, math.nan, "t over seeds and items", won, lost, n)
    seed_means_S, item_means_N = differences_SN.mean(axis=1), differences_SN.mean(axis=0)
    by_seed, by_item = seed_means_S.var(ddof=1) / seeds, item_means_N.var(ddof=1) / items
    residual_SN = differences_SN - seed_means_S[:, None] - item_means_N[None] + mean
    residual = float((residual_SN**2).sum()) / ((seeds - 1) * (items - 1)) / (seeds * items)
    variance = max(by_seed + by_item - residual, by_seed, by_item)
    if variance == 0:
        p_value = 1.0 if mean == 0 else float("nan")
        return PairedTest(mean, 0.0, mean, mean, p_value, "t over seeds and items", won, lost, n)
    parts = by_seed**2 / (seeds - 1) + by_item**2 / (items - 1)
    freedom = (by_seed + by_item) ** 2 / parts
    error = float(np.sqrt(variance))
    margin = error * float(special.stdtrit(freedom, (1 + LEVEL) / 2))
    p_value = float(2 * special.stdtr(freedom, -abs(mean) / error))
    return PairedTest(mean, error, mean - margin, mean + margin, p_value, "t over seeds and items", won, lost, n)


Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Function from weights (R, C) of the clusters of items to scores (R,)."""


def bootstrap_ratio(score: Weighted, clusters: int, *, resamples: int = 1000) -> Estimate:
    """Return a score that is not a mean over items, with the standard deviation and percentile interval over resampled
    clusters.
    """
    return _summary(score, clusters, _draws(score, clusters, resamples))


def paired_bootstrap(
    runs: Sequence[Weighted], baselines: Sequence[Weighted], clusters: int, *, resamples: int = 2000
) -> PairedTest:
    """Return the difference between two methods' scores, averaged over seeds, on the same clusters. The clusters of
    both methods are resampled together.

    Let k be the number of resampled differences that are at most zero, or the number that are at least zero, whichever
    is smaller. The p-value is 2 (k + 1) / (resamples + 1), but at most 1. Seeds are not resampled, so the interval
    covers only the variation between items.
    """

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sides = [np.mean([score(weights) for score in side], axis=0) for side in (runs, baselines)]
        return np.asarray(sides[0] - sides[1], dtype=np.float64)

    draws_R = _draws(difference, clusters, resamples)
    e = _summary(difference, clusters, draws_R)
    beyond = min(int((draws_R <= 0).sum()), int((draws_R >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (resamples + 1)) if clusters > 1 else math.nan
    name = "paired bootstrap over clusters"
    return PairedTest(e.mean, e.standard_error, e.low, e.high, p_value, name, 0, 0, clusters)


def _draws(score: Weighted, clusters: int, resamples: int) -> NDArray[np.float64]:
    """Return the scores (R,) on R resamples of the clusters. The resamples are drawn in blocks, which limits memory to
    200 x C weights.
    """
    generator = np.random.default_rng(0)
    equal = np.full(clusters, 1 / clusters)
    blocks = [min(200, resamples - start) for start in range(0, resamples, 200)]
    return np.concatenate([score(generator.multinomial(clusters, equal, size).astype(np.float64)) for size in blocks])


def _summary(score: Weighted, clusters: int, draws_R: NDArray[np.float64]) -> Estimate:
    value = float(score(np.ones((1, clusters)))[0])
    if clusters < 2:  # all resamples are the same: the spread is unknown, not zero
        return Estimate(value, math.nan, math.nan, math.nan, clusters, clusters)
    low, high = np.quantile(draws_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(draws_R.std(ddof=1)), float(low), float(high), clusters, clusters)


def unpaired(difference: float, standard_error: float) -> float:
    """Return the two-sided p-value of a difference between two independent scores under the normal approximation."""
    if not standard_error > 0:
        return 1.0 if difference == 0 else float("nan")
    return float(2 * special.ndtr(-abs(difference) / standard_error))


def _cluster_sums(values_N: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    if clusters is None:
        return values_N
    if len(clusters) != len(values_N):
        raise MetricError(
            f"the number of cluster labels must equal the number of values ({len(values_N)}), but is {len(clusters)}: "
            "pass one label per value"
        )
    index = {label: k for k, label in enumerate(dict.fromkeys(clusters))}
    return np.bincount([index[label] for label in clusters], weights=values_N, minlength=len(index)).astype(np.float64)


def _values(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise MetricError(f"a statistic needs a non-empty list of values, not an array of shape {array.shape}")
    if np.isnan(array).any():
        first = np.flatnonzero(np.isnan(array))[:5].tolist()
        raise MetricError(f"the values must not contain NaN, but do at these indices (up to five are listed): {first}")
    return array


def _paired(run: ArrayLike, baseline: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    run_N, baseline_N = _values(run), _values(baseline)
    if len(run_N) != len(baseline_N):
        raise MetricError(f"paired runs must have equal numbers of outcomes, not {len(run_N)} and {len(baseline_N)}")
    return run_N, baseline_N
