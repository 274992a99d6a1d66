"""Stored answers and corrections: texts that were made elsewhere, by the questions they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner.config import expand, nearest
from aligner.errors import DataError
from aligner.evaluate.tasks import Item, Suite
from aligner.rows import Row, read_rows
from aligner.types import content_hash

# In a path of corrections: one file for each upstream.
UPSTREAM = "{upstream}"


def stored_answers(path: Path, suite: Suite, *, partial: bool = False) -> Iterator[tuple[int, str | None]]:
    """Yield (place in the suite, answer); None is an answer that the upstream failed to give.

    Rows of questions that are not in the suite are passed over. Those of AlpacaEval (instruction, output) are read as
    well: their questions are known by their text. Environment variables in the path are filled in.

    Raises:
        DataError: a row lacks its id or answer, its id is that of two tasks, two rows answer one question, or, unless
            `partial`, a question has no row; names file and line, or the questions.
    """
    path = expand(path, "answers")
    met = bytearray(len(suite))
    for row in read_rows(path):
        found = _text(path, row, suite, ("id", "answer"), met)
        if found is not None:
            yield found
    if not any(met):
        raise DataError(f"{path}: none of its ids is a question of this run; the first question is "
                        f"{suite.items[0].id!r} of task '{suite.items[0].task}'")  # fmt: skip
    if not partial and not all(met):
        lacking = [suite.items[place] for place in range(len(suite)) if not met[place]]
        named = f"the first is {lacking[0].id!r} of task '{lacking[0].task}'" + _others(lacking[1:])
        raise DataError(f"{path}: {len(lacking)} of {len(suite)} questions have no answer, {named}; add rows with "
                        "their ids (null where there is no answer), or leave them unscored with --partial")  # fmt: skip


def corrections_of(path: Path, upstream: str) -> Path:
    """The file of one upstream's corrections: {upstream} and environment variables in the path are filled in."""
    return Path(str(expand(path, "corrections")).replace(UPSTREAM, upstream))


def stored_corrections(path: Path, suite: Suite, upstream: str, *, only: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (place in the suite, correction) of one upstream's answers.

    Rows of other upstreams are passed over. A question without a row is no error here: its answer may have failed.

    Args:
        path: as the configuration has it; where it has {upstream}, rows need no field `upstream`.
        suite: the questions.
        upstream: a name.
        only: there is no other upstream, so rows need no field `upstream`.

    Raises:
        DataError: a row lacks its id, upstream or correction, its id is that of two tasks, two rows correct one
            answer, or no row is of this upstream; names file and line.
    """
    known = only or UPSTREAM in str(path)
    path = corrections_of(path, upstream)
    needed = ("id", "correction") if known else ("id", "upstream", "correction")
    met = bytearray(len(suite))
    others: dict[str, None] = {}
    for row in read_rows(path):
        name = row.value.get("upstream", upstream)
        if name != upstream:
            others[str(name)] = None
            continue
        found = _text(path, row, suite, needed, met)
        if found is not None and found[1] is not None:
            yield found[0], found[1]
    if not any(met):
        raise DataError(f"{path}: no correction in it is of the upstream '{upstream}' and a question of this run; "
                        f"its upstreams: {nearest(upstream, list(others))}")  # fmt: skip


def _text(path: Path, row: Row, suite: Suite, needed: tuple[str, ...], met: bytearray) -> tuple[int, str | None] | None:
    """A row's place and its last needed field; None where its question is not in the suite."""
    where, value, name = f"{path}:{row.line}", row.value, needed[-1]
    if "id" not in value and isinstance(value.get("instruction"), str) and "output" in value:
        of = {"upstream": value["upstream"]} if "upstream" in value else {}
        value = {"id": content_hash(value["instruction"].strip()), **of, name: value["output"]}
    for field in needed:
        if field not in value:
            raise DataError(f"{where}: the field '{field}' is missing (found: {', '.join(value) or 'none'}); "
                            f"expected {', '.join(needed)}")  # fmt: skip
    text = value[name]
    if not isinstance(text, str | None):
        raise DataError(f"{where}: '{name}' is a {type(text).__name__}; expected text, or null where it failed")
    place = _place(where, value, suite)
    if place is None:
        return None
    if met[place]:
        raise DataError(f"{where}: the id {value['id']!r} of task '{suite.items[place].task}' stands there twice; "
                        f"give one {name} for each question")  # fmt: skip
    met[place] = 1
    # Rows of a run say so where they failed.
    return place, None if value.get("error") is not None else text


def _others(items: Sequence[Item]) -> str:
    """Some more ids, and how many there are besides."""
    shown = [repr(item.id) for item in items[:9]]
    rest = len(items) - len(shown)
    return "".join(f", {name}" for name in shown) + (f" and {rest} others" if rest else "")


def _place(where: str, value: Mapping[str, Any], suite: Suite) -> int | None:
    id_, task = value["id"], value.get("task")
    if not isinstance(id_, str):
        raise DataError(f"{where}: 'id' is {id_!r}; expected the text that names a question")
    if task is not None:
        return suite.place(str(task), id_)
    places = suite.places(id_)
    if len(places) > 1:
        tasks = " and ".join(suite.items[place].task for place in places)
        raise DataError(f"{where}: the id {id_!r} is one of the tasks {tasks}; add the field 'task' to the rows")
    return places[0] if places else None
