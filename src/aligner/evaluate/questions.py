"""The run's questions: written into its directory, so that it can be judged again without the files they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from aligner.evaluate.tasks import Item, Suite, Task, question_value
from aligner.rows import dumps, storage_errors
from aligner.runs import RunDir
from aligner.types import Judge

FOLDER = "questions"


@runtime_checkable
class AsksForQuestions(Protocol):
    """A judge that has to know the questions' rows (their references, say) before it can judge."""

    def for_questions(self, items: Sequence[Item]) -> Judge: ...


@runtime_checkable
class ChecksDimensions(Protocol):
    """A judge that knows beforehand in which dimensions it can judge."""

    def check_dimensions(self, dimensions: Mapping[str, Sequence[str]]) -> None: ...


def with_questions(judge: Judge, suite: Suite) -> Judge:
    """The judge that judges this suite: what `for_questions` returns where the judge has it, else the judge itself.

    Raises:
        UserError: the judge says that it cannot judge these questions, or in these dimensions.
    """
    if isinstance(judge, ChecksDimensions):
        judge.check_dimensions(suite.dimensions)
    return judge.for_questions(suite.items) if isinstance(judge, AsksForQuestions) else judge


def questions_hash(task: Task) -> str:
    """SHA-256 of a task's questions with all of their fields."""
    digest = hashlib.sha256()
    for line in _lines(task):
        digest.update(line.encode("utf-8"))
    return digest.hexdigest()


def write_questions(run_dir: RunDir, suite: Suite) -> None:
    """Write questions/TASK.jsonl for every task that has none yet; each is a task file of the format "rows".

    Raises:
        StorageError: they cannot be written.
    """
    folder = run_dir.path / FOLDER
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        for task in suite.tasks:
            path = folder / f"{task.name}.jsonl"
            if path.is_file():
                continue
            temporary = path.with_name(f".{path.name}.part")
            try:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    file.writelines(_lines(task))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def _lines(task: Task) -> Iterator[str]:
    for item in task.items:
        own = {"split": item.split} | ({} if item.reference is None else {"reference": item.reference})
        yield dumps({"id": item.id, "question": question_value(item), **own, **item.extra}) + "\n"
