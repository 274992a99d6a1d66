"""Doors to async code: sync ones, for scripts and notebooks, and one to generators that closes behind itself."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from aligner.types import Chat, Completion, Generator, Sampling

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; where a loop is already running, on a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as e:  # handed to the caller, whatever it is
            failure.append(e)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def in_order(
    jobs: Iterable[Coroutine[Any, Any, T]], ahead: int, within: AbstractAsyncContextManager[Any] | None = None
) -> Iterator[T]:
    """What coroutines give, in their order; `ahead` of them are under way, or done and waiting for one before them.

    They go on while the caller works with what was yielded, on a thread of their own, inside `within`. One that fails
    raises where its turn comes; that, and leaving early, cancels those behind it.
    """
    loop, around, window = asyncio.new_event_loop(), AsyncExitStack(), deque[Future[T]]()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def start(job: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(job, loop)

    async def leave() -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await around.aclose()
        await loop.shutdown_asyncgens()

    try:
        if within is not None:
            start(around.enter_async_context(within)).result()
        for job in jobs:
            window.append(start(job))
            # What is done is not held back while the next job is still being made.
            while window and (len(window) >= ahead or window[0].done()):
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        try:
            start(leave()).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Iterate, and on leaving early tell the maker at once, so that it can cancel what is under way."""
    try:
        yield iterator
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


def collect(generator: Generator, chats: Sequence[Chat], sampling: Sampling | None = None) -> list[Completion]:
    """All completions of a generator, in the order of the chats."""

    async def gather() -> list[Completion]:
        found = {i: c async for i, c in generator.generate(chats, sampling or Sampling())}
        return [found[i] for i in range(len(chats))]

    return run_sync(gather())
