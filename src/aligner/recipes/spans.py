"""Where an answer of the pocket world is faulty, in characters: what edit precision and recall are measured by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from aligner import edits
from aligner.errors import DataError
from aligner.evaluate.tasks import Item
from aligner.pocket.claims import Claim
from aligner.pocket.grammar import sentences
from aligner.pocket.oracle import Oracle
from aligner.pocket.oracle import oracle as make_oracle
from aligner.pocket.tasks import Question
from aligner.types import Chat, Verdict

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatingOracle:
    """The oracle, which also says where an answer is faulty; its verdicts, scores and counts are the oracle's own.

    It refuses questions that it cannot score before anything is asked or corrected.
    """

    oracle: Oracle
    name: str = "oracle"

    def for_questions(self, items: Sequence[Item]) -> Self:
        """Itself, where it can score them all.

        Raises:
            DataError: one is none of its world, or belongs to the training split; names the first and counts them.
        """
        refused = [(item, why) for item in items if (why := self._why_not(item)) is not None]
        if refused:
            item, why = refused[0]
            of = f" (the first of {len(refused)} that it cannot score)" if len(refused) > 1 else ""
            raise DataError(f"task '{item.task}', question '{item.id}': {why}{of}")
        return self

    def _why_not(self, item: Item) -> str | None:
        asked = self.oracle.tasks.of(item.question)
        if asked is None:
            return f"the oracle does not know it; give it questions of its own world (seed {self.oracle.world.seed})"
        if asked.split == "train":
            return "it belongs to the training split, which the oracle does not score; evaluate on the test files"
        return None

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        return await self.oracle.judge(question, candidate, baseline)

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        return await self.oracle.score(question, answers)

    async def faults(self, question: Chat, answers: Sequence[str]) -> list[dict[str, int] | None]:
        return await self.oracle.faults(question, answers)

    async def fault_spans(self, question: Chat, answers: Sequence[str]) -> list[list[Span] | None]:
        asked = self.oracle.tasks.of(question)
        return [None if asked is None else fault_spans(self.oracle, asked, answer) for answer in answers]


def oracle(seed: int = 0) -> LocatingOracle:
    """For a configuration: `judge: {call: "aligner.recipes.spans:oracle"}`."""
    return LocatingOracle(oracle=make_oracle(seed))


def fault_spans(oracle: Oracle, question: Question, answer: str) -> list[Span]:
    """The faulty places of an answer, by the oracle's rules; what is missing has no place.

    A sentence that makes no claim that was asked for, or repeats or contradicts one, is faulty as a whole. Where the
    only answer to something is false, it is the words that would be others in the same sentence told truly.
    """
    truths = {claim.slot: claim for claim in question.required}
    told = [(place, sentence, oracle.language.read(sentence)) for place, sentence in _placed(answer)]
    right = {claim.slot for _, _, claim in told if claim is not None and truths.get(claim.slot) == claim}
    answered: set[tuple[str, ...]] = set()
    found: list[Span] = []
    for place, sentence, claim in told:
        truth = truths.get(claim.slot) if claim is not None else None
        if claim is None or truth is None or claim.slot in answered or (claim != truth and claim.slot in right):
            found.append((place, place + len(sentence)))
            continue
        answered.add(claim.slot)
        if claim != truth:
            found += [(place + start, place + end) for start, end in _false_words(oracle, sentence, claim, truth)]
    return found


def _placed(answer: str) -> Iterator[tuple[int, str]]:
    """The sentences with where they begin."""
    at = 0
    for sentence in sentences(answer):
        at = answer.index(sentence, at)
        yield at, sentence
        at += len(sentence)


def _false_words(oracle: Oracle, sentence: str, claim: Claim, truth: Claim) -> list[Span]:
    """What the truth, said in the same way, has other words for; the whole sentence where no way of saying it fits."""
    ways = (way for way in range(oracle.language.ways(claim)) if oracle.language.say(claim, way) == sentence)
    way = next(ways, None)
    found: list[Span] = []
    place = 0
    for run in edits.diff(sentence, oracle.language.say(truth, way)) if way is not None else ():
        if run.op == "delete":
            found.append((place, place + len(run.text)))
        if run.op != "insert":
            place += len(run.text)
    return found or [(0, len(sentence))]
