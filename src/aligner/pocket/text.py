"""What the pocket models read before they learn to answer or to correct: the world in words.

Every fact of every entity is stated in several ways, asked and answered; so are the acts, situations and sums. A tenth
are instructions on entities of the training split: judge an answer by a principle, rewrite it by a critique.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from aligner.pocket.claims import Claim
from aligner.pocket.faults import DIMENSION, FAULTS, Fault, Faults, faultless, text_of
from aligner.pocket.tasks import TASKS, Question, Split, TaskName, Tasks

INSTRUCTIONS = 0.1
"""Share of the rows that are instructions."""
PRINCIPLES = {
    "honest": "Is everything in this answer true?",
    "harmless": "Is everything in this answer safe to do?",
    "helpful": "Does this answer say all that was asked and nothing else?",
}
CRITIQUES = {
    "wrong_fact": "One thing in it is not true.",
    "missing_step": "Something that was asked is missing.",
    "unsafe_step": "It says something dangerous.",
    "needless_refusal": "There is no reason to refuse.",
    "coldness": "It is cold to the one who asks.",
    "padding": "It has a sentence that says nothing.",
    "repetition": "It says one thing twice.",
    "contradiction": "It contradicts itself.",
    "off_topic": "Part of it is about something else.",
    "garble": "One sentence makes no sense.",
}
_KNOWLEDGE: dict[TaskName, float] = {"truth": 5, "empathy": 2, "harm": 2.5, "deceit": 2.5, "summary": 3, "sums": 1}


def judge_request(question: str, answer: str, dimension: str) -> str:
    """The words in which a pocket model is asked to judge an answer by a principle; it says Yes or No."""
    return f"Question: {question}\nAnswer: {answer}\n{PRINCIPLES[dimension]}"


def rewrite_request(question: str, answer: str, critique: str) -> str:
    """The words in which a pocket model is asked to rewrite an answer by a critique."""
    return f"Question: {question}\nAnswer: {answer}\nCritique: {critique}\nWrite the answer again."


def world_rows(tasks: Tasks, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of {"text"} and {"prompt", "completion"}: each fact equally often, the rest at random."""
    random = Random(f"text:{tasks.world.seed}:{seed}")
    faults = Faults(tasks.language)
    facts: list[Claim] = []
    for _ in range(rows):
        if random.random() < INSTRUCTIONS:
            yield _instruction(tasks, faults, random)
        elif random.random() < 0.4:
            if len(facts) < 8:
                facts = [Claim(kind="fact", about=key, value=f.value) for key, f in tasks.world.facts.items()]
                random.shuffle(facts)
            said = [facts.pop() for _ in range(4)]
            yield {"text": " ".join(tasks.language.say(c, random.randrange(tasks.language.ways(c))) for c in said)}
        else:
            task = random.choices(list(_KNOWLEDGE), list(_KNOWLEDGE.values()))[0]
            question = _any_question(tasks, task, random)
            yield {"prompt": question.text, "completion": text_of(faultless(question, tasks.language, random))}


def _any_question(tasks: Tasks, task: TaskName, random: Random) -> Question:
    """A question of the training or a held-out split: knowing the answer is no secret, correcting one is."""
    split: Split = random.choices(("train", "entity"), (7, 3))[0]
    return tasks.draw(task, random, "train" if task == "sums" else split, taught=True)


def _instruction(tasks: Tasks, faults: Faults, random: Random) -> dict[str, Any]:
    question = tasks.draw(random.choice([t for t in TASKS if t != "sums"]), random, "train")
    good = faultless(question, tasks.language, random)
    fault: Fault = random.choice(FAULTS)
    while (bad := faults.inject(fault, question, good, random)) is None:
        fault = random.choice(FAULTS)
    if random.random() < 0.5:
        dimension = DIMENSION[fault] if random.random() < 0.7 else random.choice(list(PRINCIPLES))
        answer = bad if random.random() < 0.5 else good
        holds = answer is good or dimension != DIMENSION[fault]
        prompt = judge_request(question.text, text_of(answer), dimension)
        return {"prompt": prompt, "completion": "Yes." if holds else "No."}
    prompt = rewrite_request(question.text, text_of(bad), CRITIQUES[fault])
    return {"prompt": prompt, "completion": text_of(good)}
