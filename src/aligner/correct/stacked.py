"""StackedModel: an upstream π_θ and the corrector μ_φ behind it, as one more generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from aligner.correct.aligner import Aligner
from aligner.types import Chat, Completion, Correction, Delta, Generator, Sampling


class StackedModel:
    """Answers like the upstream, corrected: π'(y_c | x) = Σ_k μ_φ(y_c | y_k, x) π_θ(y_k | x), one draw of k at a time.

    `sampling` of a call goes to the upstream; the corrector decodes as it was told when it was loaded. A stack is a
    Generator, so it can be evaluated, bootstrapped from, or be the upstream of another stack.
    """

    def __init__(self, upstream: Generator, aligner: Aligner, *, name: str | None = None) -> None:
        self.upstream = upstream
        self.aligner = aligner
        self.name = name or f"{upstream.name}+aligner"

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Corrected answers as they finish; usage adds both models' tokens. Failed upstream items pass through."""
        async for i, answer, correction in self.corrections(chats, sampling):
            if correction is None:
                yield i, answer
            else:
                yield (
                    i,
                    Completion(
                        text=correction.text,
                        finish_reason=answer.finish_reason,
                        usage=answer.usage + correction.completion.usage,
                    ),
                )

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
            async for i, answer in self.upstream.generate(chats, sampling):
                tasks.add(asyncio.create_task(correct(i, answer)))
                for task in [t for t in tasks if t.done()]:
                    tasks.discard(task)
                    yield task.result()
            while tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()

    async def stream(self, chat: Chat, sampling: Sampling) -> AsyncIterator[Delta]:
        """The upstream answers in full, then its correction is streamed."""
        async for _, answer in self.upstream.generate([chat], sampling):
            if answer.finish_reason == "error":
                yield Delta(text=answer.text, finish_reason="error", usage=answer.usage)
                return
            async for delta in self.aligner.stream(chat, answer.text):
                yield delta
