"""Stops: a correction ends before the first stop sequence of its request, as an answer of the upstream does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aligner.serve.wire import Json
from aligner.types import Correction, KeptBecause

_FLAG = "stop_sequence"  # says of a correction that it was cut


def stop_sequences(request: Json) -> tuple[str, ...]:
    """The stop sequences of a request's `stop`; none where its answers are to hold them (vLLM)."""
    given = request.get("stop")
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or request.get("include_stop_str_in_output"):
        return ()
    return tuple(stop for stop in given if isinstance(stop, str) and stop)


class StopWatch:
    """Cuts a text that comes in pieces.

    Args:
        stops: what it may not hold.
        answer: the upstream's. What stands in it does not stop its correction: that server has no such stops.
    """

    def __init__(self, stops: Iterable[str], answer: str = "") -> None:
        self._stops = tuple(stop for stop in stops if stop not in answer)
        self._tail = ""
        self.hit = False
        """Whether a stop sequence was found."""

    def push(self, piece: str) -> str:
        """What of the text may be shown now; what may be the beginning of a stop sequence waits."""
        if self.hit:
            return ""
        text, self._tail = self._tail + piece, ""
        if found := [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]:
            self.hit = True
            return text[: min(found)[1]]  # the one that is whole first, wherever the pieces part
        waiting = max((_begun(text, stop) for stop in self._stops), default=0)
        self._tail = text[len(text) - waiting :]
        return text[: len(text) - waiting]

    def rest(self) -> str:
        """What waits, once the text is over."""
        rest, self._tail = self._tail, ""
        return rest

    def flags(self, flags: tuple[str, ...]) -> tuple[str, ...]:
        """Flags of a correction, and that it was cut."""
        return (*flags, _FLAG) if self.hit else flags


def stopped(correction: Correction, stops: tuple[str, ...], *, formatted: bool) -> Correction:
    """A correction that was cut. The answer stays where nothing is left, or where its format would break."""
    if correction.is_copy:
        return correction
    watch = StopWatch(stops, correction.answer)
    text = watch.push(correction.text)
    if not watch.hit:
        return correction
    if formatted or not text.strip():
        reason: KeptBecause = "broken_format" if formatted else "emptied"
        return replace(correction, text=correction.answer, kept_because=reason, flags=watch.flags(correction.flags))
    return replace(correction, text=text, flags=watch.flags(correction.flags))


def _begun(text: str, stop: str) -> int:
    """Characters at a text's end with which a stop sequence may begin."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
