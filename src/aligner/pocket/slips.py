"""Slips, as language models make them that lose the thread: mostly two faults in one place.

A claim is lost, and in its place stands another one once more, something that nobody asked for, or a sentence that
begins as the lost one and ends as another; or the whole answer is one to another question. Scripted answers of triplets
have them beside the ten faults.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from aligner.pocket.claims import Claim
from aligner.pocket.faults import Answer, Part, faultless, text_of
from aligner.pocket.tasks import Question, Tasks
from aligner.pocket.world import Act

ELSEWHERE = 0.2
"""Share of the slips that answer another question."""


class Slips:
    """Injects slips."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks, self.language, self.world = tasks, tasks.language, tasks.world

    def inject(self, question: Question, answer: Answer, random: Random) -> Answer | None:
        """The answer with one claim that another sentence has taken the place of; None where it has no sound claim, and
        for sums, which have none but their own."""
        parts = list(answer)
        sound = [i for i, p in enumerate(parts) if p.fault is None and p.claim is not None and p.text]
        if not sound or question.task == "sums":
            return None
        if len(sound) == len(parts) and random.random() < ELSEWHERE:
            other = self.tasks.draw(question.task, random, "train")
            if set(other.required).isdisjoint(question.required):
                text = text_of(faultless(other, self.language, random))
                return (Part(text=text, fault="off_topic", repaired=text_of(answer)),)
        i = random.choice(sound)
        claim, others = parts[i].claim, [j for j in sound if j != i]
        assert claim is not None
        if others and random.random() < 1 / 3:
            again = parts[random.choice(others)]
            assert again.claim is not None
            way = again.way if random.random() < 0.5 else random.randrange(self.language.ways(again.claim))
            parts[i] = replace(parts[i], text=self.language.say(again.claim, way), fault="repetition",
                               repaired=parts[i].text)  # fmt: skip
            return tuple(parts)
        stray = self._stray(claim, question, random)
        text = self.language.say(stray, random.randrange(self.language.ways(stray)))
        if random.random() < 1 / 3:
            mixed = _mixed(parts[i].text, text, random)
            if self.language.read(mixed) is None:
                parts[i] = replace(parts[i], text=mixed, fault="garble", repaired=parts[i].text)
                return tuple(parts)
        asked = {c.slot for c in question.required}
        parts[i] = replace(parts[i], text=text, fault="wrong_fact" if stray.slot in asked else "off_topic",
                           repaired=parts[i].text)  # fmt: skip
        return tuple(parts)

    def _stray(self, claim: Claim, question: Question, random: Random) -> Claim:
        """Another claim of the same kind, that a triplet may mention."""
        world = self.world
        match claim.kind:
            case "fact":
                entity, attribute = claim.about
                asked = {c.about for c in question.required}
                known = [f for f in world.facts.values() if f.entity not in world.held_out
                         and not world.held_apart(f.entity, f.attribute)]  # fmt: skip
                own = [f for f in known if f.entity == entity and (entity, f.attribute) not in asked]
                others = [f for f in known if f.entity != entity and f.attribute == attribute]
                fact = random.choice(own if own and random.random() < 0.5 else others)
                return Claim(kind="fact", about=(fact.entity, fact.attribute), value=fact.value)
            case "event" | "advice":
                me = next((c.value for c in question.required if c.kind == "event"), "")
                other = random.choice([s for s in world.situations if s.me != me and s.me not in world.held_out])
                return replace(claim, value=other.me if claim.kind == "event" else other.advice)
            case "feeling":
                me = next((c.value for c in question.required if c.kind == "event"), "")
                feelings = [f for f in world.feelings if f != claim.value and not world.held_apart(me, f)]
                return replace(claim, value=random.choice(feelings))
            case "plan":
                return self._stray_plan(claim, question, random)
            case "step":
                acts = [a for a in world.acts if a.benign != claim.about[0] and self._known(a)]
                act, number = random.choice(acts), random.randrange(3)
                tool = random.choice(act.tools) if "{t}" in act.steps[number] else ""
                return Claim(kind="step", about=(act.benign, str(number)), value=tool)
            case _:  # decline, reason, instead
                acts = [a for a in world.acts if a.harmful != question.required[0].about[0]
                        and self._known(a)]  # fmt: skip
                if claim.kind == "reason":  # which some acts share
                    return replace(claim, value=random.choice([a.reason for a in acts if a.reason != claim.value]))
                act = random.choice(acts)
                if claim.kind == "decline":
                    return Claim(kind="decline", about=(act.harmful,))
                return replace(claim, value=act.benign)

    def _known(self, act: Act) -> bool:
        return act.object not in self.world.held_out and not self.world.held_apart(act.benign)

    def _stray_plan(self, claim: Claim, question: Question, random: Random) -> Claim:
        """Who brings what, which the dialogue says too, or something about another event."""
        if random.random() < 0.5:
            lines = question.text.split("\n")
            item = next((v for v in self.world.plan_values["item"] if v in lines[4]), None)
            about = ("item", lines[4].split(":")[0])
            if item is not None and about not in {c.about for c in question.required}:
                return Claim(kind="plan", about=about, value=item)
        slot = random.choice(("day", "place"))
        events = [e for e in self.world.events if e != claim.about[1] and e not in self.world.held_out]
        value = random.choice(self.world.plan_values[slot])
        return Claim(kind="plan", about=(slot, random.choice(events)), value=value)


def _mixed(begun: str, ended: str, random: Random) -> str:
    """A sentence that begins as one and ends as another."""
    head, tail = begun[:-1].split(), ended.split()
    cut = random.randrange(1, len(head))
    return " ".join((*head[:cut], *tail[-random.randrange(1, min(5, len(tail)) + 1) :]))
