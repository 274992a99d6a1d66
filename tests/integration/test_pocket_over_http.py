"""The pocket evaluation with its upstreams behind addresses: the numbers are those of the same upstreams in process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aligner.cli import main
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run
from aligner.generate.collect import collect
from aligner.pocket.suite import questions, triplets
from aligner.pocket.tasks import Tasks
from aligner.pocket.teacher import Teacher
from aligner.pocket.upstreams import ScriptedUpstream, profiles
from aligner.train.corrector import run as train
from aligner.types import Message, Sampling, as_chat
from tests.api_server import Api, Reply, completion, refusal, serving
from tests.evaluation import cell, rows_in
from tests.pocket import oracle
from tests.training import tiny_config, write_rows

NAMES = ("heron", "swift", "kite")
TASKS = {"truth": ["helpful", "honest"], "harm": ["helpful", "harmless", "honest"]}
SEED = 3


def upstreams() -> dict[str, ScriptedUpstream]:
    return {name: ScriptedUpstream(oracle().tasks, profiles()[name]) for name in NAMES}


@contextmanager
def address(upstream: ScriptedUpstream, refuses: int = 0) -> Iterator[Api]:
    """One upstream behind OpenAI's API; the first `refuses` requests are refused, as a busy server does."""
    left = [refuses]

    def answer(body: dict[str, Any]) -> Reply | str:
        if left[0] > 0:
            left[0] -= 1
            return refusal(429, "busy", retry_after="0")
        chat = tuple(Message(role=m["role"], content=m["content"]) for m in body["messages"])
        (said,) = collect(upstream, [chat], Sampling(temperature=1.0, seed=body["seed"]))
        return Reply(body=completion(said.text), delay=0.01)

    with serving(answer) as api:
        yield api


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test questions, the teacher's corrections of what each upstream answers, and a corrector that was trained."""
    path = tmp_path_factory.mktemp("pocket")
    tasks: Tasks = oracle().tasks
    teacher, random = Teacher(tasks.language), Random(0)
    rows = {name: list(questions(tasks, name, 16)) for name in ("truth", "harm")}
    for name, found in rows.items():
        write_rows(path / f"{name}.jsonl", found)
    corrections = []
    for upstream in upstreams().values():
        for row in (row for found in rows.values() for row in found):
            question = tasks.of(as_chat(row["question"]))
            assert question is not None
            corrected = teacher.correct(question, upstream.answer(question, SEED), random)
            corrections.append({"id": row["id"], "upstream": upstream.name, "correction": corrected})
    write_rows(path / "corrections.jsonl", corrections)
    write_rows(path / "triplets.jsonl", list(triplets(tasks, 100, 0)))
    train(tiny_config(path / "triplets.jsonl", path / "corrector", max_length=512))
    return path


def settings(place: Path, out: Path, upstreams: list[dict[str, Any]]) -> EvalConfig:
    return EvalConfig.from_dict({
        "out": str(out),
        "tasks": [{"name": t, "file": str(place / f"{t}.jsonl"), "dimensions": d} for t, d in TASKS.items()],
        "upstreams": upstreams,
        "correctors": [
            {"name": "teacher", "corrections": str(place / "corrections.jsonl")},
            {"name": "tiny", "aligner": str(place / "corrector")},
        ],
        "judge": {"call": "aligner.pocket.oracle:oracle", "arguments": {"seed": 0}},
        "sampling": {"temperature": 0.6, "seed": SEED, "max_new_tokens": 200},
        "responses": str(place / "responses.sqlite"),
        "resamples": 200,
    })  # fmt: skip


def test_three_upstreams_over_http_give_the_numbers_of_the_same_in_process(place: Path, tmp_path: Path) -> None:
    described = [{"name": name, "group": profiles()[name].group, "seen": profiles()[name].seen} for name in NAMES]
    inside = run(settings(place, tmp_path / "inside", described), upstreams=upstreams()).path
    with ExitStack() as stack:
        apis = {name: stack.enter_context(address(one, refuses=2)) for name, one in upstreams().items()}
        served = [{**spec, "url": apis[spec["name"]].url, "served_model": f"pocket/{spec['name']}", "concurrency": 4}
                  for spec in described]  # fmt: skip
        config = settings(place, tmp_path / "outside", served)
        config.save(tmp_path / "outside.yaml")
        assert main(["eval", str(tmp_path / "outside.yaml")]) == 0
        for name, api in apis.items():
            assert {body["model"] for body in api.requests} == {f"pocket/{name}"}
            assert len(api.requests) == 2 * 16 + 2, "every question once, and the two that were refused once more"
            assert 1 < api.most <= 4
    outside = config.out
    for name in NAMES:
        for kind in ("answers/{}", "corrections/teacher/{}", "corrections/tiny/{}", "verdicts/teacher/{}"):
            files = (out / f"{kind.format(name)}.jsonl" for out in (inside, outside))
            first, second = (sorted(map(_content, rows_in(file)), key=str) for file in files)
            assert first == second, (name, kind)
        row = cell(outside, corrector="teacher", upstream=name)
        assert row["wins"] > row["losses"], "the teacher repairs what the oracle counts"
    assert (inside / "table.json").read_text() == (outside / "table.json").read_text()
    result = json.loads((outside / "result.json").read_text())
    assert [u["url"] for u in result["upstreams"]] == [apis[name].url for name in NAMES]
    assert result["failed"] == 0


def _content(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the tokens that were used, which each server counts in its own way, and without times."""
    return {k: v for k, v in row.items() if k not in ("prompt_tokens", "completion_tokens", "usage", "seconds")}
