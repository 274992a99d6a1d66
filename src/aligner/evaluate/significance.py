"""Whether one corrector is better than another on the same questions: a paired, exact test and an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from aligner.errors import DataError
from aligner.evaluate.metrics import LOSS, Outcomes, interval
from aligner.evaluate.resampling import resampled

# Two sums are the same where they differ by less than what the Fourier transform loses.
_LOST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The second corrector against the first, over the answers where both are scored.

    `difference` is ω of the second minus ω of the first, in per cent. `better` and `worse` count answers on which the
    second has the better and the worse outcome; `regressions` counts those that the second lost and the first did not.
    `p_value` is two-sided.
    """

    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    better: int
    worse: int
    regressions: int
    pairs: int
    unpaired: int


def compare_paired(
    first: Outcomes, second: Outcomes, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Paired:
    """Compare two correctors of the same answers (codes of `metrics`, questions × upstreams).

    The test is the sign-flip permutation test on the differences of questions, worked out exactly: were the correctors
    alike, each question's difference would have had the other sign as often. With one upstream and no ties it is
    McNemar's exact test. The interval resamples questions, with the answers of all upstreams to them.

    Raises:
        DataError: the arrays have different shapes.
    """
    if first.shape != second.shape:
        raise DataError(
            f"the correctors' outcomes are {first.shape} and {second.shape}; give both for the same answers"
        )
    if first.ndim == 1:
        first, second = first[:, None], second[:, None]
    both = (first >= LOSS) & (second >= LOSS)
    gains = np.where(both, second.astype(np.int64) - first, 0)
    differences, pairs = gains.sum(axis=1), both.sum(axis=1)
    total = int(pairs.sum())
    # A question counts by its difference and its pairs alone, so that those that have both in common are one pattern.
    patterns, repeats = np.unique(np.column_stack([differences, pairs]), axis=0, return_counts=True)

    def measure(counts: Float[np.ndarray, "block patterns"]) -> Float[np.ndarray, " block"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(100 * (counts @ patterns[:, 0]) / (counts @ patterns[:, 1]))

    drawn = resampled(measure, repeats, resamples, seed)
    return Paired(
        difference=100 * int(differences.sum()) / total if total else None,
        interval=interval(drawn, confidence) if total else None,
        p_value=sign_flip(differences) if total else None,
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
        regressions=int((both & (second == LOSS) & (first != LOSS)).sum()),
        pairs=total,
        unpaired=int(((first >= LOSS) ^ (second >= LOSS)).sum()),
    )


def sign_flip(differences: Int64[np.ndarray, " questions"]) -> float:
    """The two-sided p-value of a sum of whole numbers whose signs are all equally likely (Fisher 1935): exact.

    The sum's characteristic function is Π cos(|d| t), and its distribution is that function's Fourier transform, so
    that a million questions take a second.
    """
    sizes, repeats = np.unique(np.abs(differences), return_counts=True)
    reach = int((sizes * repeats).sum())
    if not reach:
        return 1.0
    # Sums run from −reach to reach in steps of 2, and 2k − reach is the k-th.
    angles = np.pi * np.arange(reach + 1) / (reach + 1)
    values = np.ones(reach + 1)
    for size, count in zip(sizes, repeats, strict=True):
        values *= np.cos(size * angles) ** count
    phases = np.exp(1j * reach * angles)
    chances = np.fft.fft(values * phases).real / (reach + 1)
    sums = 2 * np.arange(reach + 1) - reach
    return float(min(1.0, max(_LOST, chances[np.abs(sums) >= abs(int(differences.sum()))].sum())))
