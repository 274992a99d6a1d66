"""Reliability: how far a judge says the same when the two answers change places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aligner.evaluate.agreement import kappa_of
from aligner.evaluate.tasks import ALL

_WINNERS = ("candidate", "baseline", "tie")


@dataclass(slots=True)
class Orders:
    """Pairs that were judged in both orders, by what each order said: (candidate shown first, baseline shown first)."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, orders: Sequence[str | None]) -> None:
        """Count one pair; one that was not judged in both orders is passed over."""
        match orders:
            case [str(one), str(two)]:
                self.pairs[one, two] += 1

    @property
    def n(self) -> int:
        return self.pairs.total()

    @property
    def flipped(self) -> int:
        return sum(count for (one, two), count in self.pairs.items() if one != two)

    @property
    def first(self) -> int:
        """Pairs in which whoever was shown first won, twice."""
        return self.pairs["candidate", "baseline"]

    @property
    def second(self) -> int:
        """Pairs in which whoever was shown second won, twice."""
        return self.pairs["baseline", "candidate"]

    def kappa(self) -> float | None:
        """Cohen's κ between the orders; None without pairs, or where both orders always say one and the same."""
        table = np.array([[[self.pairs[one, two] for two in _WINNERS] for one in _WINNERS]], np.float64)
        kappa = float(kappa_of(table)[0])
        return None if np.isnan(kappa) else kappa

    def values(self) -> dict[str, Any]:
        kappa = self.kappa()
        return {
            "pairs": self.n,
            "flipped": self.flipped,
            "flip_rate": round(self.flipped / self.n, 4) if self.n else None,
            "kappa": None if kappa is None else round(kappa, 4),
            "first_wins": self.first,
            "second_wins": self.second,
        }


class Reliability:
    """The agreement of a judge with itself, by task and dimension, collected row by row."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], Orders] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of a verdict file."""
        for dimension, orders in (row.get("orders") or {}).items():
            for task in (row["task"], ALL):
                self._cells.setdefault((task, dimension), Orders()).add(orders)

    def rows(self) -> list[dict[str, Any]]:
        """One for each task and dimension, and for each dimension over "all" tasks; none of a judge asked in one
        order."""
        return [
            {"task": task, "dimension": dimension, **cell.values()}
            for (task, dimension), cell in sorted(self._cells.items(), key=lambda item: item[0][0] == ALL)
            if cell.n
        ]
