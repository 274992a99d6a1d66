"""CorrectedStream: an upstream's stream on its way to the client, with corrected text in the place of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

from aligner.errors import RequestError
from aligner.generate.collect import closing
from aligner.serve import sse
from aligner.serve.ahead import Ahead
from aligner.serve.asgi import Exchange
from aligner.serve.asked import Asked
from aligner.serve.chunks import Place
from aligner.serve.outcome import Outcome
from aligner.serve.policy import Policy
from aligner.serve.stops import stop_sequences
from aligner.serve.upstreams import Reply, Upstreams
from aligner.serve.wire import Answer
from aligner.types import Opened, OpenedLive

_GRACE = 0.25  # seconds for an upstream that has said its last word to end its reply, so that its connection is kept


@dataclass(slots=True)
class _Showing:
    """An answer that is being shown, and what it is once the upstream is done, which took `seconds`."""

    place: Place
    pieces: AsyncIterator[str | Outcome]
    whole: asyncio.Future[Answer]
    opened: OpenedLive | None = None  # its first sentences are shown before it is whole
    task: asyncio.Task[None] | None = None
    seconds: float = 0.0

    def end(self, answer: Answer, seconds: float) -> None:
        self.seconds = seconds
        self.whole.set_result(answer)
        if self.opened is not None:
            self.opened.end(answer.text)


class CorrectedStream:
    """One streamed reply.

    Args:
        asked: the request.
        exchange: its reply was begun.
        upstreams: tells how much of an answer may be held, and how long silence may last.
        policy: what is shown in an answer's place.
        sentences: show corrected sentences while the upstream still writes.
        began: when the upstream was asked.
    """

    def __init__(
        self, asked: Asked, exchange: Exchange, upstreams: Upstreams, policy: Policy, *, sentences: bool, began: float
    ) -> None:
        self._asked, self._exchange, self._upstreams, self._policy = asked, exchange, upstreams, policy
        self._sentences, self._began = sentences, began
        self._shape = asked.stream()
        self._failed = False  # as the upstream says itself
        self._live: dict[Place, _Showing] = {}

    async def send(self, reply: Reply) -> None:
        """Send it to its end; what breaks it is its last event."""
        broken: RequestError | None = None
        with Ahead(self._open) as ahead:
            try:
                # An answer that cannot be shown ends it all: nobody reads on what the upstream writes.
                async with asyncio.TaskGroup() as group:
                    broken = await self._read(reply, ahead, group)
            except* RequestError as group_of:
                broken = _first(group_of)
        if broken is None and not self._failed and not self._shape.whole:
            broken = _broke_off()
        if broken is not None:
            await self._exchange.end(self._shape.error(broken))
        elif self._failed:  # the upstream's own error was its last word
            await self._exchange.end(sse.DONE if self._shape.done else b"")
        else:
            await self._exchange.end(self._shape.end())

    async def _read(self, reply: Reply, ahead: Ahead, group: asyncio.TaskGroup) -> RequestError | None:
        """Read what the upstream writes to its end; returns what breaks it."""
        broken, ended = None, 0.0
        try:
            async with closing(self._events(reply)) as events:
                async for event in events:
                    await self._take(event, ahead, group)
                    if self._shape.done:
                        break
                ended = perf_counter()
                await _drained(events)
        except RequestError as e:
            broken = e
        for left in self._live.values():  # the upstream broke off: they would wait for ever
            if left.task is not None:
                left.task.cancel()
        self._policy.metrics.upstream_seconds.observe((ended or perf_counter()) - self._began)
        return broken

    def _open(self, place: Place) -> Opened | None:
        if self._asked.wanted is not None:  # such an answer is corrected as a whole
            return None
        return self._policy.open(self._shape.question(place), self._asked.corrector)

    async def _take(self, event: sse.Event, ahead: Ahead, group: asyncio.TaskGroup) -> None:
        """Show what an event of the upstream leads to."""
        step = self._shape.feed(event)
        self._failed = self._failed or step.failed
        if self._shape.held > self._upstreams.answer_limit:
            raise self._upstreams.too_long()
        await self._exchange.send(b"".join(step.now))
        for place, text in step.heard:
            opened = ahead.push(place, text)
            if self._sentences and isinstance(opened, OpenedLive):
                whole, stops = asyncio.get_running_loop().create_future(), stop_sequences(self._asked.body)
                showing = _Showing(place, self._policy.live(opened, whole, stops), whole, opened)
                showing.task = group.create_task(self._show(showing))
                self._live[place] = showing
                self._shape.live.add(place)
        for answer in self._asked.formatted(step.ready):
            place = self._shape.place(answer)
            begun = self._live.pop(place, None)
            if begun is None:
                pieces = self._policy.stream(answer, self._asked.corrector, ahead.take(place, answer.text))
                begun = _Showing(place, pieces, asyncio.get_running_loop().create_future())
                group.create_task(self._show(begun))
            begun.end(answer, perf_counter() - self._began)

    async def _events(self, reply: Reply) -> AsyncIterator[sse.Event]:
        """The events of a reply; a connection that breaks is an error that can be told in the stream, unless nothing is
        missing."""
        try:
            async with closing(sse.events(reply.pieces(), self._upstreams.answer_limit)) as events:
                async for event in events:
                    yield event
        except TimeoutError:
            if self._shape.complete:
                return
            raise RequestError(f"the upstream was silent for {self._upstreams.timeout:g} s; try again", status=504,
                               code="upstream_timeout") from None  # fmt: skip
        except OSError:
            if self._shape.complete:
                return
            raise _broke_off() from None

    async def _show(self, showing: _Showing) -> None:
        """Show an answer.

        Raises:
            RequestError: it cannot be shown to its end.
        """
        outcome = Outcome(text="")
        async with closing(showing.pieces) as pieces:
            async for piece in pieces:
                if isinstance(piece, Outcome):
                    outcome = piece
                elif piece:
                    await self._exchange.send(self._shape.text(showing.place, piece))
        answer = await showing.whole
        lost = self._shape.put(answer, outcome.text)
        failed = outcome.reason is not None and outcome.correction is None and answer.untouched is None
        extension = await outcome.extension(
            self._asked.options, lost, showing.seconds, told=failed or outcome.reason == "too_long"
        )
        await self._exchange.send(self._shape.finish(answer, outcome.text, outcome.spent, extension))


async def _drained(events: AsyncIterator[sse.Event]) -> None:
    """Read what is left of a reply, for a moment."""
    with suppress(TimeoutError, RequestError):
        async with asyncio.timeout(_GRACE):
            async for _ in events:
                pass


def _first(group: BaseExceptionGroup[RequestError]) -> RequestError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _broke_off() -> RequestError:
    return RequestError("the upstream broke off before its answer was whole; try again", status=502,
                        code="upstream_broke_off")  # fmt: skip
