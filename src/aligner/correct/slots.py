"""Slots: which row owns which slot of the cache. Open rows come first, then those that write, so that each kind is one
run of slots, which a forward pass needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aligner.correct.cache import SlabCache
from aligner.correct.reading import Reading
from aligner.correct.ticket import Row


class Slots:
    """The rows of a cache, in the order of their slots: `open`, then `rows`."""

    def __init__(self, cache: SlabCache) -> None:
        self._cache = cache
        self.open: list[Reading] = []
        self.rows: list[Row] = []

    def __len__(self) -> int:
        return len(self.open) + len(self.rows)

    def slot(self, row: Row) -> int:
        """The slot of a row; behind all where it is new."""
        places = (place for place, other in enumerate(self.rows) if other is row)
        return len(self.open) + next(places, len(self.rows))

    def keep(self, opened: Sequence[Reading], rows: Sequence[Row]) -> None:
        """Drop all others and close the gaps."""
        everyone: list[Reading | Row] = [*self.open, *self.rows]
        staying = {id(row) for row in (*opened, *rows)}
        kept = [slot for slot, row in enumerate(everyone) if id(row) in staying]
        order = self._cache.keep(kept, [everyone[slot].length for slot in kept])
        self._sort([everyone[slot] for slot in order])

    def add(self, opened: Sequence[Reading]) -> None:
        """Take open rows in that were read into the slots behind all others."""
        self._sort([*self.open, *self.rows, *opened])

    def ripen(self, ripe: Mapping[Reading, Row]) -> None:
        """Open rows become rows that write, in the place and with the cache that they have."""
        border = len(self.open) - len(ripe)
        early = [slot for slot in range(border) if self.open[slot] in ripe]
        late = [slot for slot in range(border, len(self.open)) if self.open[slot] not in ripe]
        for a, b in zip(early, late, strict=True):
            self._cache.swap(a, b, self.open[a].length, self.open[b].length)
            self.open[a], self.open[b] = self.open[b], self.open[a]
        self.rows = [*(ripe[reading] for reading in self.open[border:]), *self.rows]
        for reading in ripe:
            reading.state = "gone"
        self.open = self.open[:border]

    def clear(self) -> None:
        """Forget all rows, and give the cache's memory back."""
        self.open, self.rows = [], []
        self._cache.clear()

    def _sort(self, everyone: list[Reading | Row]) -> None:
        count = sum(isinstance(row, Reading) for row in everyone)
        early = [slot for slot in range(count) if not isinstance(everyone[slot], Reading)]
        late = [slot for slot in range(count, len(everyone)) if isinstance(everyone[slot], Reading)]
        for a, b in zip(early, late, strict=True):
            self._cache.swap(a, b, everyone[a].length, everyone[b].length)
            everyone[a], everyone[b] = everyone[b], everyone[a]
        self.open = [row for row in everyone if isinstance(row, Reading)]
        self.rows = [row for row in everyone if isinstance(row, Row)]
