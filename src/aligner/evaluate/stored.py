"""Stored answers and corrections: texts that were made elsewhere, by the questions they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aligner.config import nearest
from aligner.errors import DataError
from aligner.evaluate.tasks import Suite
from aligner.rows import Row, read_rows


def stored_answers(path: Path, suite: Suite) -> Iterator[tuple[int, str | None]]:
    """Yield (place in the suite, answer); None is an answer that the upstream failed to give.

    Rows of questions that are not in the suite are passed over.

    Raises:
        DataError: a row lacks its id or answer, its id is that of two tasks, two rows answer one question, or a
            question has no row; names file and line, or the question.
    """
    met = bytearray(len(suite))
    for row in read_rows(path):
        found = _text(path, row, suite, ("id", "answer"), met)
        if found is not None:
            yield found
    if not all(met):
        first = suite.items[met.index(0)]
        raise DataError(f"{path}: {met.count(0)} of {len(suite)} questions have no answer, the first is {first.id!r} "
                        f"of task '{first.task}'; add rows with their ids (null where there is no answer)")  # fmt: skip


def stored_corrections(path: Path, suite: Suite, upstream: str) -> Iterator[tuple[int, str]]:
    """Yield (place in the suite, correction) of one upstream's answers.

    Rows of other upstreams are passed over. A question without a row is no error here: its answer may have failed.

    Raises:
        DataError: a row lacks its id, upstream or correction, its id is that of two tasks, two rows correct one
            answer, or no row is of this upstream; names file and line.
    """
    met = bytearray(len(suite))
    others: dict[str, None] = {}
    for row in read_rows(path):
        name = row.value.get("upstream", upstream)
        if name != upstream:
            others[str(name)] = None
            continue
        found = _text(path, row, suite, ("id", "upstream", "correction"), met)
        if found is not None and found[1] is not None:
            yield found[0], found[1]
    if not any(met):
        raise DataError(f"{path}: no correction in it is of the upstream '{upstream}' and a question of this run; "
                        f"its upstreams: {nearest(upstream, list(others))}")  # fmt: skip


def _text(path: Path, row: Row, suite: Suite, needed: tuple[str, ...], met: bytearray) -> tuple[int, str | None] | None:
    """A row's place and its last needed field; None where its question is not in the suite."""
    where, value, name = f"{path}:{row.line}", row.value, needed[-1]
    for field in needed:
        if field not in value:
            raise DataError(f"{where}: the field '{field}' is missing (found: {', '.join(value) or 'none'}); "
                            f"expected {', '.join(needed)}")  # fmt: skip
    text = value[name]
    if not isinstance(text, str | None):
        raise DataError(f"{where}: '{name}' is a {type(text).__name__}; expected text, or null where it failed")
    place = _place(where, row, suite)
    if place is None:
        return None
    if met[place]:
        raise DataError(f"{where}: the id {value['id']!r} of task '{suite.items[place].task}' stands there twice; "
                        f"give one {name} for each question")  # fmt: skip
    met[place] = 1
    return place, text


def _place(where: str, row: Row, suite: Suite) -> int | None:
    id_, task = row.value["id"], row.value.get("task")
    if not isinstance(id_, str):
        raise DataError(f"{where}: 'id' is {id_!r}; expected the text that names a question")
    if task is not None:
        return suite.place(str(task), id_)
    places = suite.places(id_)
    if len(places) > 1:
        tasks = " and ".join(suite.items[place].task for place in places)
        raise DataError(f"{where}: the id {id_!r} is one of the tasks {tasks}; add the field 'task' to the rows")
    return places[0] if places else None
