"""A request to decode, the ticket that claims its result, and its row while it is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import torch

from aligner.correct.drafting import NO_DRAFT, Draft, Drafter
from aligner.correct.gate import Gate
from aligner.correct.pace import Rates
from aligner.correct.reading import Reading
from aligner.errors import ConfigError
from aligner.types import GateDecision, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to decode: prompt ids, how to sample, where to stop.

    `answer` is what will probably be written, with the id that ends it: it is verified in place of being decoded token
    by token. It changes nothing but the time.

    `gate` is asked with the natural log-probabilities of the answer's ids (at temperature 1, whatever the sampling); an
    answer that passes ends the row, with nothing written. It is not asked where the answer is longer than what may be
    written.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop_ids: frozenset[int]
    sampling: Sampling = field(default_factory=Sampling)
    answer: tuple[int, ...] = ()
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.gate is not None and not self.answer:
            raise ConfigError("a request with a gate needs the ids of the answer; give `answer`")

    @property
    def reach(self) -> int:
        """Positions that it may take in the cache."""
        return len(self.prompt) + self.max_new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Generated ids, the stop id left out, and what the gate decided, None where it was not asked."""

    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "cancelled"]
    gate: GateDecision | None = None


class Ticket:
    """A claim on one row. `future` yields its Decoded; `cancel` makes the row leave before the next step."""

    def __init__(
        self, request: Request, on_token: Callable[[int], None] | None, reading: Reading | None = None
    ) -> None:
        self.request = request
        self.reading = reading  # an open row that may have read much of the prompt
        self.future: Future[Decoded] = Future()
        # Only `cancel` may end a row: a future that its waiter cancelled would break the loop when it is resolved.
        self.future.set_running_or_notify_cancel()
        self.cancelled = False
        self.on_token = on_token

    def cancel(self) -> None:
        self.cancelled = True

    async def ended(self) -> None:
        """Wait until the row has left the batch, however it ended; who does not wait to the end cancels it."""
        future = asyncio.wrap_future(self.future)
        # Whoever settles the ticket is told its error; asyncio would log what nobody retrieved from this copy.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            self.cancel()
            raise


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """A ticket's place in the batch: what is in the cache, what was written, how it ended."""

    ticket: Ticket
    length: int  # tokens in the cache
    ahead: bool = False  # its prompt was read ahead, and it has a slot
    token: int = -1  # the newest token, not yet in the cache
    out: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None
    drafter: Drafter | None = None
    rates: Rates | None = None
    draft: Draft = NO_DRAFT  # what is verified in the pass under way
    following: bool = False  # all of a first draft was right, and it ended before the answer
    finish: Literal["stop", "length", "cancelled"] | None = None
    # For the gate: log-probabilities of the answer's first ids; what it decided; and a token that leaves the answer
    # while it has not decided, which counts once the answer does not pass.
    log_probs: list[float] = field(default_factory=list)
    decision: GateDecision | None = None
    held: int | None = None

    @property
    def undecided(self) -> bool:
        """Whether a gate has still to say if the answer passes."""
        request = self.ticket.request
        asked = request.gate is not None and len(request.answer) <= request.max_new_tokens
        return asked and self.decision is None

    @property
    def passed(self) -> bool:
        """Whether the gate let the answer through."""
        return self.decision is not None and self.decision.passed

    @property
    def copied(self) -> bool:
        """Whether the answer stands, as far as could be written of it."""
        answer = self.ticket.request.answer
        end = len(answer) - 1 if self.finish == "stop" else len(self.out)
        return self.passed or tuple(self.out) == answer[:end]

    @property
    def draftable(self) -> int:
        """Tokens that may still be drafted: the one after them is written too."""
        return self.ticket.request.max_new_tokens - len(self.out) - 1

    def accept(self, token: int) -> None:
        request = self.ticket.request
        self.token = token
        if token in request.stop_ids:
            self.finish = "stop"
            return
        self.out.append(token)
        if self.drafter is not None:
            self.drafter.push(token)
        if self.ticket.on_token is not None:
            try:
                self.ticket.on_token(token)
            except Exception:  # a listener that is gone must not take the other rows with it
                self.ticket.cancel()
        if len(self.out) >= request.max_new_tokens:
            self.finish = "length"
