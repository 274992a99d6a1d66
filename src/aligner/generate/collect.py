"""Doors to async generators: a sync one, for scripts and notebooks, and one that closes behind itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
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
