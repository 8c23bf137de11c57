"""Estimate the uncertainty of benchmark scores and of differences between runs on the same items.

Values are per-item outcomes (usually 0 or 1); ``clusters`` labels items that share an image or a group.
Array axes: S seeds, N items, C clusters.
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
    """A mean over ``n`` items in ``clusters`` independent clusters, with its standard error and confidence interval."""

    mean: float
    standard_error: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The difference between a run and a baseline on the same items.

    ``p_value`` is the p-value of the test that ``test`` names. :func:`paired_test`, :func:`pooled_over_seeds` and
    :func:`paired_bootstrap` use different tests. ``won`` counts the items on which the run is better, ``lost`` those on
    which the baseline is better.
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


MIN_ITEMS = 10
"""With fewer items, no errors, intervals or p-values are shown. With two items, for example, a t interval exceeds 100
%.
"""


def is_few(n: int | None) -> bool:
    """Return whether there are too few items for the normal approximation behind errors, intervals and p-values."""
    return n is not None and n < MIN_ITEMS


def standard_error(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float:
    """Return the standard error of the mean; with ``clusters`` it is cluster-robust (Miller 2024, section 2.2).

    The formula is sqrt(C / (C - 1) * sum over clusters of (sum of deviations)^2) / n. Without clusters every item is
    its own cluster, which gives the usual s / sqrt(n). The result is NaN for fewer than two clusters.
    """
    values_N = _values(values)
    sums_C = _cluster_sums(values_N - values_N.mean(), clusters)
    if len(sums_C) < 2:
        return float("nan")
    return float(np.sqrt(len(sums_C) / (len(sums_C) - 1) * np.sum(sums_C**2)) / len(values_N))


def estimate(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    bootstrap: int = 0,
    seed: int = 0,
) -> Estimate:
    """Return the mean with its confidence interval, which is computed with t quantiles over clusters or, if
    ``bootstrap`` > 0, from ``bootstrap`` resamples of the clusters.
    """
    values_N = _values(values)
    count = len(values_N) if clusters is None else len(set(clusters))
    error = standard_error(values_N, clusters)
    if bootstrap and count > 1:
        low, high = bootstrap_interval(values_N, clusters, level=level, resamples=bootstrap, seed=seed)
    else:
        margin = error * special.stdtrit(count - 1, (1 + level) / 2) if count > 1 else float("nan")
        low, high = values_N.mean() - margin, values_N.mean() + margin
    return Estimate(float(values_N.mean()), error, float(low), float(high), len(values_N), count)


def bootstrap_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean. Whole clusters are drawn with replacement."""
    values_N = _values(values)
    sums_C = _cluster_sums(values_N, clusters)
    sizes_C = _cluster_sums(np.ones_like(values_N), clusters)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, 200):  # in blocks, which limits memory to 200 x C
        draws = generator.integers(0, len(sums_C), (min(200, resamples - start), len(sums_C)))
        means[start : start + 200] = sums_C[draws].sum(axis=1) / sizes_C[draws].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar_exact(run: ArrayLike, baseline: ArrayLike) -> tuple[int, int, float]:
    """Apply McNemar's exact test to the outcomes (0 or 1) of two runs on the same items.

    Returns:
        The number of items that only ``run`` got right, the number that only ``baseline`` got right, and the two-sided
        binomial p-value (1 if both numbers are 0).
    """
    run_N, baseline_N = _paired(run, baseline)
    if not np.isin(run_N, (0, 1)).all() or not np.isin(baseline_N, (0, 1)).all():
        raise MetricError("McNemar's test needs outcomes of 0 or 1")
    won, lost = int(((run_N == 1) & (baseline_N == 0)).sum()), int(((run_N == 0) & (baseline_N == 1)).sum())
    return won, lost, min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5)))


