"""The world: one seed makes its entities, what is true of them, what is commonly believed, and what is held out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from random import Random
from typing import Any

import yaml

KINDS = {"person": 40, "town": 40, "creature": 40}
HELD_OUT_SHARE = 0.3
"""Share of the entities, objects, situations and events that no triplet mentions."""
HELD_APART_PERCENT = 12
"""Of 100 pairs of known things, how many no triplet asks for."""
_ONSETS = re.split(" ", "b br c ch cl d dr f fl g gl gr h j k kl l m n p pr qu r s sh sk sl st t th tr v w wr z")
_VOWELS = re.split(" ", "a e i o u ai ea ie oa ou")
_CODAS = re.split(" ", "b ck d ft g l ld lm ln m mp n nd ng nt p r rk rn rt s sk st t th v x zz")
_SUFFIXES = {
    "person": ("ett", "ison", "man", "ard", "wick", "ley", "er", "ov", "ini", "sen"),
    "town": ("ham", "ton", "ford", "mouth", "stead", "by", "wold", "port", "dale", "cliff"),
    "creature": ("ling", "tail", "wing", "back", "ear", "foot", "snout", "crest"),
}


@cache
def words(name: str) -> dict[str, Any]:
    """One of the word lists that come with the package."""
    text = resources.files("aligner.pocket").joinpath("words", f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What is true of an entity in one respect, and what many wrongly believe (None: no common belief)."""

    entity: str
    kind: str
    attribute: str
    value: str
    belief: str | None


@dataclass(frozen=True, kw_only=True)
class Act:
    """Twin requests about one object: `harmful` must be declined, `benign` has three steps, the second with `tool`."""

    kind: str
    harmful: str
    benign: str
    object: str
    tool: str
    tools: tuple[str, ...]
    steps: tuple[str, ...]
    damage: tuple[str, ...]
    unsafe: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Something that happened to the one who writes: `me` in their words, `you` in ours."""

    me: str
    you: str
    feelings: tuple[str, ...]
    advice: str


class World:
    """Everything that is so, from one seed; two worlds of one seed are equal."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        random = Random(f"world:{seed}")
        lists = words("facts")
        self.ways: dict[str, Any] = lists
        names: set[str] = set()
        self.entities = {kind: [_name(kind, random, names) for _ in range(n)] for kind, n in KINDS.items()}
        self.rivers = [f"{_syllable(random)}{random.choice(('ne', 'se', 'ra', 'don', 'ver', 'lin'))}".capitalize()
                       for _ in range(24)]  # fmt: skip
        self.acts = _acts(words("acts"), random)
        self.situations = tuple(Situation(me=s["me"], you=s["you"], feelings=tuple(s["feelings"]), advice=s["advice"])
                                for s in words("feelings")["situations"])  # fmt: skip
        plans = words("plans")
        self.names: list[str] = plans["names"]
        self.events: list[str] = plans["events"]
        self.plan_values: dict[str, list[str]] = {slot: plans[f"{slot}s"] for slot in ("day", "place", "item")}
        self.held_out = frozenset(
            name
            for group in (
                *self.entities.values(),
                [a.object for a in self.acts if a.kind == "harm"],
                [a.object for a in self.acts if a.kind == "deceit"],
                [s.me for s in self.situations],
                self.events,
            )
            for name in random.sample(sorted(group), round(len(group) * HELD_OUT_SHARE))
        )
        self.facts = {(f.entity, f.attribute): f for f in self._make_facts(lists, random)}

    def invented(self, random: Random) -> str:
        """A name in the style of the world's own, of nothing in it."""
        return _name(random.choice(list(KINDS)), random, set(self.kind_of))

    def held_apart(self, *pair: str) -> bool:
        """Whether no triplet may ask for what a pair names: an entity and an attribute, a situation and a feeling, an
        event and what is changed of it; or, alone, a harmless act, which counts for its harmful twin too."""
        return self.number(":".join(pair)) % 100 < HELD_APART_PERCENT

    def number(self, text: str) -> int:
        """A number that the text and the world's seed decide."""
        return zlib.crc32(f"{self.seed}:{text}".encode())

    def values(self, kind: str, attribute: str, *, held_out: bool = False) -> Sequence[str]:
        """Everything that an entity of a kind could have in one respect; `held_out`: or be said to have, by anybody."""
        values: str | list[str] = self.ways[kind]["attributes"][attribute]["values"]
        if values == "towns":  # a triplet about a home must not mention a town that is held out
            return [town for town in self.entities["town"] if held_out or town not in self.held_out]
        return self.rivers if isinstance(values, str) else values

    @cached_property
    def kind_of(self) -> Mapping[str, str]:
        return {name: kind for kind, names in self.entities.items() for name in names}

    @cached_property
    def feelings(self) -> tuple[str, ...]:
        return tuple(sorted({f for s in self.situations for f in s.feelings}))

    def _make_facts(self, lists: Mapping[str, Any], random: Random) -> list[Fact]:
        facts = []
        for kind, names in self.entities.items():
            for attribute in lists[kind]["attributes"]:
                values = list(self.values(kind, attribute))
                for name in names:
                    value, belief = random.sample(values, 2)
                    common = belief if random.random() < 0.5 else None
                    facts.append(Fact(entity=name, kind=kind, attribute=attribute, value=value, belief=common))
        return facts


def _acts(lists: Mapping[str, Any], random: Random) -> tuple[Act, ...]:
    acts = []
    for kind in ("harm", "deceit"):
        for pair in lists[kind]:
            tools = random.sample(pair["tools"], len(pair["tools"]))
            for thing, tool in zip(pair["objects"], tools, strict=True):
                acts.append(Act(
                    kind=kind, harmful=f"{pair['harmful']} {thing}", benign=f"{pair['benign']} {thing}", object=thing,
                    tool=tool, tools=tuple(pair["tools"]), reason=pair["reason"],
                    steps=tuple(s.replace("{o}", thing) for s in pair["steps"]),
                    damage=tuple(s.replace("{o}", thing) for s in pair["damage"]),
                    unsafe=pair["unsafe"].replace("{o}", thing),
                ))  # fmt: skip
    return tuple(acts)


def _syllable(random: Random) -> str:
    return random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS)


def _name(kind: str, random: Random, taken: set[str]) -> str:
    while True:
        stem = _syllable(random) + random.choice(_SUFFIXES[kind])
        if kind == "person":
            first = _syllable(random) + random.choice(("a", "o", "e", "is", "an", "in"))
            name = f"{first.capitalize()} {stem.capitalize()}"
        else:
            name = stem.capitalize() if kind == "town" else stem
        parts = set(name.lower().split())
        if not parts & taken:
            taken |= parts
            return name
