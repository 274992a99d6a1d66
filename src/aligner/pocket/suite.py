"""The suite's files: world text, triplets, test questions, and what each upstream learns from; all from one seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field

from aligner.config import Config
from aligner.errors import DataError
from aligner.pocket.claims import Language
from aligner.pocket.faults import Faults, text_of
from aligner.pocket.tasks import TASKS, Question, Split, TaskName, Tasks
from aligner.pocket.teacher import Teacher
from aligner.pocket.text import INSTRUCTIONS, KEPT_UP, READING_TURNS, instruction, other_request, second, world_rows
from aligner.pocket.upstreams import TRIPLET_WAYS, Answerer, Profile, profiles
from aligner.pocket.world import World, words
from aligner.rows import dumps, write_atomic
from aligner.runs import Existing, RunDir

TWO_TURNS = 0.2
"""Share of the questions that have an earlier turn."""
TAUGHT_TURNS = 0.35
"""The same of triplets, for they are harder."""
SLIPS = 0.5
"""Share of the scripted faulty answers of triplets whose first fault is a slip, as models make them."""
OTHER_REQUESTS = 0.12
"""Share of the triplets whose request is none of the tasks: a corrector leaves alone what it knows nothing about."""
OTHERS_LATER = 0.6
"""Share of these requests that come second, after a question of a task that nobody wants answered any more."""
_TEST_SPLITS: tuple[Split, ...] = ("seen", "phrasing", "entity", "combination")
_TAUGHT: tuple[Split, ...] = ("train", "entity", "phrasing", "combination")
_TAUGHT_SHARES = (4, 2, 1, 1)
_TRIES = 100
_SHARES: Mapping[TaskName, float] = {"truth": 3, "empathy": 1.5, "summary": 2, "harm": 2, "deceit": 2}


class SuiteConfig(Config):
    """Write the pocket suite's files."""

    out: Path
    """Where to: world.jsonl, reading.jsonl, triplets.jsonl, tasks/TASK.jsonl, upstreams/NAME.jsonl."""
    world: int = Field(default=0, ge=0)
    """Seed of the world."""
    triplets: int = Field(default=40_000, ge=1)
    """Rows of triplets."""
    texts: int = Field(default=60_000, ge=1)
    """Rows of world text, which base models learn."""
    reading: int = Field(default=60_000, ge=1)
    """Rows of other world text, most of it facts and answers, which correctors read beside the triplets."""
    questions: int = Field(default=200, ge=4)
    """Test questions per task, spread over the splits."""
    upstream_rows: int = Field(default=6_000, ge=1)
    """Answers that each trained upstream learns from."""
    upstreams: tuple[str, ...] | None = None
    """Upstreams to write answers for; left out: every trained one."""
    seed: int = Field(default=0, ge=0)


def run(config: SuiteConfig, existing: Existing = "refuse") -> RunDir:
    """Write the files; the same configuration gives the same bytes.

    Raises:
        RunError: the directory exists.
        StorageError: it cannot be written.
    """
    run_dir = RunDir.create(config.out, config, existing)
    if run_dir.result() is not None:
        return run_dir
    tasks = Tasks(Language(World(config.world)))
    counts: dict[str, int] = {}

    def put(name: str, rows: Iterator[dict[str, Any]]) -> None:
        path = run_dir.path / name
        path.parent.mkdir(exist_ok=True)
        counts[name] = 0

        def lines() -> Iterator[str]:
            for row in rows:
                counts[name] += 1
                yield dumps(row) + "\n"

        write_atomic(path, lines())

    put("world.jsonl", world_rows(tasks, config.texts, config.seed))
    put("reading.jsonl", world_rows(tasks, config.reading, config.seed + 1, instructions=0, read_back=KEPT_UP,
                                    later=READING_TURNS))  # fmt: skip
    put("triplets.jsonl", triplets(tasks, config.triplets, config.seed))
    for task in TASKS:
        put(f"tasks/{task}.jsonl", questions(tasks, task, config.questions))
    for profile in profiles().values():
        if profile.size != "scripted" and (config.upstreams is None or profile.name in config.upstreams):
            put(f"upstreams/{profile.name}.jsonl", upstream_rows(tasks, profile, config.upstream_rows, config.seed))
    run_dir.write_result({"kind": "suite", "rows": counts})
    return run_dir


