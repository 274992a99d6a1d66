"""Examples: the rows that a report shows, the most gaining and most losing ones and some drawn at random."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from aligner.types import content_hash

Picked = Literal["gain", "loss", "random"]
_WORTH = {"candidate": 1.0, "baseline": -1.0}


def gain_of(row: Mapping[str, Any], dimensions: tuple[str, ...]) -> float:
    """How much a correction gained: the scores' difference over the task's dimensions, else wins minus losses."""
    before, after = row["scores_before"], row["scores_after"]
    if before is not None and after is not None:
        pairs = ((before.get(d), after.get(d)) for d in dimensions)
        return float(sum(b - a for a, b in pairs if a is not None and b is not None))
    return float(sum(_WORTH.get(winner, 0.0) for winner in row["verdicts"].values()))


class Examples:
    """Picks among the rows of one corrector, upstream and task while they pass; keeps their places, not their texts.

    Of equal gains the earlier question is kept. `limit` bounds each of the three kinds.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self._limit, self._seed = limit, seed
        self._best: dict[Picked, list[tuple[float, int, float]]] = {"gain": [], "loss": [], "random": []}

    def add(self, place: int, row: Mapping[str, Any], gain: float) -> None:
        """Consider one row; unscored ones are passed over."""
        if all(winner is None for winner in row["verdicts"].values()):
            return
        if gain > 0:
            self._push("gain", gain, place, gain)
        elif gain < 0 or "baseline" in row["verdicts"].values():  # a loss too where another dimension made up for it
            self._push("loss", -gain, place, gain)
        draw = content_hash(str(self._seed), row["upstream"], row["task"], row["id"])
        self._push("random", int(draw, 16), place, gain)

    def picked(self) -> Iterator[tuple[Picked, int, float]]:
        """Kind, place and gain: the biggest first, no row twice."""
        taken: set[int] = set()
        for kind, heap in self._best.items():
            found = [(-place, gain) for _, place, gain in sorted(heap, reverse=True) if -place not in taken]
            for place, gain in found[: self._limit]:
                taken.add(place)
                yield kind, place, gain

    def _push(self, kind: Picked, key: float, place: int, gain: float) -> None:
        if not self._limit:
            return
        heap = self._best[kind]
        # A random row may be one of the gains or losses already, so there are enough for all to be others.
        limit = 3 * self._limit if kind == "random" else self._limit
        heapq.heappush(heap, (key, -place, gain))
        if len(heap) > limit:
            heapq.heappop(heap)
