"""Server-sent events: bytes as they arrive to whole events, and events to bytes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aligner.errors import RequestError
from aligner.serve import wire

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event: its `raw` bytes, its name (or "") and its data."""

    raw: bytes
    name: str
    data: bytes


class Parser:
    """Cuts a stream into events. One event may have `limit` bytes at most.

    Raises:
        RequestError: 502, from `feed`, where one is longer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that are whole with this piece."""
        self._buffer += data
        events: list[Event] = []
        start = 0
        while found := _END.search(self._buffer, max(start, self._searched - 3)):
            events.append(_event(bytes(self._buffer[start : found.end()])))
            start = self._searched = found.end()
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if self._searched > self._limit:
            raise RequestError(f"an event of the upstream has more than {self._limit} bytes", status=502,
                               code="upstream_too_long")  # fmt: skip
        return events

    def rest(self) -> list[Event]:
        """A last event that nothing ended."""
        left, self._buffer = bytes(self._buffer), bytearray()
        return [_event(left)] if left.strip() else []


async def events(pieces: AsyncIterator[bytes], limit: int) -> AsyncIterator[Event]:
    """Whole events of a stream of bytes.

    Raises:
        RequestError: 502, an event is longer than `limit` bytes.
    """
    parser = Parser(limit)
    async for piece in pieces:
        for event in parser.feed(piece):
            yield event
    for event in parser.rest():
        yield event


def encode(value: Any, name: str = "") -> bytes:
    """One event that carries JSON."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + wire.write(value) + b"\n\n"


def _event(raw: bytes) -> Event:
    name, data = "", []
    for line in raw.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
    return Event(raw=raw, name=name, data=b"\n".join(data))
