"""ω and its interval against numbers worked out by hand and against scipy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from aligner.evaluate.metrics import ABSENT, LOSS, TIE, UNSCORED, WIN, Counts, count, interval, mean_of, omega, resample


def codes(wins: int, losses: int, ties: int, unscored: int = 0) -> np.ndarray:
    return np.array([WIN] * wins + [LOSS] * losses + [TIE] * ties + [UNSCORED] * unscored, np.int8)


def test_omega_by_hand() -> None:
    assert omega(7, 2, 1) == pytest.approx(50.0)
    assert omega(0, 3, 0) == -100.0
    assert omega(0, 0, 4) == 0.0
    assert omega(0, 0, 0) is None


def test_unscored_counts_as_a_question_and_as_nothing_else() -> None:
    counts = count(codes(3, 1, 0, unscored=6))
    assert counts == Counts(wins=3, losses=1, ties=0, unscored=6)
    assert counts.n == 10
    assert counts.omega == pytest.approx(50.0)
    assert (counts + counts).omega == pytest.approx(50.0)
    assert count(np.array([ABSENT, ABSENT], np.int8)).n == 0


def test_replicates_of_a_tiny_sample_have_the_exact_distribution() -> None:
    """One win and one loss: a bootstrap sample is −100, 0 or 100 with chances 1/4, 1/2 and 1/4."""
    drawn = resample(codes(1, 1, 0)[:, None], 20_000, seed=3)[:, 0]
    shares = [float((drawn == value).mean()) for value in (-100.0, 0.0, 100.0)]
    assert sum(shares) == 1.0
    assert stats.chisquare(np.array(shares) * 20_000, [5_000, 10_000, 5_000]).pvalue > 1e-4


@pytest.mark.parametrize(("wins", "losses", "ties"), [(60, 25, 15), (5, 5, 90), (300, 10, 90)])
def test_interval_is_that_of_scipys_percentile_bootstrap(wins, losses, ties) -> None:
    outcomes = codes(wins, losses, ties)
    ours = interval(resample(outcomes[:, None], 20_000, seed=1)[:, 0], 0.95)
    theirs = stats.bootstrap(
        (outcomes.astype(float) * 100,), np.mean, n_resamples=20_000, confidence_level=0.95, method="percentile",
        rng=np.random.default_rng(2), batch=500,
    ).confidence_interval  # fmt: skip
    step = 100 / len(outcomes)  # ω of n questions moves in steps of 100/n
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1.5 * step)


def test_unscored_questions_are_drawn_too_as_in_scipy() -> None:
    outcomes = codes(20, 8, 4, unscored=30)
    ours = interval(resample(outcomes[:, None], 20_000, seed=5)[:, 0], 0.9)

    def ratio(values: np.ndarray, axis: int) -> np.ndarray:
        scored = values > UNSCORED
        return 100 * np.where(scored, values, 0).sum(axis=axis) / scored.sum(axis=axis)

    theirs = stats.bootstrap(
        (outcomes.astype(float),), ratio, n_resamples=20_000, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(6), batch=500,
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=2.5)


def test_means_over_upstreams_keep_what_the_answers_to_a_question_share() -> None:
    """Two upstreams that win and lose together vary as one does; two that mirror each other do not vary at all."""
    one = codes(50, 50, 0)
    together = resample(np.column_stack([one, one]), 4000, seed=0)
    mirrored = resample(np.column_stack([one, -one]), 4000, seed=0)
    assert np.allclose(mean_of([together[:, 0], together[:, 1]]), together[:, 0])
    assert np.allclose(mean_of([mirrored[:, 0], mirrored[:, 1]]), 0)
    assert together[:, 0].std() == pytest.approx(100 / np.sqrt(100), rel=0.1)


def test_joint_interval_is_scipys() -> None:
    """The mean ω of two upstreams, resampled by question, as scipy does with paired data."""
    rng = np.random.default_rng(9)
    outcomes = rng.integers(-1, 2, size=(80, 2)).astype(np.int8)
    drawn = resample(outcomes, 20_000, seed=4)
    ours = interval(mean_of([drawn[:, 0], drawn[:, 1]]), 0.95)
    theirs = stats.bootstrap(
        (outcomes[:, 0] * 100.0, outcomes[:, 1] * 100.0),
        lambda a, b, axis: (a.mean(axis=axis) + b.mean(axis=axis)) / 2,
        paired=True, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1), batch=500,
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1.0)


def test_nothing_scored_has_no_interval() -> None:
    drawn = resample(codes(0, 0, 0, unscored=5)[:, None], 10, seed=0)
    assert np.isnan(drawn).all()
    assert interval(drawn[:, 0], 0.95) is None
    assert resample(np.zeros((0, 3), np.int8), 10, seed=0).shape == (10, 3)


def test_a_replicate_with_one_upstream_unscored_is_the_mean_of_the_others() -> None:
    a, b = np.array([10.0, np.nan, np.nan]), np.array([30.0, 50.0, np.nan])
    assert mean_of([a, b]) == pytest.approx([20.0, 50.0, np.nan], nan_ok=True)


def test_the_seed_decides() -> None:
    outcomes = codes(5, 4, 3)[:, None]
    assert np.array_equal(resample(outcomes, 50, seed=[1, 2]), resample(outcomes, 50, seed=[1, 2]))
    assert not np.array_equal(resample(outcomes, 50, seed=[1, 2]), resample(outcomes, 50, seed=[1, 3]))


def test_a_million_questions_take_no_memory_of_their_number_times_the_resamples() -> None:
    outcomes = np.random.default_rng(0).integers(-2, 2, size=(1_000_000, 3)).astype(np.int8)
    tracemalloc.start()
    drawn = resample(outcomes, 1000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    # A third each of wins, losses and ties among the scored three quarters: the standard error is known.
    assert drawn[:, 0].std() == pytest.approx(100 * np.sqrt(2 / 3 / 750_000), rel=0.15)
