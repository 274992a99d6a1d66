"""Pairs: whether one corrector is better than another, by the verdicts on the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from aligner.evaluate.config import EvalSettings
from aligner.evaluate.metrics import Outcomes
from aligner.evaluate.significance import Paired, compare_paired
from aligner.evaluate.table import Tally
from aligner.evaluate.tasks import ALL

_DIGITS = 4


def pair_rows(tallies: Sequence[Tally], settings: EvalSettings) -> list[dict[str, Any]]:
    """The second of two correctors against the first, for every two: by task and dimension, and over "all" tasks.

    The answers of all upstreams are compared together, each with the weight of every other, where the averages of
    table.json weigh upstreams and tasks alike. With one task there is no row for "all" of them. p-values are of one
    comparison each, and not corrected for how many there are.
    """
    found = []
    for first, second in combinations(tallies, 2):
        for (task, dimension), (one, other) in _joined(first.outcomes, second.outcomes).items():
            paired = compare_paired(
                one, other, resamples=settings.resamples, confidence=settings.confidence, seed=settings.seed
            )
            key = {"first": first.corrector, "second": second.corrector, "task": task, "dimension": dimension}
            found.append({**key, **_values(paired)})
    return found


def _joined(
    first: Mapping[tuple[str, str], Outcomes], second: Mapping[tuple[str, str], Outcomes]
) -> dict[tuple[str, str], tuple[Outcomes, Outcomes]]:
    """The outcomes of both by task and dimension, those of all tasks last, one task's questions below another's."""
    found = {key: (outcomes, second[key]) for key, outcomes in first.items()}
    if len({task for task, _ in first}) > 1:
        for dimension in dict.fromkeys(dimension for _, dimension in first):
            of = [found[key] for key in first if key[1] == dimension]
            found[ALL, dimension] = (np.concatenate([one for one, _ in of]), np.concatenate([other for _, other in of]))
    return found


def _values(paired: Paired) -> dict[str, Any]:
    low, high = paired.interval or (None, None)
    return {
        "difference": None if paired.difference is None else round(paired.difference, _DIGITS),
        "low": None if low is None else round(low, _DIGITS),
        "high": None if high is None else round(high, _DIGITS),
        "p_value": None if paired.p_value is None else float(f"{paired.p_value:.4g}"),
        "better": paired.better,
        "worse": paired.worse,
        "regressions": paired.regressions,
        "pairs": paired.pairs,
        "unpaired": paired.unpaired,
    }
