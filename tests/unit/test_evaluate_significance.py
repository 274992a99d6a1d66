"""The paired comparison of two correctors against scipy's tests and bootstrap."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from aligner.errors import DataError
from aligner.evaluate.metrics import ABSENT, LOSS, TIE, UNSCORED, WIN
from aligner.evaluate.significance import compare_paired, sign_flip


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.int8)


def test_without_ties_it_is_mcnemars_exact_test() -> None:
    """30 questions on which only the second wins and 14 on which only the first does."""
    first = codes(*[LOSS] * 30, *[WIN] * 14, *[WIN] * 20)
    second = codes(*[WIN] * 30, *[LOSS] * 14, *[WIN] * 20)
    found = compare_paired(first, second)
    assert found.p_value == pytest.approx(stats.binomtest(30, 44).pvalue, abs=1e-9)
    assert (found.better, found.worse, found.regressions, found.pairs) == (30, 14, 14, 64)
    assert found.difference == pytest.approx(100 * 2 * 16 / 64)


def test_sign_flip_is_scipys_exact_permutation_test() -> None:
    differences = np.array([2, 1, -1, 0, 2, 1, 1, -2, 1, 2, 0, 1])
    theirs = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue, abs=1e-9)


def test_sign_flip_of_hundreds_of_upstreams_and_a_million_questions() -> None:
    rng = np.random.default_rng(0)
    large = rng.integers(-300, 301, 400)
    z = large.sum() / np.sqrt((large**2).sum())
    assert sign_flip(large) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.002)
    many = rng.integers(-2, 3, 1_000_000)
    begin = time.monotonic()
    p = sign_flip(many)
    assert time.monotonic() - begin < 10
    z = many.sum() / np.sqrt((many**2).sum())
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.002)


def test_p_values_are_uniform_where_the_correctors_are_alike() -> None:
    rng = np.random.default_rng(4)
    values = [sign_flip(rng.integers(-2, 3, 60)) for _ in range(500)]
    assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(np.array(values) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_alike_is_no_difference() -> None:
    same = codes(WIN, LOSS, TIE)
    found = compare_paired(same, same)
    assert (found.difference, found.p_value, found.interval) == (0.0, 1.0, (0.0, 0.0))


def test_interval_is_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(2)
    first = rng.integers(-1, 2, 120).astype(np.int8)
    second = np.maximum(first, rng.integers(-1, 2, 120)).astype(np.int8)
    ours = compare_paired(first, second, resamples=20_000, seed=1).interval
    theirs = stats.bootstrap(
        (first * 100.0, second * 100.0), lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis), paired=True,
        n_resamples=20_000, method="percentile", rng=np.random.default_rng(3), batch=500,
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1.5)


def test_only_what_both_have_scored_is_compared() -> None:
    first = np.array([[WIN, UNSCORED], [LOSS, ABSENT], [TIE, LOSS]], np.int8)
    second = np.array([[WIN, LOSS], [UNSCORED, ABSENT], [WIN, LOSS]], np.int8)
    found = compare_paired(first, second)
    assert (found.pairs, found.unpaired, found.better, found.worse) == (3, 2, 1, 0)
    assert found.difference == pytest.approx(100 / 3)
    nothing = compare_paired(codes(UNSCORED), codes(WIN))
    assert (nothing.difference, nothing.interval, nothing.p_value) == (None, None, None)


def test_options_decide_and_shapes_must_match() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(-1, 2, (2, 80)).astype(np.int8)
    wide, narrow = compare_paired(first, second), compare_paired(first, second, confidence=0.5)
    assert wide.interval is not None
    assert narrow.interval is not None
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]
    assert compare_paired(first, second, seed=3, resamples=50).interval != wide.interval
    with pytest.raises(DataError, match="same answers"):
        compare_paired(first, second[:3])
