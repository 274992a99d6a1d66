"""The third step: what a judge says of a correction beside the answer it corrects."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aligner import edits
from aligner.errors import ConfigError, DataError, GenerationError, UserError
from aligner.evaluate.batch import BatchJudge
from aligner.evaluate.config import JudgeSpec
from aligner.evaluate.llm_judge import Ask
from aligner.evaluate.progress import Progress
from aligner.evaluate.store import Store
from aligner.evaluate.tasks import Suite, question_value, split_of
from aligner.generate.named import make_named
from aligner.generate.named import said as said_of
from aligner.types import Chat, FaultFinder, FaultLocator, Judge, Scorer, SelectiveJudge, Usage, Verdict, Winner

_WINNERS: tuple[Winner, ...] = ("candidate", "baseline", "tie")
_TIE: Winner = "tie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """All that a judge says of one correction. A winner of None is unscored; fields that were not asked are None.

    `fault_spans` are the faulty places of the answer, in characters. `said` are the verdicts as the judge gave them,
    with what it took to get them.
    """

    verdicts: Mapping[str, Winner | None]
    said: tuple[Verdict, ...] = field(default=())
    faults_before: Mapping[str, int] | None = None
    faults_after: Mapping[str, int] | None = None
    scores_before: Mapping[str, float | None] | None = None
    scores_after: Mapping[str, float | None] | None = None
    fault_spans: Sequence[tuple[int, int]] | None = None


def load_judge(spec: JudgeSpec) -> Judge:
    """Import what `call` names, call it and check what comes back.

    Raises:
        ConfigError: there is no such module or name in it, it refuses the arguments, or returns no judge.
    """
    judge = make_named(spec.call, spec.arguments, "judge.call", "judge.arguments")
    return check_judge(judge, f"judge.call '{spec.call}'")


def check_judge(judge: object, where: str = "judge") -> Judge:
    """Raises ConfigError where an object cannot judge, else hands it back."""
    if not isinstance(judge, Judge):
        raise ConfigError(f"{where}: a {type(judge).__name__} cannot judge; it needs a method "
                          "`async def judge(question, candidate, baseline)`")  # fmt: skip
    return judge


def judge_name(judge: Judge) -> str:
    """Its `name`, or that of its class."""
    return str(getattr(judge, "name", None) or type(judge).__name__)


def judge_facts(judge: Judge, usage: Usage | None, spent: Mapping[str, int]) -> dict[str, Any]:
    """What else a judge says of itself; what its verdicts took, in tokens and, where it knows prices, their cost; and
    under "requests" what was asked for in this run, and not found in the store."""
    said: dict[str, Any] = dict(judge.facts()) if hasattr(judge, "facts") else {}
    if usage is not None:
        said |= {**asdict(usage), "cost": _cost(judge, usage)}
    if spent:
        tokens = Usage(prompt_tokens=spent["prompt_tokens"], completion_tokens=spent["completion_tokens"])
        said["requests"] = {**spent, "cost": _cost(judge, tokens)}
    return said


def judge_spent(judge: Judge) -> dict[str, int]:
    """What it asked of an address; nothing of a judge that asks none."""
    return dict(judge.spent()) if hasattr(judge, "spent") else {}


def _cost(judge: Judge, usage: Usage) -> float | None:
    cost = judge.cost(usage) if hasattr(judge, "cost") else None
    return None if cost is None else round(cost, 6)


async def form_opinion(
    judge: Judge, question: Chat, dimensions: Sequence[str], answer: str, correction: str
) -> Opinion:
    """Ask a judge for all that it can say. A copy is a tie by definition, and is not compared.

    Raises:
        ValueError: it says something that is no verdict, count or score.
    """
    copied = answer == correction
    verdicts: dict[str, Winner | None] = dict.fromkeys(dimensions, _TIE if copied else None)
    said: list[Verdict] = []
    if not copied:
        said = await (
            judge.judge_on(question, correction, answer, dimensions)
            if isinstance(judge, SelectiveJudge)
            else judge.judge(question, correction, answer)
        )
        for verdict in said:
            if verdict.winner is not None and verdict.winner not in _WINNERS:
                raise ValueError(f"the judge's winner is {verdict.winner!r}; expected one of {', '.join(_WINNERS)}")
            if verdict.dimension in verdicts:
                verdicts[verdict.dimension] = verdict.winner
    asked = [answer] if copied else [answer, correction]
    faults: Sequence[Mapping[str, int] | None] = [None]
    scores: Sequence[Mapping[str, float | None] | None] = [None]
    if isinstance(judge, FaultFinder):
        faults = [_counts(f) for f in _each(await judge.faults(question, asked), asked)]
    if isinstance(judge, Scorer):
        scores = [_scores(s) for s in _each(await judge.score(question, asked), asked)]
    spans: Sequence[Sequence[tuple[int, int]] | None] = [None]
    if isinstance(judge, FaultLocator):
        spans = [_spans(s, answer) for s in _each(await judge.fault_spans(question, [answer]), [answer])]
    return Opinion(
        verdicts=verdicts,
        said=tuple(v for v in said if v.dimension in verdicts),
        faults_before=faults[0],
        faults_after=faults[-1],
        scores_before=scores[0],
        scores_after=scores[-1],
        fault_spans=spans[0],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One corrector's corrections of one upstream's answers, before a judge. `in_flight` are judged at a time."""

    judge: Judge
    suite: Suite
    corrector: str
    upstream: str
    seen: bool | None
    answers: Store
    corrections: Store
    verdicts: Store
    in_flight: int

    async def judge_all(self, progress: Progress) -> None:
        """Judge every correction that has no row yet; a judge that fails at one leaves it unscored, with the reason.

        Raises:
            UserError: the judge says that the input is wrong.
            GenerationError: the judge can go on with none.
            DataError: the judge failed at every one.
        """
        pending: set[asyncio.Task[tuple[int, dict[str, Any], str | None]]] = set()
        try:
            for place in self._todo():
                pending.add(asyncio.create_task(self._row(place)))
                if len(pending) >= self.in_flight:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    self._keep(done, progress)
            if pending:
                self._keep((await asyncio.wait(pending))[0], progress)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if self.verdicts.failed and not self._compared():
            first = next(iter(self.verdicts.failed.values()))
            raise DataError(f"{self.verdicts.path}: the judge '{judge_name(self.judge)}' failed at all "
                            f"{len(self.verdicts.failed)} corrections, the first: {first}; put it right and go on "
                            "with --resume")  # fmt: skip

    def _compared(self) -> bool:
        """Whether the judge managed one correction at least; copies are ties without it."""
        return any(
            row["answer"] != row["correction"] and (place in self.verdicts or any(row["verdicts"].values()))
            for place, row in self.verdicts.rows()
        )

    def asks(self, judge: BatchJudge) -> Iterator[Ask]:
        """The requests that the corrections without a row take; copies take none."""
        for place in self._todo():
            item, answer = self.suite.items[place], self.answers.get(place)["answer"]
            correction = self.corrections.get(place)["correction"]
            if answer != correction:
                yield from judge.asks(item.question, correction, answer, self.suite.dimensions[item.task])

    def left(self) -> int:
        """Corrections without a row."""
        return sum(1 for _ in self._todo())

    def _todo(self) -> Iterator[int]:
        return (p for p in self.verdicts.missing() if p in self.answers and p in self.corrections)

    def _keep(self, done: Iterable[asyncio.Task[tuple[int, dict[str, Any], str | None]]], progress: Progress) -> None:
        # What is judged is kept before what stops the run is raised.
        done = list(done)
        for place, row, error in sorted((t.result() for t in done if t.exception() is None), key=lambda r: r[0]):
            self.verdicts.write(place, row, error)
            progress.step()
        for task in done:
            task.result()

    async def _row(self, place: int) -> tuple[int, dict[str, Any], str | None]:
        item = self.suite.items[place]
        answer, corrected = self.answers.get(place)["answer"], self.corrections.get(place)
        dimensions = self.suite.dimensions[item.task]
        error = None
        try:
            opinion = await form_opinion(self.judge, item.question, dimensions, answer, corrected["correction"])
            error = next((v.reason or "the judge failed" for v in opinion.said if v.failed), None)
        except (UserError, GenerationError):
            raise
        except Exception as e:  # whatever a judge fails with costs this row and no other
            opinion, error = Opinion(verdicts=dict.fromkeys(dimensions)), said_of(e)
        row = {
            "split": split_of(item, self.seen),
            "upstream": self.upstream,
            "corrector": self.corrector,
            "question": question_value(item),
            "answer": answer,
            "correction": corrected["correction"],
            "kept_because": corrected["kept_because"],
            "edit_ratio": round(edits.edit_ratio(answer, corrected["correction"]), 4),
            **{name: value for name, value in asdict(opinion).items() if name != "said"},
            **_details(opinion.said),
        }
        return place, row, error


