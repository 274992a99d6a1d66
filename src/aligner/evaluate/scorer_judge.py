"""ScorerJudge: of two answers, the one with the higher score of a reward or cost model wins."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from aligner.config import nearest
from aligner.errors import ConfigError
from aligner.runs import Ancestor
from aligner.types import Chat, Scorer, Verdict, Winner

_KEPT = 1024  # scores of a pair are asked for twice: for the verdict and for the report


class ScorerJudge:
    """Judges by scores, and hands them on for the report. Dimensions of several scorers are put together.

    A difference of `margin` or less is a tie; a number for all dimensions, or one for each. A score that is missing
    leaves its dimension unscored.

    Raises:
        ConfigError: a margin is negative or no number.
    """

    def __init__(
        self,
        scorers: Sequence[Scorer],
        *,
        margin: float | Mapping[str, float] = 0.0,
        name: str = "scorer",
        ancestors: Sequence[Ancestor] = (),
    ) -> None:
        for value in margin.values() if isinstance(margin, Mapping) else (margin,):
            if not 0 <= value < math.inf:
                raise ConfigError(f"the margin is {value!r}; give 0 or more, in the scores' unit")
        self.name, self.ancestors = name, tuple(ancestors)
        self._scorers, self._margin = tuple(scorers), margin
        self._known: OrderedDict[tuple[Chat, str], dict[str, float | None]] = OrderedDict()

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        """One verdict for every dimension that a scorer has."""
        after, before = await self.score(question, [candidate, baseline])
        found = []
        for dimension in after:
            winner = self._winner(dimension, after[dimension], before.get(dimension))
            reason = "the scorer gives no number" if winner is None else None
            found.append(Verdict(dimension=dimension, winner=winner, reason=reason))
        return found

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        """The scores of all scorers together."""
        new = [a for a in dict.fromkeys(answers) if (question, a) not in self._known]
        found = {a: self._known[question, a] for a in answers if (question, a) in self._known}
        found |= {a: {} for a in new}
        for scorer in self._scorers if new else ():
            for answer, scores in zip(new, await scorer.score(question, new), strict=True):
                found[answer] = found[answer] | scores
        for answer in new:
            self._known[question, answer] = found[answer]
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return [dict(found[answer]) for answer in answers]

    def _winner(self, dimension: str, after: float | None, before: float | None) -> Winner | None:
        # An infinity less itself is no number, and no tie either.
        if after is None or before is None or not math.isfinite(after - before):
            return None
        margin = self._margin.get(dimension, 0.0) if isinstance(self._margin, Mapping) else self._margin
        return "tie" if abs(after - before) <= margin else "candidate" if after > before else "baseline"


def judge(*, models: Sequence[Mapping[str, Any]], margin: float | Mapping[str, float] = 0.0) -> ScorerJudge:
    """The judge of a configuration: `judge: {call: "aligner.evaluate.scorer_judge:judge", arguments: {…}}`.

    Args:
        models: each with a `model` (a directory or a Hub id) and, where wanted, the arguments of
            RewardScorer.from_pretrained: dimensions, layout, device, dtype, batch_size.
        margin: difference of scores that is still a tie; one number, or one for each dimension.

    Raises:
        CheckpointError: a model cannot be loaded.
        ConfigError: an argument is wrong.
    """
    from aligner.generate.scorer import RewardScorer
    from aligner.runs import ancestor_of_model

    scorers, ancestors = [], []
    for spec in models:
        options = dict(spec)
        place = options.pop("model", None)
        if not isinstance(place, str):
            raise ConfigError(f"models: {dict(spec)!r} has no 'model'; give a directory or a Hub id")
        scorers.append(RewardScorer.from_pretrained(place, **options))
        ancestors.append(ancestor_of_model("reward", place))
    met: set[str] = set()
    for scorer in scorers:
        if twice := met & set(scorer.dimensions):
            raise ConfigError(f"models: two of them score '{min(twice)}'; give each its own 'dimensions'")
        met |= set(scorer.dimensions)
    if not scorers:
        raise ConfigError("models: none is given; name a directory or a Hub id as 'model'")
    for dimension in margin if isinstance(margin, Mapping) else ():
        if dimension not in met:
            raise ConfigError(f"margin: no model scores '{dimension}' ({nearest(dimension, sorted(met))}); "
                              "name a dimension that one of them has")  # fmt: skip
    return ScorerJudge(scorers, margin=margin, name=" + ".join(s.name for s in scorers), ancestors=ancestors)
