"""Claims: what a sentence of the pocket world says, apart from how it says it; written and read back exactly.

Every sentence of a good answer makes one claim. `Language.say` puts a claim into words in one of several ways,
`Language.read` finds the claim of a sentence, or None where the sentence is none of the world's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from aligner.pocket.grammar import Phrases, both_cases, capitalised, sentences
from aligner.pocket.world import World, words

Kind = Literal[
    "fact",  # about (entity, attribute), value
    "feeling",  # value: how the writer feels
    "event",  # value: what happened to the writer
    "advice",  # value: what to do about it
    "plan",  # about (slot, event or person), value
    "step",  # about (act, number), value: the tool, or ""
    "decline",  # about (harmful act,)
    "reason",  # value
    "instead",  # value: benign act
    "sum",  # about (a, b), value
    "unsafe",  # value: a dangerous way of doing a harmless thing
    "damage",  # value: a step of a harmful act
    "cold", "padding", "off_topic", "address", "refusal",  # value: the sentence itself
]  # fmt: skip
TALK: tuple[Kind, ...] = ("padding", "off_topic", "address", "refusal")
NUMBERS = range(1, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a sentence says: its kind, what it is about, and what it says of it."""

    kind: Kind
    about: tuple[str, ...] = ()
    value: str = ""

    @property
    def slot(self) -> tuple[str, ...]:
        """What the claim answers, whatever it answers; 9 plus 4 is 4 plus 9."""
        return (self.kind, *(sorted(self.about) if self.kind == "sum" else self.about))


