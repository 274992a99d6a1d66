"""Correctors compared, as lines of a page and of a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from aligner.errors import DataError
from aligner.report.pairs import overall, pair_notes, read_pairs
from aligner.report.task_pages import grouped

WHERE = "result.json"


def row(first: str, second: str, task: str, dimension: str = "helpful", **more: Any) -> dict[str, Any]:
    return {"first": first, "second": second, "task": task, "dimension": dimension, "difference": 4.25, "low": 1.0,
            "high": 8.0, "p_value": 0.0123, "better": 30, "worse": 13, "regressions": 5, "pairs": 400, "unpaired": 1,
            **more}  # fmt: skip


def result(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"pairs": list(rows), **more}


def test_a_line_has_the_difference_its_interval_and_the_counts() -> None:
    better, worse, unknown = read_pairs(
        result(
            row("S", "L", "t"),
            row("S", "L", "t", "honest", difference=-3.0, low=-6.0, high=-0.5, p_value=1e-9),
            row("S", "L", "all", difference=None, low=None, high=None, p_value=None, pairs=0),
        ),
        WHERE,
    )
    assert (better.cell.text, better.cell.interval, better.p_value) == ("+4.2", "[+1.0, +8.0]", "0.012")
    assert (better.counts, better.cell.loss, better.clear) == (("30", "13", "5", "400"), False, True)
    assert (worse.cell.mark, worse.p_value) == ("▼▼", "< 0.001")
    assert (unknown.cell.text, unknown.p_value, unknown.clear) == ("–", "–", False)


def test_over_all_tasks_or_the_only_one() -> None:
    several = read_pairs(result(row("S", "L", "t"), row("S", "L", "u"), row("S", "L", "all")), WHERE)
    assert [line.task for line in overall(several)] == ["all"]
    assert [line.task for line in overall(read_pairs(result(row("S", "L", "t")), WHERE))] == ["t"]
    assert read_pairs({}, WHERE) == []


def test_titles_name_the_pair_and_what_is_self_judged() -> None:
    lines = read_pairs(result(row("S", "L", "t"), row("S", "L", "u"), row("S", "M", "t"), self_judged=["M"]), WHERE)
    assert [(title, [line.task for line in of]) for title, of in grouped(lines)] == [
        ("L less S", ["t", "u"]), ("M less S (self-judged: M)", ["t"]),
    ]  # fmt: skip


def test_a_terminal_has_a_line_for_each_pair() -> None:
    told = pair_notes(
        result(row("S", "L", "t"), row("S", "L", "all"), row("S", "L", "all", "honest", p_value=0.4),
               row("S", "M", "all", difference=None), self_judged=["L"]),
        WHERE,
    )  # fmt: skip
    assert told == [
        "'L' less 'S' on the same answers, in points of ω (self-judged: L): helpful +4.2 [+1.0, +8.0] (p 0.012); "
        "honest +4.2 [+1.0, +8.0] (p 0.400, may be chance)"
    ]
    many = pair_notes(result(*(row("S", str(i), "all") for i in range(9))), WHERE)
    assert len(many) == 7
    assert many[-1] == "3 more pairs of correctors: see the page"


def test_damaged() -> None:
    with pytest.raises(DataError, match=r"result.json: 'p_value' is 'low'; expected a number"):
        read_pairs(result(row("S", "L", "t", p_value="low")), WHERE)
