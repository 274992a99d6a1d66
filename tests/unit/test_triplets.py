"""Triplets from files, and the split by question."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from aligner.data.check import CheckConfig, check
from aligner.errors import ConfigError, DataError
from aligner.triplets import is_held_out, read_triplets, source_name
from aligner.types import Message, Triplet
from tests.training import toy_rows, write_rows


def test_fields_sources_ids_and_conversations(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "a", "correction": "c", "source": "s/one", "id": 7, "extra": 1},
        {"question": "q", "answer": "a", "correction": "c"},
        {
            "question": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
            "answer": "",
            "correction": "c",
        },
    ]
    first, second, third = read_triplets(write_rows(tmp_path / "my.data.jsonl", rows))
    assert first == Triplet(question="q", answer="a", correction="c", source="s/one", id="7")
    assert second.source == source_name("/x/my.data.jsonl.xz") == "my"
    assert len(second.id) == 16
    assert second.id != third.id
    assert third.question == (Message(role="system", content="x"), Message(role="user", content="y"))
    assert third.identity() == Triplet(question=third.question, answer="", correction="", source="my", id=third.id)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "'answer' is missing"),
        ({}, "found: none"),
        ({"question": 1, "answer": "a", "correction": "c"}, "'question' is a int"),
        ({"question": "q", "answer": ["a"], "correction": "c"}, "'answer' is a list"),
        ({"question": "q", "answer": "a", "correction": None}, "'correction' is a NoneType"),
        ({"question": [], "answer": "a", "correction": "c"}, "no turns"),
    ],
)
def test_rows_that_are_no_triplets(tmp_path: Path, row, message) -> None:
    path = write_rows(tmp_path / "bad.jsonl", [{"question": "q", "answer": "a", "correction": "c"}, row])
    with pytest.raises(DataError, match=message) as e:
        list(read_triplets(path))
    assert f"{path}:2: " in str(e.value)


def test_all_rows_of_a_question_fall_on_one_side() -> None:
    sides = defaultdict(set)
    for i in range(3000):
        triplet = Triplet(question=f"q{i % 300}", answer=f"a{i}", correction="c", id=str(i))
        sides[triplet.question].add(is_held_out(triplet, 0.2, seed=1))
    assert all(len(found) == 1 for found in sides.values())
    share = sum(True in found for found in sides.values()) / len(sides)
    assert 0.13 < share < 0.27


def test_rows_without_a_question_are_split_by_their_answer() -> None:
    same = {is_held_out(Triplet(question="", answer="x", correction=c), 0.5, 0) for c in "abcdef"}
    assert len(same) == 1
    sides = [is_held_out(Triplet(question="", answer=f"x{i}", correction="c"), 0.5, 0) for i in range(400)]
    assert 150 < sum(sides) < 250


def test_the_split_depends_on_text_and_seed_alone() -> None:
    triplets = [Triplet(question=f"q{i}", answer="a", correction="c") for i in range(200)]
    chat = [Triplet(question=t.chat, answer="a", correction="c") for t in triplets]
    first = [is_held_out(t, 0.3, 1) for t in triplets]
    assert first == [is_held_out(t, 0.3, 1) for t in chat]
    assert first != [is_held_out(t, 0.3, 2) for t in triplets]
    assert not any(is_held_out(t, 0.0, 1) for t in triplets)
    larger = [is_held_out(t, 0.6, 1) for t in triplets]
    assert all(b or not a for a, b in zip(first, larger, strict=True)), "a larger share keeps what was held out"


def test_check_figures_are_right(tmp_path: Path) -> None:
    rows = [
        {"question": "one two", "answer": "a b c d", "correction": "a b c d", "source": "s/1"},
        {"question": "one two", "answer": "a b c d", "correction": "a b c d", "source": "s/2"},
        {"question": "", "answer": "a b", "correction": "a x", "source": "s/1"},
        {"question": "q", "answer": " ", "correction": "x", "source": "t"},
    ]
    s, t = check(CheckConfig(files=(write_rows(tmp_path / "r.jsonl", rows),))).sources
    assert (s.source, s.rows, s.identical, s.duplicates, s.blank, s.too_long) == ("s", 3, 2, 1, 0, 0)
    assert (s.question_length, s.answer_length, s.correction_length) == (2, 4, 4)
    assert s.edit_ratio == pytest.approx(0.5 / 3)
    assert (t.rows, t.blank) == (1, 1)


def test_check_counts_every_unusable_row_and_names_the_first(tmp_path: Path) -> None:
    rows = [{"question": "q"}] * 50 + toy_rows(2)
    found = check(CheckConfig(files=(write_rows(tmp_path / "r.jsonl", rows),)))
    assert found.unusable == 50
    assert len(found.problems) == 20
    assert "r.jsonl:1:" in found.problems[0]
    assert sum(s.rows for s in found.sources) == 2


def test_check_of_nothing_usable(tmp_path: Path) -> None:
    assert check(CheckConfig(files=(write_rows(tmp_path / "r.jsonl", [{}]),))).sources == ()
    with pytest.raises(ConfigError, match="files"):
        CheckConfig.from_dict({"files": []})
    with pytest.raises(DataError, match="no such file"):
        check(CheckConfig(files=(tmp_path / "none.jsonl",)))


def test_ids_are_stable_across_containers(tmp_path: Path) -> None:
    rows = toy_rows(5)
    (tmp_path / "list.json").write_text(json.dumps(rows))
    lines = list(read_triplets(write_rows(tmp_path / "lines.jsonl", rows)))
    assert [t.id for t in lines] == [t.id for t in read_triplets(tmp_path / "list.json")]
