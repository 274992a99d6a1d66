"""Ratings of any set of systems from comparisons of two at a time: Bradley-Terry strengths and Elo, with intervals."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from aligner.errors import ConfigError, DataError
from aligner.evaluate.metrics import interval
from aligner.evaluate.resampling import resampled

Wins = Float[np.ndarray, "tables systems systems"]
Strengths = Float[np.ndarray, "tables systems"]

# A difference of 400 Elo points stands for odds of ten to one; ratings are centred on 1000.
POINTS = 400 / math.log(10)
CENTRE = 1000.0
_MOST_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One verdict on two systems' answers. The score is 1 (first won), 0.5 (tie), 0 (second won) or between; None is
    not scored.
    """

    question: str
    first: str
    second: str
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A system's rating in Elo points, its interval (None where nothing was resampled), and its verdicts."""

    system: str
    rating: float
    interval: tuple[float, float] | None
    comparisons: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Scored comparisons as arrays: the place of the question and of each system, and the first system's score."""

    systems: tuple[str, ...]
    questions: int
    question: Int64[np.ndarray, " rows"]
    first: Int64[np.ndarray, " rows"]
    second: Int64[np.ndarray, " rows"]
    score: Float[np.ndarray, " rows"]
    unscored: int

    def played(self) -> Int64[np.ndarray, " systems"]:
        """How many comparisons each system has."""
        both = np.concatenate([self.first, self.second])
        return np.bincount(both, minlength=len(self.systems)).astype(np.int64)


def collect(rows: Iterable[Comparison]) -> Comparisons:
    """Put comparisons into arrays; systems come in the order of their names.

    Raises:
        DataError: a system is compared with itself, a score is not from 0 to 1, or nothing is scored.
    """
    questions: dict[str, int] = {}
    systems: dict[str, int] = {}
    columns, scores = (array("q"), array("q"), array("q")), array("d")
    unscored = 0
    for row in rows:
        if row.first == row.second:
            raise DataError(f"question {row.question!r}: '{row.first}' is compared with itself; leave such rows out")
        if row.score is None:
            unscored += 1
            continue
        if not 0 <= row.score <= 1:
            raise DataError(f"question {row.question!r}: the score is {row.score}; it must be from 0 to 1")
        columns[0].append(questions.setdefault(row.question, len(questions)))
        columns[1].append(systems.setdefault(row.first, len(systems)))
        columns[2].append(systems.setdefault(row.second, len(systems)))
        scores.append(row.score)
    if not scores:
        raise DataError(f"none of {unscored} comparisons is scored; ratings need some that are")
    names = sorted(systems)
    rank = np.empty(len(names), np.int64)
    rank[[systems[name] for name in names]] = np.arange(len(names))
    question, first, second = (np.array(column) for column in columns)
    return Comparisons(
        systems=tuple(names),
        questions=len(questions),
        question=question,
        first=rank[first],
        second=rank[second],
        score=np.array(scores),
        unscored=unscored,
    )


def bradley_terry(
    comparisons: Comparisons,
    *,
    prior: float = 0.1,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Rating]:
    """Maximum likelihood strengths of P(i beats j) = σ(s_i − s_j) (Bradley & Terry 1952), best first.

    A tie is half a win for each. Strengths are told in Elo points with the mean of the systems at 1000.

    Args:
        comparisons: of any set of systems; not every pair has to be there.
        prior: ties with an imagined average system that each system is given. They keep the strength of one that never
            lost finite. 0 is plain maximum likelihood; bootstrap samples, which may lack losses, have at least 0.001.
        resamples, confidence, seed: of the intervals, which resample questions with all their comparisons.

    Raises:
        ConfigError: the prior is negative.
        DataError: without a prior, the strengths of some systems cannot be compared or are infinite.
    """
    if prior < 0:
        raise ConfigError(f"prior is {prior}; it must be 0 (plain maximum likelihood) or more")
    size = len(comparisons.systems)
    cells, patterns = _cells(comparisons)
    table = np.bincount(cells, patterns, minlength=size * size).reshape(1, size, size)
    if not prior and not _connected(table[0] > 0):
        raise DataError("ratings: some systems never lost to, or never met, the others, so that no finite strengths "
                        "fit best; set a prior above 0, or leave them out")  # fmt: skip
    drawn = resampled(
        lambda weights: _strengths(_tables(weights, comparisons), max(prior, 1e-3)),
        comparisons.questions,
        resamples,
        seed,
        width=max(4 * len(comparisons.score), 8 * size * size),
    )
    return _rated(comparisons, _strengths(table, prior)[0], drawn, confidence)


