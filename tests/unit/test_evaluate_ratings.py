"""Ratings against independent fits, by hand, and where they have no answer."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import optimize

from aligner.errors import ConfigError, DataError
from aligner.evaluate.ratings import POINTS, Comparison, Comparisons, bradley_terry, collect, elo


def played(strengths: dict[str, float], questions: int, seed: int) -> Iterator[Comparison]:
    """Every pair on every question, won as Bradley and Terry say; a tenth are ties and some are not scored."""
    rng = np.random.default_rng(seed)
    names = list(strengths)
    for question in range(questions):
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                chance = 1 / (1 + math.exp(strengths[second] - strengths[first]))
                score = 0.5 if rng.random() < 0.1 else float(rng.random() < chance)
                yield Comparison(
                    question=str(question), first=first, second=second, score=None if rng.random() < 0.05 else score
                )


def by_name(ratings: list) -> dict[str, float]:
    return {r.system: r.rating for r in ratings}


@pytest.mark.parametrize("prior", [0.0, 0.1, 5.0])
def test_bradley_terry_is_an_independent_fit(prior: float) -> None:
    """scipy minimises the log loss written out row by row."""
    rows = list(played({"a": 1.0, "b": 0.0, "c": -0.5, "d": 0.3}, 60, 0))
    names = ["a", "b", "c", "d"]

    def loss(s: np.ndarray) -> float:
        total = prior / 2 * sum(math.log1p(math.exp(v)) + math.log1p(math.exp(-v)) for v in s)
        for row in rows:
            if row.score is not None:
                gap = s[names.index(row.first)] - s[names.index(row.second)]
                total += row.score * math.log1p(math.exp(-gap)) + (1 - row.score) * math.log1p(math.exp(gap))
        return total + (s.sum() ** 2 if not prior else 0.0)

    theirs = optimize.minimize(loss, np.zeros(4), tol=1e-10).x
    ours = by_name(bradley_terry(collect(rows), prior=prior, resamples=0))
    expected = 1000 + POINTS * (theirs - theirs.mean())
    assert [ours[name] for name in names] == pytest.approx(expected, abs=0.02)


def test_bradley_terry_is_scikit_learns_logistic_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rows = [r for r in played({"a": 1.0, "b": 0.0, "c": -0.5}, 80, 1) if r.score in (0.0, 1.0)]
    design = np.array([[(r.first == n) - (r.second == n) for n in "abc"] for r in rows])
    fitted = linear_model.LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10).fit(design, [r.score for r in rows])
    ours = by_name(bradley_terry(collect(rows), prior=0, resamples=0))
    theirs = fitted.coef_[0] - fitted.coef_[0].mean()
    assert [ours[n] for n in "abc"] == pytest.approx(1000 + POINTS * theirs, abs=0.1)


def test_two_systems_by_hand() -> None:
    """10 wins to 1 are odds of ten to one, which are 400 points, 200 to each side of 1000."""
    rows = [Comparison(question=str(i), first="x", second="y", score=float(i < 10)) for i in range(11)]
    first, second = bradley_terry(collect(rows), prior=0, resamples=0)
    assert (first.system, second.system) == ("x", "y")
    assert (first.rating, second.rating) == pytest.approx((1200, 800))
    assert first.interval is None
    assert first.comparisons == 11


def test_intervals_resample_questions_not_comparisons() -> None:
    """Twenty copies of each verdict make nothing surer under one question, and do under questions of their own."""
    rows = [r for r in played({"a": 0.4, "b": 0.0}, 60, 3) if r.score is not None]
    same = [r for r in rows for _ in range(20)]
    apart = [
        Comparison(question=f"{r.question}-{i}", first=r.first, second=r.second, score=r.score)
        for r in rows
        for i in range(20)
    ]
    widths = []
    for sample in (rows, same, apart):
        low, high = bradley_terry(collect(sample), resamples=400, prior=0.01)[0].interval or (0, 0)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] == pytest.approx(widths[0] / math.sqrt(20), rel=0.2)


def test_intervals_cover_the_truth() -> None:
    truth = {"a": 0.6, "b": 0.0, "c": -0.6}
    covered = 0
    for seed in range(100):
        found = bradley_terry(collect(played(truth, 80, seed)), resamples=200, seed=seed, prior=0.01)
        # Ties shrink strengths, but b stays halfway between the others, at the mean.
        low, high = next(r.interval for r in found if r.system == "b") or (0, 0)
        covered += low <= 1000 <= high
    assert 88 <= covered <= 99


def test_without_a_prior_an_unbeaten_system_has_no_strength() -> None:
    rows = [Comparison(question=str(i), first="best", second="worst", score=1.0) for i in range(5)]
    with pytest.raises(DataError, match="never lost"):
        bradley_terry(collect(rows), prior=0)
    best, worst = bradley_terry(collect(rows), resamples=50)
    assert 1000 < best.rating < 3000
    assert best.rating - 1000 == pytest.approx(1000 - worst.rating)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Comparison(question="q", first="a", second="a", score=1.0), "compared with itself"),
        (Comparison(question="q", first="a", second="b", score=2.0), "from 0 to 1"),
        (Comparison(question="q", first="a", second="b", score=float("nan")), "from 0 to 1"),
        (Comparison(question="q", first="a", second="b", score=None), "none of 1"),
    ],
)
def test_bad_rows_are_told(row: Comparison, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collect([row])


def test_unscored_is_counted_and_is_no_tie() -> None:
    rows = [Comparison(question=str(i), first="a", second="b", score=s) for i, s in enumerate([1.0, 0.0, 1.0, None])]
    found = collect(rows)
    assert found.unscored == 1
    assert by_name(bradley_terry(found, prior=0, resamples=0))["a"] == pytest.approx(1000 + POINTS * math.log(2) / 2)


def test_elo_of_one_verdict_by_hand() -> None:
    """Even systems expect half a point each, so that the winner takes k / 2."""
    winner, loser = elo(collect([Comparison(question="q", first="a", second="b", score=1.0)]), k=32, resamples=3)
    assert (winner.system, winner.rating, loser.rating) == ("a", 1016.0, 984.0)
    assert winner.interval == (1016.0, 1016.0)


def test_elo_is_the_plain_loop_and_forgets_the_order() -> None:
    rows = [r for r in played({"a": 0.5, "b": 0.0, "c": -0.5}, 5, 2) if r.score is not None]
    comparisons = collect(rows)
    rng = np.random.default_rng(8)
    finals = []
    for _ in range(2000):
        ratings = dict.fromkeys("abc", 1000.0)
        for i in rng.permutation(len(rows)):
            row = rows[i]
            expected = 1 / (1 + 10 ** ((ratings[row.second] - ratings[row.first]) / 400))
            change = 16 * (float(row.score or 0.0) - expected)
            ratings[row.first] += change
            ratings[row.second] -= change
        finals.append([ratings[name] for name in "abc"])
    ours = by_name(elo(comparisons, k=16, resamples=2000))
    assert [ours[name] for name in "abc"] == pytest.approx(np.mean(finals, axis=0), abs=0.3)


def test_elo_approaches_bradley_terry() -> None:
    comparisons = collect(played({"a": 0.5, "b": 0.0, "c": -0.5}, 400, 2))
    ours, theirs = by_name(elo(comparisons, k=4, resamples=50)), by_name(bradley_terry(comparisons, resamples=0))
    assert max(abs(ours[n] - theirs[n]) for n in "abc") < 12


def test_the_seed_and_the_options_decide() -> None:
    comparisons = collect(played({"a": 0.5, "b": 0.0}, 30, 2))
    for rate in (bradley_terry, elo):
        one, again = rate(comparisons, resamples=40, seed=1), rate(comparisons, resamples=40, seed=1)
        other, narrow = rate(comparisons, resamples=40, seed=2), rate(comparisons, resamples=40, seed=1, confidence=0.5)
        assert one == again
        assert one[0].interval != other[0].interval
        assert narrow[0].interval != one[0].interval
    with pytest.raises(ConfigError, match="prior"):
        bradley_terry(comparisons, prior=-1)
    with pytest.raises(ConfigError, match="k is 0"):
        elo(comparisons, k=0)


def test_many_comparisons_take_no_memory_of_their_number_times_the_resamples() -> None:
    rng = np.random.default_rng(0)
    rows = 200_000
    first = rng.integers(0, 5, rows)
    comparisons = Comparisons(
        systems=tuple("abcde"), questions=50_000, question=rng.integers(0, 50_000, rows), first=first,
        second=(first + rng.integers(1, 5, rows)) % 5, score=rng.integers(0, 2, rows).astype(float), unscored=0,
    )  # fmt: skip
    tracemalloc.start()
    found = bradley_terry(comparisons, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6
    assert all(abs(r.rating - 1000) < 10 for r in found)
