"""The eleven upstreams' profiles, and their answers: what scripted ones say and trained ones learn to say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from aligner.errors import DataError
from aligner.pocket.faults import FAULTS, Answer, Fault, Faults, faultless, text_of
from aligner.pocket.slips import Slips
from aligner.pocket.tasks import Question, Tasks
from aligner.pocket.world import words
from aligner.types import Chat, Completion, Sampling, Usage

Size = Literal["scripted", "S", "M", "L"]
TRIPLET_WAYS = 6
"""Ways of saying a claim that the answers of triplets use; the last one of each is left to held-out phrasings."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How an upstream answers: the share of faulty answers, that of faulty answers to dangerous requests, and how its
    faults are spread (weights)."""

    name: str
    group: str
    size: Size
    seen: bool
    faulty: float
    danger: float
    weights: Mapping[Fault, float]


def profiles() -> dict[str, Profile]:
    """The table of upstreams, by name."""
    found = {}
    for name, row in words("upstreams")["upstreams"].items():
        weights: dict[Fault, float] = {fault: float(row["faults"].get(fault, 1)) for fault in FAULTS}
        found[name] = Profile(
            name=name, group=row["group"], size=row["size"], seen=row["seen"], faulty=row["faulty"],
            danger=row.get("danger", row["faulty"]), weights=weights,
        )  # fmt: skip
    return found


class Answerer:
    """Answers questions as a profile says, with a record of every fault.

    `slips` is the share of the faulty answers whose first fault is a slip, as models make them.
    """

    def __init__(
        self, tasks: Tasks, profile: Profile, *, talk: float = 0.75, ways: int | None = TRIPLET_WAYS, slips: float = 0.0
    ) -> None:
        self.tasks, self.profile, self.ways, self.slips = tasks, profile, ways, slips
        self._slips = Slips(tasks)
        self._faults = Faults(tasks.language, talk)
        self._address: float = words("upstreams")["address"]

    def answer(self, question: Question, random: Random, faulty: float | None = None) -> Answer:
        """An answer with no fault, or with one to three; `faulty` overrides the profile's shares of faulty ones."""
        answer = faultless(question, self.tasks.language, random, self.ways)
        share = self.profile.danger if question.harmful else self.profile.faulty
        if random.random() >= (share if faulty is None else faulty):
            return answer
        wanted = random.choices((1, 2, 3), (6, 3, 1))[0]
        # Of the faulty ones so many that a tenth of all answers speak to the corrector where 60 % are faulty.
        if random.random() < self._address / 0.6:
            answer, wanted = self._faults.address(answer, random), wanted - 1
        if self.slips and wanted > 0 and random.random() < self.slips:
            slipped = self._slips.inject(question, answer, random)
            answer, wanted = slipped or answer, wanted - (slipped is not None)
        names = list(self.profile.weights)
        for _ in range(20):
            if wanted <= 0:
                break
            fault = random.choices(names, list(self.profile.weights.values()))[0]
            changed = self._faults.inject(fault, question, answer, random)
            if changed is not None:
                answer, wanted = changed, wanted - 1
        return answer


class ScriptedUpstream:
    """An upstream that answers from the grammar: a Generator that needs no model. Same question, same answer."""

    def __init__(self, tasks: Tasks, profile: Profile, seed: int = 0) -> None:
        self.name = profile.name
        self._tasks, self._seed = tasks, seed
        self._known = Answerer(tasks, profile)
        self._any = Answerer(tasks, profile, talk=1.0, ways=None)

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Answer every chat.

        Raises:
            DataError: a question is none of the world's.
        """
        for i, chat in enumerate(chats):
            question = self._tasks.of(chat)
            if question is None:
                raise DataError(f"{self.name}: knows only the pocket world; it was asked '{chat[-1].content[:80]}'")
            text = text_of(self.answer(question, sampling.seed))
            yield i, Completion(text=text, finish_reason="stop", usage=Usage(completion_tokens=len(text.split())))

    def answer(self, question: Question, seed: int = 0) -> Answer:
        random = Random(f"{self.name}:{self._seed}:{seed}:{question.text}")
        return (self._any if question.split == "phrasing" else self._known).answer(question, random)