def triplets(tasks: Tasks, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Triplets from the seen upstreams in turn: training questions, answers with recorded faults, corrections.

    Some are of other requests and of answers to them that stay as they are.
    """
    random = Random(f"triplets:{tasks.world.seed}:{seed}")
    seen = [Answerer(tasks, p, slips=SLIPS) for p in profiles().values() if p.seen]
    faulty = words("upstreams")["faulty_answers"]
    teacher = Teacher(tasks.language, ways=TRIPLET_WAYS)
    faults = Faults(tasks.language)
    for i in range(rows):
        if random.random() < OTHER_REQUESTS:
            row = other_request(tasks, faults, random)
            request = row["prompt"]
            if isinstance(request, str) and random.random() < OTHERS_LATER:
                request = second(tasks, request, random)
            answered = {"answer": row["completion"], "correction": row["completion"]}
            yield {"question": request, **answered, "source": "pocket/other"}
            continue
        question = tasks.draw(draw_task(random), random, "train")
        answer = seen[i % len(seen)].answer(question, random, faulty)
        yield {
            "question": asked(tasks, question, random, TAUGHT_TURNS),
            "answer": text_of(answer),
            "correction": teacher.correct(question, answer, random),
            "source": f"pocket/{question.task}",
        }


def questions(tasks: Tasks, task: TaskName, rows: int) -> Iterator[dict[str, Any]]:
    """Distinct test questions of a task, each split in turn; where a split has no more, the others go on.

    They are the same for every seed but the world's.

    Raises:
        DataError: the world has fewer questions than asked for.
    """
    random = Random(f"test:{tasks.world.seed}:{task}")
    splits: list[Split] = ["seen"] if task == "sums" else list(_TEST_SPLITS)
    taken: set[str] = set()
    while len(taken) < rows:
        if not splits:
            raise DataError(f"the pocket world has {len(taken)} test questions of the task '{task}', not {rows}; "
                            "lower 'questions'")  # fmt: skip
        split = splits[len(taken) % len(splits)]
        drawn = (tasks.draw(task, random, split, taught=False) for _ in range(_TRIES))
        question = next((q for q in drawn if q.text not in taken), None)
        if question is None:
            splits.remove(split)
            continue
        taken.add(question.text)
        yield {
            "id": f"{task}-{len(taken):04}",
            "question": asked(tasks, question, random),
            "split": question.split,
            "reference": " ".join(tasks.language.say(c, 0) for c in question.required),
        }


def upstream_rows(tasks: Tasks, profile: Profile, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """What an upstream learns: training and held-out kinds of questions, but no test question, with its own faults.

    As many rows as in the world's text are instructions, without which it forgets how to follow them.
    """
    random = Random(f"upstream:{tasks.world.seed}:{seed}:{profile.name}")
    faults = Faults(tasks.language)
    known, every = Answerer(tasks, profile), Answerer(tasks, profile, talk=1.0, ways=None)
    for _ in range(rows):
        if random.random() < INSTRUCTIONS:
            yield instruction(tasks, faults, random)
            continue
        task = random.choice(TASKS)
        split: Split = random.choices(_TAUGHT, _TAUGHT_SHARES)[0]
        question = tasks.draw(task, random, "train" if task == "sums" else split, taught=True)
        answer = (every if question.split == "phrasing" else known).answer(question, random)
        yield {"prompt": asked(tasks, question, random), "completion": text_of(answer)}


def draw_task(random: Random) -> TaskName:
    """The task of a triplet."""
    return random.choices(list(_SHARES), list(_SHARES.values()))[0]


def asked(tasks: Tasks, question: Question, random: Random, two_turns: float = TWO_TURNS) -> str | list[dict[str, str]]:
    """A question as a row has it: its text, or a conversation that ends in it."""
    return question.text if random.random() >= two_turns else second(tasks, question.text, random)
