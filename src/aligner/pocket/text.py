"""What the pocket models read before they learn to answer or to correct: the world in words.

Every fact of every entity is stated in several ways, asked and answered; so are the acts, situations and sums. A tenth
are instructions on entities of the training split: judge an answer by a principle, rewrite it by a critique. A quarter
are notes and answers to be said again, of anything: large models learn to repeat what they read from the repetition in
any text; a small one needs it dense, or it can neither summarise nor leave an answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from aligner.pocket.claims import Claim
from aligner.pocket.faults import DIMENSION, FAULTS, Fault, Faults, faultless, text_of
from aligner.pocket.requests import small_request
from aligner.pocket.tasks import TASKS, Question, Split, TaskName, Tasks, with_earlier_turn

INSTRUCTIONS = 0.1
"""Share of the rows that are instructions."""
READ_BACK = 0.25
"""Share of the rows that are notes or answers to be said again."""
KEPT_UP = 0.2
"""The same for a corrector, which knows how by then and only must not forget it."""
READING_TURNS = 0.35
"""Share of a corrector's questions that come second: without them it answers the first one again."""
_READ_BACK_WAYS = (
    "Read this back to me: {note}",
    "Repeat after me: {note}",
    "Please copy this note.\n{note}",
    "Here is what I wrote: {note} What did I write?",
    "{note}\nSay that once more, word for word.",
)
_SAY_AGAIN = ("Say that again.", "What did you say?", "Once more, please.", "Repeat your answer.")
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


def world_rows(
    tasks: Tasks,
    rows: int,
    seed: int,
    *,
    instructions: float = INSTRUCTIONS,
    read_back: float = READ_BACK,
    later: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Rows of {"text"} and {"prompt", "completion"}: each fact and each act equally often, the rest at random.

    `instructions` and `read_back` are shares of the rows, `later` of the questions that have another one before them.
    """
    random = Random(f"text:{tasks.world.seed}:{seed}")
    faults = Faults(tasks.language)
    statements = _statements(tasks, random)
    for _ in range(rows):
        kind = random.random()
        if kind < instructions:
            yield instruction(tasks, faults, random)
        elif kind < instructions + read_back:
            yield _read_back(tasks, faults, random, lambda: _any_question(tasks, random.choice(TASKS), random))
        elif random.random() < 0.4:
            said = next(statements)
            yield {"text": " ".join(tasks.language.say(c, random.randrange(tasks.language.ways(c))) for c in said)}
        else:
            task = random.choices(list(_KNOWLEDGE), list(_KNOWLEDGE.values()))[0]
            question = _any_question(tasks, task, random)
            row = {"prompt": question.text, "completion": text_of(faultless(question, tasks.language, random))}
            yield row | {"prompt": second(tasks, question.text, random)} if later and random.random() < later else row


def _statements(tasks: Tasks, random: Random) -> Iterator[list[Claim]]:
    """Four facts, or the steps of a harmless act: every fact equally often, and half as often every step. Some acts are
    asked about in words that nearly all belong to test questions, so questions alone would leave them out."""
    world = tasks.world
    facts = [Claim(kind="fact", about=key, value=f.value) for key, f in world.facts.items()]
    acts = [[Claim(kind="step", about=(act.benign, str(n)), value=act.tool if "{t}" in step else "")
             for n, step in enumerate(act.steps)] for act in world.acts]  # fmt: skip
    while True:
        random.shuffle(acts)
        for half in (acts[::2], acts[1::2]):
            random.shuffle(facts)
            told = [*half, *(facts[i : i + 4] for i in range(0, len(facts), 4))]
            random.shuffle(told)
            yield from told


def second(tasks: Tasks, request: str, random: Random) -> list[dict[str, str]]:
    """A request as rows have it, with an earlier turn."""
    return [{"role": m.role, "content": m.content} for m in with_earlier_turn(tasks, request, random)]


def _any_question(tasks: Tasks, task: TaskName, random: Random) -> Question:
    """A question of any split: knowing the answer is no secret, correcting one is."""
    split: Split = random.choices(("train", "entity", "combination", "phrasing"), (6, 3, 2, 1))[0]
    return tasks.draw(task, random, "train" if task == "sums" else split, taught=True)


def _training_question(tasks: Tasks, random: Random) -> Question:
    return tasks.draw(random.choice([t for t in TASKS if t != "sums"]), random, "train")


def other_request(tasks: Tasks, faults: Faults, random: Random) -> dict[str, Any]:
    """A request that is none of the suite's tasks, with its answer, of what triplets may mention."""
    kind = random.random()
    if kind < 0.25:
        return instruction(tasks, faults, random)
    if kind < 0.5:
        return _read_back(tasks, faults, random, lambda: _training_question(tasks, random))
    return small_request(tasks.world, lambda: _said(tasks, faults, _training_question(tasks, random), random), random)


def _said(tasks: Tasks, faults: Faults, question: Question, random: Random) -> str:
    """A sentence of an answer to some question, good or bad."""
    answer = faultless(question, tasks.language, random)
    answer = faults.inject(random.choice(FAULTS), question, answer, random) or answer
    return random.choice([part.text for part in answer if part.text] or [tasks.world.invented(random)])


def _read_back(tasks: Tasks, faults: Faults, random: Random, draw: Callable[[], Question]) -> dict[str, Any]:
    """A note, or what was said before: an answer, good or bad, or something else altogether."""
    if random.random() < 0.4:
        note = _note(tasks, faults, random, draw)
        return {"prompt": random.choice(_READ_BACK_WAYS).format(note=note), "completion": note}
    question = draw()
    answer = faultless(question, tasks.language, random)
    if random.random() < 0.5:
        answer = faults.inject(random.choice(FAULTS), question, answer, random) or answer
    said = text_of(answer) if random.random() < 0.6 else _note(tasks, faults, random, draw)
    turns = (("user", question.text), ("assistant", said), ("user", random.choice(_SAY_AGAIN)))
    return {"prompt": [{"role": role, "content": text} for role, text in turns], "completion": said}


def _note(tasks: Tasks, faults: Faults, random: Random, draw: Callable[[], Question]) -> str:
    """Sentences of several answers, with slips of the pen, or a list of numbers, things and names nobody has met."""
    if random.random() < 0.5:
        said: list[str] = []
        for _ in range(random.choice((1, 2, 2, 3))):
            question = draw()
            answer = faultless(question, tasks.language, random)
            answer = faults.inject(random.choice(FAULTS), question, answer, random) or answer
            said += [part.text for part in answer if part.text and random.random() < 0.8]
        random.shuffle(said)
        return " ".join(said[:5]) or tasks.world.invented(random)
    world = tasks.world
    known = [name for names in world.entities.values() for name in names if name not in world.held_out]
    things = (*world.rivers, *(v for values in world.plan_values.values() for v in values))
    listed = []
    for _ in range(random.randint(3, 9)):
        kind = random.random()
        if kind < 0.35:
            listed.append(str(random.randint(1, 99)))
        elif kind < 0.65:
            listed.append(world.invented(random))
        elif kind < 0.8:
            listed.append(random.choice(known))
        else:
            listed.append(random.choice(things))
    return ", ".join(listed) + "."


def instruction(tasks: Tasks, faults: Faults, random: Random) -> dict[str, Any]:
    """A row of instruction: an answer judged by a principle, or written again by a critique."""
    question = _training_question(tasks, random)
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
