"""Methods side by side: costs, critics and what they mean, as a page and a terminal show them."""

from __future__ import annotations

import pytest

from aligner.errors import DataError
from aligner.report.methods import Critic, critics, critique_notes, method_lines
from aligner.report.table import read_scores
from tests.methods import RESULT, TABLE


def test_lines() -> None:
    lines = {line.name: line for line in method_lines(read_scores(TABLE, "table.json"), RESULT, "result.json")}
    assert list(lines) == ["nothing", "M", "CAI", "self", "own", "stored"]
    found = {n: ([c.text for c in x.cells], x.worse, x.read, x.written, x.seconds) for n, x in lines.items()}
    assert found["nothing"] == (["0.0", "0.0"], "0.0\u00a0%", "12.0", "30.5", "0.250")
    assert found["M"] == (["+10.0", "+20.0"], "4.0\u00a0%", "44.0", "31.0", "0.010")
    assert found["CAI"] == (["−5.0", "+1.0"], "30.0\u00a0%", "80.0", "9.5", "0.500")
    assert found["own"] == (["self-judged", "self-judged"], "self-judged", "1.0", "1.0", "1.000")
    assert found["stored"] == (["+1.0", "+1.0"], "–", "–", "–", "–")


def test_critics() -> None:
    assert critics(RESULT, "result.json") == {
        "CAI": [
            Critic(upstream=name, accuracy=accuracy, interval=bounds, at_chance=at_chance, unread="0", asked="30")
            for name, accuracy, bounds, at_chance in (
                ("crow", "0.71", "[0.60, 0.80]", False), ("dove", "0.50", "[0.39, 0.59]", True),
            )
        ],
        "self": [
            Critic(upstream=name, accuracy="–", interval="", at_chance=None, unread="1,196", asked="1,200")
            for name in ("crow", "dove")
        ],
    }  # fmt: skip
    assert [c.note for of in critics(RESULT, "").values() for c in of] == ["", "at chance", *["cannot be said"] * 2]


def test_what_critics_mean_for_the_comparison() -> None:
    blind, unsure = critique_notes(RESULT, "result.json")
    assert blind == (
        "The critiques by CAI are at chance on dove (0.50 [0.39, 0.59]): there the comparison with CAI is not "
        "meaningful."
    )
    assert unsure == (
        "Whether the critiques by self are better than chance cannot be said on crow (1,196 of 1,200 unread) and dove "
        "(1,196 of 1,200 unread): too few of the faulty answers, or of the others, have one that says whether they "
        "pass. Nothing follows from the comparison with self there."
    )
    (silent,) = critique_notes(RESULT | {"critiques": []}, "result.json")
    assert silent == "How good the critiques by CAI and self are is not known: the judge counts no faults."
    assert critique_notes({"correctors": ["M"]}, "result.json") == []


def test_older_results_have_no_lines() -> None:
    table = read_scores(TABLE, "table.json")
    assert method_lines(table, {}, "result.json") == []
    assert critics({}, "result.json") == {}


@pytest.mark.parametrize(
    ("key", "row", "message"),
    [
        ("costs", {"corrector": 3, "upstream": "all"}, "'corrector' is 3; expected text"),
        ("costs", {"upstream": "all", "seconds_each": "x"}, "'seconds_each' is 'x'; expected a number"),
        ("critiques", {"principle": "all", "at_chance": 1}, "'at_chance' is 1; expected true, false or null"),
        ("critiques", {"principle": "all", "accuracy": "x"}, "'accuracy' is 'x'; expected a number"),
    ],
)
def test_damaged_results_are_named(key, row, message) -> None:
    def read() -> None:
        method_lines(read_scores(TABLE, "table.json"), {key: [row]}, "r")
        critics({key: [row]}, "r")

    with pytest.raises(DataError, match=message):
        read()
