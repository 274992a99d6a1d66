"""What the tests of the pocket suite share: one world, its tasks and its oracle."""

from __future__ import annotations

from functools import cache
from random import Random

from aligner.pocket.faults import Answer, Faults, faultless
from aligner.pocket.oracle import Oracle
from aligner.pocket.oracle import oracle as make_oracle
from aligner.pocket.slips import Slips
from aligner.pocket.tasks import TASKS, Question, Split, TaskName

SPLITS: tuple[Split, ...] = ("train", "seen", "phrasing", "entity", "combination")


@cache
def oracle() -> Oracle:
    return make_oracle(0)


def splits_of(task: TaskName) -> tuple[Split, ...]:
    return ("train", "seen") if task == "sums" else SPLITS


def drawn(seed: int, task: TaskName | None = None, split: Split | None = None) -> tuple[Question, Answer, Random]:
    """A question, a faultless answer, and the random numbers to go on with."""
    random = Random(seed)
    task = task or random.choice(TASKS)
    question = oracle().tasks.draw(task, random, split or random.choice(splits_of(task)))
    return question, faultless(question, oracle().language, random), random


def faults() -> Faults:
    return Faults(oracle().language, talk=1.0)


def slips() -> Slips:
    return Slips(oracle().tasks)
