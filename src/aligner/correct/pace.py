"""How far to draft: what passes have cost here, how often drafts were right, and what pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aligner.correct.drafting import NO_DRAFT, Draft, Source

_FORGET = 0.98  # weight of what was seen one observation ago
# Before anything is known: the share of drafted tokens that are right, worth so many observations.
_PRIOR: dict[Source, float] = {
    "first": 0.95, "answer": 0.97, "found": 0.85, "near": 0.5, "guess": 0.2, "before": 0.6, "token": 0.3, "phrase": 0.7,
}  # fmt: skip
_WORTH = 8.0
_FIXED = 64.0  # a pass costs as much before its first token as that many tokens cost, until it has been measured
_WIDEST = 64  # tokens drafted at a step, at most


@dataclass(slots=True)
class _Rate:
    """How often drafts of one source are right, token by token, and to their end."""

    right: float
    wrong: float
    whole: float
    drafts: float

    def seen(self, drafted: int, right: int) -> None:
        self.right = self.right * _FORGET + right
        self.wrong = self.wrong * _FORGET + (right < drafted)
        self.whole = self.whole * _FORGET + (right == drafted)
        self.drafts = self.drafts * _FORGET + 1

    @property
    def each(self) -> float:
        return min(self.right / (self.right + self.wrong), 0.999)


@dataclass(slots=True)
class Pace:
    """Decides how many tokens to draft, by measurement.

    A pass over n tokens is taken to cost fixed + n · each, fitted to the passes so far (least squares, older ones
    counting less); a draft's token k is taken to be right with the source's rate to the power k.
    """

    _rates: dict[Source, _Rate] = field(default_factory=lambda: {
        source: _Rate(right=p * _WORTH, wrong=(1 - p) * _WORTH, whole=_WORTH / 2, drafts=_WORTH)
        for source, p in _PRIOR.items()
    })  # fmt: skip
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)

    def seen(self, source: Source, drafted: int, right: int) -> None:
        """A draft was verified: the first `right` of its tokens were what the model wrote."""
        self._rates[source].seen(drafted, right)

    def took(self, tokens: int, seconds: float) -> None:
        """A pass over so many tokens, padding counted, took so long."""
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = [_FORGET * old + value for old, value in zip(self._sums, new, strict=True)]

    def best(self, drafts: Sequence[Draft]) -> Draft:
        """The draft with the most tokens that are likely to be right."""
        return max(drafts, key=self._likely, default=NO_DRAFT)

    def _likely(self, draft: Draft) -> float:
        rate = self._rates[draft.source].each
        return rate * (1 - rate ** len(draft.tokens)) / (1 - rate)

    @property
    def fixed(self) -> float:
        """What a pass costs before its first token, in tokens."""
        n, x, y, xx, xy = self._sums
        spread = n * xx - x * x
        if n < 2 or spread <= 1e-3 * n * xx:
            return _FIXED
        each = (n * xy - x * y) / spread
        before = (y - each * x) / n
        if each <= 0:
            return math.inf  # more tokens cost nothing that can be measured
        return max(before, 0.0) / each

    def first(self, length: int, rows: int) -> int:
        """How many tokens of an answer to verify while its prompt is read, beside so many rows.

        What is verified there saves its share of a step each. A part of the answers is right as a whole; of the others
        each token is right with some rate.
        """
        rate = self._rates["first"]
        fixed = self.fixed
        pays = 0.0 if math.isinf(fixed) else 1 / (1 + fixed / max(rows, 1))
        whole = rate.whole / rate.drafts
        if whole + (1 - whole) * rate.each**length >= pays:
            return length
        if rate.each <= 0:
            return 0
        return min(length, int(math.log(pays) / math.log(rate.each)))

    def width(self, drafts: Sequence[Draft]) -> int:
        """How many tokens to draft at a step of these rows, the longest draft counting: what brings the most tokens in
        a time. 0 switches drafting off."""
        longest = min(max((len(draft.tokens) for draft in drafts), default=0), _WIDEST)
        if longest == 0:
            return 0
        rates = np.array([self._rates[draft.source].each for draft in drafts])
        lengths = np.array([len(draft.tokens) for draft in drafts])
        steps = np.arange(1, longest + 1)
        right = np.where(steps <= lengths[:, None], rates[:, None] ** steps, 0.0).sum(axis=0)
        brought = len(drafts) + np.concatenate([[0.0], right.cumsum()])
        fixed = self.fixed
        if math.isinf(fixed):
            return longest
        return int(np.argmax(brought / (fixed + len(drafts) * np.arange(1, longest + 2))))