def elo(
    comparisons: Comparisons,
    *,
    k: float = 4.0,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Rating]:
    """Elo ratings (Elo 1978), best first: after each verdict, the winner takes k · (1 − its expected score).

    Elo depends on the order of the verdicts, which has no meaning here, so that a rating is the mean over `resamples`
    shuffles of all verdicts, and its interval is over as many bootstrap samples of the questions, shuffled. It takes a
    step of Python per verdict; with millions of them, or systems far apart, use `bradley_terry`, which it approaches.

    Args:
        comparisons: of any set of systems.
        k: points that a verdict can move at most.
        resamples: shuffles, and bootstrap samples; at least 1.
        confidence, seed: of the intervals.

    Raises:
        ConfigError: k or resamples is not above 0.
    """
    if k <= 0 or resamples < 1:
        raise ConfigError(f"k is {k} and resamples is {resamples}; both must be above 0")
    rng = np.random.default_rng(seed)
    rows = len(comparisons.score)
    block = max(1, (1 << 23) // rows)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    every = np.arange(rows)
    plain = [_play(comparisons, rng.permuted(np.tile(every, (n, 1)), axis=1), k) for n in sizes]
    by_question = np.argsort(comparisons.question, kind="stable")
    ends = np.cumsum(np.bincount(comparisons.question, minlength=comparisons.questions))

    def sample(n: int) -> Strengths:
        orders = []
        for _ in range(n):
            chosen = rng.integers(comparisons.questions, size=comparisons.questions)
            spans = [by_question[(ends[q - 1] if q else 0) : ends[q]] for q in chosen]
            orders.append(rng.permutation(np.concatenate(spans)))
        longest = max(map(len, orders))
        padded = np.array([np.concatenate([o, np.full(longest - len(o), -1)]) for o in orders])
        return _play(comparisons, padded, k)

    drawn = np.concatenate([sample(n) for n in sizes])
    return _rated(comparisons, np.concatenate(plain).mean(axis=0) / POINTS, drawn / POINTS, confidence)


def _play(comparisons: Comparisons, orders: Int64[np.ndarray, "tables turns"], k: float) -> Strengths:
    """Ratings after the verdicts in each order; −1 is no verdict. One step for all orders at a time."""
    ratings = np.zeros((len(orders), len(comparisons.systems)))
    games = np.arange(len(orders))
    for turn in orders.T:
        first, second = comparisons.first[turn], comparisons.second[turn]
        gap = (ratings[games, first] - ratings[games, second]) / POINTS
        change = k * np.where(turn >= 0, comparisons.score[turn] - 0.5 * (1 + np.tanh(gap / 2)), 0.0)
        ratings[games, first] += change
        ratings[games, second] -= change
    return ratings


def _cells(comparisons: Comparisons) -> tuple[Int64[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """For both sides of each row: the cell of the table of wins that it counts in, and by how much."""
    size = len(comparisons.systems)
    cells = np.concatenate(
        [comparisons.first * size + comparisons.second, comparisons.second * size + comparisons.first]
    )
    return cells, np.concatenate([comparisons.score, 1 - comparisons.score])


def _tables(weights: Float[np.ndarray, "tables questions"], comparisons: Comparisons) -> Wins:
    """Wins of each system (row) over each other (column) in bootstrap samples."""
    size = len(comparisons.systems)
    cells, scores = _cells(comparisons)
    order = np.argsort(cells, kind="stable")
    questions = np.concatenate([comparisons.question, comparisons.question])[order]
    met, starts = np.unique(cells[order], return_index=True)
    found = np.zeros((len(weights), size * size))
    found[:, met] = np.add.reduceat(weights[:, questions] * scores[order], starts, axis=1)
    return found.reshape(-1, size, size)


def _strengths(wins: Wins, prior: float) -> Strengths:
    """Newton's method on every table; the mean strength is 0 unless the prior says otherwise."""
    games = wins + wins.transpose(0, 2, 1)
    won = wins.sum(axis=2)
    size = wins.shape[1]
    s = np.zeros((len(wins), size))
    eye = np.eye(size)
    # A constant added to all strengths changes no chance; without a prior this fixes their mean at 0.
    fixed = np.full((size, size), 1 / size) if prior == 0 else np.zeros((size, size))
    for _ in range(_MOST_STEPS):
        p = 0.5 * (1 + np.tanh((s[:, :, None] - s[:, None, :]) / 2))
        q = 0.5 * (1 + np.tanh(s / 2))
        gradient = won - (games * p).sum(axis=2) + prior * (0.5 - q)
        bends = games * p * (1 - p)
        hessian = (bends.sum(axis=2) + prior * q * (1 - q))[:, :, None] * eye - bends + fixed
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        s += step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True))
        if np.abs(step).max() < 1e-10:
            break
    centred: Strengths = s - s.mean(axis=1, keepdims=True)
    return centred


def _connected(beat: np.ndarray) -> bool:
    """Whether every system is reached from every other through wins: just then finite strengths exist (Ford 1957)."""
    reached = beat | np.eye(len(beat), dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(len(beat))))):
        reached = (reached.astype(np.int64) @ reached.astype(np.int64)) > 0
    return bool(reached.all())


def _rated(
    comparisons: Comparisons, strengths: Float[np.ndarray, " systems"], drawn: Strengths, confidence: float
) -> list[Rating]:
    played = comparisons.played()
    found = [
        Rating(
            system=name,
            rating=CENTRE + POINTS * float(strengths[i]),
            interval=_scaled(interval(drawn[:, i], confidence)) if len(drawn) else None,
            comparisons=int(played[i]),
        )
        for i, name in enumerate(comparisons.systems)
    ]
    return sorted(found, key=lambda rating: -rating.rating)


def _scaled(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (CENTRE + POINTS * bounds[0], CENTRE + POINTS * bounds[1])
