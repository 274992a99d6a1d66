"""OpenRow: the row of the step loop that reads ahead for one answer, while there is one."""

from __future__ import annotations

from aligner.correct.decoding import StepLoop
from aligner.correct.reading import Reading


class OpenRow:
    """Opened when something is known, and closed when its owner is done with it.

    Args:
        loop: the corrector's.
    """

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self.reading: Reading | None = None

    def open(self, ids: tuple[int, ...] | None) -> None:
        """Begin to read these ids, in place of what was read before; none give it up."""
        self.close()
        self.reading = self._loop.start().open(ids) if ids and self._loop.knows(ids) else None

    def read(self, ids: tuple[int, ...] | None) -> None:
        """More is known, if a row is open; None gives it up."""
        if self.reading is None:
            return
        if ids is None or not self._loop.knows(ids):
            self.close()
        else:
            self._loop.read(self.reading, ids)

    def close(self) -> None:
        """Give up what was read. Closing twice does nothing."""
        if self.reading is not None:
            self._loop.leave(self.reading)
            self.reading = None
