"""StackedModel: an upstream π_θ and the corrector μ_φ behind it, as one more generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from aligner.correct.aligner import Aligner
from aligner.generate.collect import closing
from aligner.types import Chat, Completion, Correction, Delta, Generator, Sampling


class StackedModel:
    """Answers like the upstream, corrected: π'(y_c | x) = Σ_k μ_φ(y_c | y_k, x) π_θ(y_k | x), one draw of k at a time.

    `sampling` of a call goes to the upstream; the corrector decodes as it was told when it was loaded. A stack is a
    Generator, so it can be evaluated, bootstrapped from, or be the upstream of another stack.

    `in_flight` bounds the answers that wait for the corrector; a faster upstream is held back.
    """

    def __init__(self, upstream: Generator, aligner: Aligner, *, name: str | None = None, in_flight: int = 256) -> None:
        self.upstream = upstream
        self.aligner = aligner
        self.in_flight = in_flight
        self.name = name or f"{upstream.name}+aligner"

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Corrected answers as they finish; usage adds both models' tokens. Failed upstream items pass through."""
        async with closing(self.corrections(chats, sampling)) as corrections:
            async for i, answer, correction in corrections:
                if correction is None:
                    yield i, answer
                else:
                    usage = answer.usage + correction.completion.usage
                    yield i, replace(answer, text=correction.text, usage=usage)

    async def corrections(
        self, chats: Sequence[Chat], sampling: Sampling
    ) -> AsyncIterator[tuple[int, Completion, Correction | None]]:
        """(index, the upstream's completion, its correction or None where the upstream failed), as they finish.

        Answers are corrected while the upstream still works on others.
        """
        tasks: set[asyncio.Task[tuple[int, Completion, Correction | None]]] = set()

        async def correct(i: int, answer: Completion) -> tuple[int, Completion, Correction | None]:
            if answer.finish_reason == "error":
                return i, answer, None
            return i, answer, await self.aligner.acorrect(chats[i], answer.text)

        try:
            async with closing(self.upstream.generate(chats, sampling)) as answers:
                async for i, answer in answers:
                    tasks.add(asyncio.create_task(correct(i, answer)))
                    timeout = 0 if len(tasks) < self.in_flight else None
                    done, tasks = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
            while tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stream(self, chat: Chat, sampling: Sampling) -> AsyncIterator[Delta]:
        """The upstream answers in full, then its correction is streamed; the last delta's usage adds both."""
        async with closing(self.upstream.generate([chat], sampling)) as answers:
            async for _, answer in answers:
                if answer.finish_reason == "error":
                    yield Delta(text=answer.text, finish_reason="error", usage=answer.usage, error=answer.error)
                    return
                async with closing(self.aligner.stream(chat, answer.text)) as deltas:
                    async for delta in deltas:
                        yield delta if delta.usage is None else replace(delta, usage=delta.usage + answer.usage)
