"""Policy: one answer to what is shown in its place: the correction, the original and why, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal

from aligner.correct.keep_best import KeepBest
from aligner.errors import AlignerError, RequestError
from aligner.generate.collect import closing
from aligner.serve.failures import as_told, did_not_fit, reported
from aligner.serve.measures import measured
from aligner.serve.metrics import Metrics
from aligner.serve.outcome import Outcome
from aligner.serve.stops import StopWatch, stopped
from aligner.serve.wire import Answer
from aligner.types import Chat, Completion, Correction, Corrector, Delta, Opened, OpenedLive, Opens, Usage

OnFailure = Literal["error", "pass-through"]
_RETRY = 1  # seconds after which a client that was refused may come again


class Policy:
    """Asks the corrector and decides what is shown.

    Args:
        metrics: what happens is counted there.
        on_failure: what becomes of an answer where the corrector fails: a 502, or the original.
        strict: refuse (413) an answer that does not fit the corrector's context, in place of keeping it.
        timeout: seconds that a correction may take; of a stream, that the corrector may be silent.
        max_waiting: answers before the corrector at the same time; more are refused with 429.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        on_failure: OnFailure = "error",
        strict: bool = False,
        timeout: float = 60.0,
        max_waiting: int = 1024,
    ) -> None:
        self.metrics, self.on_failure, self.strict = metrics, on_failure, strict
        self.timeout, self.max_waiting = timeout, max_waiting
        self.waiting = 0
        self._admits = on_failure == "error"  # else the original takes the place of what does not fit in the queue

    def open(self, question: Chat, corrector: Corrector) -> Opened | None:
        """Begin to read an answer that is still being written; None where the corrector cannot do that."""
        if not isinstance(corrector, Opens) or not question:
            return None
        try:
            opened = corrector.open(question)
        except AlignerError:
            return None  # whatever is wrong is told when the answer is corrected
        self.metrics.read_ahead.inc()
        return opened

    async def correct(self, answer: Answer, corrector: Corrector, *, bounded: bool = True) -> Outcome:
        """Correct one answer; one that was admitted need not be `bounded` by the queue.

        Raises:
            RequestError: 502 or 504 where the corrector fails, 413 where the answer is too long, 429 where too many
                answers wait; each only if the policy says so.
        """
        if answer.untouched is not None:
            return self._untouched(answer)
        began = perf_counter()
        try:
            with self._place(bounded=bounded):
                async with asyncio.timeout(self.timeout):
                    correction = await corrector.acorrect(answer.question, answer.text, **_format(answer))
        except TimeoutError:
            return self._failed(answer, self._slow())
        except Exception as e:  # whatever a corrector raises, its failure is a policy's matter
            return self._failed(answer, e)
        return await self._outcome(answer, correction, began)

    async def correct_all(self, answers: list[Answer], corrector: Corrector) -> list[Outcome]:
        """Correct the answers of one response together; the first failure cancels the others.

        Raises:
            RequestError: as `correct`.
        """
        if len(answers) == 1:
            return [await self.correct(answers[0], corrector)]
        tasks = [asyncio.ensure_future(self.correct(answer, corrector)) for answer in answers]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def stream(
        self, answer: Answer, corrector: Corrector, opened: Opened | None = None
    ) -> AsyncIterator[str | Outcome]:
        """The pieces of what is shown in an answer's place, and then what became of it.

        `opened` has read the answer while it was written. An answer that must keep to a format comes whole: of one that
        broke it at the end, nothing could be taken back.

        Raises:
            RequestError: as `correct`; also where the corrector fails after some of its text was shown.
        """
        if answer.untouched is not None or answer.wanted is not None:
            outcome = await self.correct(answer, corrector, bounded=not self._admits)
            yield outcome.text
            yield replace(outcome, buffered=answer.untouched is None)
            return
        began = perf_counter()
        shown: list[str] = []
        watch = StopWatch(answer.stops, answer.text)
        held = ""  # the whole answer in one piece may be a copy, or what is kept because of a failure
        ended = Delta(text="", finish_reason="error", kept_because="error")
        failure: Exception | None = None
        refused: RequestError | None = None
        try:
            with self._place(bounded=not self._admits):
                async with (
                    asyncio.timeout(self.timeout) as limit,
                    closing(_streamed(answer, corrector, opened)) as deltas,
                ):
                    async for delta in deltas:
                        limit.reschedule(None)  # the time that the client takes is not the corrector's
                        if self.strict and delta.kept_because == "too_long":
                            refused = self._too_long(None)
                            break
                        if delta.finish_reason is not None:
                            ended = delta
                        if delta.text:
                            piece, held = held + delta.text, ""
                            if not shown and piece == answer.text and delta.finish_reason is None:
                                held = piece
                            elif piece := watch.push(piece):
                                if not shown:
                                    self.metrics.first_seconds.observe(perf_counter() - began)
                                shown.append(piece)
                                yield piece
                        limit.reschedule(asyncio.get_running_loop().time() + self.timeout)
        except TimeoutError:
            failure = self._slow()
        except Exception as e:
            failure = e
        if refused is not None:
            raise refused
        if failure is None and ended.kept_because == "error":
            failure = reported(ended.error)
        if failure is not None:
            rest = watch.rest() + opened.unshown * (not watch.hit) if isinstance(opened, OpenedLive) else None
            for last in self._broken(answer, failure, "".join(shown), rest):
                yield last
            return
        if rest := watch.rest() + held:
            shown.append(rest)
            yield rest
        outcome = await self._ended(answer, "".join(shown), ended, watch, perf_counter() - began,
                                    buffered=isinstance(corrector, KeepBest))  # fmt: skip
        if not shown:
            yield outcome.text
        yield outcome

    async def live(
        self, opened: OpenedLive, whole: asyncio.Future[Answer], stops: tuple[str, ...] = ()
    ) -> AsyncIterator[str | Outcome]:
        """As `stream`, of an answer that is not whole yet: `whole` is done when it is.

        Raises:
            RequestError: as `stream`.
        """
        began = ready = perf_counter()
        shown: list[str] = []
        watch = StopWatch(stops)
        showing = False

        def over(_: asyncio.Future[Answer]) -> None:
            nonlocal ready
            ready = perf_counter()
            if not showing:
                with suppress(RuntimeError):  # it is over already
                    limit.reschedule(asyncio.get_running_loop().time() + self.timeout)

        last = Delta(text="", finish_reason="error", kept_because="error")
        failure: Exception | None = None
        refused: RequestError | None = None
        try:
            with self._place(bounded=not self._admits):
                async with asyncio.timeout(None) as limit, closing(opened.live()) as deltas:
                    whole.add_done_callback(over)
                    async for delta in deltas:
                        last = delta
                        if self.strict and delta.kept_because == "too_long":
                            refused = self._too_long(None)
                            break
                        if piece := watch.push(delta.text):
                            if not shown:
                                self.metrics.first_seconds.observe(perf_counter() - began)
                            shown.append(piece)
                            showing = True
                            limit.reschedule(None)  # the time that the client takes is not the corrector's
                            yield piece
                            showing = False
                        if whole.done():
                            limit.reschedule(asyncio.get_running_loop().time() + self.timeout)
        except TimeoutError:
            failure = self._slow()
        except Exception as e:
            failure = e
        if refused is not None:
            raise refused
        if failure is None and last.kept_because == "error":
            failure = reported(last.error)
        if failure is not None and self.on_failure == "error":
            raise self._told(failure)  # the rest of the answer changes nothing of that
        answer = await whole
        if failure is not None:
            rest = watch.rest() + opened.unshown * (not watch.hit)
            for part in self._broken(answer, failure, "".join(shown), rest):
                yield part
            return
        if rest := watch.rest():
            shown.append(rest)
            yield rest
        outcome = await self._ended(answer, "".join(shown), last, watch, perf_counter() - ready)
        if not shown:
            yield outcome.text
        yield outcome

    async def _outcome(self, answer: Answer, correction: Correction, began: float) -> Outcome:
        if correction.kept_because == "error":
            return self._failed(answer, reported(correction.completion.error))
        if self.strict and did_not_fit(correction):
            raise self._too_long(correction.completion.error)
        correction = stopped(correction, answer.stops, formatted=answer.wanted is not None)
        seconds = perf_counter() - began
        measures = await measured(correction)
        self.metrics.corrected(correction, measures, seconds)
        return Outcome(text=correction.text, reason=correction.kept_because, correction=correction, measures=measures,
                       seconds=seconds)  # fmt: skip

    async def _ended(
        self, answer: Answer, shown: str, last: Delta, watch: StopWatch, seconds: float, *, buffered: bool = False
    ) -> Outcome:
        """What became of an answer whose correction was streamed; where nothing was shown, it stays."""
        kept = last.kept_because if shown or not watch.hit else "emptied"
        text = shown or (answer.text if watch.hit else "")
        completion = Completion(text=shown, finish_reason=last.finish_reason or "stop", usage=last.usage or Usage())
        correction = Correction(question=answer.question, answer=answer.text, text=text, completion=completion,
                                kept_because=kept, flags=watch.flags(last.flags), gate=last.gate)  # fmt: skip
        measures = await measured(correction)
        self.metrics.corrected(correction, measures, seconds)
        reason = answer.untouched or kept
        return Outcome(text=text, reason=reason, correction=correction, measures=measures, seconds=seconds,
                       late=reason is not None and not correction.is_copy, buffered=buffered)  # fmt: skip

    def _untouched(self, answer: Answer) -> Outcome:
        self.metrics.untouched(answer.untouched or "")
        return Outcome(text=answer.text, reason=answer.untouched)

    def _told(self, error: Exception) -> RequestError:
        told = as_told(error)
        self.metrics.failed(told.code)
        return told

    def _failed(self, answer: Answer, error: Exception) -> Outcome:
        told = self._told(error)
        if self.on_failure == "pass-through":
            return Outcome(text=answer.text, reason=told.code)
        raise told

    def _broken(self, answer: Answer, error: Exception, shown: str, rest: str | None) -> Iterator[str | Outcome]:
        """What follows the text that was shown where the corrector fails; `rest` are sentences that it did not reach.

        Raises:
            RequestError: the policy says so; or of what was shown nobody can say where the original goes on.
        """
        told = as_told(error)
        outcome = self._failed(answer, told)
        if not shown:
            yield outcome.text
            yield outcome
            return
        if rest is None:
            raise told
        yield rest
        completion = Completion(text=shown, finish_reason="error")
        correction = Correction(question=answer.question, answer=answer.text, text=shown + rest,
                                completion=completion, kept_because="error")  # fmt: skip
        yield replace(outcome, text=correction.text, correction=correction, late=not correction.is_copy)

    def _too_long(self, said: str | None) -> RequestError:
        self.metrics.failed("too_long")
        return RequestError(f"the answer does not fit the corrector ({said or 'question and answer are too long'}); "
                            "ask for a shorter one, or leave --strict out", status=413,
                            code="answer_too_long")  # fmt: skip

    def _slow(self) -> RequestError:
        return RequestError(f"the corrector did not finish within {self.timeout:g} s; try again, or raise "
                            "--correction-timeout", status=502, code="correction_timeout")  # fmt: skip

    def admit(self) -> None:
        """Whether an answer that nobody asked for yet would find a place before the corrector.

        Raises:
            RequestError: 429, it would not, and the original may not take its place.
        """
        if self._admits:
            self._check_room()

    def _check_room(self) -> None:
        if self.waiting >= self.max_waiting:
            raise RequestError(f"{self.max_waiting} answers wait for the corrector already; come again in a moment",
                               status=429, code="queue_full", retry_after=_RETRY)  # fmt: skip

    @contextmanager
    def _place(self, *, bounded: bool = True) -> Iterator[None]:
        """A place in the corrector's queue, which is bounded.

        A stream that was admitted has begun: its upstream is paid, and its client can be told no status any more. So it
        is not refused, and the queue may grow by the streams that are under way.
        """
        if bounded:
            self._check_room()
        self.waiting += 1
        self.metrics.waiting.inc()
        try:
            yield
        finally:
            self.waiting -= 1
            self.metrics.waiting.dec()


def _streamed(answer: Answer, corrector: Corrector, opened: Opened | None) -> AsyncIterator[Delta]:
    if opened is not None:
        return opened.stream(answer.text)
    return corrector.stream(answer.question, answer.text)


def _format(answer: Answer) -> dict[str, Any]:
    """What a corrector is told of the format that the answer must keep to."""
    return {} if answer.wanted is None else {"response_format": answer.wanted}
