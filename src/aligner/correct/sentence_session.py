"""SentenceSession: sentences are corrected while the answer is still being written, each checked before it is shown."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from aligner.correct import outcome
from aligner.correct.apart import apart, length
from aligner.correct.decoding import StepLoop
from aligner.correct.guards import GuardPolicy, ResponseFormat, check, is_json, may_become_json
from aligner.correct.job import Job
from aligner.correct.open_row import OpenRow
from aligner.correct.sentences import Splitter, parts
from aligner.correct.ticket import Ticket
from aligner.errors import PromptError
from aligner.generate.collect import closing
from aligner.prompts import EncodedPrompt, question_text
from aligner.types import Chat, Completion, Correction, Delta, KeptBecause, Usage


class SentenceSession:
    """One answer: its text is pushed as it comes, and `stream` shows its corrected sentences as soon as each is done.

    A sentence stays as it is where its correction would be thrown away by a guard, and where it does not fit. One that
    the corrector fails on ends it all: the last delta says "error", and `unshown` is what was not corrected. What is
    shown cannot be taken back: a guard of the whole text that fires at the end is named in the last delta. So an answer
    for which a format is wanted, or that is JSON, as far as can be told when its first sentence is done, comes in one
    piece, before which the deltas of its sentences are blank. A session that is not finished must be closed.

    Args:
        chat: the question.
        loop: the corrector's.
        job: makes the job of a sentence by what was corrected before it and the white space behind it.
        settle: waits for a job's ticket and gives what was written, or why nothing was.
        known: ids of the question and of what was corrected so far, which are read ahead.
        guards: what keeps a sentence as it is, and the whole answer.
        wanted: the format of the whole answer.
    """

    def __init__(
        self,
        chat: Chat,
        *,
        loop: StepLoop,
        job: Callable[[str, str, str], Job],
        settle: Callable[[Job, Ticket | None], Completion],
        known: Callable[[str], tuple[int, ...]],
        guards: GuardPolicy,
        wanted: ResponseFormat | None = None,
    ) -> None:
        self._guards, self._wanted = guards, wanted
        self._chat, self._loop, self._job, self._settle, self._known = chat, loop, job, settle, known
        self._splitter = Splitter()
        self._coming: asyncio.Queue[tuple[str, bool] | None] = asyncio.Queue()
        self._pushed: list[str] = []
        self._ended = False
        self._row = OpenRow(loop)
        self._shown = self._behind = ""  # what was shown, and the white space behind it that was not yet
        self._held = False  # what counts as shown is held back until the end
        self._kept: Counter[KeptBecause] = Counter()
        self._done = 0  # characters of the answer in whose place the shown text stands
        self._count = 0
        self._usage = Usage()
        self._error: str | None = None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pushed)

    @property
    def unshown(self) -> str:
        """What follows the shown text where nothing more is corrected: the rest of the answer so far."""
        if self._held:
            return self.text
        return self._behind * bool(self._shown) + self.text[self._done :]

    def push(self, text: str) -> None:
        """More of the answer."""
        if not self._ended:
            self._pushed.append(text)
            for sentence in self._splitter.push(text):
                self._coming.put_nowait((sentence, True))  # a cut is made where more follows

    def end(self, answer: str | None = None) -> None:
        """The answer is whole. `answer` is it, where nothing was pushed."""
        if self._ended:
            return
        if answer is not None and not self._pushed:
            self._pushed.append(answer)
            sentences = self._splitter.push(answer, final=True)
        else:
            sentences = self._splitter.push("", final=True)
        self._ended = True
        for i, sentence in enumerate(sentences, start=1):
            self._coming.put_nowait((sentence, i < len(sentences)))
        self._coming.put_nowait(None)

    async def finish(self, answer: str | None = None) -> Correction:
        """The correction of the whole answer."""
        self.end(answer)
        async for _ in self.live():
            pass
        return self._whole()

    async def stream(self, answer: str | None = None) -> AsyncIterator[Delta]:
        """The correction of an answer that is whole; otherwise as `live`."""
        self.end(answer)
        async with closing(self.live()) as deltas:
            async for delta in deltas:
                if self._failed and (self._held or not self._shown):  # the original still can be shown
                    yield Delta(text=self.text)
                yield delta

    async def live(self) -> AsyncIterator[Delta]:
        """The corrected sentences, each as soon as it is done, until `end` was called. Leaving early cancels."""
        try:
            await self._read_ahead()
            while (coming := await self._coming.get()) is not None:
                if not self._shown:
                    self._held = self._wanted is not None or self._is_json()
                delta = await self._corrected(*coming)
                if self._failed:
                    yield Delta(text="", finish_reason="error", usage=self._usage, kept_because="error",
                                error=self._error)  # fmt: skip
                    return
                if delta.text:
                    yield replace(delta, text="") if self._held else delta
            done = self._whole()
            # Where nothing was shown yet, the original still can be.
            shown, self._held = self._shown and not self._held, False
            if rest := parts(self.text)[1] if shown else done.text:
                yield Delta(text=rest)
            yield Delta(text="", finish_reason=done.completion.finish_reason, usage=self._usage,
                        kept_because=done.kept_because, flags=done.flags, error=done.completion.error)  # fmt: skip
        finally:
            self.close()

    def close(self) -> None:
        """Give up what was read ahead. Closing twice does nothing."""
        self._row.close()

    @property
    def _failed(self) -> bool:
        return "error" in self._kept

    def _is_json(self) -> bool:
        """Whether the answer is JSON; whether it may become it, where it is not whole."""
        return is_json(self.text) if self._ended else may_become_json(self.text)

    async def _corrected(self, sentence: str, more: bool) -> Delta:
        """What is shown for a sentence: the white space before it, and its correction, or itself and why."""
        core, behind = parts(sentence)
        new, reason = await self._asked(core, behind if more else "") if core else ("", None)
        text = self._behind * bool(self._shown) + new if new else ""
        if self._failed:
            return Delta(text="")
        self._done += len(sentence)
        if new:
            self._shown, self._behind = self._shown + text, behind
        return Delta(text=text, kept_because=reason)

    async def _asked(self, core: str, behind: str) -> tuple[str, KeptBecause | None]:
        self._count += 1
        job = await apart(length(self._chat, self._shown, core), self._job, core, self._shown, behind)
        ticket: Ticket | None = None
        if job.request is not None:
            ticket = self._loop.start().submit(job.request, reading=self._row.reading)
            await ticket.ended()
        written = self._settle(job, ticket)
        self._usage += written.usage
        self.close()
        reason = await apart(length(self._chat, self.text), self._why_kept, core, written, job)
        if reason is not None:
            self._kept[reason] += 1
            self._error = written.error if reason == "error" else self._error or written.error
        new = core if reason is not None else written.text.strip()
        if not self._failed:
            await self._read_ahead(self._shown + (self._behind if self._shown and new else "") + new)
        return new, reason

    def _why_kept(self, core: str, written: Completion, job: Job) -> KeptBecause | None:
        if written.finish_reason == "error":
            return "too_long" if job.error is None and job.request is None else "error"
        if not written.text.strip():
            return None  # a sentence may be left out
        question = f"{question_text(self._chat)}\n{self.text}"
        return check(
            question=question,
            answer=core,
            correction=written.text,
            finish_reason=written.finish_reason,
            policy=self._guards,
        )

    async def _read_ahead(self, prefix: str = "") -> None:
        """The question, and what was corrected so far, are read while the next sentence is still being written."""
        try:
            self._row.open(await apart(length(self._chat, prefix), self._known, prefix))
        except PromptError:
            return

    def _whole(self) -> Correction:
        flags = tuple(f"kept_sentences:{reason}:{count}" for reason, count in sorted(self._kept.items()))
        prompt = EncodedPrompt(ids=(), flags=flags)
        shown = self._shown + (parts(self.text)[1] if self._shown else "")
        if self._failed:  # what is half corrected is no correction
            completion = Completion(text=self._shown, finish_reason="error", usage=self._usage, error=self._error)
            return outcome.kept(self._chat, self.text, prompt, completion, "error")
        if self._count and sum(self._kept.values()) == self._count:  # nothing of it is the corrector's
            reason, _ = self._kept.most_common(1)[0]
            completion = Completion(text="", finish_reason="error", usage=self._usage, error=self._error)
            return outcome.kept(self._chat, self.text, prompt, completion, reason)
        completion = Completion(text=shown, finish_reason="stop", usage=self._usage)
        return outcome.finished(self._chat, self.text, prompt, completion, wanted=self._wanted, policy=self._guards)
