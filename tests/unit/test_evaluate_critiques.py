"""Critiques beside counted faults: balanced accuracy against scikit-learn, its interval, and what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sklearn.metrics import balanced_accuracy_score

from aligner.evaluate.config import EvalSettings
from aligner.evaluate.critiques import LEAST, Critiques
from aligner.generate.method import Method

SETTINGS = EvalSettings(out=Path("run"), resamples=500)
Said = Sequence[tuple[bool, bool | None]]


def method(**dimensions: str) -> Method:
    return Method.from_dict({"name": "m", "principles": [
        {"name": name, "dimension": dimension, "critique": "{question} {answer}", "passes": "Yes",
         "revise": "{question} {answer} {critique}"}
        for name, dimension in dimensions.items()
    ]})  # fmt: skip


def rows(settings: EvalSettings = SETTINGS, **said: Said) -> dict[str, dict[str, Any]]:
    """Rows by principle; `said` has (has a fault, passed) of each answer."""
    count = max(map(len, said.values()))
    heard = Critiques("M", "up", method(**{name: name for name in said}), count)
    for i in range(count):
        known = {name: pairs[i] for name, pairs in said.items() if i < len(pairs)}
        critiques = {name: {"passed": passed, "text": ""} for name, (_, passed) in known.items()}
        heard.add(i, critiques, {name: int(faulty) for name, (faulty, _) in known.items()})
    return {row["principle"]: row for row in heard.rows(settings)}


def simulated(count: int, faulty: float, right: float, seed: int) -> list[tuple[bool, bool]]:
    random = Random(seed)
    pairs = []
    for _ in range(count):
        fault = random.random() < faulty
        pairs.append((fault, fault != (random.random() < right)))
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_scikit_learn_s(seed) -> None:
    one, two = simulated(80, 0.3, 0.7, seed), simulated(60, 0.6, 0.55, seed + 100)
    found = rows(a=one, b=two)
    expected = [
        balanced_accuracy_score([not faulty for faulty, _ in pairs], [passed for _, passed in pairs])
        for pairs in (one, two)
    ]
    assert [found["a"]["accuracy"], found["b"]["accuracy"]] == pytest.approx(expected, abs=1e-4)
    assert found["all"]["accuracy"] == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert found["a"]["low"] < expected[0] < found["a"]["high"]
    assert found["all"]["dimension"] is None


def test_the_interval_covers_the_truth() -> None:
    settings = EvalSettings(out=Path("run"), resamples=200)
    covered = 0
    for seed in range(100):
        row = rows(settings, a=simulated(150, 0.4, 0.65, seed))["a"]
        covered += row["low"] <= 0.65 <= row["high"]
    assert 88 <= covered <= 100


@pytest.mark.parametrize(
    ("right", "at_chance"), [(0.5, True), (0.2, True), (0.8, False)], ids=["blind", "contrary", "seeing"]
)
def test_at_chance(right, at_chance) -> None:
    assert rows(a=simulated(400, 0.5, right, 3))["all"]["at_chance"] is at_chance


def test_counts_by_class_and_what_does_not_say() -> None:
    said = [(False, True)] * 9 + [(False, False)] * 3 + [(True, True)] * 2 + [(True, False)] * 6 + [(True, None)] * 4
    row = rows(a=said)["a"]
    names = ("faultless_passed", "faultless_failed", "faulty_passed", "faulty_failed", "unread")
    assert [row[name] for name in names] == [9, 3, 2, 6, 4]
    assert row["accuracy"] == pytest.approx((9 / 12 + 6 / 8) / 2)


@pytest.mark.parametrize("few", [0, LEAST - 1])
@pytest.mark.parametrize("fault", [True, False])
def test_too_few_of_a_kind_say_nothing(few, fault) -> None:
    said = [(fault, not fault)] * few + [(not fault, fault)] * 50
    found = rows(a=said)
    for row in found.values():
        assert (row["accuracy"], row["low"], row["high"], row["at_chance"]) == (None, None, None, None)
    enough = rows(a=[(fault, not fault)] * LEAST + said)
    assert enough["a"]["accuracy"] == 1.0


def test_a_principle_that_cannot_be_said_is_no_part_of_the_mean() -> None:
    seeing = simulated(100, 0.5, 0.9, 1)
    found = rows(a=seeing, b=[(False, True)] * 100)
    assert found["all"]["accuracy"] == found["a"]["accuracy"]
    assert found["b"]["at_chance"] is None
    assert found["all"]["faultless_passed"] == found["a"]["faultless_passed"] + 100


def test_a_blind_critic_gains_nothing_from_principles_of_unlike_difficulty() -> None:
    """It passes everything by one principle and fails everything by another."""
    found = rows(a=[(i % 10 == 0, True) for i in range(200)], b=[(i % 10 != 0, False) for i in range(200)])
    assert found["all"]["accuracy"] == 0.5
    assert found["all"]["at_chance"] is True


def test_a_principle_is_held_against_its_dimension() -> None:
    heard = Critiques("M", "up", method(polite="helpful", clear="helpful", true="honest"), 20)
    for i in range(20):
        faults = {"helpful": i % 2}  # honest is not counted
        said = {name: {"passed": i % 2 == 0} for name in ("polite", "true")}
        heard.add(i, said, faults)
    found = {row["principle"]: row for row in heard.rows(SETTINGS)}
    assert (found["polite"]["dimension"], found["polite"]["accuracy"]) == ("helpful", 1.0)
    assert found["clear"]["accuracy"] is None, "never drawn"
    assert found["true"]["accuracy"] is None


def test_without_counted_faults_there_are_no_rows() -> None:
    heard = Critiques("M", "up", method(a="a"), 10)
    for i in range(10):
        heard.add(i, {"a": {"passed": True}}, None)
    assert heard.rows(SETTINGS) == []


def test_the_same_seed_gives_the_same_interval() -> None:
    said = simulated(60, 0.5, 0.6, 2)
    first, again = rows(a=said), rows(a=said)
    other = rows(EvalSettings(out=Path("run"), resamples=500, seed=1), a=said)
    assert first == again
    assert first["a"]["low"] != other["a"]["low"]
