"""Examples: which judged answers are picked, and in what order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aligner.errors import DataError
from aligner.report.examples import SHOWN, Outcome, read_examples
from aligner.report.samples import CLIP


def row(id_: str, gain: float | None, upstream: str = "u", **more: Any) -> dict[str, Any]:
    return {"id": id_, "gain": gain, "upstream": upstream, "task": "t", "question": "Why?", "answer": "Because.",
            "correction": "Because it is so.", "picked": "gain", **more}  # fmt: skip


def written(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file = path / "samples.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def ids(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    return {group: [e.id for e in members] for group, members in read_examples(written(path, rows)).items()}


def test_sorted_by_gain_and_by_loss(tmp_path: Path) -> None:
    rows = [row("a", 1), row("b", -1), row("c", 3.5), row("d", -2), row("e", 0), row("f", 9, picked="random"),
            row("g", None), row("h", 0, picked="loss")]  # fmt: skip
    assert ids(tmp_path, rows) == {"gain": ["c", "a"], "loss": ["d", "b", "h"], "random": ["f", "g"]}


def test_no_more_than_a_reader_can_take(tmp_path: Path) -> None:
    rows = [row(str(i), i - 100, picked="random" if i % 3 == 0 else "gain") for i in range(300)]
    found = ids(tmp_path, rows)
    assert {g: len(members) for g, members in found.items()} == SHOWN
    assert found["gain"][:3] == ["299", "298", "296"]
    assert found["loss"][:3] == ["1", "2", "4"]
    assert found["random"][:3] == ["0", "3", "6"]


def test_equal_gains_are_spread_over_upstreams(tmp_path: Path) -> None:
    rows = [row(f"a{i}", 2, "a") for i in range(30)] + [row("b0", 2, "b"), row("top", 3, "a")]
    assert ids(tmp_path, rows)["gain"][:4] == ["top", "a0", "b0", "a1"]


def test_those_of_one_task(tmp_path: Path) -> None:
    rows = [row(f"a{i}", 9) for i in range(30)] + [row("b", 1, task="other"), row("c", -1, task="other")]
    found = read_examples(written(tmp_path, rows), "other")
    assert {group: [e.id for e in members] for group, members in found.items()} == {
        "gain": ["b"], "loss": ["c"], "random": [],
    }  # fmt: skip


def test_an_example_has_its_outcomes(tmp_path: Path) -> None:
    one = row("x", 1, verdicts={"helpful": "candidate", "honest": None}, scores_before={"helpful": 1, "kind": 2},
              scores_after={"helpful": 3}, faults_before={"helpful": 1, "honest": 0}, faults_after=0)  # fmt: skip
    (found,) = read_examples(written(tmp_path, [one]))["gain"]
    assert found.outcomes == (
        Outcome(dimension="helpful", winner="candidate", before=1, after=3),
        Outcome(dimension="honest", winner=None, before=None, after=None),
        Outcome(dimension="kind", winner=None, before=2, after=None),
    )
    assert (found.faults_before, found.faults_after) == ("helpful 1 and honest 0", "0")
    assert found.edit_ratio == 0.6, "three of five words are new"
    assert "".join(e.text for e in found.edits if e.op != "insert") == "Because."
    assert not found.cut


def test_long_texts_are_cut(tmp_path: Path) -> None:
    (found,) = read_examples(written(tmp_path, [row("x", 1, answer="word " * CLIP)]))["gain"]
    assert found.cut
    assert sum(len(e.text) for e in found.edits if e.op != "insert") == CLIP


def test_no_file_is_no_example(tmp_path: Path) -> None:
    assert read_examples(tmp_path / "samples.jsonl") == {"gain": [], "loss": [], "random": []}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"gain": "much"}, "'gain' is 'much'; expected a number"),
        ({"verdicts": {"helpful": 1}}, r"'verdicts.helpful' is 1; expected null or one of"),
        ({"answer": None}, "a sample without 'answer'"),
        ({"question": 3}, "the question cannot be read"),
        ({"faults_before": "many"}, "'faults_before' is 'many'; expected a number, a list or an object"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"samples.jsonl:2: {message}"):
        read_examples(written(tmp_path, [row("a", 1), {**row("b", 1), **more}]))
