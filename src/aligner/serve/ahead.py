"""Ahead: the answers of one stream that the corrector reads while the upstream still writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from aligner.serve.chunks import Place
from aligner.types import Opened, OpenedLive

_MOST = 8  # of one request; more choices than these are read when they are whole


class Ahead:
    """Opens a correction with an answer's first text, and closes what nobody took.

    Args:
        opens: begins the correction of the answer at a place; None where that cannot be done.
    """

    def __init__(self, opens: Callable[[Place], Opened | None]) -> None:
        self._opens = opens
        self._opened: dict[Place, Opened | None] = {}
        self._all: list[Opened] = []
        self._said: dict[Place, list[str]] = {}

    def push(self, place: Place, text: str) -> Opened | None:
        """More text of the answer at a place; returns what was opened for it just now."""
        new = place not in self._opened
        if new:
            opened = self._opens(place) if len(self._opened) < _MOST else None
            self._opened[place] = opened
            self._all += [opened] if opened is not None else []
        if (found := self._opened[place]) is not None:
            found.push(text)
            if isinstance(found, OpenedLive):
                self._said.setdefault(place, []).append(text)
            return found if new else None
        return None

    def take(self, place: Place, answer: str) -> Opened | None:
        """What was opened for an answer that is whole now; None where it would correct another text."""
        said = self._said.pop(place, None)
        opened = self._opened.pop(place, None)
        return opened if said is None or "".join(said) == answer else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._all:
            opened.close()
