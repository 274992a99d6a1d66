"""The one step loop: every in-process correction is a row of it, whether batched, streamed, sampled or cancelled.

Rows join and leave between steps. A row that joins is read in one forward pass (prefill), with the answer that it
corrects as a first draft of what it will write; then all rows advance, by one token and those of their drafts that the
model would have written too. One thread at a time owns the model; everybody else holds tickets. A prompt that is still
being written is read ahead (`reader`), so that little of it is left when it is whole.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from aligner.correct.drafting import NO_DRAFT, Draft, Drafter, Phrases
from aligner.correct.forward import Forward
from aligner.correct.pace import Pace
from aligner.correct.reader import Reader
from aligner.correct.reading import Reading, common
from aligner.correct.sampling import draw, row_generator
from aligner.correct.slots import Slots
from aligner.correct.ticket import Decoded, Request, Row, Ticket
from aligner.errors import ConfigError, GenerationError, OutOfMemoryError

_SOON = 64  # tokens drafted at first, at most, where a prompt was read ahead: somebody waits for the first one
_SHARED = 32  # tokens that prompts have in common, at least, for them to be shared


class StepLoop:
    """Decodes any number of requests with one model, `max_rows` at a time.

    Args:
        model: a transformers causal LM with full or sliding-window attention, in eval mode.
        max_rows: rows that are in the batch at once, and as many open ones besides; more wait their turn.
        prefill_tokens: padded tokens that one prefill pass reads at most (one longer row is read alone).
        cache_tokens: positions that the cache may hold, rows × longest row; None leaves it to `max_rows`.

    Who waits for a ticket drives the loop (`wait`); `start` gives it a thread of its own, for callers that must not
    block. Driving from the caller matters: a second thread that runs torch brings a second OpenMP pool, and the two
    then share the cores badly (measured: a third slower).

    Raises:
        CheckpointError: the model's layers keep another state than keys and values.
    """

    def __init__(
        self, model: Any, *, max_rows: int = 64, prefill_tokens: int = 8192, cache_tokens: int | None = None
    ) -> None:
        if max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; it must be 1 or more")
        self.model = model
        self.max_rows = max_rows
        self.prefill_tokens = prefill_tokens
        self.cache_tokens = cache_tokens
        self._forward = Forward(model)
        self._cache = self._forward.cache
        self._phrases = Phrases()
        self._pace = Pace()
        self._slots = Slots(self._cache)
        self._reader = Reader(
            self._forward, self._slots, most=max_rows, tokens=prefill_tokens, cache_tokens=cache_tokens
        )
        self._joining: list[Row] = []
        self._waiting: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._driver = threading.Lock()
        self._closed = False
        self.shared_tokens = 0
        """Prompt tokens that were not read again, because another row had them in common."""

    @property
    def _rows(self) -> list[Row]:
        return self._slots.rows

    @property
    def open_rows(self) -> int:
        """Prompts that are being read ahead."""
        return len(self._slots.open)

    @property
    def forward_passes(self) -> int:
        """Passes so far, prefills and steps."""
        return self._forward.passes

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

    def submit(
        self, request: Request, on_token: Callable[[int], None] | None = None, reading: Reading | None = None
    ) -> Ticket:
        """Queue a request; `on_token` is called on the loop's thread with each new id.

        Of a prompt that was opened (`reading`), only what is not in the cache yet is read.

        Raises:
            ConfigError: an empty prompt, nothing to generate, or an answer with ids that the model does not have.
            GenerationError: the loop is closed.
        """
        if not request.prompt or request.max_new_tokens < 1:
            raise ConfigError("a request needs at least one prompt token and max_new_tokens of at least 1")
        if request.answer and not 0 <= min(request.answer) <= max(request.answer) < self._forward.vocabulary:
            raise ConfigError(f"the answer has ids outside the model's vocabulary of {self._forward.vocabulary}; "
                              "encode it with the corrector's own tokenizer")  # fmt: skip
        ticket = Ticket(request, on_token, reading)
        with self._wake:
            if self._closed:
                raise GenerationError("the corrector is closed; load it again")
            self._waiting.append(ticket)
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
        self._fail(
            [row.ticket for row in self._rows] + list(self._waiting), GenerationError("the corrector was closed")
        )
        self._reader.clear()
        self._slots.clear()
        self._waiting = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting or self._rows or self._reader.news)
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
                for group in self._groups(joiners):
                    self._guarded(group, self._prefill)
                self._leave()
            self._reader.turn()
            if self._rows:
                self._guarded(self._rows, self._step)
                self._leave()
        except BaseException:
            # Ctrl-C on the thread that drives, or a fault of ours: nobody may wait for ever for rows in mid-air.
            self._fail([row.ticket for row in [*self._rows, *self._joining]], GenerationError("interrupted"))
            self._reader.clear()
            self._slots.clear()
            self._joining = []
            raise
        return bool(self._rows or self._waiting or self._reader.news)

    def _guarded(self, rows: list[Row], advance: Callable[[list[Row]], None]) -> None:
        """Advance rows; a failure becomes the answer of exactly the rows that were in the failed pass."""
        try:
            advance(rows)
        except Exception as e:
            memory = isinstance(e, torch.OutOfMemoryError | MemoryError) or "alloc" in str(e)
            if memory and len(rows) > 1 and advance == self._prefill and not any(row.out for row in rows):
                for row in rows:  # one by one they may still fit
                    self._guarded([row], advance)
                return
            self._drop(rows, GenerationError(f"the model failed: {e}") if not memory else _no_memory())

    def _drop(self, rows: list[Row], error: Exception) -> None:
        self._fail([row.ticket for row in rows], error)
        self._retain([row for row in self._rows if row not in rows])
        if not len(self._slots):
            self._cache.clear()

    def _next_joiners(self) -> list[Row]:
        """The longest run of waiting requests that fits beside the rows and in one prefill pass."""
        joiners = self._joining = []
        ripe: set[Reading] = set()
        widest = reach = 0
        for row in self._rows:
            reach = max(reach, _reach(row.ticket.request))
        with self._wake:
            while self._waiting and len(self._rows) + len(joiners) < self.max_rows:
                ticket = self._waiting[0]
                if not ticket.cancelled:
                    count = len(joiners) + 1
                    wider = max(widest, len(ticket.request.prompt) + len(ticket.request.answer))
                    further = max(reach, _reach(ticket.request))
                    if joiners and wider * count > self.prefill_tokens:
                        break
                    reading = ticket.reading if ticket.reading is not None and _is_open(ticket.reading) else None
                    ripe |= {reading} if reading is not None else set()
                    fits = self._make_room(count, further, ripe)
                    if not fits and (joiners or self._rows):
                        break
                    widest, reach = wider, further
                    joiners.append(_joiner(ticket, reading))
                self._waiting.popleft()
                if ticket.cancelled and not ticket.future.done():
                    ticket.future.set_result(Decoded(ids=(), finish_reason="cancelled"))
        return joiners

    def _make_room(self, joiners: int, reach: int, ripe: set[Reading]) -> bool:
        """Whether the cache holds so many rows more; open rows that are not ripe give way."""
        while self.cache_tokens is not None:
            idle = [reading for reading in self._slots.open if reading not in ripe]
            furthest = max([reach, *(reading.length for reading in idle)])
            if (len(self._rows) + joiners + len(idle)) * furthest <= self.cache_tokens:
                return True
            if not self._reader.evict(ripe):
                return False
        return True

    def _groups(self, joiners: list[Row]) -> Iterator[list[Row]]:
        """Those that were read ahead, which already have their slots, and those that are new."""
        ripe = {row.ticket.reading: row for row in joiners if row.ticket.reading is not None and row.ahead}
        if ripe:
            self._slots.ripen(ripe)
            group = self._rows[: len(ripe)]
            starts = max(row.length for row in group)
            width = max(len(row.ticket.request.prompt) + len(row.ticket.request.answer) - row.length for row in group)
            furthest = max(_reach(row.ticket.request) for row in group)
            # Padding must not reach where no row may write.
            yield from [group] if starts + width <= furthest else [[row] for row in group]
        if fresh := [row for row in joiners if not row.ahead]:
            yield fresh

    def _prefill(self, joiners: list[Row]) -> None:
        began = perf_counter()
        prompts = [row.ticket.request.prompt for row in joiners]
        rows = len(joiners) + len(self._rows)
        for row in joiners:
            if row.ticket.request.answer:
                row.drafter = Drafter(row.ticket.request.answer, row.ticket.request.prompt, self._phrases)
                most = min(_draftable(row), len(row.ticket.request.answer))
                asked = row.ticket.request.passes is not None  # then the whole answer is read, whether it pays or not
                if row.ahead and not asked:
                    most = min(most, _SOON)
                row.rates = self._pace.rates()
                row.draft = row.rates.best(row.drafter.drafts(most if asked else self._pace.first(most, rows)))
        if not joiners[0].ahead:  # what was read ahead stands in its own slot already
            shared = self._share(prompts)
            for row in joiners:
                row.length = shared
        starts = [row.length for row in joiners]
        read = [(*prompt[row.length :], *row.draft.tokens) for row, prompt in zip(joiners, prompts, strict=True)]
        width = max(map(len, read))
        # Right padding: no later position is ever looked at by an earlier one, so the causal mask alone is enough.
        tokens = torch.tensor([[*ids, *[ids[-1]] * (width - len(ids))] for ids in read], device=self.model.device)
        wanted = [(len(row.ticket.request.prompt) - row.length - 1, len(row.draft.tokens) + 1) for row in joiners]
        logits = self._forward(tokens, starts, wanted, self._slots.slot(joiners[0]))
        for row, prompt in zip(joiners, prompts, strict=True):
            row.length = len(prompt)
            if not row.ticket.request.sampling.greedy:
                row.generator = row_generator(row.ticket.request.sampling.seed, prompt, logits.device)
        self._pass(joiners, logits)
        self._accept(joiners, logits)
        self._pace.took(tokens.numel(), perf_counter() - began)
        if not joiners[0].ahead:
            self._rows.extend(joiners)

    def _pass(self, joiners: Sequence[Row], logits: Float[Tensor, "wanted vocab"]) -> None:
        """End the rows whose answers may stand as they are, by how likely their copies are."""
        place = 0
        for row in joiners:
            request, known = row.ticket.request, len(row.draft.tokens) + 1  # places whose next token is known
            if request.passes is not None and known >= len(request.answer):
                answer = torch.tensor(request.answer, device=logits.device)
                log_probs = logits[place : place + len(answer)].float().log_softmax(dim=-1)
                row.log_probs = tuple(log_probs.gather(1, answer[:, None])[:, 0].tolist())
                row.passed = request.passes(row.log_probs)
                if row.passed:
                    row.finish = "stop"
            place += known

    def _share(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """Put what all joining prompts begin with into their slots, read once or not at all; returns how much that is.

        Many answers to one question have all of it in common, and any two prompts their instruction.
        """
        first, count = len(self._slots), len(prompts)
        alike = prompts[0][: min(common(min(prompts), max(prompts)), min(map(len, prompts)) - 1)]
        # In the order of the slots: open rows hold what was read, which may differ from what is wanted by now.
        held = [reading.read for reading in self._slots.open]
        held += [row.ticket.request.prompt[: row.length] for row in self._rows]
        known = [common(ids, alike) for ids in held]
        source = max(range(first), key=known.__getitem__, default=first)
        length = known[source] if known else 0
        if (count - 1) * len(alike) - self._pace.fixed > count * length:  # a pass of its own pays
            source, length = first, len(alike)
        if length < _SHARED:
            return 0
        if source == first:
            tokens = torch.tensor([alike], device=self.model.device)
            self._forward(tokens, [0], [(length - 1, 1)], first)
        self._forward.share(source, first, count, length)
        self.shared_tokens += length * (count - (source == first))
        return length

    def _step(self, rows: list[Row]) -> None:
        began = perf_counter()
        width = self._draft(rows)
        read = [(row.token, *row.draft.tokens) for row in rows]
        tokens = torch.tensor([[*ids, *[ids[-1]] * (1 + width - len(ids))] for ids in read], device=self.model.device)
        logits = self._forward(tokens, [row.length for row in rows], [(0, len(ids)) for ids in read],
                               len(self._slots.open))  # fmt: skip
        for row in rows:
            row.length += 1
        self._accept(rows, logits)
        self._pace.took(tokens.numel(), perf_counter() - began)

    def _draft(self, rows: list[Row]) -> int:
        """Give every row its draft for a step; returns the longest one's length."""
        for row in rows:
            if row.drafter is not None and row.rates is not None:
                row.draft = row.rates.best(row.drafter.drafts(_draftable(row)))
        # A short row's padding must not reach where no row may write.
        room = max(_reach(row.ticket.request) for row in rows) - max(row.length for row in rows) - 1
        if self._forward.context is not None:
            room = min(room, self._forward.context - max(row.length for row in rows) - 1)
        chances = [row.rates.each(row.draft.source) if row.rates is not None else 0.0 for row in rows]
        width = max(0, min(room, self._pace.width([row.draft for row in rows], chances)))
        for row in rows:
            row.draft = Draft(row.draft.tokens[:width], row.draft.source)
        return max(len(row.draft.tokens) for row in rows)

    def _accept(self, rows: Sequence[Row], logits: Float[Tensor, "wanted vocab"]) -> None:
        """Take what the model writes, as far as it writes what was drafted, and one token more.

        A draft is one sequence and no distribution: to draw from the model's own and go on while what is drawn is
        what was drafted is the exact rule of speculative sampling (Leviathan et al. 2023), and draws what plain
        sampling would.
        """
        best = logits.argmax(dim=-1).tolist()
        place = 0
        for row in rows:
            if row.finish is not None:
                place += 1 + len(row.draft.tokens)
                continue
            right = 0
            for offset, drafted in enumerate((*row.draft.tokens, None)):
                at = place + offset
                token = best[at] if row.generator is None else draw(
                    logits[at], row.ticket.request.sampling, row.generator
                )  # fmt: skip
                row.accept(token)
                if row.finish is not None or token != drafted:
                    right += token == drafted
                    break
                right += 1
            if row.draft.tokens and row.rates is not None:
                row.rates.seen(row.draft.source, len(row.draft.tokens), right)
                if row.draft.source == "first":
                    self._pace.read(len(row.draft.tokens), right)
            row.length += min(right, len(row.draft.tokens))
            place += 1 + len(row.draft.tokens)
            row.draft = NO_DRAFT

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
                    self._pace.left(row.rates)
                row.ticket.future.set_result(Decoded(
                    ids=tuple(row.out), finish_reason=row.finish, log_probs=row.log_probs, passed=row.passed
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


def _no_memory() -> OutOfMemoryError:
    return OutOfMemoryError("not enough memory for one pass; lower max_rows or the answer's length")


def _reach(request: Request) -> int:
    return len(request.prompt) + request.max_new_tokens


def _is_open(reading: Reading) -> bool:
    return reading.state == "open" and not reading.cancelled


def _joiner(ticket: Ticket, reading: Reading | None) -> Row:
    """A ticket's row; with what an open row has read of its prompt. The last id is always read, for its logits."""
    if reading is None:
        return Row(ticket=ticket, length=0)
    length = min(common(reading.read, ticket.request.prompt), len(ticket.request.prompt) - 1)
    return Row(ticket=ticket, length=length, ahead=True)


def _draftable(row: Row) -> int:
    """Tokens that may still be drafted: the one after them is written too."""
    return row.ticket.request.max_new_tokens - len(row.out) - 1
