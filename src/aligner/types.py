"""The nouns that every room shares: frozen values, and the protocols of the things that make them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from aligner.chats import ROLES, Chat, Message, Role, as_chat
from aligner.corrections import (
    Completion,
    Correction,
    Delta,
    FinishReason,
    GateDecision,
    GuardName,
    KeptBecause,
    PreferencePair,
    Usage,
)
from aligner.errors import ConfigError

__all__ = [
    "ROLES",
    "Chat",
    "Completion",
    "Correction",
    "Corrector",
    "Delta",
    "FaultFinder",
    "FaultLocator",
    "FinishReason",
    "GateDecision",
    "Generator",
    "GuardName",
    "Judge",
    "KeptBecause",
    "Message",
    "Opened",
    "OpenedLive",
    "Opens",
    "PreferencePair",
    "Role",
    "Sampling",
    "Scorer",
    "SelectiveJudge",
    "Streams",
    "Triplet",
    "Usage",
    "Verdict",
    "Winner",
    "as_chat",
    "content_hash",
]

# Who won a comparison.
Winner = Literal["candidate", "baseline", "tie"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplet:
    """A question, an answer to it, and the correction of that answer: the official JSON's field names."""

    question: str | Chat
    answer: str
    correction: str
    source: str = ""
    id: str = ""

    def identity(self) -> Triplet:
        """The Q-A-A row of the warm-up: the answer is its own correction (paper, residual correction)."""
        return replace(self, correction=self.answer)

    @property
    def chat(self) -> Chat:
        return as_chat(self.question)

    @property
    def question_key(self) -> str:
        """The question as one string, for splitting and grouping; a chat of one user turn counts as its text."""
        if isinstance(self.question, str):
            return self.question
        if len(self.question) == 1 and self.question[0].role == "user":
            return self.question[0].content
        return json.dumps([[m.role, m.content] for m in self.question], ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to pick tokens. The default is greedy; penalties are left out on purpose (see docs/design/decoding.md).

    `max_new_tokens=None` lets the model decide from its context. With one `seed` a corrector's row draws the same
    whatever else is in its batch; an upstream in process draws the same for the same batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (greedy) or more, and finite")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must be 0 or more")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Who won on one dimension. `winner=None` means not scored, which is neither a tie nor zero.

    `orders` is who won in each order of showing the two, the candidate first and the baseline first, where a judge was
    asked so. `reason` says why nothing was scored, and `failed` that asking again may help. `usage` is what it took.
    """

    dimension: str
    winner: Winner | None
    orders: tuple[Winner | None, ...] = ()
    usage: Usage | None = None
    reason: str | None = None
    failed: bool = False

    @property
    def flipped(self) -> bool:
        """Whether the two orders gave two verdicts."""
        return None not in self.orders and len(set(self.orders)) > 1


@runtime_checkable
class Generator(Protocol):
    """An upstream, a corrector's backend, or a whole stack.

    `generate` yields (index of the chat, completion) as items finish, in any order, so that callers can keep each.
    """

    name: str

    def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]: ...


@runtime_checkable
class Streams(Protocol):
    """A model that can show its answer while it writes."""

    def stream(self, chat: Chat, sampling: Sampling) -> AsyncIterator[Delta]: ...


@runtime_checkable
class Corrector(Protocol):
    """Corrects one answer, in process or behind an address. What goes wrong is told on the correction."""

    async def acorrect(
        self, question: str | Sequence[Message | Mapping[str, Any]], answer: str, sampling: Sampling | None = None
    ) -> Correction: ...

    def stream(
        self, question: str | Sequence[Message | Mapping[str, Any]], answer: str, sampling: Sampling | None = None
    ) -> AsyncIterator[Delta]: ...


class Opened(Protocol):
    """The correction of one answer that is still being written: pushed as it comes, then streamed or closed."""

    def push(self, text: str) -> None: ...

    def stream(self, answer: str | None = None) -> AsyncIterator[Delta]: ...

    def close(self) -> None: ...


@runtime_checkable
class OpenedLive(Opened, Protocol):
    """One that shows corrected text before the answer is whole, until `end` says that it is.

    `unshown` is what would follow what was shown if nothing more were corrected: the rest of the answer so far.
    """

    @property
    def unshown(self) -> str: ...

    def live(self) -> AsyncIterator[Delta]: ...

    def end(self, answer: str | None = None) -> None: ...


@runtime_checkable
class Opens(Protocol):
    """A corrector that reads an answer while it is still being written."""

    def open(
        self, question: str | Sequence[Message | Mapping[str, Any]], sampling: Sampling | None = None
    ) -> Opened: ...


@runtime_checkable
class Judge(Protocol):
    """Compares two answers, one verdict per dimension."""

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]: ...


@runtime_checkable
class SelectiveJudge(Judge, Protocol):
    """A judge that can be asked about some dimensions only, and spares the cost of the others."""

    async def judge_on(
        self, question: Chat, candidate: str, baseline: str, dimensions: Sequence[str]
    ) -> list[Verdict]: ...


@runtime_checkable
class Scorer(Protocol):
    """Scores answers one by one, a number (or None: not scored) per dimension."""

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]: ...


@runtime_checkable
class FaultFinder(Protocol):
    """Counts the faults of answers, per dimension."""

    async def faults(self, question: Chat, answers: Sequence[str]) -> list[dict[str, int] | None]:
        """One count per dimension for every answer; None: cannot be said."""
        ...


@runtime_checkable
class FaultLocator(Protocol):
    """Knows the places of answers that are faulty."""

    async def fault_spans(self, question: Chat, answers: Sequence[str]) -> list[list[tuple[int, int]] | None]:
        """(start, end) in characters of every faulty place of each answer; None: cannot be said."""
        ...


def content_hash(*parts: str) -> str:
    """A short stable name for some texts, used as the id of rows that come without one: 16 hexadecimal digits.

    Where one text ends and the next begins counts: ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:16]