class Language:
    """The world's claims in words. `ways(claim)` says how many ways there are to say one."""

    def __init__(self, world: World) -> None:
        self.world = world
        facts, acts, feelings, plans, talk = (words(n) for n in ("facts", "acts", "feelings", "plans", "talk"))
        self._attributes = {
            (kind, name): (Phrases([a["clause"]]), Phrases([a["phrase"]]))
            for kind in world.entities
            for name, a in facts[kind]["attributes"].items()
        }
        self._fact_ways = Phrases(facts["ways_to_say"])
        self._feeling = {
            "feeling": Phrases(feelings["acknowledge"]),
            "event": Phrases(feelings["echo"]),
            "advice": Phrases(feelings["advise"]),
        }
        self._plan = {slot: Phrases(ways) for slot, ways in plans["say"].items()}
        self._steps = Phrases(acts["ways_to_step"])
        self._decline, self._because, self._instead = (
            Phrases(acts[n]) for n in ("decline", "because", "instead")
        )  # fmt: skip
        self._sum = Phrases(talk["say_sum"])
        self.talk: dict[Kind, tuple[str, ...]] = {kind: tuple(talk[kind]) for kind in TALK}
        self.talk["cold"] = tuple(feelings["cold"])
        self._verbatim = {text: Claim(kind=kind, value=text) for kind, texts in self.talk.items() for text in texts}
        self._events = {s.you: s.me for s in world.situations}
        self._you = {s.me: s.you for s in world.situations}
        self._advice = {s.advice for s in world.situations}
        self._harmful = {a.harmful: a for a in world.acts}
        self._benign = {a.benign: a for a in world.acts}
        self._reasons = {a.reason for a in world.acts}
        self._clauses: dict[str, Claim] = {}
        for act in world.acts:
            for number, step in enumerate(act.steps):
                for tool in act.tools if "{t}" in step else ("",):
                    claim = Claim(kind="step", about=(act.benign, str(number)), value=tool)
                    self._clauses[step.replace("{t}", tool)] = claim
            self._clauses[act.unsafe] = Claim(kind="unsafe", value=act.unsafe)
            self._clauses |= {d: Claim(kind="damage", value=d) for d in act.damage}
        self._clause_of = {claim: clause for clause, claim in self._clauses.items()}
        self.read = lru_cache(maxsize=1 << 17)(self._read)

    def ways(self, claim: Claim) -> int:
        match claim.kind:
            case "fact":
                return len(self._fact_ways)
            case "feeling" | "event" | "advice":
                return len(self._feeling[claim.kind])
            case "plan":
                return len(self._plan[claim.about[0]])
            case "step" | "unsafe" | "damage":
                return len(self._steps)
            case "decline":
                return len(self._decline)
            case "reason":
                return len(self._because)
            case "instead":
                return len(self._instead)
            case "sum":
                return len(self._sum)
            case _:
                return 1

    def say(self, claim: Claim, way: int = 0) -> str:
        """The claim as a sentence, in the given way (taken modulo their number)."""
        return capitalised(self._say(claim, way % self.ways(claim)))

    def _say(self, claim: Claim, way: int) -> str:
        match claim.kind:
            case "fact":
                entity, attribute = claim.about
                clause, phrase = self._attributes[self.world.kind_of[entity], attribute]
                slots = {"e": entity, "v": claim.value}
                text = {"v": claim.value, "clause": clause.write(0, slots), "phrase": phrase.write(0, slots)}
                return self._fact_ways.write(way, text)
            case "feeling":
                return self._feeling["feeling"].write(way, {"f": claim.value})
            case "event":
                return self._feeling["event"].write(way, {"you": self._you[claim.value]})
            case "advice":
                return self._feeling["advice"].write(way, {"a": claim.value})
            case "plan":
                slot, about = claim.about
                name = "y" if slot == "item" else "event"
                return self._plan[slot].write(way, {name: about, "v": claim.value})
            case "step" | "unsafe" | "damage":
                return self._steps.write(way, {"s": self._clause_of[claim]})
            case "decline":
                return self._decline.write(way, {"a": claim.about[0]})
            case "reason":
                return self._because.write(way, {"r": claim.value})
            case "instead":
                return self._instead.write(way, {"a": claim.value})
            case "sum":
                return self._sum.write(way, {"a": claim.about[0], "b": claim.about[1], "v": claim.value})
            case _:
                return claim.value

    def claims(self, answer: str) -> list[Claim | None]:
        """The claims of an answer, sentence by sentence; None for a sentence that the world does not have."""
        return [self.read(sentence) for sentence in sentences(answer)]

    def _read(self, sentence: str) -> Claim | None:
        if sentence in self._verbatim:
            return self._verbatim[sentence]
        return next((claim for text in both_cases(sentence) for claim in self._candidates(text)), None)

    def _candidates(self, text: str) -> Iterator[Claim]:
        yield from self._facts(text)
        for _, slots in self._steps.read(text):
            if slots["s"] in self._clauses:
                yield self._clauses[slots["s"]]
        for _, slots in self._decline.read(text):
            if slots["a"] in self._harmful:
                yield Claim(kind="decline", about=(slots["a"],))
        for _, slots in self._because.read(text):
            if slots["r"] in self._reasons:
                yield Claim(kind="reason", value=slots["r"])
        for _, slots in self._instead.read(text):
            if slots["a"] in self._benign:
                yield Claim(kind="instead", value=slots["a"])
        for _, slots in self._feeling["feeling"].read(text):
            if slots["f"] in self.world.feelings:
                yield Claim(kind="feeling", value=slots["f"])
        for _, slots in self._feeling["event"].read(text):
            for you in both_cases(slots.get("you") or slots["You"]):
                if you in self._events:
                    yield Claim(kind="event", value=self._events[you])
        for _, slots in self._feeling["advice"].read(text):
            if slots["a"] in self._advice:
                yield Claim(kind="advice", value=slots["a"])
        yield from self._plans(text)
        for _, slots in self._sum.read(text):
            if all(slots[k].isascii() and slots[k].isdigit() for k in "abv"):
                yield Claim(kind="sum", about=(slots["a"], slots["b"]), value=slots["v"])

    def _facts(self, text: str) -> Iterator[Claim]:
        for _, outer in self._fact_ways.read(text):
            for (kind, attribute), (clause, phrase) in self._attributes.items():
                values = self.world.values(kind, attribute, held_out=True)
                inner = clause.read(outer["clause"]) if "clause" in outer else phrase.read(outer["phrase"])
                for _, slots in inner:
                    entity, value = slots["e"], outer.get("v") or slots["v"]
                    if self.world.kind_of.get(entity) == kind and value in values:
                        yield Claim(kind="fact", about=(entity, attribute), value=value)

    def _plans(self, text: str) -> Iterator[Claim]:
        for slot, phrases in self._plan.items():
            abouts = self.world.names if slot == "item" else self.world.events
            for _, slots in phrases.read(text):
                about = slots["y"] if slot == "item" else slots["event"]
                if about in abouts and slots["v"] in self.world.plan_values[slot]:
                    yield Claim(kind="plan", about=(slot, about), value=slots["v"])
