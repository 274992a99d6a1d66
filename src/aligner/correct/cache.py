"""SlabCache: the keys and values of rows of different lengths, written in place.

Row i of a batch owns slot i; its tokens stand at positions 0 … length_i − 1 of that slot and nothing is padded, so a
row can be cropped, grown or removed without touching the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where one forward pass writes: slots `first` … `first + len(starts) − 1`, `width` positions from each start."""

    first: int
    starts: tuple[int, ...]
    width: int

    @property
    def even(self) -> bool:
        """All rows start at the same position, so plain slices do and no mask is needed beyond the causal one."""
        return self.starts.count(self.starts[0]) == len(self.starts)

    @property
    def end(self) -> int:
        return max(self.starts) + self.width

    def positions(self, device: torch.device) -> Int[Tensor, "batch width"]:
        starts = torch.tensor(self.starts, device=device)
        return starts[:, None] + torch.arange(self.width, device=device)

    def mask(self, positions: Int[Tensor, "batch width"], sliding: int | None) -> Bool[Tensor, "batch 1 width keys"]:
        """True where a query may look: at keys up to its own position, and no further back than a sliding window."""
        keys = torch.arange(self.end, device=positions.device)
        seen = keys <= positions[:, :, None]
        if sliding is not None:
            seen &= keys > positions[:, :, None] - sliding
        return seen[:, None]


