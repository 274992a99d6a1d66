"""Triplets from a trained upstream: it answers training questions, and the teacher corrects what it reads there.

A model errs in more ways than the faults it was taught: it loses the thread, mixes two answers, stops in mid-word.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field

from aligner.config import Config
from aligner.correct.looped import load_upstream
from aligner.errors import DataError
from aligner.generate.collect import collect
from aligner.pocket.claims import Language
from aligner.pocket.suite import TAUGHT_TURNS, asked, draw_task
from aligner.pocket.tasks import Tasks
from aligner.pocket.teacher import Teacher
from aligner.pocket.upstreams import TRIPLET_WAYS, profiles
from aligner.pocket.world import World
from aligner.rows import dumps, write_atomic
from aligner.runs import Existing, RunDir
from aligner.types import Generator, Sampling, as_chat

_WINDOW = 512


class ModelTripletsConfig(Config):
    """Ask a trained upstream of the pocket suite the training questions, and correct its answers."""

    out: Path
    """Where to: triplets.jsonl."""
    name: str
    """The upstream; one of those that triplets may come from."""
    model: str
    """Its checkpoint."""
    world: int = Field(default=0, ge=0)
    """Seed of the world."""
    rows: int = Field(default=2_000, ge=1)
    """Questions asked; an answer or correction that is empty makes no row."""
    temperature: float = Field(default=0.8, ge=0)
    max_new_tokens: int = Field(default=120, ge=1)
    max_rows: int = Field(default=128, ge=1)
    """Answers written at the same time."""
    seed: int = Field(default=0, ge=0)


def run(config: ModelTripletsConfig, existing: Existing = "refuse") -> RunDir:
    """Write the file; the same configuration gives the same bytes.

    Raises:
        DataError: triplets may not come from this upstream.
        CheckpointError: no model there.
        RunError: the directory exists.
        StorageError: it cannot be written.
    """
    profile = profiles().get(config.name)
    if profile is None or not profile.seen:
        known = ", ".join(p.name for p in profiles().values() if p.seen)
        raise DataError(f"name: triplets do not come from '{config.name}'; give one of {known}")
    run_dir = RunDir.create(config.out, config, existing)
    if run_dir.result() is not None:
        return run_dir
    tasks = Tasks(Language(World(config.world)))
    upstream = load_upstream(config.model, max_rows=config.max_rows)
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for row in model_triplets(tasks, upstream, config):
            count += 1
            yield dumps(row) + "\n"

    write_atomic(run_dir.path / "triplets.jsonl", lines())
    run_dir.write_result({"kind": "model triplets", "rows": count})
    return run_dir


def model_triplets(tasks: Tasks, upstream: Generator, config: ModelTripletsConfig) -> Iterator[dict[str, Any]]:
    """Questions in windows, each with a seed of its own, for the same question may be drawn again."""
    random = Random(f"model triplets:{config.world}:{config.seed}:{config.name}")
    teacher = Teacher(tasks.language, ways=TRIPLET_WAYS)
    for start in range(0, config.rows, _WINDOW):
        drawn = [
            (question, asked(tasks, question, random, TAUGHT_TURNS))
            for _ in range(min(_WINDOW, config.rows - start))
            for question in [tasks.draw(draw_task(random), random, "train")]
        ]
        sampling = Sampling(
            temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=config.seed + start
        )
        answers = collect(upstream, [as_chat(text) for _, text in drawn], sampling)
        for (question, text), answer in zip(drawn, answers, strict=True):
            correction = teacher.correct(question, teacher.read(question, answer.text), random)
            if answer.text.strip() and correction:
                yield {
                    "question": text,
                    "answer": answer.text,
                    "correction": correction,
                    "source": f"pocket/{question.task}",
                }
