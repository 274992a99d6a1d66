"""Task files and stored texts: what is read, and how each thing that is wrong is told."""

from __future__ import annotations

import gzip
import json

import pytest

from aligner.errors import DataError
from aligner.evaluate.config import TaskSpec
from aligner.evaluate.stored import stored_answers, stored_corrections
from aligner.evaluate.tasks import Item, Suite, read_task, split_of
from aligner.types import Message
from tests.evaluation import stored, suite_of, task_file
from tests.training import write_rows


def spec(path, **changes) -> TaskSpec:
    return TaskSpec(**({"name": "t", "file": path, "dimensions": ("helpful",)} | changes))


def test_every_field_of_a_row(tmp_path) -> None:
    rows = [
        {"id": "a", "question": "one?", "split": "seen", "reference": "1", "fact": [1, 2]},
        {"id": "b", "question": [{"role": "system", "content": "s"}, {"role": "user", "content": "two?"}]},
    ]
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    task = read_task(spec(tmp_path / "t.json.gz"))
    user = Message(role="user", content="one?")
    assert task.items[0] == Item(
        id="a", question=(user,), task="t", split="seen", reference="1", extra={"fact": [1, 2]}
    )
    assert [m.role for m in task.items[1].question] == ["system", "user"]
    assert (task.items[1].split, task.items[1].reference) == ("all", None)
    assert task.splits() == {"seen": 1, "all": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x"}, ":2: the field 'id' is missing"),
        ({"id": "x"}, ":2: the field 'question' is missing (found: id)"),
        ({"id": 7, "question": "x"}, ":2: 'id' is 7; expected text"),
        ({"id": "", "question": "x"}, ":2: 'id' is ''"),
        ({"id": "x", "question": 5}, ":2: 'question' is a int"),
        ({"id": "x", "question": []}, ":2: in 'question', the question has no turns"),
        ({"id": "x", "question": "y", "split": 3}, ":2: 'split' is a int"),
        ({"id": "x", "question": "y", "reference": ["z"]}, ":2: 'reference' is a list"),
        ({"id": "q0", "question": "y"}, ":2: the id 'q0' is also that of line 1"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, row, message) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"id": "q0", "question": "x"}, row])
    with pytest.raises(DataError) as e:
        read_task(spec(path))
    assert str(e.value).startswith(f"{path}{message}")
    assert "\n" not in str(e.value)


def test_an_empty_or_missing_file(tmp_path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        read_task(spec(tmp_path / "t.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        read_task(spec(tmp_path / "none.jsonl"))


def test_a_sample_depends_on_the_ids_and_the_seed_alone(tmp_path) -> None:
    path = task_file(tmp_path / "t.jsonl", 200)
    rows = path.read_text().splitlines(keepends=True)
    task = read_task(spec(path, sample=20), seed=1)
    ids = [item.id for item in task.items]
    assert task.sampled
    assert len(set(ids)) == 20
    assert ids == sorted(ids, key=lambda i: int(i[1:])), "the file's order is kept"
    path.write_text("".join(reversed(rows)))
    assert {item.id for item in read_task(spec(path, sample=20), seed=1).items} == set(ids)
    assert {item.id for item in read_task(spec(path, sample=20), seed=2).items} != set(ids)
    assert {item.id for item in read_task(spec(path, sample=10), seed=1).items} < set(ids), "a smaller one is a part"


def test_a_tasks_own_sample_comes_before_the_runs(tmp_path) -> None:
    path = task_file(tmp_path / "t.jsonl", 30)
    assert len(read_task(spec(path, sample=5), sample=9).items) == 5
    assert len(read_task(spec(path), sample=9).items) == 9
    assert not read_task(spec(path, sample=99)).sampled


def test_seen_questions_of_an_unseen_upstream_have_a_split_of_their_own() -> None:
    item = Item(id="x", question=(), task="t", split="seen")
    assert [split_of(item, seen) for seen in (True, None, False)] == ["seen", "seen", "upstream"]
    entity = Item(id="x", question=(), task="t", split="entity")
    assert split_of(entity, False) == "entity"


def test_a_prompt_goes_around_the_last_turn(tmp_path) -> None:
    rows = [
        {"id": "a", "question": "one {x}?"},
        {"id": "b", "question": [{"role": "system", "content": "s"}, {"role": "user", "content": "two?"}]},
    ]
    path = write_rows(tmp_path / "t.jsonl", rows)
    task = read_task(spec(path, prompt="Say: {question} Briefly."))
    assert [[m.content for m in item.question] for item in task.items] == [
        ["Say: one {x}? Briefly."],
        ["s", "Say: two? Briefly."],
    ]


def test_splits_by_a_field_of_ones_own(tmp_path) -> None:
    rows = [{"id": str(i), "question": "x", "split": "seen", "level": i % 2, "kind": "k"} for i in range(3)]
    path = write_rows(tmp_path / "t.jsonl", rows)
    assert read_task(spec(path, split_by="level")).splits() == {"0": 2, "1": 1}
    with pytest.raises(DataError, match=r":1: the questions are split by 'kin', and here it is None \(found: id, "):
        read_task(spec(path, split_by="kin"))


def test_columns_of_a_published_set_are_known_as_such(tmp_path) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}])
    with pytest.raises(DataError, match=r"expected id and question; they are the columns of the format 'gsm8k'"):
        read_task(spec(path))


