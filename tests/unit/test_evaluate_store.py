"""The store of one step: what is kept, found again, and done again."""

from __future__ import annotations

import json

import pytest

from aligner.errors import RunError
from aligner.evaluate.store import Store
from tests.evaluation import rows_in, suite_of


@pytest.fixture
def suite(tmp_path):
    return suite_of(tmp_path / "t.jsonl", 5)


def test_rows_are_found_by_place_in_any_order(tmp_path, suite) -> None:
    store = Store(tmp_path / "deep" / "er" / "s.jsonl", suite)
    for place in (3, 0, 4):
        store.write(place, {"answer": f"ä{place}\n🙂"})
    assert store.missing() == [1, 2]
    assert [store.get(place)["answer"] for place in (0, 4, 3)] == ["ä0\n🙂", "ä4\n🙂", "ä3\n🙂"]
    assert [place for place, _ in store.rows()] == [3, 0, 4]
    assert store.get(3) == {"id": "q3", "task": "t", "answer": "ä3\n🙂", "error": None}
    store.write(1, {"answer": "late"})
    assert store.get(1)["answer"] == "late"
    store.close()
    assert store.get(4)["answer"] == "ä4\n🙂", "reading opens the file again"
    store.close()


def test_failed_rows_are_kept_until_the_next_opening(tmp_path, suite) -> None:
    path = tmp_path / "s.jsonl"
    store = Store(path, suite)
    store.write(0, {"answer": "fine"})
    store.write(1, {"answer": ""}, error="overloaded")
    store.write(2, {"answer": "fine too"})
    assert (0 in store, 1 in store, 3 in store) == (True, False, False)
    assert store.missing() == [3, 4]
    assert (store.whole(), store.failed) == (2, {1: "overloaded"})
    store.close()
    assert len(rows_in(path)) == 3
    again = Store(path, suite)
    assert again.missing() == [1, 3, 4]
    assert again.failed == {}
    assert [again.get(place)["answer"] for place in (0, 2)] == ["fine", "fine too"]
    again.write(1, {"answer": "now"})
    assert [row["answer"] for row in rows_in(path)] == ["fine", "fine too", "now"]
    again.close()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_torn_row_is_cut_off(tmp_path, suite) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"id": "q1", "task": "t", "error": None}) + '\n{"id": "q2", "ta')
    store = Store(path, suite)
    assert store.missing() == [0, 2, 3, 4]
    store.write(2, {})
    assert store.get(2)["id"] == "q2"
    store.close()
    assert [row["id"] for row in rows_in(path)] == ["q1", "q2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "q0"}', ":1: the row is damaged"),
        ("[1]", ":1: the row is damaged"),
        ('{"id": "q0", "task": "t", "error": null} trailing', ":1: the row is damaged"),
        ('{"id": "zz", "task": "t", "error": null}', ":1: the row belongs to no question"),
    ],
)
def test_rows_that_are_not_of_this_run(tmp_path, suite, line, message) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(line + "\n" + '{"id": "q0", "task": "t", "error": null}\n')
    with pytest.raises(RunError) as e:
        Store(path, suite)
    assert str(e.value).startswith(f"{path}{message}")
