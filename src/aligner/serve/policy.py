"""Policy: one answer to what is shown in its place: the correction, the original and why, or an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal

from aligner.correct.keep_best import KeepBest
from aligner.errors import AlignerError, RequestError
from aligner.generate.collect import closing
from aligner.serve.metrics import Metrics
from aligner.serve.options import Options
from aligner.serve.wire import Answer
from aligner.types import (
    Chat,
    Completion,
    Correction,
    Corrector,
    Delta,
    FinishReason,
    GateDecision,
    KeptBecause,
    Opened,
    OpenedLive,
    Opens,
    Usage,
)

OnFailure = Literal["error", "pass-through"]
_log = logging.getLogger(__name__)
_RETRY = 1  # seconds after which a client that was refused may come again


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one answer. `reason` is None where `text` is the corrector's.

    `late`: a guard fired when text had been sent already, so that `text` is not the original though there is a reason.
    `buffered`: nothing of a stream could be sent before all of it was there.
    """

    text: str
    reason: str | None = None
    correction: Correction | None = None
    late: bool = False
    buffered: bool = False

    @property
    def spent(self) -> Usage:
        return self.correction.completion.usage if self.correction is not None else Usage()

    def extension(self, options: Options, lost: list[str]) -> dict[str, Any] | None:
        """The object that is put beside the text; None where there is nothing to say."""
        value: dict[str, Any] = {}
        correction = self.correction
        original = correction.answer if correction is not None else self.text
        if "original" in options.returns:
            value["original"] = original
        if "diff" in options.returns:
            shown = correction.diff if correction is not None else ()
            value["diff"] = [[edit.op, edit.text] for edit in shown] or ([["equal", original]] if original else [])
        if "reason" in options.returns or self.late:
            value["reason"] = self.reason
        if "gate" in options.returns and correction is not None and correction.gate is not None:
            gate = correction.gate
            value["gate"] = {"passed": gate.passed, "score": gate.score, "threshold": gate.threshold}
        if self.late:
            value["late"] = True
        if self.buffered:
            value["buffered"] = True
        if lost:
            value["removed"] = lost
        return value or None


