"""Bootstrap samples of questions as blocks of multinomial counts: how often each is drawn (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int64

# Numbers in one block of weights: 64 MiB.
_BLOCK = 1 << 23


def question_weights(
    repeats: int | Int64[np.ndarray, " patterns"], resamples: int, seed: int | Sequence[int], width: int = 0
) -> Iterator[Float[np.ndarray, "block patterns"]]:
    """Yield blocks of counts, `resamples` rows in all: how often each question is in a bootstrap sample.

    Questions that are alike can be drawn together, as one pattern: the same draw, and far fewer numbers.

    Args:
        repeats: how many questions there are, or how many of each pattern.
        resamples, seed: of the bootstrap.
        width: how many numbers a sample costs the caller, where that is more than one per pattern; it bounds a block.
    """
    counts = np.ones(repeats, np.int64) if isinstance(repeats, int) else repeats
    total = int(counts.sum())
    if not total:
        return
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // max(len(counts), width))
    for start in range(0, resamples, rows):
        yield rng.multinomial(total, counts / total, size=min(rows, resamples - start)).astype(np.float64)


def resampled(
    measure: Callable[[Float[np.ndarray, "block patterns"]], Float[np.ndarray, "block ..."]],
    repeats: int | Int64[np.ndarray, " patterns"],
    resamples: int,
    seed: int | Sequence[int],
    width: int = 0,
) -> Float[np.ndarray, "resamples ..."]:
    """What `measure` makes of each block of counts, joined; empty where there are no questions or resamples."""
    found = [measure(counts) for counts in question_weights(repeats, resamples, seed, width)]
    return np.concatenate(found) if found else np.empty(0)
