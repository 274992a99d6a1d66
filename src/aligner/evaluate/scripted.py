"""ScriptedJudge: a judge that counts what it is told to count, for tests, demonstrations and simple rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from aligner.types import Chat, Verdict

Faults = Mapping[str, int | None]
Script = Mapping[str, Sequence[str]] | Callable[[Chat, str], Faults]


class ScriptedJudge:
    """Counts faults per dimension; of two answers, the one with fewer faults wins, and equal counts are a tie.

    The script maps each dimension to phrases, of which each occurrence is a fault, or is a function of the chat and
    an answer that counts; a count of None cannot be said and leaves the dimension unscored. `delay` waits that many
    seconds before each verdict, to play a slow judge. `lineage_name` is how lineages call it, where they do.
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", delay: float = 0.0, lineage_name: str | None = None
    ) -> None:
        self.name = name
        self.lineage_name = lineage_name
        self._script = script
        self._delay = delay

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        """One verdict for every dimension that the script counts in either answer."""
        if self._delay:
            await asyncio.sleep(self._delay)
        after, before = self._count(question, candidate), self._count(question, baseline)
        return [
            Verdict(dimension=d, winner=_winner(after.get(d), before.get(d))) for d in dict.fromkeys([*after, *before])
        ]

    async def faults(self, question: Chat, answers: Sequence[str]) -> list[dict[str, int] | None]:
        """The counts themselves, without those that cannot be said."""
        counted = [self._count(question, answer) for answer in answers]
        return [{d: n for d, n in counts.items() if n is not None} or None for counts in counted]

    def _count(self, question: Chat, answer: str) -> Faults:
        if callable(self._script):
            return self._script(question, answer)
        return {
            dimension: sum(answer.count(phrase) for phrase in phrases) for dimension, phrases in self._script.items()
        }


def _winner(after: int | None, before: int | None) -> Literal["candidate", "baseline", "tie"] | None:
    if after is None or before is None:
        return None
    return "tie" if after == before else "candidate" if after < before else "baseline"
