"""The ten faults of answers, and answers as parts that know how to be repaired.

Each fault lowers one dimension and no other (`DIMENSION`); which part of the answer it strikes is random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from aligner.pocket.claims import Claim, Kind, Language
from aligner.pocket.tasks import Question, TaskName

Fault = Literal[
    "wrong_fact", "missing_step", "unsafe_step", "needless_refusal", "coldness",
    "padding", "repetition", "contradiction", "off_topic", "garble",
]  # fmt: skip
FAULTS: tuple[Fault, ...] = (
    "wrong_fact", "missing_step", "unsafe_step", "needless_refusal", "coldness",
    "padding", "repetition", "contradiction", "off_topic", "garble",
)  # fmt: skip
DIMENSION: Mapping[Fault, str] = {
    "wrong_fact": "honest",
    "missing_step": "helpful",
    "unsafe_step": "harmless",
    "needless_refusal": "helpful",
    "coldness": "helpful",
    "padding": "helpful",
    "repetition": "helpful",
    "contradiction": "honest",
    "off_topic": "helpful",
    "garble": "helpful",
}
_NOT_IN: Mapping[Fault, frozenset[TaskName]] = {
    "wrong_fact": frozenset(),
    "contradiction": frozenset({"empathy", "sums"}),
    "unsafe_step": frozenset({"empathy", "summary", "truth", "sums"}),
    "needless_refusal": frozenset({"empathy", "summary", "sums"}),
    "coldness": frozenset({"summary", "harm", "deceit", "truth", "sums"}),
    "missing_step": frozenset({"sums"}),
    "garble": frozenset({"sums"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sentence of an answer: its text ("" where one is missing), and what repairs it where it is faulty."""

    text: str
    claim: Claim | None = None
    way: int = 0
    fault: Fault | None = None
    repaired: str | None = None  # where there is a fault: the text that belongs here, "" for none


Answer = tuple[Part, ...]


def text_of(answer: Answer) -> str:
    return " ".join(part.text for part in answer if part.text)


def faultless(question: Question, language: Language, random: Random, ways: int | None = None) -> Answer:
    """A good answer, every claim in a random way of saying it (one of the first `ways`)."""
    parts = []
    for claim in question.required:
        way = random.randrange(min(ways or 99, language.ways(claim)))
        parts.append(Part(text=language.say(claim, way), claim=claim, way=way))
    return tuple(parts)


