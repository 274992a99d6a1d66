"""How far to draft: what passes have cost here, how often drafts were right, and what pays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aligner.correct.drafting import NO_DRAFT, Draft, Source

_FORGET = 0.98  # weight of what was seen one observation ago
_FORGET_ROW = 0.95  # weight of the average before a row that left
_SUREST = 0.999
# Before anything is known: the share of drafted tokens that are right, worth so many observations.
_PRIOR: dict[Source, float] = {
    "first": 0.95, "answer": 0.97, "found": 0.85, "near": 0.5, "guess": 0.2, "before": 0.6, "token": 0.3, "phrase": 0.7,
}  # fmt: skip
_WORTH = 8.0
_FIXED = 64.0  # a pass costs as much before its first token as that many tokens cost, until it has been measured
_WIDEST = 256  # tokens drafted at a step, at most


@dataclass(slots=True)
class Rates:
    """How often one row's drafts were right, token by token, for each source: what rows had on average, and its own.

    A rewritten answer and one with a single edit lie side by side in a batch, and what is right for one is not for the
    other; so every row counts for itself, from its first draft on.
    """

    _prior: Mapping[Source, float]
    _seen: dict[Source, list[float]] = field(default_factory=dict)

    def seen(self, source: Source, drafted: int, right: int) -> None:
        """A draft was verified: the first `right` of its tokens were what the model wrote."""
        # The answer that was followed from its first token is the same that is followed later.
        for name in (source, "answer") if source == "first" else (source,):
            counts = self._seen.setdefault(name, [0.0, 0.0])
            counts[0] += right
            counts[1] += right < drafted

    def each(self, source: Source) -> float:
        """The chance of a drafted token, if those before it were right."""
        right, wrong = self._seen.get(source, (0.0, 0.0))
        return min((self._prior[source] * _WORTH + right) / (_WORTH + right + wrong), _SUREST)

    def best(self, drafts: Sequence[Draft]) -> Draft:
        """The draft with the most tokens that are likely to be right."""
        return max(drafts, key=self._likely, default=NO_DRAFT)

    def _likely(self, draft: Draft) -> float:
        rate = self.each(draft.source)
        return rate * (1 - rate ** len(draft.tokens)) / (1 - rate)

    def means(self) -> Iterator[tuple[Source, float, float]]:
        """(source, its share of right tokens in this row, how many were verified)."""
        for source, (right, wrong) in self._seen.items():
            if right + wrong:
                yield source, right / (right + wrong), right + wrong


@dataclass(slots=True)
class Pace:
    """Decides how many tokens to draft, by measurement.

    A pass over n tokens is taken to cost fixed + n · each, fitted to the passes so far (least squares, older ones
    counting less); a draft's token k is taken to be right with the source's rate to the power k.
    """

    _rates: dict[Source, float] = field(default_factory=lambda: dict(_PRIOR))
    # Of answers verified while their prompts are read: the share of right tokens, and of those right to their end.
    _first: list[float] = field(default_factory=lambda: [_PRIOR["first"] * _WORTH, (1 - _PRIOR["first"]) * _WORTH])
    _whole: list[float] = field(default_factory=lambda: [_WORTH / 2, _WORTH])
    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)

    def rates(self) -> Rates:
        """Of a row that joins: it starts from what rows had on average."""
        return Rates(dict(self._rates))

    def left(self, rates: Rates) -> None:
        """A row leaves: it counts as one, however long it took; one with few drafts of a source counts less."""
        for source, mean, count in rates.means():
            weight = (1 - _FORGET_ROW) * count / (count + _WORTH)
            self._rates[source] += weight * (mean - self._rates[source])

    def read(self, drafted: int, right: int) -> None:
        """An answer was verified while its prompt was read."""
        self._first = [_FORGET * self._first[0] + right, _FORGET * self._first[1] + (right < drafted)]

    def ended(self, copied: bool) -> None:
        """Whether an answer is right to its end is known now, which a shortened draft that was right does not tell."""
        self._whole = [_FORGET * self._whole[0] + copied, _FORGET * self._whole[1] + 1]

    def took(self, tokens: int, seconds: float) -> None:
        """A pass over so many tokens, padding counted, took so long."""
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = [_FORGET * old + value for old, value in zip(self._sums, new, strict=True)]

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
        right, wrong = self._first
        rate = min(right / (right + wrong), _SUREST)
        fixed = self.fixed
        pays = 0.0 if math.isinf(fixed) else 1 / (1 + fixed / max(rows, 1))
        whole = self._whole[0] / self._whole[1]
        if whole + (1 - whole) * rate**length >= pays:
            return length
        if rate <= 0:
            return 0
        return min(length, int(math.log(pays) / math.log(rate)))

    def width(self, drafts: Sequence[Draft], chances: Sequence[float]) -> int:
        """How many tokens to draft at a step of these rows, the longest draft counting: what brings the most tokens in
        a time. 0 switches drafting off.

        Args:
            chances: of each draft, the chance of each of its tokens.
        """
        longest = min(max((len(draft.tokens) for draft in drafts), default=0), _WIDEST)
        if longest == 0:
            return 0
        rates = np.array(chances)
        lengths = np.array([len(draft.tokens) for draft in drafts])
        steps = np.arange(1, longest + 1)
        right = np.where(steps <= lengths[:, None], rates[:, None] ** steps, 0.0).sum(axis=0)
        brought = len(drafts) + np.concatenate([[0.0], right.cumsum()])
        fixed = self.fixed
        if math.isinf(fixed):
            return longest
        return int(np.argmax(brought / (fixed + len(drafts) * np.arange(1, longest + 2))))