class _SlabLayer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, cache: SlabCache) -> None:
        super().__init__()
        self._cache = cache
        self.keys: Float[Tensor, "slots heads length dim"] | None = None
        self.values: Float[Tensor, "slots heads length dim"] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do ahead: `update` makes and grows the slab."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        # Each by itself: when memory runs out between the two, the next pass finds one grown and one not.
        self.keys = _fitting(self.keys, key_states, *self._cache.capacity)
        self.values = _fitting(self.values, value_states, *self._cache.capacity)
        self.is_initialized = True
        window = self._cache.window
        rows = slice(window.first, window.first + len(window.starts))
        if window.even:
            columns = slice(window.starts[0], window.end)
            self.keys[rows, :, columns] = key_states
            self.values[rows, :, columns] = value_states
        else:
            slots, positions = self._cache.index
            self.keys[slots, :, positions] = key_states.transpose(1, 2)
            self.values[slots, :, positions] = value_states.transpose(1, 2)
        return self.keys[rows, :, : window.end], self.values[rows, :, : window.end]

    def get_seq_length(self) -> int:
        return self._cache.window.starts[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.window.starts[0] + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def trim(self) -> None:
        """Cut the slabs to the capacity, within which lies all that is held."""
        self.keys, self.values = (_cut(slab, *self._cache.capacity) for slab in (self.keys, self.values))

    def move(self, source: int, target: int, length: int) -> None:
        if self.keys is not None and self.values is not None:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def swap(self, a: int, b: int, length_a: int, length_b: int) -> None:
        for slab in (self.keys, self.values):
            if slab is not None:
                held = slab[a, :, :length_a].clone()
                slab[a, :, :length_b] = slab[b, :, :length_b]
                slab[b, :, :length_a] = held

    def spread(self, source: int, slots: slice, length: int) -> None:
        """Copy the first positions of one slot into others, growing the slab where it must."""
        if self.keys is not None and self.values is not None:
            self.keys = _fitting(self.keys, self.keys, *self._cache.capacity)
            self.values = _fitting(self.values, self.values, *self._cache.capacity)
            self.keys[slots, :, :length] = self.keys[source : source + 1, :, :length]
            self.values[slots, :, :length] = self.values[source : source + 1, :, :length]


class SlabCache(Cache):
    """A cache for transformers models; set `window` with `aim` before each forward pass.

    Args:
        layers: of the model.
        limit: positions that the slab should have at most; a pass that needs more gets what it needs.
    """

    def __init__(self, layers: int, limit: int | None = None) -> None:
        self.capacity = (0, 0)  # slots, positions
        self.limit = limit
        self._used = self._longest = 0  # slots that hold something, and the most positions of one
        self._before = (self.capacity, 0, 0)
        self._tight = self._failed = False
        self.window = Window(first=0, starts=(0,), width=0)
        self.index: tuple[Tensor, Tensor]
        super().__init__(layers=[_SlabLayer(self) for _ in range(layers)])

    def aim(self, window: Window, positions: Int[Tensor, "batch width"]) -> None:
        """Say where the next forward pass writes; the slab grows by half when it must."""
        self._before = (self.capacity, self._used, self._longest)
        self._used = max(self._used, window.first + len(window.starts))
        self._longest = max(self._longest, window.end)
        self.capacity = self._enough()
        self.window = window
        if self._failed:  # by now nothing holds the failed pass's tensors, whose memory the copies may take
            for layer in self.layers:
                layer.trim()
            self._failed = False
        if not window.even:
            rows = torch.arange(window.first, window.first + len(window.starts), device=positions.device)
            self.index = (rows[:, None], positions)

    def _enough(self) -> tuple[int, int]:
        """Slots and positions for what is held: as now where that does, else with half as much again, or with nothing
        more once a pass has failed.

        Where one of the two must grow, the other shrinks if it is twice what is held: many short rows, then a long one,
        are not many long ones.
        """
        slots, length = self.capacity
        if self._used <= slots and self._longest <= length and not self._failed:
            return slots, length
        if self._tight or not self._used <= slots < 2 * self._used:
            slots = self._used if self._tight else self._used + self._used // 2
        if self._tight or not self._longest <= length < 2 * self._longest:
            length = self._longest if self._tight else self._longest + self._longest // 2
            length = -(-length // _BLOCK) * _BLOCK
        if self.limit is not None and slots * length > self.limit:
            slots = self._used
            # Rows that were let in together have room up to here; a row too long for the limit grows by itself.
            room = self.limit // slots
            length = min(length, room) if room >= self._longest else length
        return slots, length

    def spread(self, source: int, first: int, count: int, length: int) -> None:
        """Copy the first `length` positions of a slot into `count` slots from `first` on, the source left as it is."""
        self.aim(Window(first=first, starts=(0,) * count, width=length), torch.empty(0))
        for layer in self.layers:
            layer.spread(source, slice(first + (source == first), first + count), length)

    def undo(self) -> None:
        """After a pass that failed: ask for no more room than needed from now on.

        What it grew, in the layers that it came to, is given back when the next pass begins.
        """
        self.capacity, self._used, self._longest = self._before
        self._tight = self._failed = True

    def keep(self, kept: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Close the gaps that rows leave: rows from the end move into them.

        Args:
            kept: slots that stay, ascending.
            lengths: tokens in every kept slot, in the order of `kept`.

        Returns:
            The old slot of each new one.
        """
        self._used, self._longest = len(kept), max(lengths, default=0)
        order = list(range(len(kept)))
        staying = dict(zip(kept, lengths, strict=True))
        holes = [slot for slot in range(len(kept)) if slot not in staying]
        movers = [slot for slot in kept if slot >= len(kept)]
        for hole, mover in zip(holes, movers, strict=True):
            for layer in self.layers:
                layer.move(mover, hole, staying[mover])
            order[hole] = mover
        return order

    def swap(self, a: int, b: int, length_a: int, length_b: int) -> None:
        """Exchange two slots that hold so many tokens each."""
        for layer in self.layers:
            layer.swap(a, b, length_a, length_b)

    def clear(self) -> None:
        """Give the memory back."""
        self.capacity, self._used, self._longest = self._before = ((0, 0), 0, 0)
        for layer in self.layers:
            layer.keys = layer.values = None


def _fitting(old: Tensor | None, like: Tensor, slots: int, length: int) -> Tensor:
    """The slab as it is where it is large enough, else a copy of what is held."""
    if old is not None and old.shape[0] >= slots and old.shape[2] >= length:
        return old
    # Zeros, not whatever memory held: a masked key has weight 0, and 0 times NaN would still be NaN.
    new = torch.zeros(slots, like.shape[1], length, like.shape[3], dtype=like.dtype, device=like.device)
    if old is not None:
        slots, length = min(slots, old.shape[0]), min(length, old.shape[2])
        new[:slots, :, :length] = old[:slots, :, :length]
    return new


def _cut(slab: Tensor | None, slots: int, length: int) -> Tensor | None:
    """What of a slab lies within so many slots and positions, in memory of its own."""
    if slab is None or (slab.shape[0] <= slots and slab.shape[2] <= length):
        return slab
    return slab[:slots, :, :length].clone()
