"""Session: the correction of an answer that is still being written. What is known of it is read ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from aligner.correct import outcome
from aligner.correct.apart import apart, length
from aligner.correct.decoding import StepLoop
from aligner.correct.guards import GuardPolicy
from aligner.correct.job import Job
from aligner.correct.open_row import OpenRow
from aligner.correct.ticket import Ticket
from aligner.errors import PromptError
from aligner.prompts import PromptFormat, question_text
from aligner.tokens import IncrementalText, TextCodec
from aligner.types import Chat, Correction, Delta

# New text is worth encoding the whole answer again when it is so many characters long, and such a share of what was
# encoded before: then all of that costs a small multiple of encoding the answer once. Where the question is encoded
# with it each time, it counts, too.
_ENOUGH, _SHARE = 24, 16


class Session:
    """One answer: its text is pushed as it comes, then `finish` or `stream` corrects it as a whole.

    The correction is the one that the whole answer gets. A session that is not finished must be closed.

    Args:
        chat: the question.
        loop, codec, prompt, context: the corrector's.
        job: makes the job of the whole answer.
        settle: waits for a job's ticket and makes its correction.
        guards: what stops a stream, as it keeps the original answer otherwise.
        ahead: read the question and the text that is pushed before the answer is whole.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        loop: StepLoop,
        codec: TextCodec,
        prompt: PromptFormat,
        context: int,
        job: Callable[[str], Job],
        settle: Callable[[Job, Ticket | None], Correction],
        guards: GuardPolicy,
        ahead: bool = True,
    ) -> None:
        self._chat, self._loop, self._codec, self._prompt, self._context = chat, loop, codec, prompt, context
        self._job, self._settle, self._guards = job, settle, guards
        self._pieces: list[str] = []
        self._length = self._encoded = 0
        self._before: tuple[int, ...] | None = None  # ids of what stands before the answer, where they are apart
        self._row = OpenRow(loop)
        if ahead:
            self._row.open(self._first())

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    def push(self, text: str) -> None:
        """More of the answer. Never blocks and never fails: what cannot be read ahead is read later."""
        self._pieces.append(text)
        self._length += len(text)
        if self._row.reading is None or self._length - self._encoded < max(_ENOUGH, self._encoded // _SHARE):
            return
        self._encoded = self._length
        self._row.read(self._known())

    async def finish(self, answer: str | None = None) -> Correction:
        """The correction of the whole answer; `answer` is what was pushed unless given."""
        try:
            job = await self._made(answer)
            ticket: Ticket | None = None
            if job.request is not None:
                ticket = self._loop.start().submit(job.request, reading=self._row.reading)
                await ticket.ended()
            return await self._settled(job, ticket)
        finally:
            self.close()

    async def stream(self, answer: str | None = None) -> AsyncIterator[Delta]:
        """The correction of the whole answer as it is written. Leaving the iteration early cancels it.

        A gate decides before the first piece. What was shown cannot be taken back: a foreign script stops the stream
        before it is shown, and what was shown before it stays; a guard that fires at the end is named in the last
        delta's `kept_because`. An answer that does not fit is handed through as it is. What must stay JSON, or might
        not fit, comes in one piece.
        """
        ticket: Ticket | None = None
        try:
            job = await self._made(answer)
            if job.request is None:
                kept = await self._settled(job, None)
                yield Delta(text=kept.text)
                yield outcome.last(kept)
                return
            running = asyncio.get_running_loop()
            tokens: asyncio.Queue[int | None] = asyncio.Queue()
            ticket = self._loop.start().submit(
                job.request, lambda token: _call(running, tokens.put_nowait, token), self._row.reading
            )
            ticket.future.add_done_callback(lambda _: _call(running, tokens.put_nowait, None))
            if job.whole:
                await ticket.ended()
                done = await self._settled(job, ticket)
                yield Delta(text=done.text)
                yield outcome.last(done)
                return
            pieces = IncrementalText(self._codec)
            watch = await apart(length(job.chat, job.answer), outcome.ScriptWatch, job.chat, job.answer, self._guards)
            shown = ended = False
            while not ended:
                token = await tokens.get()
                ended = token is None
                text = pieces.push([] if token is None else [token], final=ended)
                text = text if shown else outcome.trimmed(self._prompt, job.answer, text)
                if watch.leaks(text):
                    if not shown:
                        yield Delta(text=job.answer)  # nothing was shown yet, so the original still can be
                    ticket.cancel()
                    await ticket.ended()
                    done = await self._settled(job, ticket)
                    yield Delta(text="", finish_reason="cancelled", usage=done.completion.usage,
                                kept_because="script_leak", flags=done.flags, gate=done.gate)  # fmt: skip
                    return
                if text:
                    shown = True
                    yield Delta(text=text)
            done = await self._settled(job, ticket)
            if not shown and (done.kept_because is not None or done.is_copy):
                yield Delta(text=done.text)
            yield outcome.last(done)
        finally:
            if ticket is not None:
                ticket.cancel()
            self.close()

    def close(self) -> None:
        """Give up what was read ahead. Closing twice does nothing."""
        self._row.close()

    async def _made(self, answer: str | None) -> Job:
        answer = self.text if answer is None else answer
        return await apart(length(self._chat, answer), self._job, answer)

    async def _settled(self, job: Job, ticket: Ticket | None) -> Correction:
        """The correction; its guards read the whole conversation."""
        return await apart(length(job.chat, job.answer), self._settle, job, ticket)

    def _first(self) -> tuple[int, ...] | None:
        """Ids of the prompt before there is an answer; None where they cannot be read ahead."""
        question = question_text(self._chat)
        try:
            if self._codec.exceeds(question, self._context):
                return None  # its oldest turns will be left out
            self._before = self._prompt.encode_before(self._codec, self._chat)
        except PromptError:
            return None
        if self._before is None:
            self._length = self._encoded = len(question)
        return self._known()

    def _known(self) -> tuple[int, ...] | None:
        """Ids of the prompt as far as it is known; None where they cannot be read ahead."""
        try:
            if self._before is None:
                ids = self._prompt.encode_open(self._codec, self._chat, self.text)
            else:
                ids = self._before + self._codec.encode(self.text)
        except PromptError:
            return None
        return ids if len(ids) < self._context else None


def _call(loop: asyncio.AbstractEventLoop, function: Any, value: Any) -> None:
    """Hand a value to another thread's event loop; one that is closed wants nothing any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, value)