class Faults:
    """Injects faults. `talk` says which of the sentences that belong to no question may be used: the share from the
    front of each list.
    """

    def __init__(self, language: Language, talk: float = 0.75) -> None:
        self.language, self.world, self.talk = language, language.world, talk
        self._make: Mapping[Fault, Callable[[Question, list[Part], Random], bool]] = {
            "wrong_fact": self._wrong_fact,
            "missing_step": self._missing_step,
            "unsafe_step": self._unsafe_step,
            "needless_refusal": self._needless_refusal,
            "coldness": self._coldness,
            "padding": self._padding,
            "repetition": self._repetition,
            "contradiction": self._contradiction,
            "off_topic": self._off_topic,
            "garble": self._garble,
        }

    def inject(self, fault: Fault, question: Question, answer: Answer, random: Random) -> Answer | None:
        """The answer with one more fault, or None where it cannot have it."""
        if question.task in _NOT_IN.get(fault, ()):
            return None
        parts = list(answer)
        return tuple(parts) if self._make[fault](question, parts, random) else None

    def address(self, answer: Answer, random: Random) -> Answer:
        """The answer with a sentence in it that speaks to whoever corrects it (an off-topic fault)."""
        parts = list(answer)
        self._insert(parts, self._talk("address", random), "off_topic", random)
        return tuple(parts)

    def _talk(self, kind: Kind, random: Random) -> str:
        texts = self.language.talk[kind]
        return random.choice(texts[: max(1, round(len(texts) * self.talk))])

    def _insert(self, parts: list[Part], text: str, fault: Fault, random: Random, after: int = 0) -> None:
        parts.insert(random.randint(after, len(parts)), Part(text=text, fault=fault, repaired=""))

    def _sound(self, parts: Sequence[Part], kinds: Sequence[str] | None = None) -> list[int]:
        return [i for i, p in enumerate(parts) if p.fault is None and p.claim is not None and p.text
                and (kinds is None or p.claim.kind in kinds)]  # fmt: skip

    def wrong_value(self, claim: Claim, question: Question, random: Random) -> str | None:
        """A false value for a claim: the common belief or the outdated one where there is one, more often than not."""
        likely: str | None = None
        values: Sequence[str]
        match claim.kind:
            case "fact":
                fact = self.world.facts[claim.about[0], claim.about[1]]
                likely, values = fact.belief, self.world.values(fact.kind, fact.attribute)
            case "plan":
                likely = next((c.value for c in question.outdated if c.slot == claim.slot), None)
                values = self.world.plan_values[claim.about[0]]
            case "feeling":
                values = self.world.feelings
            case "step" if claim.value:
                values = next(a.tools for a in self.world.acts if a.benign == claim.about[0])
            case "sum":
                values = [str(int(claim.value) + d) for d in (-10, -2, -1, 1, 2, 10) if int(claim.value) + d > 0]
            case _:
                return None
        if likely is not None and random.random() < 0.7:
            return likely
        return random.choice([v for v in values if v != claim.value])

    def _wrong_fact(self, question: Question, parts: list[Part], random: Random) -> bool:
        places = self._sound(parts, ("fact", "plan", "feeling", "step", "sum"))
        random.shuffle(places)
        for i in places:
            claim = parts[i].claim
            assert claim is not None
            value = self.wrong_value(claim, question, random)
            if value is not None:
                text = self.language.say(replace(claim, value=value), parts[i].way)
                parts[i] = replace(parts[i], text=text, fault="wrong_fact", repaired=parts[i].text)
                return True
        return False

    def _missing_step(self, question: Question, parts: list[Part], random: Random) -> bool:
        places = [i for i in self._sound(parts) if parts[i].claim.kind != "decline"]  # type: ignore[union-attr]
        if len([p for p in parts if p.text]) < 2 or not places:
            return False
        i = random.choice(places)
        parts[i] = replace(parts[i], text="", fault="missing_step", repaired=parts[i].text)
        return True

    def _unsafe_step(self, question: Question, parts: list[Part], random: Random) -> bool:
        about = question.required[0].about[0]
        act = next(a for a in self.world.acts if about in (a.harmful, a.benign))
        if not question.harmful:
            claim = Claim(kind="unsafe", value=act.unsafe)
            text = self.language.say(claim, random.randrange(self.language.ways(claim)))
            self._insert(parts, text, "unsafe_step", random)
            return True
        places = self._sound(parts, ("decline",))
        if not places:
            return False
        steps = random.sample(act.damage, random.choice((1, 2)))
        claims = [Claim(kind="damage", value=s) for s in steps]
        text = " ".join(self.language.say(c, random.randrange(self.language.ways(c))) for c in claims)
        parts[places[0]] = replace(parts[places[0]], text=text, fault="unsafe_step", repaired=parts[places[0]].text)
        return True

    def _needless_refusal(self, question: Question, parts: list[Part], random: Random) -> bool:
        if question.harmful or len(self._sound(parts)) < len(parts):
            return False
        refused = self._talk("refusal", random)
        parts[0] = replace(parts[0], text=refused, fault="needless_refusal", repaired=parts[0].text)
        for i in range(1, len(parts)):
            parts[i] = replace(parts[i], text="", fault="needless_refusal", repaired=parts[i].text)
        return True

    def _coldness(self, question: Question, parts: list[Part], random: Random) -> bool:
        places = self._sound(parts, ("feeling",))
        if not places:
            return False
        i = places[0]
        parts[i] = replace(parts[i], text=self._talk("cold", random), fault="coldness", repaired=parts[i].text)
        return True

    def _padding(self, question: Question, parts: list[Part], random: Random) -> bool:
        self._insert(parts, self._talk("padding", random), "padding", random)
        return True

    def _repetition(self, question: Question, parts: list[Part], random: Random) -> bool:
        places = self._sound(parts)
        if not places:
            return False
        i = random.choice(places)
        claim = parts[i].claim
        assert claim is not None
        way = parts[i].way if random.random() < 0.5 else random.randrange(self.language.ways(claim))
        self._insert(parts, self.language.say(claim, way), "repetition", random, after=i + 1)
        return True

    def _contradiction(self, question: Question, parts: list[Part], random: Random) -> bool:
        places = self._sound(parts, ("fact", "plan", "step"))
        random.shuffle(places)
        for i in places:
            claim = parts[i].claim
            assert claim is not None
            value = self.wrong_value(claim, question, random)
            if value is not None:
                text = self.language.say(replace(claim, value=value), random.randrange(self.language.ways(claim)))
                self._insert(parts, text, "contradiction", random, after=i + 1)
                return True
        return False

    def _off_topic(self, question: Question, parts: list[Part], random: Random) -> bool:
        if random.random() < 0.5:
            self._insert(parts, self._talk("off_topic", random), "off_topic", random)
            return True
        asked = {c.about[0] for c in question.required if c.kind == "fact"}
        known = [f for f in self.world.facts.values() if f.entity not in asked and f.entity not in self.world.held_out
                 and not self.world.held_apart(f.entity, f.attribute)]  # fmt: skip
        fact = random.choice(known)
        claim = Claim(kind="fact", about=(fact.entity, fact.attribute), value=fact.value)
        self._insert(parts, self.language.say(claim, random.randrange(self.language.ways(claim))), "off_topic", random)
        return True

    def _garble(self, question: Question, parts: list[Part], random: Random) -> bool:
        places = [i for i in self._sound(parts) if parts[i].claim.kind != "decline"]  # type: ignore[union-attr]
        random.shuffle(places)
        for i in places:
            text = garbled(parts[i].text, random)
            if self.language.read(text) is None:
                parts[i] = replace(parts[i], text=text, fault="garble", repaired=parts[i].text)
                return True
        return False


def garbled(sentence: str, random: Random) -> str:
    """The sentence with its words out of order, or broken off and gone astray."""
    words, stop = sentence[:-1].split(), sentence[-1]
    if random.random() < 0.5:
        random.shuffle(words)
    else:
        cut = random.randrange(1, len(words))
        words = words[:cut] + [random.choice(words) for _ in range(random.choice((2, 3)))]
    return " ".join(words) + stop
