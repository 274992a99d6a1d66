"""When a correction must be thrown away and the original answer kept, and what is to be said of it otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aligner.correct.guards.citations import loses_citation
from aligner.correct.guards.collapse import collapses
from aligner.correct.guards.endings import is_cut, is_emptied
from aligner.correct.guards.facts import changes_numbers, changes_urls
from aligner.correct.guards.fences import leaves_fence_open, loses_code_fence
from aligner.correct.guards.formats import ResponseFormat, breaks_format
from aligner.correct.guards.language import changes_language
from aligner.correct.guards.latex import loses_latex
from aligner.correct.guards.policy import GuardPolicy, Mode
from aligner.correct.guards.repetition import repeats
from aligner.correct.guards.scripts import leaks_script
from aligner.correct.guards.tables import loses_table
from aligner.types import FinishReason, GuardName

_POLICY = GuardPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """What the guards look at. `question` is the whole conversation as one text, `wanted` the format it asks for."""

    question: str
    answer: str
    correction: str
    finish_reason: FinishReason = "stop"
    wanted: ResponseFormat | None = None


_FIRES: dict[GuardName, Callable[[Corrected], bool]] = {
    "cut": lambda it: is_cut(it.answer, it.correction, it.finish_reason),
    "emptied": lambda it: is_emptied(it.answer, it.correction),
    "broken_format": lambda it: breaks_format(it.answer, it.correction, it.wanted),
    "script_leak": lambda it: leaks_script(it.question, it.answer, it.correction),
    "changed_language": lambda it: changes_language(it.question, it.answer, it.correction),
    "repeated": lambda it: repeats(it.answer, it.correction),
    "collapsed": lambda it: collapses(it.answer, it.correction),
    "unbalanced_fence": lambda it: leaves_fence_open(it.answer, it.correction),
    "lost_code_fence": lambda it: loses_code_fence(it.answer, it.correction),
    "lost_table": lambda it: loses_table(it.answer, it.correction),
    "lost_latex": lambda it: loses_latex(it.answer, it.correction),
    "lost_citation": lambda it: loses_citation(it.answer, it.correction),
    "changed_numbers": lambda it: changes_numbers(it.question, it.answer, it.correction),
    "changed_urls": lambda it: changes_urls(it.question, it.answer, it.correction),
}


def check(
    *,
    question: str,
    answer: str,
    correction: str,
    finish_reason: FinishReason,
    wanted: ResponseFormat | None = None,
    policy: GuardPolicy = _POLICY,
) -> GuardName | None:
    """Why the original answer must be kept, or None where the correction may be shown.

    `question` is the whole conversation as one text, `wanted` the format that it asks for. The enforced guards are
    asked in the policy's order; the first that fires gives the reason.
    """
    it = Corrected(question=question, answer=answer, correction=correction, finish_reason=finish_reason, wanted=wanted)
    return next(_fired(it, policy, "enforce"), None)


def reported(
    *,
    question: str,
    answer: str,
    correction: str,
    finish_reason: FinishReason = "stop",
    wanted: ResponseFormat | None = None,
    policy: GuardPolicy = _POLICY,
) -> tuple[GuardName, ...]:
    """Guards that fire on a correction that is shown all the same: the policy only reports them."""
    it = Corrected(question=question, answer=answer, correction=correction, finish_reason=finish_reason, wanted=wanted)
    return tuple(_fired(it, policy, "report"))


def _fired(it: Corrected, policy: GuardPolicy, mode: Mode) -> Iterator[GuardName]:
    # A copy passes them all, but for one that ran out of room before it could end.
    if it.correction == it.answer and it.finish_reason != "length":
        return
    yield from (name for name in policy.guards(mode) if _FIRES[name](it))
