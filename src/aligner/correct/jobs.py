"""Jobs: what the step loop is asked for an answer, and the correction that comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from aligner.correct import outcome
from aligner.correct.decoding import StepLoop
from aligner.correct.gate import Gate
from aligner.correct.guards import GuardPolicy, ResponseFormat
from aligner.correct.job import Job
from aligner.correct.ticket import Decoded, Request, Ticket
from aligner.errors import AlignerError, PromptError
from aligner.prompts import EncodedPrompt, PromptFormat
from aligner.tokens import TextCodec
from aligner.types import Chat, Completion, Correction, KeptBecause, Sampling, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Makes and settles the jobs of one corrector. `context` is in tokens."""

    loop: StepLoop
    codec: TextCodec
    prompt: PromptFormat
    context: int
    stop_ids: frozenset[int]
    guards: GuardPolicy
    speculate: bool

    def job(
        self,
        chat: Chat,
        answer: str,
        sampling: Sampling,
        wanted: ResponseFormat | None = None,
        gate: Gate | None = None,
        *,
        prefix: str = "",
        behind: str = "",
    ) -> Job:
        """A job for an answer; one that cannot be encoded says so itself."""
        try:
            job = self._encoded(chat, answer, sampling, gate, prefix, behind)
            return replace(job, wanted=wanted)
        except PromptError as e:  # one text that cannot be encoded must not cost the others of its batch
            return Job(chat=chat, answer=answer, prompt=EncodedPrompt(ids=()), request=None, error=str(e))

    def _encoded(self, chat: Chat, answer: str, sampling: Sampling, gate: Gate | None, prefix: str, behind: str) -> Job:
        copy = self.prompt.encode_correction(self.codec, answer)
        likely = len(copy) - 1
        room = max(self.context - likely - 1, 1)
        prompt = self.prompt.encode(self.codec, chat, answer + behind, max_tokens=room, prefix=prefix)
        room = self.context - len(prompt.ids)
        request, tight = None, False
        if not self.loop.knows((*prompt.ids, *copy)):
            raise PromptError("the tokenizer gives ids that the model has no embedding of; use the tokenizer that the "
                              "corrector was trained with")  # fmt: skip
        if room > 0:  # a correction may be shorter than the answer; one that is not is caught as cut
            # Twice the answer is generous for a correction and stops one that runs in circles.
            most = sampling.max_new_tokens or 2 * likely + 256
            tight = room < min(len(copy), most)
            request = Request(
                prompt=prompt.ids, max_new_tokens=min(room, most), stop_ids=self.stop_ids, sampling=sampling,
                answer=tuple(copy) if self.speculate or gate is not None else (),
                gate=gate,
            )  # fmt: skip
        return Job(chat=chat, answer=answer, prompt=prompt, request=request, tight=tight)

    def corrections(self, jobs: Iterable[Job]) -> Iterator[Correction]:
        """Corrections in the order of the jobs, of which only a window is in memory; leaving early cancels the rest."""
        window: deque[tuple[Job, Ticket | None]] = deque()
        try:
            for job in jobs:
                window.append((job, self.loop.submit(job.request) if job.request else None))
                if len(window) > 2 * self.loop.max_rows:
                    yield self.settle(*window.popleft())
            while window:
                yield self.settle(*window.popleft())
        finally:
            for _, ticket in window:
                if ticket is not None:
                    ticket.cancel()

    def settle(self, job: Job, ticket: Ticket | None) -> Correction:
        """What became of it, waiting for its ticket."""
        if job.error is not None:
            return self._kept(job, Completion(text="", finish_reason="error", error=job.error), "error")
        if ticket is None:
            error = outcome.no_room(len(job.prompt.ids), self.context)
            return self._kept(job, Completion(text="", finish_reason="error", error=error), "too_long")
        try:
            decoded = self.loop.wait(ticket)
        except AlignerError as e:
            return self._kept(job, Completion(text="", finish_reason="error", error=str(e)), "error")
        return self._finish(job, decoded)

    def _finish(self, job: Job, decoded: Decoded) -> Correction:
        gate = decoded.gate
        passed = gate is not None and gate.passed
        text = job.answer if passed else outcome.trimmed(self.prompt, job.answer, self.codec.decode(decoded.ids))
        usage = Usage(prompt_tokens=len(job.prompt.ids), completion_tokens=len(decoded.ids))
        completion = Completion(text=text, finish_reason=decoded.finish_reason, usage=usage)
        if job.tight and decoded.finish_reason == "length":
            error = outcome.no_room(len(job.prompt.ids), self.context)
            return replace(self._kept(job, replace(completion, error=error), "too_long"), gate=gate)
        correction = outcome.finished(
            job.chat, job.answer, job.prompt, completion, wanted=job.wanted, policy=self.guards, passed=passed
        )
        return replace(correction, gate=gate)

    def _kept(self, job: Job, completion: Completion, reason: KeptBecause) -> Correction:
        return outcome.kept(job.chat, job.answer, job.prompt, completion, reason)