def _details(said: Sequence[Verdict]) -> dict[str, Any]:
    """What else is known of verdicts: both orders, which of them disagree, why some are unscored, and the tokens."""
    usages = [v.usage for v in said if v.usage is not None]
    found: dict[str, Any] = {
        "orders": {v.dimension: list(v.orders) for v in said if v.orders},
        "flipped": [v.dimension for v in said if v.flipped],
        "reasons": {v.dimension: v.reason for v in said if v.reason is not None},
        "usage": asdict(sum(usages, Usage())) if usages else None,
    }
    return {name: value for name, value in found.items() if value}


def _each(values: Any, asked: Sequence[str]) -> list[Any]:
    found = list(values)
    if len(found) != len(asked):
        raise ValueError(f"the judge was asked about {len(asked)} answers and spoke of {len(found)}")
    return found


def _counts(values: Mapping[str, int] | None) -> dict[str, int] | None:
    if values is None:
        return None
    for dimension, count in values.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"the judge counts {count!r} faults in '{dimension}'; expected 0 or more")
    return dict(values)


def _scores(values: Mapping[str, float | None]) -> dict[str, float | None]:
    for dimension, score in values.items():
        if score is not None and not math.isfinite(score):
            raise ValueError(f"the judge's score in '{dimension}' is {score!r}; expected a finite number or None")
    return {dimension: None if score is None else float(score) for dimension, score in values.items()}


def _spans(values: Sequence[tuple[int, int]] | None, answer: str) -> list[tuple[int, int]] | None:
    if values is None:
        return None
    for start, end in values:
        if not 0 <= start < end <= len(answer):
            raise ValueError(f"the judge finds a fault at {start} to {end} of an answer of {len(answer)} characters")
    return list(values)
