"""Reader: reads prompts that are still being written into the cache, in passes between those of the rows that write."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence

import torch

from aligner.correct.forward import Forward
from aligner.correct.reading import Reading
from aligner.correct.slots import Slots

_SHARE = 8  # a pass of the reader is so many times smaller than a prefill may be: rows that write wait for it


class Reader:
    """The open rows of a step loop.

    Args:
        forward, slots: the loop's.
        most: open rows at the same time; more wait for a place, unread.
        tokens: padded tokens that one prefill pass reads at most.
        cache_tokens: positions that the cache may hold; rows that write come first.
    """

    def __init__(self, forward: Forward, slots: Slots, *, most: int, tokens: int, cache_tokens: int | None) -> None:
        self.most, self.cache_tokens = most, cache_tokens
        self._tokens = max(tokens // _SHARE, 1)
        self._forward, self._slots = forward, slots
        self._arriving: deque[Reading] = deque()
        self.news = False

    def add(self, reading: Reading) -> None:
        """Take a reading on; it is read when there is room."""
        self._arriving.append(reading)
        self.news = True

    def leave(self) -> None:
        """Drop what was cancelled."""
        staying = [reading for reading in self._slots.open if not reading.cancelled]
        if len(staying) < len(self._slots.open):
            self._drop([reading for reading in self._slots.open if reading.cancelled])
        if any(reading.cancelled for reading in self._arriving):
            self._arriving = deque(reading for reading in self._arriving if not reading.cancelled)

    def evict(self, without: Container[Reading] = ()) -> bool:
        """Give up the newest open row for its room, not one of some; False where there is none."""
        newest = next((reading for reading in reversed(self._slots.open) if reading not in without), None)
        if newest is not None:
            self._drop([newest])
        return newest is not None

    def freed(self) -> None:
        """There is more room than before."""
        if self._arriving:
            self.news = True

    def clear(self) -> None:
        """Give up everything."""
        for reading in (*self._slots.open, *self._arriving):
            reading.state = "gone"
        self._arriving.clear()

    def turn(self) -> None:
        """Read on, at most one pass over new readings and one over open ones."""
        self.news = False  # first: what comes from here on is news for the next turn
        self.leave()
        if arriving := self._next_arriving():
            self._read(arriving, len(self._slots), new=True)
        places = [place for place, reading in enumerate(self._slots.open) if reading.pending]
        if places:
            # One run of slots; what lies between and has nothing new reads padding, which nobody ever looks at.
            self._read(self._slots.open[places[0] : places[-1] + 1], places[0], new=False)
        # Only ever set: it may have become true since it was looked at.
        if any(reading.pending for reading in self._slots.open):
            self.news = True

    def _next_arriving(self) -> list[Reading]:
        found: list[Reading] = []
        while self._arriving and len(self._slots.open) + len(found) < self.most:
            reading = self._arriving[0]
            width = max(len(other.wanted) for other in (reading, *found))
            if found and width * (len(found) + 1) > self._tokens:
                self.news = True
                break
            if not self._fits(len(found) + 1, min(width, self._tokens)):
                break
            self._arriving.popleft()
            if reading.state == "waiting" and reading.wanted:
                found.append(reading)
        return found

    def _read(self, readings: Sequence[Reading], first: int, *, new: bool) -> None:
        chunks = [reading.next(max(self._tokens // len(readings), 1)) for reading in readings]
        furthest = max(start for start, _ in chunks)
        width = max(len(ids) for _, ids in chunks)
        if self._forward.context is not None:
            width = min(width, self._forward.context - furthest)
        if width < 1 or not self._fits(len(readings) if new else 0, furthest + width):
            self._drop(readings)
            return
        chunks = [(start, ids[:width]) for start, ids in chunks]
        rows = [[*ids, *[ids[-1] if ids else 0] * (width - len(ids))] for _, ids in chunks]
        tokens = torch.tensor(rows, device=self._forward.model.device)
        try:
            self._forward(tokens, [start for start, _ in chunks], [(0, 0)] * len(chunks), first)
        except Exception:  # the prompt is then read as a whole, and whatever is wrong is told there
            self._drop(readings)
            return
        for reading, (start, ids) in zip(readings, chunks, strict=True):
            reading.read = (*reading.read[:start], *ids)
            reading.state = "open"
        if new:
            self._slots.add(readings)

    def _fits(self, more: int, reach: int) -> bool:
        """Whether the cache may hold so many rows more, one of which reaches so far."""
        if self.cache_tokens is None:
            return True
        rows = [row.ticket.request.reach for row in self._slots.rows]
        furthest = max([reach, *rows, *(reading.length for reading in self._slots.open)])
        return (len(self._slots) + more) * furthest <= self.cache_tokens

    def _drop(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            reading.state = "gone"
        staying = [reading for reading in self._slots.open if reading.state == "open"]
        if len(staying) < len(self._slots.open):
            self._slots.keep(staying, self._slots.rows)
        self.freed()
