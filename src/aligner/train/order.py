"""The order in which rows are seen: random batches of rows of similar length, decided by seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

_POOL = 50  # batches whose rows are sorted together


class LengthBuckets(Sampler[int]):
    """Row numbers such that every `batch_size` in a row have similar lengths, and the batches come in random order.

    Padding stays small, and unlike a sampler that draws from the global generator, a resumed run sees the same rows.

    Args:
        lengths: tokens of every row.
        batch_size: rows per forward pass.
        seed: with the epoch, decides the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int32)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each pass."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self._seed, self._epoch])
        rows = random.permutation(len(self))
        pool = self._batch_size * _POOL
        for start in range(0, len(rows), pool):
            part = rows[start : start + pool]
            rows[start : start + pool] = part[np.argsort(self._lengths[part], kind="stable")]
        whole = len(rows) // self._batch_size
        # The short batch stays last: in the middle it would shift the borders of all after it.
        for batch in random.permutation(whole):
            yield from rows[batch * self._batch_size : (batch + 1) * self._batch_size].tolist()
        yield from rows[whole * self._batch_size :].tolist()
