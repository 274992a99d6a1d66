"""Heard: the answers of a reply that passes by untouched, as far as they can be read."""

from __future__ import annotations

from aligner.errors import RequestError
from aligner.serve import sse, wire
from aligner.serve.asked import Asked
from aligner.serve.wire import Answer


class Heard:
    """Reads along and never fails: a reply that is too long, or is not what it should be, has no answers.

    Args:
        asked: the request.
        limit: bytes that are kept of the reply.
        streamed: whether it is a stream of events.
    """

    def __init__(self, asked: Asked, limit: int, *, streamed: bool) -> None:
        self._asked, self._limit = asked, limit
        self._stream = asked.stream() if streamed else None
        self._parser = sse.Parser(limit)
        self._pieces: list[bytes] = []
        self._size = 0
        self._found: list[Answer] = []
        self._lost = False

    def feed(self, piece: bytes) -> None:
        """The next piece of the reply."""
        if self._lost:
            return
        if self._stream is not None:
            self._take(piece)
        else:
            self._pieces.append(piece)
            self._size += len(piece)
        if (self._size if self._stream is None else self._stream.held) > self._limit:
            self._lost = True
            self._pieces.clear()

    def answers(self) -> list[Answer]:
        """What was heard, once the reply is over."""
        if not self._lost and self._stream is None:
            try:
                response = wire.read_reply(b"".join(self._pieces))
            except RequestError:
                return []
            self._found = wire.answers(self._asked.kind, self._asked.body, response)
        return self._asked.formatted(self._found)

    def _take(self, piece: bytes) -> None:
        assert self._stream is not None, "only streams have events"
        try:
            for event in self._parser.feed(piece):
                self._found += self._stream.feed(event).ready
        except RequestError:
            self._lost = True
