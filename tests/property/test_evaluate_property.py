"""Properties of win rates that hold for all outcomes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aligner.evaluate.metrics import ABSENT, LOSS, UNSCORED, count, interval, mean_of, omega, resample

OUTCOMES = hnp.arrays(
    np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(ABSENT, 1)
)  # fmt: skip


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_omega_is_bounded_and_turns_with_the_sides(wins, losses, ties) -> None:
    value, other = omega(wins, losses, ties), omega(losses, wins, ties)
    if value is None:
        assert wins == losses == ties == 0
    else:
        assert -100 <= value <= 100
        assert other == -value


@given(OUTCOMES)
def test_counts_add_up(outcomes) -> None:
    whole = count(outcomes)
    columns = [count(outcomes[:, i]) for i in range(outcomes.shape[1])]
    assert sum(columns[1:], columns[0]) == whole
    assert whole.n == int((outcomes != ABSENT).sum())


@given(OUTCOMES, st.integers(0, 2**32 - 1))
def test_replicates_are_rates_of_what_is_scored(outcomes, seed) -> None:
    drawn = resample(outcomes, 20, seed)
    assert drawn.shape == (20, outcomes.shape[1])
    for i in range(outcomes.shape[1]):
        scored = outcomes[:, i][outcomes[:, i] >= LOSS]
        column = drawn[:, i]
        known = column[~np.isnan(column)]
        if not len(scored):
            assert not len(known)
        elif len(known):
            assert known.min() >= 100 * scored.min() - 1e-9
            assert known.max() <= 100 * scored.max() + 1e-9
        if (outcomes[:, i] >= LOSS).all():
            assert len(known) == 20


@given(OUTCOMES, st.integers(0, 2**32 - 1))
def test_unscored_and_absent_weigh_the_same_in_the_rate(outcomes, seed) -> None:
    """Which of the two codes a missing verdict has changes the count of questions and no rate.

    Equal rows are drawn together, so the draws may differ; the point estimate may not.
    """
    other = np.where(outcomes == ABSENT, np.int8(UNSCORED), outcomes)
    assert count(outcomes).omega == count(other).omega


@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.floats(-100, 100)))
def test_the_mean_lies_between_and_intervals_are_ordered(replicates) -> None:
    mean = mean_of(list(replicates))
    assert np.allclose(mean, replicates.mean(axis=0))
    narrow, wide = interval(mean, 0.5), interval(mean, 0.99)
    assert narrow is not None
    assert wide is not None
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
