"""ScoreTable: cells, means and classes of a table.json, and how a terminal shows them."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from aligner.errors import DataError
from aligner.report import wording
from aligner.report.table import Cell, Score, ScoreTable, Upstream, cell, terminal_table


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


# The terminal


def shown(rows: list[dict[str, Any]], upstreams: list[dict[str, Any]], width: int = 160, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    for table in terminal_table(rows, upstreams):
        console.print(table)
    return out.getvalue()


ROWS = [
    row("one", "facts", "helpful", omega=12.0, low=3.0, high=21.0),
    row("one", "facts", "honest", omega=-4.0, low=-9.0, high=2.0),
    row("two", "facts", "helpful", omega=-14.0, low=-19.0, high=-2.0),
    row("two", "facts", "honest", unscored=5, n=5),
    row("all", "facts", "helpful", omega=-1.0, low=-3.0, high=1.0),
    {**row("one", "facts", "helpful", omega=50.0), "corrector": "[bold]D[/bold]"},
]
UPSTREAMS = [{"name": "two", "group": "API", "seen": False}, {"name": "one", "group": "open", "seen": True}]


def test_a_terminal_shows_the_same_cells() -> None:
    said = shown(ROWS, UPSTREAMS)
    first, second = said.split("[bold]D[/bold]")
    lines = first.splitlines()
    assert lines[0].strip() == "C"
    at = {name: next(i for i, line in enumerate(lines) if line.strip().startswith(name)) for name in
          ("API", "two *", "open", "one", "all upstreams")}  # fmt: skip
    assert list(at.values()) == sorted(at.values()), "by class, the means at the foot"
    assert "▼▼ −14.0" in lines[at["two *"]]
    assert "unscored" in lines[at["two *"]]
    assert "−19…−2" in lines[at["two *"] + 1]
    assert "5 of 5" in lines[at["two *"] + 1]
    assert "+12.0" in lines[at["one"]]
    assert "▼ −4.0" in lines[at["one"]]
    assert "▼ −1.0" in lines[at["all upstreams"]]
    assert "+50.0" in second
    assert "* not seen in training" in first


def test_a_terminals_losses_are_red_and_bold_where_sure() -> None:
    said = shown(ROWS, UPSTREAMS, color=True)
    assert re.search(r"\x1b\[1;31m *▼▼ −14\.0", said)
    assert re.search(r"\x1b\[31m *▼ −4\.0", said)
    assert not re.search(r"\x1b\[(1;)?31m *\+12\.0", said)


def test_names_cannot_steer_a_terminal() -> None:
    rows = [row("up\x1b[2J\x07\n", "task\x1b]0;x\x07", "[red]d[/red]", omega=1.0)]
    said = shown(rows, [])
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "[red]d[/red]" in said


def test_eleven_upstreams_and_seven_columns_fit_a_terminal() -> None:
    upstreams = [{"name": f"model-{i}-7b-chat", "group": f"class {i // 4}"} for i in range(11)]
    rows = [row(u["name"], f"task{i}", "helpful", omega=-11.0, low=-20.5, high=-10.1) for u in upstreams
            for i in range(7)]  # fmt: skip
    said = shown(rows, upstreams, width=150)
    assert max(map(len, said.splitlines())) <= 150
    assert said.count("▼▼ −11.0") == 77
    assert said.count("−20…−10") == 77
    assert re.sub(r"\s", "", shown(rows, upstreams, width=80)).count("−11.0") == 77, (
        "a narrow one breaks lines and loses nothing"
    )


def test_means_over_tasks_give_way_where_there_is_no_room() -> None:
    def rows(n: int) -> list[dict[str, Any]]:
        return [row("u", task, "d", omega=1.0) for task in (*(f"t{i}" for i in range(n)), "all")]

    assert "all tasks" in shown(rows(7), [])
    assert "all tasks" not in shown(rows(8), [])


def test_an_empty_table_is_none() -> None:
    assert terminal_table([], UPSTREAMS) == []


def test_damaged_rows_are_named() -> None:
    with pytest.raises(DataError, match=r"table.json, row 1: 'omega' is '1'; expected a number"):
        terminal_table([row(omega="1")], [])
    with pytest.raises(DataError, match=r"result.json: 'seen' is 'yes'; expected true or false"):
        terminal_table([row()], [{"name": "u", "seen": "yes"}])
