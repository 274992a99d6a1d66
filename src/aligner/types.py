"""The nouns that every room shares: frozen values, and the protocols of the things that make them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from aligner import edits
from aligner.errors import ConfigError, DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")

# Why a model stopped. "error" marks a failed item; its Completion says more in `error`.
FinishReason = Literal["stop", "length", "cancelled", "error"]

# Who won a comparison.
Winner = Literal["candidate", "baseline", "tie"]

# The guards on corrections, in the order they are asked. One that is enforced keeps the original answer.
GuardName = Literal[
    "cut",  # the correction ended before it was finished
    "emptied",  # the correction is blank, the answer was not
    "broken_format",  # the JSON that the answer was, or that the request wants, is none
    "script_leak",  # characters of a script that neither question nor answer uses
    "changed_language",  # another language than the answer's, unasked
    "repeated",  # it says a sentence again that the answer says once, or not at all
    "collapsed",  # next to nothing is left of a long answer
    "unbalanced_fence",  # a code fence is left open
    "lost_code_fence",  # code of the answer stands in the correction without its fence
    "lost_table",  # rows of a table stand outside any
    "lost_latex",  # mathematics lost its borders
    "lost_citation",  # a citation was dropped from words that stayed
    "changed_numbers",  # a number was replaced by a new one
    "changed_urls",  # a web address was replaced by a new one
]

# Why a correction was thrown away and the original answer kept.
KeptBecause = (
    GuardName
    | Literal[
        "too_long",  # question and answer do not fit the corrector's context
        "cancelled",  # the caller stopped it
        "error",  # the corrector failed; `completion.error` says how
        "not_better",  # of several corrections none was ranked above the original
        "unscored",  # what ranks the corrections gave no number or verdict
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation, named as in the OpenAI API."""

    role: Role
    content: str


Chat = tuple[Message, ...]


def as_chat(question: str | Sequence[Message | Mapping[str, Any]]) -> Chat:
    """A question in any accepted form as a chat: a string is one user turn, mappings are OpenAI messages.

    Raises:
        DataError: no turns, an unknown role, content that is not text, or a chat that ends with the assistant.
    """
    if isinstance(question, str):
        return (Message(role="user", content=question),)
    if not isinstance(question, Sequence):
        raise DataError(f"the question is a {type(question).__name__}; expected text or a list of turns")
    turns: list[Message] = []
    for i, turn in enumerate(question):
        role: Any
        content: Any
        if isinstance(turn, Message):
            role, content = turn.role, turn.content
        elif isinstance(turn, Mapping):
            role, content = turn.get("role"), turn.get("content")
        else:
            raise DataError(f"turn {i} is a {type(turn).__name__}; expected an object with 'role' and 'content'")
        if role not in ROLES:
            raise DataError(f"turn {i} has the role {role!r}; expected one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"turn {i} has content of type {type(content).__name__}; expected text")
        turns.append(Message(role=role, content=content))
    if not turns:
        raise DataError("the question has no turns; give at least one user message")
    if turns[-1].role == "assistant":
        raise DataError("the question ends with an assistant turn; the answer to correct is given apart from it")
    return tuple(turns)


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
class Usage:
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )


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
class Completion:
    """What a model wrote. A failed item of a batch is one with finish_reason "error"."""

    text: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Whether an answer was let through as it is, by what the corrector's first pass said of a copy.

    `score` is in nats (see `aligner.correct.gate.copy_score`); above `threshold` the answer passes. `tokens` is what
    that pass read, question and answer: all that an answer costs which passes.
    """

    passed: bool
    score: float
    threshold: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a stream. The last one has finish_reason and usage, `kept_because` where a guard fired late, and
    `gate` where one decided."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    kept_because: KeptBecause | None = None
    gate: GateDecision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """An answer and what became of it. `text` is what to show; `completion` is what the corrector wrote.

    `flags` names what should be known about the row, such as text in the answer that imitates the prompt's markers.
    `gate` is None where no gate is on, or where the answer did not fit into the first pass.
    """

    question: Chat
    answer: str
    text: str
    completion: Completion
    kept_because: KeptBecause | None = None
    flags: tuple[str, ...] = ()
    gate: GateDecision | None = None

    @property
    def is_copy(self) -> bool:
        return self.text == self.answer

    @property
    def edit_ratio(self) -> float:
        """Word-level Levenshtein distance over the longer length: 0.0 for a copy (see `edits.edit_ratio`)."""
        return edits.edit_ratio(self.answer, self.text)

    @property
    def copied_share(self) -> float:
        """Share of the words of `text` that stand in the answer in the same order."""
        return edits.copied_share(self.answer, self.text)

    @property
    def diff(self) -> tuple[edits.Edit, ...]:
        return edits.diff(self.answer, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two answers to one question, the better one first, named as in TRL."""

    question: Chat
    chosen: str
    rejected: str

    @classmethod
    def from_correction(cls, correction: Correction) -> PreferencePair:
        """The correction is chosen over the answer it corrects."""
        return cls(question=correction.question, chosen=correction.text, rejected=correction.answer)


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
    """One that shows corrected text before the answer is whole, until `end` says that it is."""

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