def two_tasks(tmp_path) -> Suite:
    one, two = task_file(tmp_path / "1.jsonl", 3), task_file(tmp_path / "2.jsonl", 3)
    return Suite([read_task(spec(one, name="one")), read_task(spec(two, name="two"))])


def test_stored_answers_find_their_places(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 3)
    path = stored(tmp_path / "a.jsonl", {"q2": "two", "other": "passed over", "q0": "zero", "q1": None})
    assert sorted(stored_answers(path, suite), key=lambda row: row[0]) == [(0, "zero"), (1, None), (2, "two")]
    both = two_tasks(tmp_path)
    rows = [{"id": f"q{i}", "task": task, "answer": task} for task in ("two", "one") for i in range(3)]
    path = write_rows(tmp_path / "b.jsonl", rows)
    assert dict(stored_answers(path, both)) == dict(enumerate(["one"] * 3 + ["two"] * 3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answer": "x"}], ":1: the field 'id' is missing (found: answer); expected id, answer"),
        ([{"id": "q0"}], ":1: the field 'answer' is missing"),
        ([{"id": "q0", "answer": 4}], ":1: 'answer' is a int; expected text, or null where it failed"),
        ([{"id": 4, "answer": "x"}], ":1: 'id' is 4"),
        ([{"id": "q0", "answer": "x"}] * 2, ":2: the id 'q0' of task 't' stands there twice"),
        (
            [{"id": "q1", "answer": "x"}],
            ": 2 of 3 questions have no answer, the first is 'q0' of task 't', 'q2'; add rows with their ids (null "
            "where there is no answer), or leave them unscored with --partial",
        ),
        ([{"id": "x", "answer": "x"}], ": none of its ids is a question of this run; the first question is 'q0' of"),
    ],
)
def test_bad_stored_answers(tmp_path, rows, message) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 3)
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as e:
        list(stored_answers(path, suite))
    assert str(e.value).startswith(f"{path}{message}")


def test_an_id_of_two_tasks_asks_for_the_task(tmp_path) -> None:
    path = stored(tmp_path / "a.jsonl", {"q0": "x"})
    with pytest.raises(DataError, match=r"the id 'q0' is one of the tasks one and two; add the field 'task'"):
        list(stored_answers(path, two_tasks(tmp_path)))


def test_stored_corrections_are_those_of_one_upstream(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 3)
    rows = [
        {"id": "q0", "upstream": "a", "correction": "a0"},
        {"id": "q0", "upstream": "b", "correction": "b0"},
        {"id": "q2", "upstream": "a", "correction": None},
    ]
    path = write_rows(tmp_path / "c.jsonl", rows)
    assert list(stored_corrections(path, suite, "a")) == [(0, "a0")]
    assert list(stored_corrections(path, suite, "b")) == [(0, "b0")]
    with pytest.raises(DataError, match=r"no correction in it is of the upstream 'bb'.*did you mean|known: a, b"):
        list(stored_corrections(path, suite, "bb"))
    path = write_rows(tmp_path / "c.jsonl", [{"id": "q0", "correction": "x"}])
    with pytest.raises(DataError, match=r":1: the field 'upstream' is missing"):
        list(stored_corrections(path, suite, "a"))


def test_answers_that_lack_some_questions_are_taken_where_that_is_asked(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 40)
    path = stored(tmp_path / "a.jsonl", {"q1": "one", "q2": None})
    assert list(stored_answers(path, suite, partial=True)) == [(1, "one"), (2, None)]
    with pytest.raises(DataError, match=r"38 of 40 .* 'q0' of task 't', 'q3', .*'q11' and 28 others; add rows"):
        list(stored_answers(path, suite))
    none = stored(tmp_path / "b.jsonl", {"other": "one"})
    with pytest.raises(DataError, match="none of its ids"):
        list(stored_answers(none, suite, partial=True))


def test_rows_that_failed_in_a_run_are_no_answers(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 2)
    rows = [{"id": "q0", "answer": "", "error": "overloaded"}, {"id": "q1", "answer": "x", "error": None}]
    assert list(stored_answers(write_rows(tmp_path / "a.jsonl", rows), suite)) == [(0, None), (1, "x")]


def test_outputs_of_alpaca_eval_are_answers_and_corrections(tmp_path) -> None:
    outputs = [{"instruction": f"do {i} ", "output": f"done {i}", "generator": "m"} for i in range(2)]
    path = write_rows(tmp_path / "o.jsonl", outputs)
    suite = Suite([read_task(TaskSpec.from_dict({"name": "t", "format": "alpaca-eval", "file": path}))])
    assert list(stored_answers(path, suite)) == [(0, "done 0"), (1, "done 1")]
    assert list(stored_corrections(path, suite, "a", only=True)) == [(0, "done 0"), (1, "done 1")]
    with pytest.raises(DataError, match="the field 'upstream' is missing"):
        list(stored_corrections(path, suite, "a"))


def test_corrections_in_a_file_for_each_upstream(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 1)
    for name in "ab":
        write_rows(tmp_path / f"c-{name}.jsonl", [{"id": "q0", "correction": name}])
    path = tmp_path / "c-{upstream}.jsonl"
    assert [list(stored_corrections(path, suite, name)) for name in "ab"] == [[(0, "a")], [(0, "b")]]
    with pytest.raises(DataError, match=r"c-z\.jsonl: no such file"):
        list(stored_corrections(path, suite, "z"))
