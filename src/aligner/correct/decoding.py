"""The one step loop: every in-process correction is a row of it, whether batched, streamed, sampled or cancelled.

Rows join and leave between steps. A row that joins is read in one forward pass (prefill), with the answer that it
corrects as a first draft of what it will write; then all rows advance, by one token and those of their drafts that the
model would have written too. One thread at a time owns the model; everybody else holds tickets. A prompt that is still
being written is read ahead (`reader`), so that little of it is left when it is whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import torch

from aligner.correct.drafting import Phrases
from aligner.correct.forward import Forward
from aligner.correct.joining import Joining
from aligner.correct.passes import Passes
from aligner.correct.reader import Reader
from aligner.correct.reading import Reading
from aligner.correct.slots import Slots
from aligner.correct.ticket import Decoded, Request, Row, Ticket
from aligner.errors import AlignerError, ConfigError, GenerationError, OutOfMemoryError


class StepLoop:
    """Decodes any number of requests with one model, `max_rows` at a time.

    Args:
        model: a transformers causal LM with full or sliding-window attention, in eval mode.
        max_rows: rows that are in the batch at once, and as many open ones besides; more wait their turn.
        prefill_tokens: padded tokens that one prefill pass reads at most (one longer row is read alone).
        cache_tokens: positions that the cache may hold, rows × longest row; None leaves it to `max_rows`.
        share: read once what prompts have in common; the results are the same.

    Who waits for a ticket drives the loop (`wait`); `start` gives it a thread of its own, for callers that must not
    block. Driving from the caller matters: a second thread that runs torch brings a second OpenMP pool, and the two
    then share the cores badly (measured: a third slower).

    Raises:
        CheckpointError: the model's layers keep another state than keys and values.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_rows: int = 64,
        prefill_tokens: int = 8192,
        cache_tokens: int | None = None,
        share: bool = True,
    ) -> None:
        if max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; it must be 1 or more")
        self.model = model
        self.max_rows, self.cache_tokens = max_rows, cache_tokens
        self._forward = Forward(model, cache_tokens)
        self._cache = self._forward.cache
        self._slots = Slots(self._cache)
        self._reader = Reader(
            self._forward, self._slots, most=max_rows, tokens=prefill_tokens, cache_tokens=cache_tokens
        )
        self._joining = Joining(
            self._slots, self._reader, max_rows=max_rows, prefill_tokens=prefill_tokens, cache_tokens=cache_tokens
        )
        self._passes = Passes(self._forward, self._slots, phrases=Phrases(), share=share)
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        # Ctrl-C may come between taking it and the `try` that gives it back: the same thread must be able to close.
        self._driver = threading.RLock()
        self._closed = False

    @property
    def _rows(self) -> list[Row]:
        return self._slots.rows

    @property
    def open_rows(self) -> int:
        """Prompts that are being read ahead."""
        return len(self._slots.open)

    @property
    def context(self) -> int | None:
        """Positions that a row may take; None where the model names no end."""
        return self._forward.context

    @property
    def forward_passes(self) -> int:
        """Passes so far, prefills and steps."""
        return self._forward.passes

    @property
    def shared_tokens(self) -> int:
        """Prompt tokens that were not read again, because another row had them in common."""
        return self._passes.shared_tokens

    @property
    def unfinished(self) -> int:
        """Requests that wait, or are in the batch."""
        return len(self._rows) + len(self._joining.waiting)

    # -- for everybody -------------------------------------------------------------------------------------------

    def open(self, wanted: tuple[int, ...]) -> Reading:
        """Begin to read a prompt that is still being written.

        It is read by the loop's own thread (`start`), or while others are waited for.
        """
        reading = Reading(wanted=wanted)
        with self._wake:
            self._reader.add(reading)
            self._wake.notify()
        return reading

    def read(self, reading: Reading, wanted: tuple[int, ...]) -> None:
        """More of its prompt is known; ids that changed are read again."""
        with self._wake:
            reading.wanted = wanted
            self._reader.news = True
            self._wake.notify()

    def leave(self, reading: Reading) -> None:
        """Its prompt is not wanted any more."""
        with self._wake:
            reading.cancelled = True
            self._reader.news = True
            self._wake.notify()

    def knows(self, ids: Sequence[int]) -> bool:
        """Whether the model has all these ids."""
        return not ids or 0 <= min(ids) <= max(ids) < self._forward.vocabulary

    def submit(
        self, request: Request, on_token: Callable[[int], None] | None = None, reading: Reading | None = None
    ) -> Ticket:
        """Queue a request; `on_token` is called on the loop's thread with each new id.

        Of a prompt that was opened (`reading`), only what is not in the cache yet is read.

        Raises:
            ConfigError: an empty prompt, nothing to generate, or ids that the model does not have.
            GenerationError: the loop is closed.
        """
        if not request.prompt or request.max_new_tokens < 1:
            raise ConfigError("a request needs at least one prompt token and max_new_tokens of at least 1")
        for what, ids in (("prompt", request.prompt), ("answer", request.answer)):
            if not self.knows(ids):
                raise ConfigError(f"the {what} has ids outside the model's vocabulary of {self._forward.vocabulary}; "
                                  "encode it with the corrector's own tokenizer")  # fmt: skip
        ticket = Ticket(request, on_token, reading)
        with self._wake:
            if self._closed:
                raise GenerationError("the corrector is closed; load it again")
            self._joining.waiting.append(ticket)
            self._wake.notify()
        return ticket

    def wait(self, ticket: Ticket) -> Decoded:
        """The ticket's result; without a thread of its own, the loop runs on the caller's until then.

        Raises:
            GenerationError, OutOfMemoryError: the pass that this row was in failed.
        """
        while self._thread is None and not ticket.future.done():
            if self._driver.acquire(timeout=0.01):
                try:
                    while self._thread is None and not self._closed and not ticket.future.done():
                        self.turn()
                finally:
                    self._driver.release()
        return ticket.future.result()

    def forget(self) -> None:
        """Forget the phrases of earlier corrections; what comes next drafts as after a start."""
        self._passes.phrases.clear()

    def start(self) -> Self:
        """Give the loop its own thread; a second call does nothing."""
        with self._wake:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="aligner-step-loop", daemon=True)
                self._thread.start()
        return self

    def close(self) -> None:
        """Stop the thread, fail what is unfinished, and give the cache's memory back."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._driver:
            self._close()

    def _close(self) -> None:
        self._forward.close()
        tickets = [*(row.ticket for row in self._rows), *self._joining.waiting]
        self._fail(tickets, GenerationError("the corrector was closed"))
        self._reader.clear()
        self._slots.clear()
        self._joining.waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self.unfinished or self._reader.news)
                if self._closed:
                    return
            with self._driver, suppress(Exception):  # whoever it concerns has been told by then
                self.turn()

    @torch.inference_mode()
    def turn(self) -> bool:
        """One round: rows leave, rows join, every row advances by one token. False when there is nothing to do."""
        try:
            self._leave()
            while joiners := self._next_joiners():
                for group in self._joining.groups(joiners, self._passes.pace.fixed):
                    self._join(group)
                self._leave()
            self._reader.turn()
            if self._rows:
                self._step()
                self._leave()
        except BaseException:
            # Ctrl-C on the thread that drives, or a fault of ours: nobody may wait for ever for rows in mid-air.
            self._fail([row.ticket for row in [*self._rows, *self._joining.rows]], GenerationError("interrupted"))
            self._reader.clear()
            self._slots.clear()
            self._joining.rows = []
            raise
        return bool(self.unfinished or self._reader.news)

    def _next_joiners(self) -> list[Row]:
        with self._wake:
            return self._joining.next()

    def _join(self, rows: list[Row]) -> None:
        """Read rows that join; a failure becomes the answer of exactly the rows that were in the failed pass."""
        error = _failure(lambda: self._passes.prefill(rows))
        if isinstance(error, OutOfMemoryError) and len(rows) > 1 and not any(row.out for row in rows):
            self._retain(self._rows)  # the slots that the pass asked for are free again
            for row in rows:  # one by one they may still fit
                self._join([row])
        elif error is not None:
            self._drop(rows, error)

    def _step(self) -> None:
        """Take all rows on. Where memory runs out, without drafts, then without the longest row, and so on."""
        draft = True
        while self._rows:
            before = self._forward.passes
            error = _failure(partial(self._passes.step, self._rows, draft=draft))
            if error is None:
                return
            if not isinstance(error, OutOfMemoryError) or self._forward.passes > before:
                # Behind the model, rows have gone on: some may have shown a token.
                self._drop(self._rows, error)
            elif draft:
                self._retain(self._rows)
            else:
                self._drop([max(self._rows, key=lambda row: row.length)], error)
            draft = False

    def _drop(self, rows: list[Row], error: Exception) -> None:
        self._fail([row.ticket for row in rows], error)
        self._retain([row for row in self._rows if row not in rows])
        if not len(self._slots):
            self._cache.clear()

    def _leave(self) -> None:
        """Rows that are done or cancelled hand over their result and leave the batch."""
        self._reader.leave()
        staying = []
        for row in self._rows:
            if row.finish is None and row.ticket.cancelled:
                row.finish = "cancelled"
            if row.finish is None:
                staying.append(row)
            elif not row.ticket.future.done():
                if row.drafter is not None and row.finish != "cancelled":
                    row.drafter.finish()
                if row.rates is not None:
                    self._passes.pace.left(row.rates)
                if row.following and row.finish != "cancelled":
                    self._passes.pace.ended(row.copied)
                row.ticket.future.set_result(Decoded(
                    ids=() if row.passed else tuple(row.out), finish_reason=row.finish, gate=row.decision
                ))  # fmt: skip
        if len(staying) < len(self._rows):
            self._retain(staying)

    def _retain(self, staying: list[Row]) -> None:
        self._slots.keep(self._slots.open, staying)
        self._reader.freed()

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        for ticket in tickets:
            if not ticket.future.done():
                ticket.future.set_exception(error)


def _failure(advance: Callable[[], None]) -> AlignerError | None:
    """What went wrong, if anything: without the traceback, which would hold the failed pass's tensors in memory."""
    try:
        advance()
    except Exception as e:
        if isinstance(e, torch.OutOfMemoryError | MemoryError) or "alloc" in str(e):
            return OutOfMemoryError("not enough memory for one pass; lower max_rows or the answer's length")
        return GenerationError(f"the model failed: {e}")
    return None
