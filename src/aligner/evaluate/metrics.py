"""Win rates and how sure they are: pure functions on small integer codes, one row per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8

from aligner.evaluate.resampling import resampled

# Codes of one answer. What is unscored counts as a question, but neither as a win nor as a loss nor as a tie; what is
# absent (another upstream's, another split's) does not count at all.
WIN, TIE, LOSS, UNSCORED, ABSENT = 1, 0, -1, -2, -3

Outcomes = Int8[np.ndarray, "questions upstreams"]
AnyOutcomes = Int8[np.ndarray, "*any"]
Replicates = Float[np.ndarray, " resamples"]
Numbers = Float[np.ndarray, "*any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Outcomes of some answers."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    unscored: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            wins=self.wins + other.wins,
            losses=self.losses + other.losses,
            ties=self.ties + other.ties,
            unscored=self.unscored + other.unscored,
        )

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties + self.unscored

    @property
    def omega(self) -> float | None:
        return omega(self.wins, self.losses, self.ties)


def omega(wins: int, losses: int, ties: int) -> float | None:
    """ω = (wins − losses) / (wins + losses + ties), in per cent (paper, section 4); None where nothing is scored."""
    scored = wins + losses + ties
    return 100.0 * (wins - losses) / scored if scored else None


def count(outcomes: AnyOutcomes) -> Counts:
    """Count the codes of an array of any shape."""
    wins, losses, ties, unscored = (int((outcomes == code).sum()) for code in (WIN, LOSS, TIE, UNSCORED))
    return Counts(wins=wins, losses=losses, ties=ties, unscored=unscored)


def resample(outcomes: Outcomes, resamples: int, seed: int | Sequence[int]) -> Float[np.ndarray, "resamples upstreams"]:
    """ω in per cent of each upstream in bootstrap samples of the questions; NaN where a sample has nothing scored.

    A question is drawn with its answers by all upstreams, so that means over upstreams keep what the answers to one
    question have in common. Questions with the same outcomes are drawn together as one multinomial count, which is the
    same draw: the memory depends on how many different rows there are and is bounded by blocks, not on how many
    questions (Efron 1979).
    """
    if not len(outcomes):
        return np.full((resamples, outcomes.shape[1]), np.nan)
    patterns, repeats = np.unique(outcomes, axis=0, return_counts=True)
    scored = (patterns >= LOSS).astype(np.float64)
    gains = np.where(patterns >= LOSS, patterns, 0).astype(np.float64)
    return resampled(lambda counts: 100.0 * _ratio(counts @ gains, counts @ scored), repeats, resamples, seed)


def mean_of(replicates: Sequence[Replicates]) -> Replicates:
    """The mean of several measurements in each bootstrap sample, over those that are numbers there."""
    stacked = np.stack(replicates)
    known = ~np.isnan(stacked)
    return _ratio(np.where(known, stacked, 0.0).sum(axis=0), known.sum(axis=0))


def interval(replicates: Replicates, confidence: float) -> tuple[float, float] | None:
    """The percentile interval: what `confidence` of the bootstrap samples lie within; None where none has a number."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    found = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found
