"""Joining: the requests that wait for a place in the batch, and which of them join next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from aligner.correct.reader import Reader
from aligner.correct.reading import Reading, common
from aligner.correct.slots import Slots
from aligner.correct.ticket import Decoded, Row, Ticket


class Joining:
    """The queue of a step loop.

    Args:
        slots, reader: the loop's.
        max_rows: rows that are in the batch at once.
        prefill_tokens: padded tokens that one prefill pass reads at most.
        cache_tokens: positions that the cache may hold.
    """

    def __init__(
        self, slots: Slots, reader: Reader, *, max_rows: int, prefill_tokens: int, cache_tokens: int | None
    ) -> None:
        self.max_rows, self.prefill_tokens, self.cache_tokens = max_rows, prefill_tokens, cache_tokens
        self.waiting: deque[Ticket] = deque()
        self.rows: list[Row] = []
        """Those that left the queue last, in the batch or about to join it."""
        self._slots, self._reader = slots, reader

    def next(self) -> list[Row]:
        """The longest run of waiting requests that fits beside the rows and in one prefill pass."""
        joiners = self.rows = []
        ripe: set[Reading] = set()
        widest = reach = 0
        for row in self._slots.rows:
            reach = max(reach, row.ticket.request.reach)
        while self.waiting and len(self._slots.rows) + len(joiners) < self.max_rows:
            ticket = self.waiting[0]
            if not ticket.cancelled:
                count = len(joiners) + 1
                wider = max(widest, len(ticket.request.prompt) + len(ticket.request.answer))
                further = max(reach, ticket.request.reach)
                if joiners and wider * count > self.prefill_tokens:
                    break
                reading = ticket.reading if ticket.reading is not None and ticket.reading.is_open else None
                ripe |= {reading} if reading is not None else set()
                fits = self._make_room(count, further, ripe)
                if not fits and (joiners or self._slots.rows):
                    break
                widest, reach = wider, further
                joiners.append(_joiner(ticket, reading))
            self.waiting.popleft()
            if ticket.cancelled and not ticket.future.done():
                ticket.future.set_result(Decoded(ids=(), finish_reason="cancelled"))
        return joiners

    def groups(self, joiners: list[Row], fixed: float) -> Iterator[list[Row]]:
        """Rows that share a pass: those that were read ahead, which already have their slots, and those that are new,
        by their lengths.

        Args:
            fixed: what a pass costs before its first token, in tokens.
        """
        ripe = {row.ticket.reading: row for row in joiners if row.ticket.reading is not None and row.ahead}
        if ripe:
            self._slots.ripen(ripe)
            group = self._slots.rows[: len(ripe)]
            starts = max(row.length for row in group)
            width = max(len(row.ticket.request.prompt) + len(row.ticket.request.answer) - row.length for row in group)
            furthest = max(row.ticket.request.reach for row in group)
            # Padding must not reach where no row may write.
            yield from [group] if starts + width <= furthest else [[row] for row in group]
        yield from _alike([row for row in joiners if not row.ahead], fixed)

    def _make_room(self, joiners: int, reach: int, ripe: set[Reading]) -> bool:
        """Whether the cache holds so many rows more; open rows that are not ripe give way."""
        while self.cache_tokens is not None:
            idle = [reading for reading in self._slots.open if reading not in ripe]
            furthest = max([reach, *(reading.length for reading in idle)])
            if (len(self._slots.rows) + joiners + len(idle)) * furthest <= self.cache_tokens:
                return True
            if not self._reader.evict(ripe):
                return False
        return True


def _alike(rows: list[Row], fixed: float) -> Iterator[list[Row]]:
    """Rows in as many passes as cost the fewest tokens, padding and the passes themselves counted."""
    rows = sorted(rows, key=_length)
    lengths = [_length(row) for row in rows]
    if len(rows) < 2 or len(rows) * (lengths[-1] - lengths[0]) <= fixed:
        if rows:
            yield rows
        return
    # A pass ends where rows get longer, or with the last one.
    borders = [0, *(i for i in range(1, len(rows)) if lengths[i] > lengths[i - 1]), len(rows)]
    best = {0: (0.0, 0)}  # of so many rows: what they cost, and where their last pass begins
    for end in borders[1:]:
        best[end] = min((best[b][0] + fixed + (end - b) * lengths[end - 1], b) for b in borders if b < end)
    end = len(rows)
    while end:
        begin = best[end][1]
        yield rows[begin:end]
        end = begin


def _length(row: Row) -> int:
    return len(row.ticket.request.prompt) + len(row.ticket.request.answer)


def _joiner(ticket: Ticket, reading: Reading | None) -> Row:
    """A ticket's row; with what an open row has read of its prompt. The last id is always read, for its logits."""
    if reading is None:
        return Row(ticket=ticket, length=0)
    length = min(common(reading.read, ticket.request.prompt), len(ticket.request.prompt) - 1)
    return Row(ticket=ticket, length=length, ahead=True)
