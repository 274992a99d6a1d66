"""Cohen's κ against numbers worked out by hand and scikit-learn, and flips."""

from __future__ import annotations

import numpy as np
import pytest

from aligner.errors import DataError
from aligner.evaluate.agreement import cohens_kappa, flip_rate

# 20 yes-yes, 15 no-no, 5 yes-no and 10 no-yes: p_o = 0.7, p_e = 0.5 · 0.6 + 0.5 · 0.4 = 0.5, κ = 0.4.
FIRST = ["yes"] * 20 + ["no"] * 15 + ["yes"] * 5 + ["no"] * 10
SECOND = ["yes"] * 20 + ["no"] * 15 + ["no"] * 5 + ["yes"] * 10


def test_kappa_by_hand() -> None:
    found = cohens_kappa(FIRST, SECOND)
    assert found.kappa == pytest.approx(0.4)
    assert found.agreed == pytest.approx(0.7)
    assert found.n == 50
    assert found.interval is not None
    # Its large-sample standard error is √(0.7 · 0.3 / 50) / 0.5 = 0.13.
    assert (found.interval[1] - found.interval[0]) / (2 * 1.96) == pytest.approx(0.13, rel=0.15)


def test_kappa_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = np.array(["candidate", "baseline", "tie"])
    first = labels[rng.integers(0, 3, 300)]
    second = np.where(rng.random(300) < 0.6, first, labels[rng.integers(0, 3, 300)])
    ours = cohens_kappa(first.tolist(), second.tolist(), resamples=0)
    assert ours.kappa == pytest.approx(metrics.cohen_kappa_score(first, second))


def test_unscored_is_left_out_and_counted() -> None:
    found = cohens_kappa([*FIRST, None, "yes", None], [*SECOND, "yes", None, None])
    assert found.kappa == pytest.approx(0.4)
    assert (found.n, found.unscored) == (50, 3)


def test_what_is_not_defined_is_none() -> None:
    always = cohens_kappa(["tie"] * 5, ["tie"] * 5)
    assert (always.kappa, always.interval, always.agreed) == (None, None, 1.0)
    nothing = cohens_kappa([None], ["tie"])
    assert (nothing.kappa, nothing.agreed, nothing.n) == (None, None, 0)
    assert flip_rate([], []) is None


def test_options_decide() -> None:
    wide, narrow = cohens_kappa(FIRST, SECOND, seed=1), cohens_kappa(FIRST, SECOND, seed=1, confidence=0.5)
    assert wide.interval is not None
    assert narrow.interval is not None
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]
    assert cohens_kappa(FIRST, SECOND, seed=1) == wide
    assert cohens_kappa(FIRST, SECOND, seed=2, resamples=50).interval != wide.interval
    assert cohens_kappa(FIRST, SECOND, resamples=0).interval is None


def test_judges_of_different_numbers_of_questions_are_refused() -> None:
    with pytest.raises(DataError, match="2 verdicts and the other 1"):
        cohens_kappa(["a", "b"], ["a"])


def test_flip_rate() -> None:
    assert flip_rate(["candidate", "baseline", "tie", None], ["candidate", "candidate", "tie", "tie"]) == pytest.approx(
        1 / 3
    )
