"""The table against numbers worked out by hand, and the examples that are kept for the report."""

from __future__ import annotations

import json

import pytest

from aligner.evaluate.config import EvalSettings, UpstreamSpec
from aligner.evaluate.examples import Examples, gain_of
from aligner.evaluate.run import run
from aligner.evaluate.table import Tally
from tests.evaluation import PlainJudge, cell, rows_in, stored_config, suite_of

VALUES = ("n", "omega", "wins", "losses", "ties", "unscored", "fault_rate", "repaired", "untouched", "edit_ratio")


def values(out, **key: str) -> list[float | None]:
    row = cell(out, **key)
    return [row[name] for name in VALUES]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Two upstreams, two tasks; see `stored_config` for what stands in them."""
    return run(stored_config(tmp_path_factory.mktemp("table"))).path


def test_one_upstream_and_task(out) -> None:
    """a: a win, a copy, a loss, a win; half of the answers have a fault, both are repaired; one of the two others is
    copied."""
    assert values(out, upstream="a", task="one") == [4, 25.0, 2, 1, 1, 0, 0.5, 1.0, 0.5, 0.75]
    assert values(out, upstream="b", task="one") == [4, 0.0, 0, 0, 4, 0, 0.5, 0.0, 1.0, 0.0]
    assert values(out, upstream="a", task="two", dimension="harmless") == [4, 0.0, 0, 0, 4, 0, 0.0, None, 0.5, 0.75]


def test_splits(out) -> None:
    key = {"upstream": "a", "task": "one"}
    assert values(out, **key, split="seen")[:5] == [2, 0.0, 1, 1, 0]
    assert values(out, **key, split="entity")[:5] == [2, 50.0, 1, 0, 1]
    table = json.loads((out / "table.json").read_text())
    of = {name: {row["split"] for row in table if row["upstream"] == name} for name in ("a", "b", "all", "unseen")}
    assert of["a"] == {"all", "seen", "entity"}
    assert of["b"] == of["unseen"] == {"all", "upstream", "entity"}, "an unseen upstream is what is new about it"
    assert of["all"] == {"all", "seen", "entity", "upstream"}
    result = json.loads((out / "result.json").read_text())
    assert result["tasks"][0]["splits"] == {"seen": 2, "entity": 2, "upstream": 2}


def test_means_over_upstreams_and_tasks(out) -> None:
    assert values(out, task="one") == [8, 12.5, 2, 1, 5, 0, 0.5, 0.5, 0.75, 0.375]
    assert values(out, upstream="seen", task="one") == values(out, upstream="a", task="one")
    assert values(out, upstream="unseen", task="one") == values(out, upstream="b", task="one")
    assert values(out, upstream="a")[:5] == [8, 25.0, 4, 2, 2]
    assert values(out)[:5] == [16, 12.5, 4, 2, 10]
    assert values(out, dimension="harmless")[:2] == [8, 0.0], "a mean over the tasks that have the dimension"


def test_intervals_hold_the_rate_and_a_copy_has_none_to_speak_of(out) -> None:
    for row in json.loads((out / "table.json").read_text()):
        assert -100 <= row["low"] <= row["omega"] <= row["high"] <= 100
        if not row["wins"] + row["losses"]:
            assert row["low"] == row["high"] == 0
    one, both = cell(out, upstream="a", task="one"), cell(out, upstream="a")
    assert both["high"] - both["low"] < one["high"] - one["low"], "two tasks say more than one"


def test_result(out) -> None:
    result = json.loads((out / "result.json").read_text())
    assert result["kind"] == "eval"
    assert result["regressions"] == {"c": {"worse": 2, "n": 16, "share": 0.125}}
    assert (result["unscored"], result["failed"], result["self_judged"]) == (0, 0, [])
    assert [(u["name"], u["group"], u["seen"]) for u in result["upstreams"]] == [
        ("a", "api", True),
        ("b", "open", False),
    ]
    assert result["tasks"][1]["dimensions"] == ["helpful", "harmless"]
    assert result["correctors"][0] == {
        "name": "c", "aligner": None, "corrections": "corrections.jsonl", "method": None, "parameters": None,
        "unit": None, "lineage": [],
    }  # fmt: skip
    assert set(result["seconds"]) == {"answers", "corrections", "judging"}
    assert result["judge"]["name"] == "scripted"
    costs = {(c["corrector"], c["upstream"]): c for c in result["costs"]}
    assert list(costs) == [(None, "a"), (None, "b"), (None, "all"), ("c", "a"), ("c", "b"), ("c", "all")]
    assert costs["c", "all"]["answers"] == 16
    assert costs["c", "all"]["prompt_tokens"] is None, "what stored texts took is not known"


def test_answers_made_worse_by_upstream_task_and_split(out) -> None:
    """Upstream a loses on q2, a seen question of either task; q2 of task two counts once, whatever its dimensions."""
    rows = json.loads((out / "result.json").read_text())["made_worse"]
    found = {(r["upstream"], r["task"], r["split"]): (r["worse"], r["n"], r["share"]) for r in rows}
    assert len(found) == len(rows)
    assert {r["corrector"] for r in rows} == {"c"}
    assert found["a", "one", "all"] == found["seen", "one", "all"] == (1, 4, 0.25)
    assert found["a", "one", "seen"] == found["a", "two", "seen"] == (1, 2, 0.5)
    assert found["a", "one", "entity"] == (0, 2, 0.0)
    assert found["a", "all", "seen"] == (2, 4, 0.5)
    assert found["b", "two", "upstream"] == found["unseen", "two", "upstream"] == (0, 2, 0.0)
    assert found["all", "one", "all"] == (1, 8, 0.125)
    assert found["all", "all", "all"] == (2, 16, 0.125), "as under regressions"
    table = json.loads((out / "table.json").read_text())
    assert set(found) == {(r["upstream"], r["task"], r["split"]) for r in table}


def test_verdict_rows(out) -> None:
    rows = {row["id"]: row for row in rows_in(out / "verdicts" / "c" / "a.jsonl") if row["task"] == "two"}
    assert rows["q0"] == {
        "id": "q0", "task": "two", "split": "seen", "upstream": "a", "corrector": "c", "question": "question 0?",
        "answer": "bad", "correction": "good", "kept_because": None, "edit_ratio": 1.0,
        "verdicts": {"helpful": "candidate", "harmless": "tie"},
        "faults_before": {"helpful": 1, "harmless": 0}, "faults_after": {"helpful": 0, "harmless": 0},
        "scores_before": None, "scores_after": None, "fault_spans": None, "error": None,
    }  # fmt: skip


def test_samples_are_gains_losses_and_others(out) -> None:
    rows = rows_in(out / "samples.jsonl")
    picked = [(r["picked"], r["id"], r["gain"]) for r in rows if (r["upstream"], r["task"]) == ("a", "one")]
    assert picked == [("gain", "q0", 1.0), ("gain", "q3", 1.0), ("loss", "q2", -1.0), ("random", "q1", 0.0)]
    assert all(r["picked"] == "random" for r in rows if r["upstream"] == "b")


def test_a_judge_that_only_compares_leaves_the_fault_shares_open(tmp_path) -> None:
    out = run(stored_config(tmp_path), judge=PlainJudge()).path
    assert values(out, upstream="a", task="one")[6:] == [None, None, None, 0.75]
    harmless = cell(out, upstream="a", task="two", dimension="harmless")
    # The one copy is a tie by definition; of the other three the judge says nothing in this dimension.
    assert [harmless[k] for k in ("n", "ties", "unscored", "omega")] == [4, 1, 3, 0.0]
    assert json.loads((out / "result.json").read_text())["unscored"] == 3


def row_of(place: int, winner: str | None, **changes) -> dict:
    row = {
        "id": f"q{place}", "task": "t", "upstream": "u", "split": "all", "answer": "x", "correction": "y",
        "edit_ratio": 0.5, "verdicts": {"helpful": winner}, "faults_before": None, "faults_after": None,
        "scores_before": None, "scores_after": None,
    }  # fmt: skip
    return row | changes


def test_what_has_no_row_is_unscored_and_nothing_scored_has_no_rate(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 4)
    tally = Tally("c", suite, [UpstreamSpec(name="u"), UpstreamSpec(name="v")])
    tally.add(0, row_of(0, "candidate"))
    tally.add(2, row_of(2, None))
    settings = EvalSettings(out=tmp_path / "run", resamples=50)
    rows = {(r["upstream"], r["task"]): r for r in tally.rows(settings)}
    assert set(rows) == {(u, t) for u in ("u", "v", "all") for t in ("t", "all")}, "no seen and unseen to tell apart"
    u, v, both = rows["u", "t"], rows["v", "t"], rows["all", "t"]
    assert [u[k] for k in ("n", "wins", "unscored", "omega")] == [4, 1, 3, 100.0]
    assert [v[k] for k in ("n", "unscored", "omega", "low", "high", "edit_ratio")] == [4, 4, None, None, None, None]
    assert (both["omega"], both["unscored"]) == (100.0, 7), "the mean is over what is scored"
    assert tally.unscored == 7
    assert (tally.regressions.worse, tally.regressions.judged) == (0, 1)


def test_an_answer_is_made_worse_once_and_only_where_it_has_a_verdict(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 4, dimensions=("helpful", "honest"))
    tally = Tally("c", suite, [UpstreamSpec(name="u"), UpstreamSpec(name="v")])
    tally.add(0, row_of(0, None) | {"verdicts": {"helpful": "baseline", "honest": "baseline"}})
    tally.add(1, row_of(1, None) | {"verdicts": {"helpful": "candidate", "honest": "baseline"}})
    tally.add(2, row_of(2, None) | {"verdicts": {"helpful": "tie", "honest": None}})
    tally.add(3, row_of(3, None) | {"verdicts": {"helpful": None, "honest": None}})
    tally.add(0, row_of(0, None, upstream="v"))
    rows = {(r["upstream"], r["task"]): (r["worse"], r["n"], r["share"]) for r in tally.worse_rows()}
    assert rows["u", "t"] == rows["u", "all"] == rows["all", "t"] == (2, 3, 0.6667)
    assert rows["v", "t"] == (0, 0, None)


def test_faults_are_only_counted_where_they_are_known(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 4)
    tally = Tally("c", suite, [UpstreamSpec(name="u")])
    tally.add(0, row_of(0, "tie", faults_before={"helpful": 2}, faults_after=None))
    tally.add(1, row_of(1, "tie", faults_before={"helpful": 1}, faults_after={"helpful": 0}))
    tally.add(2, row_of(2, "tie", faults_before={"other": 1}, faults_after={}))
    tally.add(3, row_of(3, "tie", faults_before={"helpful": 0}, correction="x"))
    row = tally.rows(EvalSettings(out=tmp_path / "run", resamples=5))[0]
    assert (row["fault_rate"], row["repaired"], row["untouched"]) == (pytest.approx(2 / 3, abs=1e-4), 1.0, 1.0)


def test_gain_is_the_scores_difference_where_there_is_one() -> None:
    assert gain_of(row_of(0, "baseline"), ("helpful",)) == -1.0
    scored = row_of(0, "baseline", scores_before={"helpful": 1.0, "x": 0.0}, scores_after={"helpful": 1.5, "x": 9.0})
    assert gain_of(scored, ("helpful",)) == 0.5
    assert gain_of(scored, ("helpful", "x", "unknown")) == 9.5
    assert gain_of(row_of(0, None), ("helpful",)) == 0.0


def test_examples_are_the_largest_and_no_row_stands_twice() -> None:
    examples = Examples(2, seed=1)
    for place, gain in enumerate([0.5, 3.0, -1.0, 2.0, -7.0, -2.0, 3.0, 0.0]):
        examples.add(place, row_of(place, "tie"), gain)
    examples.add(8, row_of(8, None), 0.0)
    picked = list(examples.picked())
    assert picked[:4] == [("gain", 1, 3.0), ("gain", 6, 3.0), ("loss", 4, -7.0), ("loss", 5, -2.0)]
    others = [place for kind, place, _ in picked if kind == "random"]
    assert len(others) == 2
    assert set(others) <= {0, 2, 3, 7}
    assert list(Examples(0, seed=1).picked()) == []


def test_a_loss_that_another_dimension_makes_up_for_is_a_loss() -> None:
    examples = Examples(2, seed=1)
    even = row_of(0, "candidate")
    even["verdicts"]["honest"] = "baseline"
    examples.add(0, even, 0.0)
    examples.add(1, row_of(1, "tie"), 0.0)
    assert next((kind, place) for kind, place, _ in examples.picked()) == ("loss", 0)
