"""Task: questions of one kind; Suite: all questions of an evaluation, each with a place of its own."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aligner.errors import DataError
from aligner.evaluate.config import TaskSpec
from aligner.evaluate.formats import FORMATS, QUESTION, convert, told_apart
from aligner.evaluate.originals import place_of, read_originals
from aligner.rows import Row
from aligner.types import Chat, as_chat, content_hash

ALL = "all"
SEEN = "seen"
UPSTREAM = "upstream"
_FIELDS = ("id", "question", "split", "reference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a task. `extra` holds the fields of its row that are not read here."""

    id: str
    question: Chat
    task: str
    split: str = ALL
    reference: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The questions of one set, or a sample of them; `sampled` says which.

    `total` counts the questions of the set, and `repeated` the rows that were left out because their question stands
    there already (in published sets without ids; elsewhere an id that stands twice is refused).
    """

    name: str
    dimensions: tuple[str, ...]
    items: tuple[Item, ...]
    sampled: bool = False
    total: int = 0
    repeated: int = 0

    def splits(self) -> dict[str, int]:
        """Questions by split, in order of first appearance."""
        return dict(Counter(item.split for item in self.items))


def read_task(spec: TaskSpec, *, sample: int | None = None, seed: int = 42) -> Task:
    """Read a task's questions. A sample is drawn by id and seed alone, and keeps the file's order.

    `sample` holds where the task has none of its own.

    Raises:
        DataError: the file cannot be read, is empty, lacks a column, a row is no question, or two have one id; names
            file and line.
    """
    place = place_of(spec)
    by_text = spec.format != "rows" and FORMATS[spec.format].by_text
    lines: dict[str, int] = {}
    items: list[Item] = []
    repeated = 0
    for row in convert(spec.format, read_originals(spec), place, seed):
        item = _item(spec, row, f"{place}:{row.line}")
        if item.id in lines and by_text:
            repeated += 1
            continue
        if item.id in lines:
            raise DataError(f"{place}:{row.line}: the id {item.id!r} is also that of line {lines[item.id]}; "
                            "every question needs its own")  # fmt: skip
        lines[item.id] = row.line
        items.append(item)
    total = len(items)
    count = spec.sample or sample or total
    if count < total:
        keys = ((content_hash(str(seed), spec.name, item.id), i) for i, item in enumerate(items))
        items = [items[i] for i in sorted(i for _, i in heapq.nsmallest(count, keys))]
    return Task(
        name=spec.name,
        dimensions=spec.dimensions,
        items=tuple(items),
        sampled=count < total,
        total=total,
        repeated=repeated,
    )


def _item(spec: TaskSpec, row: Row, where: str) -> Item:
    value = row.value
    for name in ("id", "question"):
        if name not in value:
            raise DataError(f"{where}: the field '{name}' is missing (found: {', '.join(value) or 'none'}); "
                            f"expected id and question{told_apart(value)}")  # fmt: skip
    if not isinstance(value["id"], str) or not value["id"]:
        raise DataError(f"{where}: 'id' is {value['id']!r}; expected text that names the question")
    if not isinstance(value["question"], str | list):
        raise DataError(f"{where}: 'question' is a {type(value['question']).__name__}; expected text or messages")
    for name in ("split", "reference"):
        if not isinstance(value.get(name), str | None):
            raise DataError(f"{where}: '{name}' is a {type(value[name]).__name__}; expected text")
    try:
        question = as_chat(value["question"])
    except DataError as e:
        raise DataError(f"{where}: in 'question', {e}") from None
    if spec.prompt is not None:
        last = question[-1]
        question = (*question[:-1], replace(last, content=spec.prompt.replace(QUESTION, last.content)))
    return Item(
        id=value["id"],
        question=question,
        task=spec.name,
        split=_split(spec, value, where),
        reference=value.get("reference"),
        extra={k: v for k, v in value.items() if k not in _FIELDS},
    )


def _split(spec: TaskSpec, value: Mapping[str, Any], where: str) -> str:
    if spec.split_by is None:
        return value.get("split") or ALL
    if not isinstance(value.get(spec.split_by), str | int) or value[spec.split_by] == "":
        raise DataError(f"{where}: the questions are split by '{spec.split_by}', and here it is "
                        f"{value.get(spec.split_by)!r} (found: {', '.join(value)}); expected text")  # fmt: skip
    return str(value[spec.split_by])


def question_value(item: Item) -> str | list[dict[str, str]]:
    """A question as it stands in files: text where it is one turn of the user, else messages."""
    if len(item.question) == 1 and item.question[0].role == "user":
        return item.question[0].content
    return [{"role": m.role, "content": m.content} for m in item.question]


class Suite:
    """All questions of an evaluation in one order: `items[place]`; `ranges` are the places of each task."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.items: tuple[Item, ...] = tuple(item for task in tasks for item in task.items)
        self.ranges: dict[str, range] = {}
        start = 0
        for task in tasks:
            self.ranges[task.name] = range(start, start := start + len(task.items))
        self.dimensions = {task.name: task.dimensions for task in tasks}
        self._places = {(item.task, item.id): place for place, item in enumerate(self.items)}

    def __len__(self) -> int:
        return len(self.items)

    def place(self, task: str, id_: str) -> int | None:
        """Where a question of a task stands; None where it is not among the items."""
        return self._places.get((task, id_))

    def places(self, id_: str) -> list[int]:
        """Where the questions with this id stand, at most one in each task."""
        found = (self._places.get((task.name, id_)) for task in self.tasks)
        return [place for place in found if place is not None]


def split_of(item: Item, seen: bool | None) -> str:
    """The split under which an answer is reported: what is new about a seen question is an unseen upstream."""
    return UPSTREAM if seen is False and item.split == SEEN else item.split
