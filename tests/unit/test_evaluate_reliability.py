"""Agreement of a judge with itself, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from aligner.evaluate.reliability import Orders, Reliability


def agreement(**counts: int) -> Orders:
    letters = {"c": "candidate", "b": "baseline", "t": "tie"}
    found = Orders()
    for pair, count in counts.items():
        for _ in range(count):
            found.add([letters[pair[0]], letters[pair[1]]])
    return found


def test_kappa_by_hand() -> None:
    # 50 pairs: 20 + 15 agree, 5 and 10 do not. p_o = .7; margins 25/25 and 30/20: p_e = .5 × .6 + .5 × .4 = .5.
    found = agreement(cc=20, cb=5, bc=10, bb=15)
    assert found.kappa() == pytest.approx((0.7 - 0.5) / 0.5)
    assert (found.n, found.flipped, found.first, found.second) == (50, 15, 5, 10)
    assert found.values() == {
        "pairs": 50, "flipped": 15, "flip_rate": 0.3, "kappa": 0.4, "first_wins": 5, "second_wins": 10,
    }  # fmt: skip
    # 3 of 6 agree; rows c3 b1 t2, columns c2 b1 t3: p_e = (6 + 1 + 6) / 36.
    three = agreement(cc=2, ct=1, bt=1, tb=1, tt=1)
    assert three.kappa() == pytest.approx((3 / 6 - 13 / 36) / (1 - 13 / 36))


def test_a_judge_that_only_sees_the_position_has_no_agreement() -> None:
    always_first = agreement(cb=10)
    assert always_first.kappa() == 0.0, "both orders are constant, and agree as often as chance"
    assert always_first.values()["flip_rate"] == 1.0
    assert agreement(cb=5, bc=5).kappa() == -1.0


def test_nothing_to_agree_on() -> None:
    assert agreement().values()["flip_rate"] is None
    assert agreement().kappa() is None
    assert agreement(cc=4).kappa() is None, "one verdict in all pairs says nothing"
    one = Orders()
    one.add(["candidate"])
    one.add(["candidate", None])
    assert one.n == 0


def test_by_task_and_dimension() -> None:
    found = Reliability()
    found.add({"task": "x", "orders": {"helpful": ["candidate", "baseline"], "honest": ["tie", "tie"]}})
    found.add({"task": "y", "orders": {"helpful": ["candidate", "candidate"]}})
    found.add({"task": "y"})
    found.add({"task": "y", "orders": {"honest": ["tie"]}})
    assert [(r["task"], r["dimension"], r["pairs"], r["flipped"]) for r in found.rows()] == [
        ("x", "helpful", 1, 1), ("x", "honest", 1, 0), ("y", "helpful", 1, 0),
        ("all", "helpful", 2, 1), ("all", "honest", 1, 0),
    ]  # fmt: skip
