"""What a terminal shows of an evaluation: the main tables, methods side by side, and what must not be overlooked."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from aligner.errors import DataError
from aligner.report.terminal import grids, notes, terminal_table
from tests.methods import RESULT, TABLE


def row(upstream: str = "u", task: str = "t", dimension: str = "d", split: str = "all", **more: Any) -> dict[str, Any]:
    return {"corrector": "C", "upstream": upstream, "task": task, "dimension": dimension, "split": split, **more}


def printed(tables: Any, width: int = 160, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    for table in tables:
        console.print(table)
    return out.getvalue()


def shown(rows: list[dict[str, Any]], upstreams: list[dict[str, Any]], width: int = 160, color: bool = False) -> str:
    return printed(terminal_table(rows, upstreams), width, color)


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
    assert shown(rows, upstreams, width=80).count("▼▼ −11.0") == 77, "a narrow one gets several tables"


DEMO = {
    "empathy": ("helpful", "honest"), "summary": ("helpful", "honest"), "harm": ("helpful", "harmless", "honest"),
    "deceit": ("helpful", "harmless", "honest"), "truth": ("helpful", "honest"), "sums": ("helpful", "honest"),
}  # fmt: skip


@pytest.mark.parametrize(("width", "tables"), [(160, 1), (100, 2), (80, 2), (60, 4), (40, 6), (24, 14)])
def test_a_table_wider_than_the_console_is_several_in_which_nothing_is_broken(width: int, tables: int) -> None:
    upstreams = [{"name": "heron", "group": "API-like", "seen": True}, {"name": "kite", "group": "API-like"}]
    rows = [
        row(u, task, dimension, omega=12.0 + i, low=-3.0, high=117.0 + i)
        for u in ("heron", "kite", "all")
        for i, (task, dimension) in enumerate((t, d) for t, dimensions in DEMO.items() for d in dimensions)
    ]
    lines = shown(rows, upstreams, width=width).splitlines()
    assert max(map(len, lines)) <= width
    words = [word for line in lines for word in line.split()]
    for i in range(14):
        assert words.count(f"+{12 + i}.0") == 3
        assert words.count(f"−3…+{117 + i}") == 3
    for task, dimensions in DEMO.items():
        assert words.count(task) == len(dimensions)
    assert words.count("heron") == words.count("kite") == tables, "every table has all upstreams"
    assert words.count("harmless") == 2
    titles = [line.strip() for line in lines if line.strip().startswith("C")]
    assert titles == (["C"] if tables == 1 else [f"C ({i + 1} of {tables})" for i in range(tables)])
    assert " ".join(words).count("above 0 the corrections are better") == 1


def test_a_task_is_not_parted_where_it_fits_whole() -> None:
    rows = [row("u", task, d, omega=1.0) for task, dimensions in DEMO.items() for d in dimensions]
    heads = [line.split() for line in shown(rows, [], width=50).splitlines() if set(line.split()) & DEMO.keys()]
    assert heads == [["empathy"] * 2 + ["summary"] * 2, ["harm"] * 3, ["deceit"] * 3 + ["truth"] * 2, ["sums"] * 2]


def test_long_names_leave_room_for_the_numbers() -> None:
    name, task = "organisation/" + "x" * 70, "task-" + "z" * 60
    said = shown([row(name, task, d, omega=-12.5) for d in ("helpful", "honest")], [], width=60)
    assert max(map(len, said.splitlines())) <= 60
    assert said.count("▼ −12.5") == 2
    assert said.count("x") == 2 * 70, "in two tables, broken, and whole"
    assert said.count("z") == 2 * 60


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


def test_a_self_judged_table_says_so() -> None:
    marked = printed(terminal_table(ROWS, UPSTREAMS, ["C"]))
    first, second = marked.split("[bold]D[/bold]")
    assert first.splitlines()[0].strip() == "C (self-judged)"
    assert "all upstreams (self-judged)" in first
    assert "self-judged" not in second


def test_methods_side_by_side() -> None:
    said = printed(grids(TABLE, RESULT)[-2:])
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert lines["nothing"] == ["nothing", "0.0", "0.0", "0.0", "%", "12.0", "30.5", "0.250"]
    assert lines["M"] == ["M", "+10.0", "+20.0", "4.0", "%", "44.0", "31.0", "0.010"]
    assert lines["CAI"] == ["CAI", "▼", "−5.0", "+1.0", "30.0", "%", "80.0", "9.5", "0.500"]
    assert lines["own"][:4] == ["own", "self-judged", "self-judged", "self-judged"]
    assert lines["stored"][-3:] == ["–", "–", "–"]
    assert [line.split() for line in said.splitlines() if line.split()[:1] == ["crow"]] == [["crow", "0.71", "–"]]
    assert "[0.60, 0.80]" in said
    assert [line.split()[1:] for line in said.splitlines() if line.split()[:1] == ["dove"]] == [["0.50", "–"]]
    assert "at chance" in said
    assert "cannot be said" in said
    assert said.count("1,196 of 1,200 unread") == 2


def test_without_a_method_there_is_only_the_main_table() -> None:
    correctors = [c for c in RESULT["correctors"] if not c.get("method")]
    assert len(grids(TABLE, RESULT | {"correctors": correctors})) == len({r["corrector"] for r in TABLE})
    assert len(grids(TABLE, RESULT | {"critiques": []})) == len({r["corrector"] for r in TABLE}) + 1


def test_what_must_not_be_overlooked() -> None:
    result = RESULT | {
        "unscored": 1200, "failed": 7, "first_reason": "no verdict line", "self_judged": ["own"],
        "reliability": [
            {"task": "all", "dimension": "helpful", "pairs": 100, "flipped": 12},
            {"task": "t", "dimension": "helpful", "pairs": 100, "flipped": 12},
            {"task": "all", "dimension": "honest", "pairs": 100, "flipped": 0},
        ],
    }  # fmt: skip
    lines = notes(result)
    assert lines[:3] == [
        "1,200 verdicts are unscored (7 answers, corrections or verdicts failed; the judge's first: no verdict line); "
        "they are counted apart, never as ties",
        "on 'helpful' the judge's verdict flips with the order of the answers in 12 of 100 pairs; those are ties",
        "the judge had a part in making 'own', so its win rates are self-judged",
    ]
    assert "there the comparison with CAI is not meaningful" in lines[3]
    assert notes({}) == []


def test_blank_answers_are_told() -> None:
    upstreams = [
        {"name": "one", "blank": 1200},
        {"name": "two", "blank": 0},
        {"name": "old"},
        {"name": "b", "blank": 1},
    ]
    assert notes({"upstreams": upstreams}) == [
        "blank answers, corrected and judged like any other: 1,200 of 'one' and 1 of 'b'"
    ]
    assert notes({"upstreams": upstreams[1:3]}) == []


def test_cut_answers_and_reasoning_are_told() -> None:
    upstreams = [{"name": "one", "blank": 0, "cut": 7, "reasoning": 0}, {"name": "b", "cut": 1, "reasoning": 2}]
    cut, reasoning = notes({"upstreams": upstreams})
    assert cut.startswith("answers that were cut off at their longest length, corrected and judged like any other (")
    assert cut.endswith("): 7 of 'one' and 1 of 'b'")
    assert reasoning.startswith("answers that begin with their reasoning, which was corrected and judged with them (")
    assert reasoning.endswith("): 2 of 'b'")
