"""Files of requests for a batch API: how many, how large, and what stands in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligner.errors import StorageError
from aligner.evaluate.batch import left_over, read_answers, write_requests
from aligner.evaluate.llm_judge import Ask
from aligner.generate.store import ResponseStore
from tests.api_server import completion
from tests.evaluation import rows_in


def asks(count: int, text: str = "é") -> list[Ask]:
    body = {"messages": [{"role": "user", "content": text}]}
    return [Ask(dimension="helpful", swapped=False, code="c", body=body, key=f"k{i}") for i in range(count)]


@pytest.fixture
def store(tmp_path) -> Iterator[ResponseStore]:
    with ResponseStore(tmp_path / "responses.sqlite") as store:
        yield store


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, {"r.jsonl": 0}),
        (3, {"r.jsonl": 3}),
        (4, {"r-1.jsonl": 3, "r-2.jsonl": 1}),
        (6, {"r-1.jsonl": 3, "r-2.jsonl": 3}),
        (7, {"r-1.jsonl": 3, "r-2.jsonl": 3, "r-3.jsonl": 1}),
    ],
)
def test_a_file_has_so_many_lines_at_most(tmp_path, store, count, expected) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "r.jsonl").write_text("of an earlier run")
    files = write_requests(folder / "r.jsonl", asks(count), store, most_lines=3)
    assert {path.name: lines for path, lines in files.items()} == expected
    assert names(folder) == set(expected), "in parts, nothing bears the name of the whole"
    keys = [json.loads(line)["custom_id"] for path in files for line in path.read_text().splitlines()]
    assert keys == [ask.key for ask in asks(count)]


@pytest.mark.parametrize(("count", "made"), [(9, 3), (4, 2), (3, 0), (0, 0)])
def test_parts_of_an_earlier_time_or_of_another_run_stay_and_are_named(tmp_path, store, count, made) -> None:
    folder = tmp_path / "b"
    write_requests(folder / "r.jsonl", asks(9), store, most_lines=3)
    (folder / "r-old.jsonl").write_text("mine")
    files = write_requests(folder / "r.jsonl", asks(count), store, most_lines=3)
    parts = {f"r-{n}.jsonl" for n in range(1, made + 1)} or {"r.jsonl"}
    assert {path.name for path in files} == parts
    assert names(folder) == parts | {"r-1.jsonl", "r-2.jsonl", "r-3.jsonl", "r-old.jsonl"}
    others = left_over(folder / "r.jsonl", len(files))
    assert [path.name for path in others] == [f"r-{n}.jsonl" for n in range(made + 1, 4)]


def test_a_file_has_so_many_bytes_at_most(tmp_path, store) -> None:
    long = asks(1, "é" * 500)[0]
    given = [*asks(7), Ask(dimension="helpful", swapped=False, code="c", body=long.body, key="long"), *asks(9)]
    whole = next(iter(write_requests(tmp_path / "whole.jsonl", given[:1], store))).stat().st_size
    files = write_requests(tmp_path / "r.jsonl", given, store, most_bytes=3 * whole)
    assert list(files.values()) == [3, 3, 1, 1, 2], "a line is never cut; one that is too long stands alone"
    sizes = [path.stat().st_size for path in files]
    assert [size <= 3 * whole for size in sizes] == [True, True, True, False, True]
    assert sizes[0] == 3 * whole, "counted in bytes, not in characters"


def test_what_is_answered_or_there_already_is_not_written(tmp_path, store) -> None:
    store.put("k1", completion("yes"))
    files = write_requests(tmp_path / "r.jsonl", [*asks(4), *asks(4)], store, most_lines=2)
    assert [[row["custom_id"] for row in rows_in(path)] for path in files] == [["k0", "k2"], ["k3"]]
    answers = [tmp_path / f"a{i}.jsonl" for i in range(2)]
    for requests, path in zip(files, answers, strict=True):
        rows = [{"custom_id": row["custom_id"], "response": {"status_code": 200, "body": completion("no")}}
                for row in rows_in(requests)]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_answers(answers, store) == {}
    assert all(store.get(ask.key) for ask in asks(4))


def test_lines_are_written_as_they_come(tmp_path, store) -> None:
    """The next request is asked for when the last one is written, and parts that are full are there by then."""
    found = []

    def given() -> Iterator[Ask]:
        for ask in asks(6):
            found.append({name for name in names(tmp_path) if name.startswith("r-") or name == "r.jsonl"})
            yield ask

    write_requests(tmp_path / "r.jsonl", given(), store, most_lines=2)
    assert found == [set(), set(), set(), {"r-1.jsonl"}, {"r-1.jsonl"}, {"r-1.jsonl", "r-2.jsonl"}]


def test_a_place_that_cannot_be_written_is_told(tmp_path, store) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_requests(tmp_path / "file" / "r.jsonl", asks(1), store)
