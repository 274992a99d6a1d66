"""Reading: a prompt that is still being written, and what of it the cache holds already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True, kw_only=True, eq=False)
class Reading:
    """An open row of the step loop. Its owner sets `wanted`, and `cancelled`; the rest is the loop's.

    It is an offer, not a promise: where there is no room, or a pass fails, it is `gone`, and the prompt is read as a
    whole when it is known.
    """

    wanted: tuple[int, ...]
    read: tuple[int, ...] = ()
    state: Literal["waiting", "open", "gone"] = "waiting"
    cancelled: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it has a slot and is still wanted."""
        return self.state == "open" and not self.cancelled

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return len(self.read)

    @property
    def pending(self) -> int:
        """Tokens that are known and not read."""
        wanted = self.wanted  # its owner may set it at any time
        return len(wanted) - common(self.read, wanted)

    def next(self, most: int) -> tuple[int, tuple[int, ...]]:
        """(where to go on reading, at most so many tokens from there): behind what the cache has in common with what
        is wanted now; what it holds behind that is cropped, that is, written over."""
        wanted = self.wanted
        start = common(self.read, wanted)
        return start, wanted[start : start + most]


def common(old: Sequence[int], new: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
