"""The third step: what a judge says of a correction beside the answer it corrects."""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aligner import edits
from aligner.config import nearest
from aligner.errors import AlignerError, ConfigError, DataError, UserError
from aligner.evaluate.config import JudgeSpec
from aligner.evaluate.progress import Progress
from aligner.evaluate.store import Store
from aligner.evaluate.tasks import Suite, question_value, split_of
from aligner.types import Chat, FaultFinder, Judge, Scorer

Winner = Literal["candidate", "baseline", "tie"]
_WINNERS: tuple[Winner, ...] = ("candidate", "baseline", "tie")
_TIE: Winner = "tie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """All that a judge says of one correction. A winner of None is unscored; fields that were not asked are None."""

    verdicts: Mapping[str, Winner | None]
    faults_before: Mapping[str, int] | None = None
    faults_after: Mapping[str, int] | None = None
    scores_before: Mapping[str, float | None] | None = None
    scores_after: Mapping[str, float | None] | None = None


def load_judge(spec: JudgeSpec) -> Judge:
    """Import what `call` names, call it and check what comes back.

    Raises:
        ConfigError: there is no such module or name in it, it refuses the arguments, or returns no judge.
    """
    where = f"judge.call '{spec.call}'"
    module_name, _, path = spec.call.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        missing = f"no module is called '{e.name}'"
        raise ConfigError(f"{where}: {missing}; install it, or start where its file lies") from None
    except Exception as e:
        raise ConfigError(f"{where}: the module cannot be imported ({_said(e)})") from e
    for name in path.split("."):
        if not hasattr(found, name):
            known = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            raise ConfigError(f"{where}: nothing in it is called '{name}'; {nearest(name, known)}")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"{where}: it is a {type(found).__name__} and cannot be called; name what makes the judge")
    try:
        judge = found(**spec.arguments)
    except AlignerError:
        raise
    except Exception as e:
        raise ConfigError(f"{where}: it cannot be made with judge.arguments ({_said(e)})") from e
    return check_judge(judge, where)


def check_judge(judge: object, where: str = "judge") -> Judge:
    """Raises ConfigError where an object cannot judge, else hands it back."""
    if not isinstance(judge, Judge):
        raise ConfigError(f"{where}: a {type(judge).__name__} cannot judge; it needs a method "
                          "`async def judge(question, candidate, baseline)`")  # fmt: skip
    return judge


def judge_name(judge: Judge) -> str:
    """Its `name`, or that of its class."""
    return str(getattr(judge, "name", None) or type(judge).__name__)


async def form_opinion(
    judge: Judge, question: Chat, dimensions: Sequence[str], answer: str, correction: str
) -> Opinion:
    """Ask a judge for all that it can say. A copy is a tie by definition, and is not compared.

    Raises:
        ValueError: it says something that is no verdict, count or score.
    """
    copied = answer == correction
    verdicts: dict[str, Winner | None] = dict.fromkeys(dimensions, _TIE if copied else None)
    if not copied:
        for verdict in await judge.judge(question, correction, answer):
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
    return Opinion(
        verdicts=verdicts,
        faults_before=faults[0],
        faults_after=faults[-1],
        scores_before=scores[0],
        scores_after=scores[-1],
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
        return any(place in self.verdicts and row["answer"] != row["correction"] for place, row in self.verdicts.rows())

    def left(self) -> int:
        """Corrections without a row."""
        return sum(1 for _ in self._todo())

    def _todo(self) -> Iterator[int]:
        return (p for p in self.verdicts.missing() if p in self.answers and p in self.corrections)

    def _keep(self, done: Iterable[asyncio.Task[tuple[int, dict[str, Any], str | None]]], progress: Progress) -> None:
        for place, row, error in sorted((task.result() for task in done), key=lambda result: result[0]):
            self.verdicts.write(place, row, error)
            progress.step()

    async def _row(self, place: int) -> tuple[int, dict[str, Any], str | None]:
        item = self.suite.items[place]
        answer, corrected = self.answers.get(place)["answer"], self.corrections.get(place)
        dimensions = self.suite.dimensions[item.task]
        error = None
        try:
            opinion = await form_opinion(self.judge, item.question, dimensions, answer, corrected["correction"])
        except UserError:
            raise
        except Exception as e:  # whatever a judge fails with costs this row and no other
            opinion, error = Opinion(verdicts=dict.fromkeys(dimensions)), _said(e)
        row = {
            "split": split_of(item, self.seen),
            "upstream": self.upstream,
            "corrector": self.corrector,
            "question": question_value(item),
            "answer": answer,
            "correction": corrected["correction"],
            "kept_because": corrected["kept_because"],
            "edit_ratio": round(edits.edit_ratio(answer, corrected["correction"]), 4),
            **asdict(opinion),
        }
        return place, row, error


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


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
