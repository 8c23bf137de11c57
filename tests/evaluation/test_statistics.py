"""Compare statistics with closed forms, scipy and statsmodels, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from scramble.evaluation.scoring import statistics
from scramble.evaluation.scoring.metrics import MetricError

rng = np.random.default_rng


def test_standard_error_is_the_usual_one_without_clusters():
    values = rng(0).integers(0, 2, 400).astype(float)
    assert statistics.standard_error(values) == pytest.approx(stats.sem(values))
    assert statistics.standard_error(values, list(range(400))) == pytest.approx(stats.sem(values))


def test_clusters_of_copies_carry_no_more_information():
    """Each value is copied five times: the clustered error equals that of the 80 originals, and the unclustered error
    is smaller."""
    original = rng(1).integers(0, 2, 80).astype(float)
    copied, clusters = np.repeat(original, 5), np.repeat(np.arange(80), 5).tolist()
    assert statistics.standard_error(copied, clusters) == pytest.approx(stats.sem(original))
    assert statistics.standard_error(copied) < statistics.standard_error(copied, clusters) / 2


def test_clustered_error_agrees_with_statsmodels():
    import statsmodels.api as sm

    clusters = rng(2).integers(0, 30, 200)
    values = rng(3).random(200) + 0.5 * rng(4).random(30)[clusters]
    fit = sm.OLS(values, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    count = len(set(clusters.tolist()))
    assert statistics.standard_error(values, clusters.tolist()) == pytest.approx(
        fit.bse[0] * np.sqrt(count / (count - 1))
    )


def test_mcnemar_by_hand():
    """Of 8 discordant items, 7 favour one side: p = 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256."""
    run, baseline = [1] * 7 + [0] + [1] * 10 + [0] * 5, [0] * 7 + [1] + [1] * 10 + [0] * 5
    assert statistics.mcnemar_exact(run, baseline) == (7, 1, pytest.approx(18 / 256))
    assert statistics.mcnemar_exact(run, run) == (0, 0, 1.0)


def test_paired_test_is_sharper_than_an_unpaired_one():
    baseline = rng(6).integers(0, 2, 400).astype(float)
    run = baseline.copy()
    run[np.flatnonzero(baseline == 0)[:20]] = 1
    result = statistics.paired_test(run, baseline)
    assert result.test == "McNemar exact"
    assert (result.difference, result.won, result.lost) == (pytest.approx(0.05), 20, 0)
    assert result.p_value < 1e-4
    assert result.low > 0
    unpaired = stats.ttest_ind(run, baseline).pvalue
    assert unpaired > 0.05


def test_paired_test_uses_clusters():
    clusters = np.repeat(np.arange(50), 4).tolist()
    baseline = rng(7).integers(0, 2, 200).astype(float)
    run = rng(8).integers(0, 2, 200).astype(float)
    assert statistics.paired_test(run, baseline, clusters).test == "paired t over clusters"
    assert statistics.paired_test(run, run, clusters).p_value == 1.0


def test_pooled_over_seeds_covers_the_truth():
    """With item, seed and residual variance, the 95 % interval covers the mean in 92 to 99 % of draws."""
    generator, covered, trials = rng(9), 0, 400
    for _ in range(trials):
        items, seeds = generator.normal(0, 0.3, 200), generator.normal(0, 0.03, 5)
        run = 0.1 + items[None] + seeds[:, None] + generator.normal(0, 0.4, (5, 200))
        result = statistics.pooled_over_seeds(run, np.zeros(200))
        covered += result.low <= 0.1 <= result.high
    assert 0.92 < covered / trials < 0.99


def test_pooled_over_one_seed_is_the_paired_test():
    run, baseline = rng(10).integers(0, 2, 100), rng(11).integers(0, 2, 100)
    assert statistics.pooled_over_seeds([run], [baseline]) == statistics.paired_test(run, baseline)


def test_pooling_clusters_of_copies_equals_pooling_the_originals():
    run = rng(12).integers(0, 2, (3, 60)).astype(float)
    copied, clusters = np.repeat(run, 4, axis=1), np.repeat(np.arange(60), 4).tolist()
    one = statistics.pooled_over_seeds(run, np.zeros(60))
    many = statistics.pooled_over_seeds(copied, np.zeros(240), clusters)
    assert (many.low, many.high, many.p_value) == pytest.approx((one.low, one.high, one.p_value))


def test_bootstrap_of_a_mean_written_as_a_ratio():
    """A plain mean over clusters of one item has the usual standard error and paired p-value."""
    values, other = rng(13).integers(0, 2, (2, 400)).astype(float)

    def mean(of):
        return lambda weights: weights @ of / weights.sum(axis=1)

    e = statistics.bootstrap_ratio(mean(values), 400, resamples=4000)
    assert e.mean == pytest.approx(values.mean())
    assert e.standard_error == pytest.approx(stats.sem(values), rel=0.05)
    paired, exact = (
        statistics.paired_bootstrap([mean(values)], [mean(other)], 400),
        statistics.paired_test(values, other),
    )
    assert paired.difference == pytest.approx(exact.difference)
    assert (paired.low, paired.high) == pytest.approx((exact.low, exact.high), abs=0.01)
    assert paired.p_value == pytest.approx(exact.p_value, abs=0.06)
    same = statistics.paired_bootstrap([mean(values)] * 2, [mean(values)], 400)
    assert (same.difference, same.p_value) == (0, 1)


def test_paired_bootstrap_keeps_its_level():
    """Without a true difference, 5 % of draws are significant, within sampling error."""
    significant, trials = 0, 200
    for seed in range(trials):
        both = (rng(seed).random((2, 80)) < 0.5).astype(float)
        sides = [lambda w, v=v: w @ v / w.sum(axis=1) for v in both]
        significant += statistics.paired_bootstrap(sides[:1], sides[1:], 80, resamples=400).p_value < 0.05
    assert significant / trials < 0.11


def test_unpaired_by_hand():
    assert statistics.unpaired(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert statistics.unpaired(0.0, 0.0) == 1


def test_bad_input():
    with pytest.raises(MetricError, match="not 3 and 2"):
        statistics.paired_test([1, 0, 1], [1, 0])
    with pytest.raises(MetricError, match=r"must not contain NaN.*\[1\]"):
        statistics.estimate([1.0, float("nan")])
    with pytest.raises(MetricError, match="outcomes that are 0 or 1"):
        statistics.mcnemar_exact([0.5], [1])
    with pytest.raises(MetricError, match="cluster labels"):
        statistics.standard_error([1, 0], ["a"])


def test_one_item_has_a_value_and_no_interval():
    """With one cluster, error, interval and (by resampling) p-value are undefined, not zero."""
    one = statistics.estimate([1.0], ["a"])
    ratio = statistics.bootstrap_ratio(lambda w: w[:, 0], 1)
    for e in (one, ratio):
        assert e.mean == 1.0 and all(math.isnan(v) for v in (e.standard_error, e.low, e.high))
    for test, difference, p_value in (
        (statistics.paired_test([1.0], [1.0], ["a"]), 0.0, 1.0),
        (statistics.paired_test([1.0], [0.0], ["a"]), 1.0, 1.0),
        (statistics.paired_bootstrap([lambda w: w[:, 0]], [lambda w: 0 * w[:, 0]], 1), 1.0, None),
        (statistics.pooled_over_seeds([[1.0], [0.0]], [[0.0], [0.0]]), 0.5, None),
    ):
        assert test.difference == difference
        assert all(math.isnan(v) for v in (test.standard_error, test.low, test.high))
        assert math.isnan(test.p_value) if p_value is None else test.p_value == p_value
