"""KeepBest: several corrections of an answer, ranked beside the answer itself; the best of them all is kept."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from aligner.correct import outcome
from aligner.correct.aligner import Aligner, Question
from aligner.correct.copy_scorer import CopyScorer
from aligner.errors import AlignerError, ConfigError, GenerationError, OutOfMemoryError, UserError
from aligner.generate.collect import in_order
from aligner.generate.hf import Dtype
from aligner.generate.named import make_named
from aligner.types import Correction, Delta, GuardName, Judge, KeptBecause, Sampling, Scorer, Verdict

SELF = "self"
"""In place of a ranker's name: the corrector itself (`CopyScorer`)."""
_TEMPERATURE = 0.7  # of candidates after the first where the corrector is greedy
_AHEAD = 32  # answers of a batch that are ranked at the same time

_RANKS = "it needs a method `async def score(question, answers)` or `async def judge(question, candidate, baseline)`"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBest:
    """Corrects `count` times, the first time as the corrector is set and then sampled, and keeps the best.

    A Scorer ranks by the mean of its dimensions; what does not score more than `margin` above the answer is out. A
    Judge compares each candidate with the best so far, the answer first: more dimensions won than lost replace it. On a
    tie the answer stays, or else the earlier candidate. The
    answer also stays where nothing can be said: a candidate without all its scores or verdicts is out, an answer
    without its scores wins, and so does one whose ranker fails, which `completion.error` then says.

    Candidates that are copies, that a guard threw away, or that are equal to another cost the ranker nothing.

    Raises:
        ConfigError: `count` is below 1, `ranker` neither scores nor judges, or `margin` is below 0 or given to a judge.
    """

    aligner: Aligner
    ranker: Scorer | Judge
    count: int = 4
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"best_of is {self.count}; it must be 1 or more")
        if not isinstance(self.ranker, Scorer | Judge):
            raise ConfigError(f"a {type(self.ranker).__name__} cannot rank; {_RANKS}")
        if not 0 <= self.margin < math.inf:
            raise ConfigError(f"margin is {self.margin}; it must be 0 or more, and finite")
        if self.margin and not isinstance(self.ranker, Scorer):
            raise ConfigError("margin is in the units of scores, and this ranker judges; leave it out")

    def correct(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Correction:
        """Correct one answer.

        Raises:
            DataError: the question is no chat.
            ConfigError: the response format is none.
        """
        return next(self.correct_batch([(question, answer)], sampling, response_format=response_format))

    def correct_batch(
        self,
        pairs: Iterable[tuple[Question, str]],
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Iterator[Correction]:
        """Correct many answers, in order; the candidates of all of them share the corrector's batch, and the ranker is
        asked about several answers at the same time.

        Raises:
            DataError: a question is no chat.
            ConfigError: the response format is none.
        """
        rows = ((question, answer, own) for question, answer in pairs for own in self._samplings(sampling))
        done = self.aligner.correct_each(rows, response_format=response_format)

        def ranked() -> Iterator[Coroutine[Any, Any, Correction]]:
            while candidates := list(islice(done, self.count)):
                yield self.best(candidates)

        return in_order(ranked(), _AHEAD)

    async def acorrect(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> Correction:
        """Correct one answer without blocking; leaving early cancels all its candidates.

        Raises:
            DataError: the question is no chat.
            ConfigError: the response format is none.
        """
        tasks = [
            asyncio.ensure_future(self.aligner.acorrect(question, answer, own, response_format=response_format))
            for own in self._samplings(sampling)
        ]
        try:
            return await self.best(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def stream(
        self,
        question: Question,
        answer: str,
        sampling: Sampling | None = None,
        *,
        response_format: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Delta]:
        """The best correction, whole: nothing can be shown before all candidates are ranked.

        Raises:
            DataError: the question is no chat.
            ConfigError: the response format is none.
        """
        done = await self.acorrect(question, answer, sampling, response_format=response_format)
        yield Delta(text=done.text)
        yield outcome.last(done)

    async def best(self, candidates: Sequence[Correction]) -> Correction:
        """The best of several corrections of one answer; usage adds up what all of them took."""
        first, *others = candidates
        usage = sum((c.completion.usage for c in others), first.completion.usage)
        new: dict[str, Correction] = {}
        for candidate in candidates:
            if not candidate.is_copy:
                new.setdefault(candidate.text, candidate)
        chosen = first
        if new:
            try:
                chosen = await self._ranked(first, list(new.values()))
            except Exception as e:  # one answer that cannot be ranked must not cost the others
                if isinstance(e, UserError) and not isinstance(e, OutOfMemoryError):
                    raise  # it holds for all of them
                chosen = _unranked(next(iter(new.values())), e)
        return replace(chosen, completion=replace(chosen.completion, usage=usage))

    async def _ranked(self, first: Correction, new: Sequence[Correction]) -> Correction:
        if isinstance(self.ranker, Scorer):
            return await self._by_scores(first, new, self.ranker)
        return await self._by_verdicts(first, new, self.ranker)

    async def _by_scores(self, first: Correction, new: Sequence[Correction], scorer: Scorer) -> Correction:
        scores = await scorer.score(first.question, [first.answer, *(c.text for c in new)])
        if len(scores) != 1 + len(new):
            raise GenerationError(f"{len(scores)} scores for {1 + len(new)} answers")
        original, *values = [_mean(s) for s in scores]
        scored = [(value, candidate) for value, candidate in zip(values, new, strict=True) if value is not None]
        if original is None or not scored:
            return _original(new[0], "unscored")
        value, candidate = max(scored, key=lambda pair: pair[0])
        return candidate if value > original + self.margin else _original(new[0], "not_better")

    async def _by_verdicts(self, first: Correction, new: Sequence[Correction], judge: Judge) -> Correction:
        chosen: Correction | None = None
        judged = False
        for candidate in new:
            verdicts = await judge.judge(first.question, candidate.text, chosen.text if chosen else first.answer)
            net = _net(verdicts)
            judged = judged or net is not None
            if net is not None and net > 0:
                chosen = candidate
        return chosen or _original(new[0], "not_better" if judged else "unscored")

    def _samplings(self, sampling: Sampling | None = None) -> Iterator[Sampling]:
        own = sampling or self.aligner.sampling
        yield own
        for i in range(1, self.count):
            yield replace(own, temperature=own.temperature or _TEMPERATURE, seed=own.seed + i)


def load_ranker(place: str, aligner: Aligner, device: str | None = None, dtype: Dtype = "auto") -> Scorer | Judge:
    """A reward model's directory or Hub id; `module:callable`, which is called and returns a Scorer or a Judge; or
    "self", the corrector itself.

    Raises:
        CheckpointError: no scoring model there.
        ConfigError: no such module or name in it, what comes back can do neither, or this corrector cannot rank.
    """
    if place == SELF:
        return CopyScorer(aligner)
    if ":" in place and not Path(place).exists():
        found = make_named(place, {}, "scorer", "no arguments")
        if not isinstance(found, Scorer | Judge):
            raise ConfigError(f"scorer '{place}': a {type(found).__name__} cannot rank; {_RANKS}")
        return found
    from aligner.generate.scorer import RewardScorer

    return RewardScorer.from_pretrained(place, device=device, dtype=dtype)


def _mean(scores: Mapping[str, float | None]) -> float | None:
    values = [value for value in scores.values() if value is not None and math.isfinite(value)]
    return math.fsum(values) / len(values) if values and len(values) == len(scores) else None


def _net(verdicts: Sequence[Verdict]) -> int | None:
    """Dimensions won less dimensions lost; None where one of them, or all, is unscored."""
    winners = [v.winner for v in verdicts]
    if not winners or None in winners:
        return None
    return winners.count("candidate") - winners.count("baseline")


def _original(candidate: Correction, why: KeptBecause) -> Correction:
    # What guards said is true of the text that is thrown away.
    flags = tuple(flag for flag in candidate.flags if flag not in get_args(GuardName))
    return replace(candidate, text=candidate.answer, kept_because=why, flags=flags)


def _unranked(candidate: Correction, error: Exception) -> Correction:
    words = " ".join(str(error).split())
    said = words if words and isinstance(error, AlignerError) else f"{type(error).__name__}: {words}".rstrip(": ")
    completion = replace(candidate.completion, error=f"the ranker failed: {said}")
    return replace(_original(candidate, "unscored"), completion=completion)
