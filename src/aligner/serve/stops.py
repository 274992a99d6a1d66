"""Stops: a correction ends before the first stop sequence of its request, as an answer of the upstream does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from aligner.errors import RequestError
from aligner.serve.wire import Json
from aligner.types import Correction, KeptBecause

_FLAG = "stop_sequence"  # says of a correction that it was cut
# Every piece of a correction is searched for all of them, where all requests are served.
_MOST = 64
_MOST_CHARACTERS = 4096


def stop_sequences(request: Json) -> tuple[str, ...]:
    """The stop sequences of a request's `stop`; none where its answers are to hold them (vLLM)."""
    given = request.get("stop")
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, list) or request.get("include_stop_str_in_output"):
        return ()
    return tuple(stop for stop in given if isinstance(stop, str) and stop)


def check_stops(request: Json) -> None:
    """What a request to be corrected may have as `stop`.

    Raises:
        RequestError: 400, they are too many or too long.
    """
    stops = stop_sequences(request)
    if len(stops) > _MOST or sum(map(len, stops)) > _MOST_CHARACTERS:
        raise RequestError(f"'stop' has {len(stops)} texts of {sum(map(len, stops))} characters; send at most {_MOST} "
                           f"of {_MOST_CHARACTERS} in all, or ask for the answer uncorrected with 'X-Aligner: off'",
                           status=400, code="too_many_stops")  # fmt: skip


class StopWatch:
    """Cuts a text that comes in pieces. White space at its beginning waits for other text: alone it is no text to show.

    Args:
        stops: what it may not hold.
        answer: the upstream's. What stands in it does not stop its correction: that server has no such stops.
    """

    def __init__(self, stops: Iterable[str], answer: str = "") -> None:
        self._stops = tuple(stop for stop in stops if stop not in answer)
        self._tail = ""
        self._blank = True  # what came so far
        self.hit = False
        """Whether a stop sequence was found."""

    def push(self, piece: str) -> str:
        """What of the text may be shown now; white space before it, and what may begin a stop sequence, waits."""
        if self.hit:
            return ""
        text, self._tail = self._tail + piece, ""
        if found := [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]:
            self.hit = True
            shown = text[: min(found)[1]]  # the one that is whole first, wherever the pieces part
            return shown if not self._blank or shown.strip() else ""
        waiting = max((_begun(text, stop) for stop in self._stops), default=0)
        shown = text[: len(text) - waiting]
        self._blank = self._blank and not shown.strip()
        shown = "" if self._blank else shown
        self._tail = text[len(shown) :]
        return shown

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
