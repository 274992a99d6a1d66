"""What the cache really holds, followed write by write, beside what the step loop believes it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aligner.correct.cache import SlabCache
from aligner.correct.decoding import StepLoop
from aligner.correct.forward import Forward


@contextmanager
def followed(loop: StepLoop, monkeypatch: Any) -> Iterator[None]:
    """After every turn, each row's slot must hold the ids that the row stands for."""
    held: dict[int, dict[int, int]] = {}
    forward, keep, swap, turn = Forward.__call__, SlabCache.keep, SlabCache.swap, loop.turn
    spread = SlabCache.spread

    def writes(self: Any, tokens: Any, starts: Any, wanted: Any, first: int) -> Any:
        found = forward(self, tokens, starts, wanted, first)
        for slot, (row, start) in enumerate(zip(tokens.tolist(), starts, strict=True), start=first):
            held.setdefault(slot, {}).update(dict(enumerate(row, start=start)))
        return found

    def keeps(self: Any, kept: Any, lengths: Any) -> list[int]:
        order = keep(self, kept, lengths)
        moved = {new: held.get(old, {}) for new, old in enumerate(order)}
        held.clear()
        held.update(moved)
        return order

    def swaps(self: Any, a: int, b: int, length_a: int, length_b: int) -> None:
        swap(self, a, b, length_a, length_b)
        cut_a = {i: t for i, t in held.get(a, {}).items() if i < length_a}
        held[a], held[b] = {i: t for i, t in held.get(b, {}).items() if i < length_b}, cut_a

    def spreads(self: Any, source: int, first: int, count: int, length: int) -> None:
        spread(self, source, first, count, length)
        copied = {i: held[source][i] for i in range(length)}
        for slot in range(first, first + count):
            held.setdefault(slot, {}).update(copied)

    def turns() -> bool:
        more = turn()
        for slot, reading in enumerate(loop._slots.open):
            assert [held[slot][i] for i in range(reading.length)] == list(reading.read)
        for slot, row in enumerate(loop._slots.rows, start=len(loop._slots.open)):
            ids = (*row.ticket.request.prompt, *row.out)
            assert len(ids) - 1 == row.length
            assert [held[slot][i] for i in range(row.length)] == list(ids[: row.length])
        return more

    with monkeypatch.context() as patch:
        patch.setattr(Forward, "__call__", writes)
        patch.setattr(SlabCache, "keep", keeps)
        patch.setattr(SlabCache, "swap", swaps)
        patch.setattr(SlabCache, "spread", spreads)
        patch.setattr(loop, "turn", turns)
        yield
