"""Apart: what takes long with a long text is done in a thread, so that nobody else on the event loop waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from aligner.types import Chat

_LONG = 16_000  # characters, which take some milliseconds to encode: a thread costs a tenth of one
P = ParamSpec("P")
T = TypeVar("T")


def length(chat: Chat, *texts: str) -> int:
    """Characters of a conversation and what belongs to it."""
    return sum(len(turn.content) for turn in chat) + sum(map(len, texts))


async def apart(characters: int, function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """What a function returns of texts that have so many characters."""
    if characters < _LONG:
        return function(*args, **more)
    return await asyncio.to_thread(function, *args, **more)
