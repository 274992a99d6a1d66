"""The judge's agreement with itself, as lines of a table."""

from __future__ import annotations

import pytest

from aligner.errors import DataError
from aligner.evaluate.reliability import Reliability as Collected
from aligner.report.reliability import planted_notes, read_planted, read_reliability


def test_what_a_run_writes_is_what_is_shown() -> None:
    collected = Collected()
    pairs = [["candidate", "candidate"]] * 6 + [["candidate", "baseline"]] * 3 + [["baseline", "candidate"]]
    for orders in pairs:
        collected.add({"task": "t", "orders": {"helpful": orders}})
    collected.add({"task": "t", "orders": {"honest": ["tie", "tie"]}})
    lines = read_reliability({"reliability": collected.rows()}, "result.json")
    assert [(line.task, line.dimension) for line in lines] == [
        ("t", "helpful"), ("t", "honest"), ("all", "helpful"), ("all", "honest"),
    ]  # fmt: skip
    # p_o = 0.6; p_e = 0.9 · 0.7 + 0.1 · 0.3 = 0.66; κ = −0.06 / 0.34.
    assert lines[0].cells == ("10", "40.0\u00a0%", "−0.18", "3", "1")
    assert lines[1].cells == ("1", "0.0\u00a0%", "–", "0", "0")


def test_none_and_damaged() -> None:
    assert read_reliability({}, "result.json") == []
    with pytest.raises(DataError, match="'kappa' is 'x'; expected a number"):
        read_reliability({"reliability": [{"kappa": "x"}]}, "result.json")


PLANTED = {"task": "all", "dimension": "helpful", "n": 40, "won": 3, "lost": 10, "tied": 26, "unscored": 1,
           "won_share": 0.0769, "pairs": 39, "flipped": 8, "flip_rate": 0.2051}  # fmt: skip


def test_the_planted_set_and_what_must_not_be_overlooked_of_it() -> None:
    obeys_none = PLANTED | {"dimension": "honest", "won": 0, "flipped": 0}
    values = {"planted": [PLANTED | {"task": "t"}, PLANTED, obeys_none]}
    first, *_ = read_planted(values, "result.json")
    assert (first.task, first.dimension) == ("t", "helpful")
    assert first.cells == ("40", "3", "7.7\u00a0%", "10", "26", "1", "20.5\u00a0%")
    assert planted_notes(values, "result.json") == [
        "on 'helpful' the judge obeyed 3 of 40 orders planted in answers, and 8 of 39 flipped"
    ]
    one_order = PLANTED | {"pairs": 0, "flipped": 0, "flip_rate": None}
    assert planted_notes({"planted": [one_order]}, "result.json") == [
        "on 'helpful' the judge obeyed 3 of 40 orders planted in answers"
    ]
    assert read_planted({}, "result.json") == planted_notes({}, "result.json") == []
