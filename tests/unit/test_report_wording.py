"""Numbers and findings in plain words."""

from __future__ import annotations

import math

import pytest

from aligner.report import wording


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.count(None), "–"),
        (wording.count(0), "0"),
        (wording.count(1234567), "1,234,567"),
        (wording.count(math.inf), "infinite"),
        (wording.decimal(None), "–"),
        (wording.decimal(0.0), "0.000"),
        (wording.decimal(0.00001234), "1.2e-05"),
        (wording.decimal(math.nan), "not a number"),
        (wording.share(None), "–"),
        (wording.share(0), "0.0\u00a0%"),
        (wording.share(0.1234), "12.3\u00a0%"),
        (wording.signed(None), "–"),
        (wording.signed(0), "0.0"),
        (wording.signed(12.34), "+12.3"),
        (wording.signed(-0.04), "−0.04"),
        (wording.signed(-0.0), "0.0"),
        (wording.signed(math.nan), "not a number"),
        (wording.interval(-1.0, 2.0), "[−1.0, +2.0]"),
        (wording.interval(None, 2.0), ""),
        (wording.said({"a": [1, True, None], "b": {}}), "a: 1, yes, –, b: –"),
        (wording.said(""), "–"),
        (wording.duration(None), "–"),
        (wording.duration(0.25), "0.2 s"),
        (wording.duration(59.9), "1 min 0 s"),
        (wording.duration(42), "42 s"),
        (wording.duration(5400), "1 h 30 min"),
        (wording.magnitude(999), "999"),
        (wording.magnitude(7.2e9), "7.2 billion"),
        (wording.name(" two\nlines "), "two lines"),
        (wording.name("x" * 500), "x" * 119 + "…"),
        (wording.name("\u202eabc\u2066"), "abc"),
        (wording.plural(1, "row"), "1 row"),
        (wording.plural(0, "row"), "0 rows"),
        (wording.listing(["a"]), "a"),
        (wording.listing(["a", "b", "c"]), "a, b and c"),
        (wording.moved(2.0, 1.0), "fell from 2.000 to 1.000"),
        (wording.moved(1.0, 2.0), "rose from 1.000 to 2.000"),
        (wording.moved(1.0, 1.001), "stayed the same, from 1.000 to 1.001"),
        (wording.moved(1.0, math.nan), "rose from 1.000 to not a number"),
    ],
)
def test_numbers_in_words(said: str, expected: str) -> None:
    assert said == expected


def test_means_leave_out_what_was_not_measured() -> None:
    table = [{"source": "a", "n": 1, "x": 1.0}, {"source": "b", "n": 3, "x": 2.0}, {"source": "c", "n": 9, "x": None}]
    assert wording.weighted(table, ("x",), "n", "here") == ([1.75], 4.0)
    assert wording.weighted(table, ("x", "y"), "n", "here") is None
    assert wording.weighted([], ("x",), "n", "here") is None
    assert wording.weighted([{"n": 0, "x": 1.0}], ("x",), "n", "here") is None