def paired_test(
    run: ArrayLike, baseline: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> PairedTest:
    """Return the difference of two runs on the same items (in the same order) with confidence interval and p-value.

    The interval is computed from the (clustered) standard error of the per-item differences with t quantiles. The test
    is McNemar's exact test if the outcomes are 0 or 1 and the items are independent, otherwise a t test over clusters.
    """
    run_N, baseline_N = _paired(run, baseline)
    differences_N = run_N - baseline_N
    summary = estimate(differences_N, clusters, level=level)
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


def pooled_over_seeds(
    run: ArrayLike, baseline: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> PairedTest:
    """Return the difference of two methods, each trained with S seeds, on the same N items. Seeds and items are both
    treated as random.

    Let d[s, n] be the difference on item n with seed s. In a crossed design, the variance of the mean of d is item / N
    + seed / S + residual / (S N). Its moment estimate is s2_items / N + s2_seeds / S - s2_residual / (S N), where
    s2_items is the variance of the item means and s2_seeds that of the seed means. The degrees of freedom are
    Satterthwaite's.

    Args:
        run, baseline: outcomes (S, N); rows are paired by seed. A baseline (N,) or (1, N) is shared by all seeds.
        clusters: labels of the N items; if given, clusters replace items.
    """
    run_SN = np.atleast_2d(np.asarray(run, dtype=np.float64))
    baseline_SN = np.atleast_2d(np.asarray(baseline, dtype=np.float64))
    if baseline_SN.shape != run_SN.shape and baseline_SN.shape != (1, run_SN.shape[1]):
        raise MetricError(f"run has shape {run_SN.shape} but baseline {baseline_SN.shape}: (seeds, items) must agree")
    differences_SN = run_SN - baseline_SN
    if len(differences_SN) < 2:
        return paired_test(run_SN[0], baseline_SN[0], clusters, level=level)
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
    margin = error * float(special.stdtrit(freedom, (1 + level) / 2))
    p_value = float(2 * special.stdtr(freedom, -abs(mean) / error))
    return PairedTest(mean, error, mean - margin, mean + margin, p_value, "t over seeds and items", won, lost, n)


Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Function from weights (R, C) of the clusters of items to scores (R,)."""


def bootstrap_ratio(
    score: Weighted, clusters: int, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Return a score that is not a mean of items, with the standard deviation and percentile interval over resampled
    clusters.
    """
    value, draws_R = _draws(score, clusters, resamples, seed)
    if clusters < 2:  # all resamples are the same: the spread is unknown, not zero
        return Estimate(value, math.nan, math.nan, math.nan, clusters, clusters)
    low, high = np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(draws_R.std(ddof=1)), float(low), float(high), clusters, clusters)


def paired_bootstrap(
    runs: Sequence[Weighted],
    baselines: Sequence[Weighted],
    clusters: int,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedTest:
    """Return the difference of two methods' scores on the same clusters, which are resampled together. Scores are
    averaged over seeds.

    The p-value is twice the smaller of two shares of resampled differences, those up to zero and those from zero, and
    at least 2 / (resamples + 1). Seeds are not resampled, so the interval only covers the variance over items.
    """

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sides = [np.mean([score(weights) for score in side], axis=0) for side in (runs, baselines)]
        return np.asarray(sides[0] - sides[1], dtype=np.float64)

    value, draws_R = _draws(difference, clusters, resamples, seed)
    name = "paired bootstrap over clusters"
    if clusters < 2:
        return PairedTest(value, math.nan, math.nan, math.nan, math.nan, name, 0, 0, clusters)
    low, high = np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])
    beyond = min(int((draws_R <= 0).sum()), int((draws_R >= 0).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return PairedTest(value, float(draws_R.std(ddof=1)), float(low), float(high), p_value, name, 0, 0, clusters)


def _draws(score: Weighted, clusters: int, resamples: int, seed: int) -> tuple[float, NDArray[np.float64]]:
    """Return the score, and its values (R,) on resampled clusters. Resampling in blocks limits memory to 200 x C
    numbers.
    """
    generator = np.random.default_rng(seed)
    blocks = [min(200, resamples - start) for start in range(0, resamples, 200)]
    equal = np.full(clusters, 1 / clusters)
    draws = [score(generator.multinomial(clusters, equal, size).astype(np.float64)) for size in blocks]
    return float(score(np.ones((1, clusters)))[0]), np.concatenate(draws)


def unpaired(difference: float, standard_error: float) -> float:
    """Return the two-sided p-value of a difference of two independent scores, with the normal approximation."""
    if not standard_error > 0:
        return 1.0 if difference == 0 else float("nan")
    return float(2 * special.ndtr(-abs(difference) / standard_error))


def _cluster_sums(values_N: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> NDArray[np.float64]:
    if clusters is None:
        return values_N
    if len(clusters) != len(values_N):
        raise MetricError(f"there are {len(values_N)} values but {len(clusters)} cluster labels")
    index = {label: k for k, label in enumerate(dict.fromkeys(clusters))}
    return np.bincount([index[label] for label in clusters], weights=values_N, minlength=len(index)).astype(np.float64)


def _values(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise MetricError(f"a statistic needs a non-empty list of values, not an array of shape {array.shape}")
    if np.isnan(array).any():
        raise MetricError(f"values contain NaN at index {np.flatnonzero(np.isnan(array))[:5].tolist()}")
    return array


def _paired(run: ArrayLike, baseline: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    run_N, baseline_N = _values(run), _values(baseline)
    if len(run_N) != len(baseline_N):
        raise MetricError(f"paired runs must have the same items, not {len(run_N)} and {len(baseline_N)} outcomes")
    return run_N, baseline_N