class Policy:
    """Asks the corrector and decides what is shown.

    Args:
        corrector: in process or behind an address.
        metrics: what happens is counted there.
        on_failure: what becomes of an answer where the corrector fails: a 502, or the original.
        strict: refuse (413) an answer that does not fit the corrector's context, in place of keeping it.
        timeout: seconds that a correction may take; of a stream, that the corrector may be silent.
        max_waiting: answers before the corrector at the same time; more are refused with 429.
        keep_best: corrects several times and keeps the best; a request may ask for fewer.
    """

    def __init__(
        self,
        corrector: Corrector,
        metrics: Metrics,
        *,
        on_failure: OnFailure = "error",
        strict: bool = False,
        timeout: float = 60.0,
        max_waiting: int = 1024,
        keep_best: KeepBest | None = None,
    ) -> None:
        self.corrector, self.metrics = corrector, metrics
        self.on_failure, self.strict, self.timeout, self.max_waiting = on_failure, strict, timeout, max_waiting
        self.keep_best = keep_best
        self.waiting = 0

    @property
    def best_of(self) -> int:
        """Corrections of each answer, unless a request asks for fewer."""
        return self.keep_best.count if self.keep_best is not None else 1

    def open(self, question: Chat, best_of: int | None = None) -> Opened | None:
        """Begin to read an answer that is still being written; None where that cannot be done, or brings nothing."""
        if (best_of or self.best_of) > 1 or not isinstance(self.corrector, Opens) or not question:
            return None
        try:
            opened = self.corrector.open(question)
        except AlignerError:
            return None  # whatever is wrong is told when the answer is corrected
        self.metrics.read_ahead.inc()
        return opened

    async def correct(self, answer: Answer, best_of: int | None = None) -> Outcome:
        """Correct one answer, the best of several corrections if so many are asked for.

        Raises:
            RequestError: 502 or 504 where the corrector fails, 413 where the answer is too long, 429 where too many
                answers wait; each only if the policy says so.
        """
        if answer.untouched is not None:
            return self._untouched(answer)
        began = perf_counter()
        try:
            with self._place():
                async with asyncio.timeout(self.timeout):
                    correction = await self._asked(answer, best_of or self.best_of)
        except TimeoutError:
            return self._failed(answer, self._slow())
        except Exception as e:  # whatever a corrector raises, its failure is a policy's matter
            return self._failed(answer, e)
        return self._outcome(answer, correction, began)

    async def _asked(self, answer: Answer, best_of: int) -> Correction:
        if self.keep_best is not None and best_of > 1:
            return await self.keep_best.acorrect(answer.question, answer.text, best_of)
        return await self.corrector.acorrect(answer.question, answer.text)

    async def correct_all(self, answers: list[Answer], best_of: int | None = None) -> list[Outcome]:
        """Correct the answers of one response together; the first failure cancels the others.

        Raises:
            RequestError: as `correct`.
        """
        if len(answers) == 1:
            return [await self.correct(answers[0], best_of)]
        tasks = [asyncio.ensure_future(self.correct(answer, best_of)) for answer in answers]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def stream(
        self, answer: Answer, best_of: int | None = None, opened: Opened | None = None
    ) -> AsyncIterator[str | Outcome]:
        """The pieces of what is shown in an answer's place, and then what became of it.

        `opened` has read the answer while it was written. The best of several corrections comes in one piece: which it
        is, is known at the end.

        Raises:
            RequestError: as `correct`; also where the corrector fails after some of its text was shown.
        """
        if answer.untouched is not None:
            outcome = self._untouched(answer)
            yield outcome.text
            yield outcome
            return
        if (best_of or self.best_of) > 1:
            outcome = await self.correct(answer, best_of)
            yield outcome.text
            yield replace(outcome, buffered=True)
            return
        began = perf_counter()
        shown: list[str] = []
        held = ""  # the whole answer in one piece may be a copy, or what is kept because of a failure
        ended: tuple[FinishReason, KeptBecause | None, Usage] = ("error", "error", Usage())
        gate: GateDecision | None = None
        failure: Exception | None = None
        try:
            with self._place():
                async with (
                    asyncio.timeout(self.timeout) as limit,
                    closing(self._streamed(answer, opened)) as deltas,
                ):
                    async for delta in deltas:
                        limit.reschedule(None)  # the time that the client takes is not the corrector's
                        if delta.finish_reason is not None:
                            ended = (delta.finish_reason, delta.kept_because, delta.usage or Usage())
                            gate = delta.gate
                        if delta.text:
                            piece, held = held + delta.text, ""
                            if not shown and piece == answer.text and delta.finish_reason is None:
                                held = piece
                            else:
                                if not shown:
                                    self.metrics.first_seconds.observe(perf_counter() - began)
                                shown.append(piece)
                                yield piece
                        limit.reschedule(asyncio.get_running_loop().time() + self.timeout)
        except TimeoutError:
            failure = self._slow()
        except Exception as e:
            failure = e
        reason, kept, usage = ended
        if failure is None and kept == "error":
            failure = _wrong("the corrector failed")
        if failure is not None:
            if shown:
                self.metrics.failed("error")
                raise failure if isinstance(failure, RequestError) else _wrong(_said(failure))
            outcome = self._failed(answer, failure)
            yield outcome.text
            yield outcome
            return
        if kept == "too_long" and self.strict:
            raise self._too_long(answer, None)
        if held:
            shown.append(held)
            yield held
        completion = Completion(text="".join(shown), finish_reason=reason, usage=usage)
        correction = Correction(question=answer.question, answer=answer.text, text=completion.text,
                                completion=completion, kept_because=kept, gate=gate)  # fmt: skip
        self.metrics.corrected(correction, perf_counter() - began)
        yield Outcome(text=correction.text, reason=kept, correction=correction,
                      late=kept is not None and not correction.is_copy)  # fmt: skip

    async def live(self, opened: OpenedLive, whole: asyncio.Future[Answer]) -> AsyncIterator[str | Outcome]:
        """As `stream`, of an answer that is not whole yet: `whole` is done when it is.

        Raises:
            RequestError: as `stream`.
        """
        began = perf_counter()
        shown: list[str] = []
        last = Delta(text="", finish_reason="error", kept_because="error")
        failure: Exception | None = None
        try:
            with self._place():
                async with asyncio.timeout(None) as limit, closing(opened.live()) as deltas:
                    whole.add_done_callback(lambda _: self._within(limit))
                    async for delta in deltas:
                        last = delta
                        if delta.text:
                            if not shown:
                                self.metrics.first_seconds.observe(perf_counter() - began)
                            shown.append(delta.text)
                            yield delta.text
        except TimeoutError:
            failure = self._slow()
        except Exception as e:
            failure = e
        answer = await whole
        if failure is None and last.kept_because == "error":
            failure = _wrong("the corrector failed")
        if failure is not None:
            outcome = self._failed(answer, failure)
            if shown:
                raise failure if isinstance(failure, RequestError) else _wrong(_said(failure))
            yield outcome.text
            yield outcome
            return
        completion = Completion(text="".join(shown), finish_reason=last.finish_reason or "stop",
                                usage=last.usage or Usage())  # fmt: skip
        correction = Correction(question=answer.question, answer=answer.text, text=completion.text,
                                completion=completion, kept_because=last.kept_because)  # fmt: skip
        self.metrics.corrected(correction, perf_counter() - began)
        reason = answer.untouched or last.kept_because
        yield Outcome(text=correction.text, reason=reason, correction=correction,
                      late=reason is not None and not correction.is_copy)  # fmt: skip

    def _within(self, limit: asyncio.Timeout) -> None:
        with suppress(RuntimeError):  # it is over already
            limit.reschedule(asyncio.get_running_loop().time() + self.timeout)

    def _streamed(self, answer: Answer, opened: Opened | None) -> AsyncIterator[Delta]:
        if opened is not None:
            return opened.stream(answer.text)
        return self.corrector.stream(answer.question, answer.text)

    def _outcome(self, answer: Answer, correction: Correction, began: float) -> Outcome:
        if correction.kept_because == "error":
            return self._failed(answer, _wrong(correction.completion.error or "the corrector failed"))
        if correction.kept_because == "too_long" and self.strict:
            raise self._too_long(answer, correction.completion.error)
        self.metrics.corrected(correction, perf_counter() - began)
        return Outcome(text=correction.text, reason=correction.kept_because, correction=correction)

    def _untouched(self, answer: Answer) -> Outcome:
        self.metrics.untouched(answer.untouched or "")
        return Outcome(text=answer.text, reason=answer.untouched)

    def _failed(self, answer: Answer, error: Exception) -> Outcome:
        told = error if isinstance(error, RequestError) else _wrong(_said(error))
        self.metrics.failed(told.code)
        if self.on_failure == "pass-through":
            return Outcome(text=answer.text, reason=told.code)
        raise told

    def _too_long(self, answer: Answer, said: str | None) -> RequestError:
        self.metrics.failed("too_long")
        return RequestError(f"the answer does not fit the corrector ({said or 'question and answer are too long'}); "
                            "ask for a shorter one, or leave --strict out", status=413,
                            code="answer_too_long")  # fmt: skip

    def _slow(self) -> RequestError:
        return RequestError(f"the corrector did not finish within {self.timeout:g} s; try again, or raise "
                            "--correction-timeout", status=502, code="correction_timeout")  # fmt: skip

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the corrector's queue, which is bounded."""
        if self.waiting >= self.max_waiting:
            raise RequestError(f"{self.max_waiting} answers wait for the corrector already; come again in a moment",
                               status=429, code="queue_full", retry_after=_RETRY)  # fmt: skip
        self.waiting += 1
        self.metrics.waiting.inc()
        try:
            yield
        finally:
            self.waiting -= 1
            self.metrics.waiting.dec()


def _said(error: Exception) -> str:
    """Errors of ours are written to be read; others may hold anything, so only their kind is told."""
    if isinstance(error, AlignerError):
        return " ".join(str(error).split())
    _log.error("the corrector failed: %s", type(error).__name__)
    return f"the corrector failed ({type(error).__name__})"


def _wrong(message: str) -> RequestError:
    return RequestError(message, status=502, code="correction_failed")
