"""Work that ends when the client leaves, and what is not mistaken for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aligner.serve.asgi import ClientLeft, Exchange

SCOPE = {"headers": [], "method": "POST", "path": "/x", "raw_path": b"/x", "query_string": b""}


def exchange(left: asyncio.Event) -> Exchange:
    """One whose client has sent an empty body and leaves at the event."""
    messages = iter([{"type": "http.request", "body": b""}])

    async def receive() -> dict[str, Any]:
        if (message := next(messages, None)) is not None:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        # As servers do: once the reply is whole, the client counts as gone.
        if message["type"] == "http.response.body" and not message.get("more_body"):
            left.set()
            await asyncio.sleep(0.01)

    return Exchange(SCOPE, receive, send, limit=100)


async def outcome(work: Callable[[Exchange], Coroutine[Any, Any, None]], when: float | None = None) -> Exchange:
    left = asyncio.Event()
    made = exchange(left)
    await made.body()
    if when is not None:
        asyncio.get_running_loop().call_later(when, left.set)
    await made.unless_left(work(made))
    assert len(asyncio.all_tasks()) <= 2  # the watcher is cancelled, and gone with the next turn
    await asyncio.sleep(0)
    return made


async def never(_: Exchange) -> None:
    await asyncio.sleep(30)


def test_a_client_that_leaves_cancels_the_work() -> None:
    cleaned: list[bool] = []

    async def work(_: Exchange) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(never(_))
            try:
                await asyncio.sleep(30)
            finally:
                cleaned.append(True)

    with pytest.raises(ClientLeft):
        asyncio.run(outcome(work, 0.01))
    assert cleaned == [True]


def test_the_end_of_a_reply_is_no_client_that_leaves() -> None:
    done: list[bool] = []

    async def work(made: Exchange) -> None:
        await made.reply(200, b"ok", [])
        await asyncio.sleep(0.01)
        done.append(True)

    assert asyncio.run(outcome(work)).status == 200
    assert done == [True]


def test_a_server_that_stops_is_no_client_that_leaves() -> None:
    async def stopped() -> None:
        task = asyncio.create_task(outcome(never))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped())


def test_errors_of_the_work_pass() -> None:
    async def work(_: Exchange) -> None:
        raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        asyncio.run(outcome(work))
