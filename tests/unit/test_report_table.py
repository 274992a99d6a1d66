"""ScoreTable: cells, means and classes of a table.json."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aligner.report import wording
from aligner.report.table import Cell, Score, ScoreTable, Upstream, cell


def row(upstream: str = "u", task: str = "t", dimension: str = "d", split: str = "all", **more: Any) -> dict[str, Any]:
    return {"corrector": "C", "upstream": upstream, "task": task, "dimension": dimension, "split": split, **more}


def score(*names: str, **more: Any) -> Score:
    nothing = dict.fromkeys(
        ("n", "omega", "low", "high", "unscored", "fault_rate", "repaired", "untouched", "edit_ratio")
    )
    return Score(**{**row(*names), **nothing, **more})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"omega": 12.34}, Cell(text="+12.3")),
        ({"omega": 12.34, "low": 1.0}, Cell(text="+12.3")),
        ({"omega": 12.34, "low": 1.0, "high": 30.0}, Cell(text="+12.3", bounds=(1.0, 30.0))),
        ({"omega": 0.0, "low": -1.0, "high": 1.0}, Cell(text="0.0", bounds=(-1.0, 1.0))),
        ({"omega": -0.01}, Cell(text="−0.01", loss=True)),
        ({"omega": -5.0, "low": -9.0, "high": 0.0}, Cell(text="−5.0", bounds=(-9.0, 0.0), loss=True)),
        ({"omega": -5.0, "low": -9.0, "high": -0.1}, Cell(text="−5.0", bounds=(-9.0, -0.1), loss=True, sure=True)),
        ({"omega": -5.0, "high": -0.1}, Cell(text="−5.0", loss=True, sure=True)),
        ({"omega": None}, Cell()),
        ({"omega": None, "unscored": 0, "n": 0}, Cell()),
        ({"omega": None, "unscored": 3}, Cell(text="unscored")),
        ({"omega": None, "unscored": 3, "n": 9}, Cell(text="unscored", note="3 of 9")),
        ({"omega": 1.0, "unscored": 3, "n": 9}, Cell(text="+1.0", note="3 unscored")),
        ({"omega": math.nan}, Cell(text="not a number")),
    ],
)
def test_a_cell_says_what_was_measured(values: dict[str, Any], expected: Cell) -> None:
    assert cell(score(**values)) == expected


def test_intervals_long_and_brief() -> None:
    assert Cell(bounds=(-4.46, 20.25)).interval == "[−4.5, +20.2]"
    assert Cell(bounds=(-4.46, 20.25)).brief == "−4…+20"
    assert Cell().interval == Cell().brief == ""


def test_marks_differ_without_color() -> None:
    assert [Cell().mark, Cell(loss=True).mark, Cell(loss=True, sure=True).mark] == ["", "▼", "▼▼"]


def test_what_was_not_asked_is_a_dash() -> None:
    assert cell(None) == Cell() == Cell(text=wording.ABSENT)
    assert ScoreTable([]).cell("C", "u", "t", "d") == Cell()


def test_order_is_that_of_the_file_and_columns_of_a_task_stand_together() -> None:
    table = ScoreTable([score("b", "t2", "y"), score("a", "t1", "x"), score("a", "t2", "x"), score("all", "t1", "x"),
                        score("a", "t1", "x", "s2"), score("a", "t1", "x", "s1")])  # fmt: skip
    assert table.upstreams == ["b", "a"]
    assert table.columns == {"t2": ["y", "x"], "t1": ["x"]}
    assert table.splits == ["s2", "s1"]
    assert table.dimensions == ["y", "x"]
    assert table.averages == ["all"]


def test_the_mean_over_tasks_is_a_column_only_where_it_says_something() -> None:
    two = [score("u", "t1", "x"), score("u", "t2", "x")]
    assert ScoreTable([*two, score("all", "all", "x")]).columns == {"t1": ["x"], "t2": ["x"]}
    assert ScoreTable([*two, score("u", "all", "x")]).columns == {"t1": ["x"], "t2": ["x"], "all": ["x"]}
    assert ScoreTable([two[0], score("u", "all", "x")]).columns == {"t1": ["x"]}


def test_a_split_is_the_mean_of_the_upstreams_that_were_scored() -> None:
    at = ("t", "d", "s")
    table = ScoreTable([score("a", *at, omega=10.0), score("b", *at, omega=-30.0), score("c", *at, unscored=4),
                        score("b", "t", "d", omega=99.0)])  # fmt: skip
    assert table.split_cell("C", "s", "t", "d") == Cell(text="−10.0", note="2 of 3 scored", loss=True)
    assert table.split_cell("C", "other", "t", "d") == Cell()
    assert ScoreTable([score("c", *at, unscored=4)]).split_cell("C", "s", "t", "d") == Cell(text="unscored")


def test_the_tables_own_mean_of_a_split_goes_first() -> None:
    at = ("t", "d", "s")
    own = score("all", *at, omega=-5.0, low=-7.0, high=-3.0)
    table = ScoreTable([score("a", *at, omega=10.0), own])
    assert table.split_cell("C", "s", "t", "d") == Cell(text="−5.0", bounds=(-7.0, -3.0), loss=True, sure=True)


def test_measures_over_tasks() -> None:
    rows = [score("u", "t1", "x", n=10, repaired=0.5), score("u", "t1", "y", n=10, repaired=0.0),
            score("u", "t2", "x", n=30, repaired=1.0), score("u", "t2", "x", "s", n=99, repaired=0.0)]  # fmt: skip
    table = ScoreTable(rows)
    assert table.answers("C", "u") == 40, "each task's questions once, whatever its dimensions"
    assert table.measure("C", "u", "repaired", "x") == 0.75
    assert table.measure("C", "u", "repaired", "y") == 0.0
    assert table.measure("C", "u", "untouched") is None
    assert table.measure("C", "nobody", "repaired") is None
    assert table.answers("C", "nobody") is None
    assert ScoreTable([score("u", "all", "x", n=7), score("u", "all", "y", n=9)]).answers("C", "u") == 9


def test_the_tables_own_measures_go_first() -> None:
    table = ScoreTable([
        score("u", "t1", "x", n=10, repaired=0.5, untouched=0.5), score("u", "all", "y", n=3, untouched=0.1),
        score("u", "all", "x", n=41, repaired=0.25, untouched=0.0), score("u", "all", "z", n=5, untouched=0.2),
    ])  # fmt: skip
    assert table.measure("C", "u", "repaired", "x") == 0.25
    assert table.measure("C", "u", "untouched") == 0.0, "the dimension that most answers have"
    assert table.measure("C", "u", "untouched", "y") == 0.1


def test_losses_count_the_main_tables_cells_only() -> None:
    table = ScoreTable([
        score("a", "t", "x", omega=-1.0), score("a", "t", "y", omega=-9.0, high=-1.0), score("a", "t2", "x", omega=1.0),
        score("a", "t2", "y"), score("all", "t", "x", omega=-1.0), score("a", "t", "x", "s", omega=-1.0),
        score("a", "all", "x", omega=-1.0),
    ])  # fmt: skip
    assert table.losses("C") == (3, 2, 1)
    assert table.losses("other") == (0, 0, 0)


def test_classes_stand_in_order_of_first_appearance() -> None:
    known = [Upstream(name=n, group=g, seen=None) for n, g in (("x", "open"), ("y", "API"), ("z", "open"))]
    table = ScoreTable([score("y"), score("stranger"), score("all")])
    assert [(g, [u.name for u in members]) for g, members in table.groups(known)] == [
        ("open", ["x", "z"]), ("API", ["y"]), ("Upstreams", ["stranger"]),
    ]  # fmt: skip
