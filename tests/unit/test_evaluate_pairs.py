"""Pairs of correctors: which answers are compared, and that the numbers are those of the paired test."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from aligner.evaluate.config import EvalSettings, UpstreamSpec
from aligner.evaluate.metrics import LOSS, TIE, UNSCORED, WIN
from aligner.evaluate.pairs import pair_rows
from aligner.evaluate.significance import compare_paired
from aligner.evaluate.table import Tally
from tests.evaluation import suite_of, two_tasks

UPSTREAMS = [UpstreamSpec(name=name) for name in "ab"]


def tallies(suite, count: int) -> list[Tally]:
    """Correctors with random outcomes, the same each time."""
    rng = np.random.default_rng(3)
    found = []
    for name in "xyz"[:count]:
        tally = Tally(name, suite, UPSTREAMS)
        for outcomes in tally.outcomes.values():
            outcomes[:] = rng.choice([WIN, TIE, LOSS, UNSCORED], size=outcomes.shape, p=[0.4, 0.3, 0.2, 0.1])
        found.append(tally)
    return found


@pytest.fixture
def settings(tmp_path) -> EvalSettings:
    return EvalSettings(out=tmp_path, resamples=100)


def test_every_two_correctors_are_compared_in_every_task_and_dimension_and_over_all(tmp_path, settings) -> None:
    suite = two_tasks(tmp_path, 12)
    found = pair_rows(tallies(suite, 3), settings)
    cells = [("one", "helpful"), ("two", "helpful"), ("two", "harmless"), ("all", "helpful"), ("all", "harmless")]
    assert [(r["first"], r["second"], r["task"], r["dimension"]) for r in found] == [
        (*pair, *cell) for pair, cell in product([("x", "y"), ("x", "z"), ("y", "z")], cells)
    ]


def test_upstreams_are_taken_together_and_all_tasks_below_one_another(tmp_path, settings) -> None:
    one, other = tallies(suite := two_tasks(tmp_path, 12), 2)
    rows = {(r["task"], r["dimension"]): r for r in pair_rows([one, other], settings)}
    keys = [("one", "helpful"), ("two", "helpful")]
    stacked = [np.concatenate([t.outcomes[key] for key in keys]) for t in (one, other)]
    expected = compare_paired(*stacked, resamples=100, seed=settings.seed)
    row = rows["all", "helpful"]
    assert row["difference"] == pytest.approx(expected.difference, abs=1e-4)
    assert (row["low"], row["high"]) == pytest.approx(expected.interval, abs=1e-4)
    assert row["p_value"] == pytest.approx(expected.p_value, rel=1e-3)
    assert (row["better"], row["worse"], row["regressions"]) == (expected.better, expected.worse, expected.regressions)
    assert row["pairs"] + row["unpaired"] <= 2 * len(suite)
    assert row["pairs"] == sum(rows[key]["pairs"] for key in keys)


def test_one_task_is_not_told_twice_and_one_corrector_not_at_all(tmp_path, settings) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 5)
    assert [r["task"] for r in pair_rows(tallies(suite, 2), settings)] == ["t"]
    assert pair_rows(tallies(suite, 1), settings) == []


def test_where_nothing_is_scored_nothing_is_said(tmp_path, settings) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 5)
    (row,) = pair_rows([Tally(name, suite, UPSTREAMS) for name in "xy"], settings)
    assert (row["difference"], row["low"], row["p_value"], row["pairs"]) == (None, None, None, 0)
