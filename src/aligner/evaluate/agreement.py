"""Whether two judges agree: Cohen's κ, and how often one judge changes its mind when the answers change places."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aligner.errors import DataError
from aligner.evaluate.metrics import interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """κ from −1 to 1 and the share of equal verdicts, over the `n` questions that both judges scored.

    κ is None where nothing is scored, or where both judges always say one and the same thing, which chance explains.
    """

    kappa: float | None
    interval: tuple[float, float] | None
    agreed: float | None
    n: int
    unscored: int


def cohens_kappa(
    first: Sequence[Hashable | None],
    second: Sequence[Hashable | None],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """κ = (p_o − p_e) / (1 − p_e), the agreement beyond chance (Cohen 1960), with an interval of resampled questions.

    Args:
        first, second: the judges' verdicts on the same questions in one order; None is not scored.
        resamples, confidence, seed: of the interval; samples in which κ is not defined are left out of it.

    Raises:
        DataError: the judges have not as many verdicts as each other.
    """
    if len(first) != len(second):
        raise DataError(f"one judge has {len(first)} verdicts and the other {len(second)}; give both for each question")
    labels = {label: i for i, label in enumerate(dict.fromkeys(v for v in (*first, *second) if v is not None))}
    size = max(1, len(labels))
    cells = np.array(
        [labels[a] * size + labels[b] for a, b in zip(first, second, strict=True) if a is not None and b is not None],
        np.int64,
    )
    table = np.bincount(cells, minlength=size * size).astype(np.float64)
    n = len(cells)

    # Questions with the same pair of verdicts are drawn together, as one multinomial count.
    drawn = np.empty(0)
    if n and resamples:
        counts = np.random.default_rng(seed).multinomial(n, table / n, size=resamples).astype(np.float64)
        drawn = kappa_of(counts.reshape(-1, size, size))
    kappa = float(kappa_of(table.reshape(1, size, size))[0]) if n else float("nan")
    return Agreement(
        kappa=None if np.isnan(kappa) else kappa,
        interval=None if np.isnan(kappa) else interval(drawn, confidence),
        agreed=float(np.trace(table.reshape(size, size))) / n if n else None,
        n=n,
        unscored=len(first) - n,
    )


def flip_rate(first: Sequence[Hashable | None], second: Sequence[Hashable | None]) -> float | None:
    """Share of the questions, scored both times, on which a judge said something else when the answers changed places.

    Verdicts name the answer, not its place. None where nothing is scored both times.
    """
    agreement = cohens_kappa(first, second, resamples=0)
    return None if agreement.agreed is None else 1 - agreement.agreed


def kappa_of(tables: Float[np.ndarray, "tables labels labels"]) -> Float[np.ndarray, " tables"]:
    """κ of counts of (first verdict, second verdict); NaN where it is not defined (Cohen 1960)."""
    total = tables.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(tables, axis1=1, axis2=2) / total
        expected = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)
