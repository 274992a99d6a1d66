"""What models write, and what becomes of an answer: completions, corrections, and their streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aligner import edits
from aligner.chats import Chat

# Why a model stopped. "error" marks a failed item; its Completion says more in `error`.
FinishReason = Literal["stop", "length", "cancelled", "error"]

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
class Completion:
    """What a model wrote. A failed item of a batch is one with finish_reason "error"."""

    text: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Whether an answer was let through as it is, by how likely the corrector finds a copy.

    `score` is in nats (see `aligner.correct.gate.copy_score`); above `threshold` the answer passes. An answer that
    fails before its end has the score of what was read. `tokens` is what it took to decide, question and answer: all
    that an answer costs which passes.
    """

    passed: bool
    score: float
    threshold: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a stream. The last one has finish_reason and usage, `kept_because` where a guard fired late, the
    correction's `flags`, `gate` where one decided, and `error` as a Completion's. A piece before it has `kept_because`
    where it is a sentence that stayed as it was."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    kept_because: KeptBecause | None = None
    flags: tuple[str, ...] = ()
    gate: GateDecision | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """An answer and what became of it. `text` is what to show; `completion` is what the corrector wrote.

    `flags` names what should be known about the row, such as text in the answer that imitates the prompt's markers.
    `gate` is None where no gate is on, or where the answer is longer than what may be written.
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
