"""The sync door to many coroutines: in order, each as soon as it can be, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from aligner.generate.collect import in_order

SEEN: ContextVar[str] = ContextVar("seen", default="")


async def after(seconds: float, value: Any) -> Any:
    await asyncio.sleep(seconds)
    if isinstance(value, Exception):
        raise value
    return value


def test_they_come_in_order_while_others_are_under_way() -> None:
    started: list[int] = []
    four = threading.Event()

    async def first() -> int:
        await asyncio.to_thread(four.wait)
        return 0

    def jobs() -> Iterator[Coroutine[Any, Any, int]]:
        for i in range(20):
            started.append(i)
            if i == 3:
                four.set()
            yield after(0.02 if i % 3 == 0 else 0, i) if i else first()

    found = in_order(jobs(), 4)
    assert started == []
    assert next(found) == 0
    assert started == [0, 1, 2, 3]
    assert next(found) == 1
    assert list(found) == list(range(2, 20))
    assert list(in_order(iter(()), 4)) == []


def test_what_is_done_does_not_wait_for_the_next_job_to_be_made() -> None:
    started: list[int] = []

    def jobs() -> Iterator[Coroutine[Any, Any, int]]:
        for i in range(8):
            time.sleep(0.05)
            started.append(i)
            yield after(0, i)

    found = in_order(jobs(), 8)
    assert next(found) == 0
    assert len(started) < 8
    assert list(found) == list(range(1, 8))


def test_what_is_done_comes_before_what_failed_and_the_rest_is_cancelled() -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("endless")

    @asynccontextmanager
    async def around() -> AsyncIterator[None]:
        yield
        ended.append("around")

    found = in_order(iter([after(0.05, 1), after(0, 2), after(0, ValueError("three")), endless()]), 10, around())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)
    assert ended == ["endless", "around"]


def test_leaving_early_ends_it() -> None:
    before = threading.active_count()
    found = in_order((after(0, i) for i in range(1000)), 4)
    assert next(found) == 0
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


def test_it_goes_on_while_the_caller_works_and_inside_a_running_loop() -> None:
    done = threading.Event()

    async def says() -> str:
        done.set()
        return SEEN.get()

    async def inside() -> list[Any]:
        SEEN.set("the caller's")
        found = in_order(iter([after(0, "a"), after(0.01, "b"), says()]), 2)
        first = [next(found), next(found)]
        assert done.wait(10)
        return [*first, *found]

    assert asyncio.run(inside()) == ["a", "b", "the caller's"]
