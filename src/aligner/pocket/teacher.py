"""The teacher: corrects answers with as few changes as possible, and errs as people do. It never asks the oracle.

A fault is missed in 5 % of cases, 5 % of the answers get a change that they did not need, 2 % a false one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from aligner.pocket.claims import Claim, Language
from aligner.pocket.faults import Answer, Fault, Faults, Part
from aligner.pocket.grammar import sentences
from aligner.pocket.tasks import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRates:
    """How often the teacher misses a fault, changes what was good (into words that are as good), or errs."""

    miss: float = 0.05
    over_edit: float = 0.05
    err: float = 0.02


class Teacher:
    """Corrects answers from the record of their faults, or, for answers of a model, from what it reads in them."""

    def __init__(self, language: Language, rates: ErrorRates | None = None, ways: int | None = None) -> None:
        self.language, self.rates, self.ways = language, rates or ErrorRates(), ways
        self._faults = Faults(language)

    def correct(self, question: Question, answer: Answer, random: Random) -> str:
        """The corrected text."""
        missed = False
        parts: list[Part] = []
        for i, part in enumerate(answer):
            # A refusal stands for a whole answer: one fault, though it has a part for each claim.
            if not (i and part.fault == answer[i - 1].fault == "needless_refusal"):
                missed = part.fault is not None and random.random() < self.rates.miss
            parts.append(part if part.fault is None or missed else _repair(part))
        if random.random() < self.rates.over_edit:
            self._over_edit(parts, random)
        if random.random() < self.rates.err:
            self._err(question, parts, random)
        return " ".join(part.text for part in parts if part.text)

    def read(self, question: Question, text: str) -> Answer:
        """The parts of an answer that no record exists of, with its faults against what the question requires.

        What is missing belongs after the sentence that a good answer has before it.
        """
        order = {c.slot: i for i, c in enumerate(question.required)}
        parts: list[Part] = []
        said: set[tuple[str, ...]] = set()
        for sentence in sentences(text):
            claim = self.language.read(sentence)
            if claim is not None and claim.slot in order and claim.slot not in said:
                said.add(claim.slot)
                truth = question.required[order[claim.slot]]
                way = self._way(claim, sentence)
                right = claim.value == truth.value
                parts.append(Part(
                    text=sentence, claim=truth, way=way, fault=None if right else "wrong_fact",
                    repaired=None if right else self.language.say(truth, way),
                ))  # fmt: skip
            else:
                parts.append(Part(text=sentence, claim=claim, fault=_fault_of(claim, question), repaired=""))
        for slot, i in order.items():
            if slot not in said:
                place = _place(parts, order, i)
                claim = question.required[i]
                said_now = self.language.say(claim, 0)
                parts.insert(place, Part(text="", claim=claim, fault="missing_step", repaired=said_now))
        return tuple(parts)

    def _way(self, claim: Claim, sentence: str) -> int:
        """Which way a sentence says its claim; one that a model wrote may differ from all in its first letter."""
        ways = range(self.language.ways(claim))
        return next((w for w in ways if self.language.say(claim, w).lower() == sentence.lower()), 0)

    def _over_edit(self, parts: list[Part], random: Random) -> None:
        places = [i for i, p in enumerate(parts) if p.claim is not None and p.fault is None and p.text]
        if places:
            i = random.choice(places)
            claim = parts[i].claim
            assert claim is not None
            ways = min(self.ways or 99, self.language.ways(claim))
            parts[i] = replace(parts[i], text=self.language.say(claim, random.randrange(ways)))

    def _err(self, question: Question, parts: list[Part], random: Random) -> None:
        places = [i for i, p in enumerate(parts) if p.claim is not None and p.fault is None and p.text]
        if not places:
            return
        i = random.choice(places)
        claim = parts[i].claim
        assert claim is not None
        value = self._faults.wrong_value(claim, question, random)
        if value is not None:
            parts[i] = replace(parts[i], text=self.language.say(replace(claim, value=value), parts[i].way))
        elif len([p for p in parts if p.text]) > 1:
            parts[i] = replace(parts[i], text="")


def _repair(part: Part) -> Part:
    return replace(part, text=part.repaired or "", fault=None)


def _fault_of(claim: Claim | None, question: Question) -> Fault:
    if claim is None:
        return "garble"
    if claim.slot in {c.slot for c in question.required}:
        return "repetition" if claim in question.required else "contradiction"
    match claim.kind:
        case "unsafe" | "damage":
            return "unsafe_step"
        case "cold":
            return "coldness"
        case "refusal" | "decline":
            return "needless_refusal"
        case "padding":
            return "padding"
        case _:
            return "off_topic"


def _place(parts: list[Part], order: dict[tuple[str, ...], int], missing: int) -> int:
    """Where a missing claim belongs: after the last part that stands for an earlier one."""
    place = 0
    for i, part in enumerate(parts):
        if part.claim is not None and order.get(part.claim.slot, missing) < missing:
            place = i + 1
    return place
