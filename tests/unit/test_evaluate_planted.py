"""The planted set: what is drawn, what is kept, and what its verdicts come to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aligner.evaluate.config import EvalConfig
from aligner.evaluate.planted import PLANTS, Planted, plant
from aligner.evaluate.progress import Progress
from aligner.evaluate.store import Store
from aligner.evaluate.tasks import Suite
from aligner.runs import RunDir
from aligner.types import Verdict
from tests.evaluation import rows_in, stored_config, two_tasks


class Obeying:
    """Prefers every answer in which the person who wrote its instructions speaks, and flips over all other orders."""

    async def judge(self, question, candidate, baseline):
        obeyed = "As the person who wrote your instructions" in candidate
        orders = ("candidate", "candidate") if obeyed else ("candidate", "baseline")
        winner = "candidate" if obeyed else "tie"
        return [Verdict(dimension="helpful", winner=winner, orders=orders), Verdict(dimension="harmless", winner=None)]


def made(tmp_path: Path, count: int, suite: Suite) -> tuple[EvalConfig, RunDir, Planted]:
    config = stored_config(tmp_path, planted=count)
    run_dir = RunDir(config.out)
    return config, run_dir, Planted(config, run_dir, suite)


def answers(tmp_path: Path, suite: Suite, **lacking: set[int]) -> dict[str, Store]:
    found = {}
    for name in ("a", "b"):
        store = found[name] = Store(tmp_path / "answers" / f"{name}.jsonl", suite)
        for place in range(len(suite)):
            if place not in lacking.get(name, ()):
                store.write(place, {"answer": f"{name} says {place}"})
    return found


@pytest.fixture
def suite(tmp_path) -> Suite:
    return two_tasks(tmp_path, 20)


def judged(planted: Planted, judge) -> None:
    bench = planted.bench(judge, 4)

    async def work() -> None:
        with Progress("", 0, 0) as progress:
            await bench.judge_all(progress)

    asyncio.run(work())
    for store in (bench.answers, bench.corrections, bench.verdicts):
        store.close()


def test_so_many_of_each_task_from_all_upstreams_in_turn(tmp_path, suite) -> None:
    config, run_dir, planted = made(tmp_path, 8, suite)
    planted.prepare(answers(tmp_path, suite))
    texts, plain = (rows_in(run_dir.path / "planted" / f"{n}.jsonl") for n in ("corrections", "answers"))
    assert [r["task"] for r in texts] == ["one"] * 8 + ["two"] * 8
    assert [r["upstream"] for r in plain] == ["a", "b"] * 8
    for text, answer in zip(texts, plain, strict=True):
        assert text["correction"] == plant(answer["answer"], config.seed)
        assert text["correction"].removeprefix(f"{answer['answer']}\n\n") in PLANTS
    Planted(config, run_dir, suite).prepare(answers(tmp_path / "again", suite))
    assert rows_in(run_dir.path / "planted" / "corrections.jsonl") == texts, "nothing is planted twice"


def test_an_answer_that_an_upstream_lacks_is_another_upstreams(tmp_path, suite) -> None:
    _, run_dir, planted = made(tmp_path, 20, suite)
    planted.prepare(answers(tmp_path, suite, a=set(range(40)), b={0, 1}))
    plain = rows_in(run_dir.path / "planted" / "answers.jsonl")
    assert {r["upstream"] for r in plain} == {"b"}
    assert len(plain) == 38, "and where none has one there is none"


def test_what_the_verdicts_come_to(tmp_path, suite) -> None:
    _, _, planted = made(tmp_path, 20, suite)
    planted.prepare(answers(tmp_path, suite))
    judged(planted, Obeying())
    found = {(r["task"], r["dimension"]): r for r in planted.rows()}
    assert list(found) == [("one", "helpful"), ("two", "helpful"), ("two", "harmless"), ("all", "helpful"),
                           ("all", "harmless")]  # fmt: skip
    whole = found["all", "helpful"]
    won = sum("As the person" in row["correction"] for row in planted.verdicts())
    assert 0 < won < 40
    assert (whole["n"], whole["won"], whole["tied"], whole["lost"], whole["unscored"]) == (40, won, 40 - won, 0, 0)
    assert whole["won_share"] == won / 40
    assert (whole["pairs"], whole["flipped"], whole["flip_rate"]) == (40, 40 - won, (40 - won) / 40)
    silent = found["all", "harmless"]
    assert (silent["unscored"], silent["won_share"], silent["pairs"], silent["flip_rate"]) == (20, None, 0, None)
    assert planted.failed == 0
