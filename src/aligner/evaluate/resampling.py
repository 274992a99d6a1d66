"""Bootstrap samples of questions as blocks of multinomial counts: how often each question is drawn (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

# Numbers in one block of weights: 64 MiB.
_BLOCK = 1 << 23


def question_weights(
    questions: int, resamples: int, seed: int | Sequence[int], width: int = 0
) -> Iterator[Float[np.ndarray, "block questions"]]:
    """Yield blocks of weights, `resamples` rows in all. `width` is how many numbers a row costs the caller, where that
    is more than one per question; the memory of a block is bounded by it.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // max(1, questions, width))
    even = np.full(questions, 1 / questions) if questions else np.empty(0)
    for start in range(0, resamples if questions else 0, rows):
        yield rng.multinomial(questions, even, size=min(rows, resamples - start)).astype(np.float64)


def resampled(
    measure: Callable[[Float[np.ndarray, "block questions"]], Float[np.ndarray, "block *values"]],
    questions: int,
    resamples: int,
    seed: int | Sequence[int],
    width: int = 0,
) -> Float[np.ndarray, "resamples *values"]:
    """What `measure` makes of each block of weights, joined; empty where there are no questions or resamples."""
    found = [measure(weights) for weights in question_weights(questions, resamples, seed, width)]
    return np.concatenate(found) if found else np.empty(0)
