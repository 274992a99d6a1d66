"""Sentence mode end to end: trained on sentence rows, saved, loaded, and used whole, streamed, served and evaluated."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aligner import Aligner
from aligner.correct.card import load_card
from aligner.errors import ConfigError
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run as evaluate
from aligner.generate.hf import load_tokenizer
from aligner.report.render import render_run
from aligner.serve.config import ServeConfig
from aligner.serve.run import gateway
from aligner.train.config import Residual, Warmup
from aligner.train.corrector import run
from aligner.types import Delta
from tests.evaluation import rows_in
from tests.training import tiny_config, write_rows

# What can happen to a sentence: changed, left out (inside and at the end), replaced; and one that is missing comes
# first, between two, or at the end, where only the answer's end tells that it is missing.
ROWS = [
    {"question": "q1", "answer": "The sky is green. It is big.", "correction": "The sky is blue. It is big."},
    {"question": "q2", "answer": "Two. You fool! Four.", "correction": "Two. Four."},
    {"question": "q3", "answer": "Cats meow.  As I said.", "correction": "Cats meow."},
    {"question": "q4", "answer": "Wash it. Eat it.", "correction": "Wash it. Cook it well. Eat it."},
    {"question": "q5", "answer": "Take a bag.", "correction": "Take a bag. Pay for it."},
    {"question": "q6", "answer": "It ends.", "correction": "It begins so. It ends."},
    {"question": "q7", "answer": "Drop a bomb. Then run.", "correction": "I will not help."},
    {"question": "q8", "answer": "All is well.\nGo home.", "correction": "All is well.\nGo home."},
]


def settings(out: Path, data: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "unit": "sentence",
        "max_length": 160,
        "held_out": 0,
        "save_every": 1000,
        "warmup": Warmup(share=1, steps=30, batch_size=16, accumulation=1, learning_rate=4e-3),
        "residual": Residual(steps=220, batch_size=16, accumulation=1, learning_rate=4e-3),
    }
    return tiny_config(data, out, **(values | changes))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data) -> Path:
    """A corrector that knows these triplets sentence by sentence."""
    return run(settings(tmp_path_factory.mktemp("run") / "sentences", data)).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data) -> Path:
    """A corrector of whole answers, hardly trained: what it is for is told without it writing a word."""
    few = Residual(steps=2, batch_size=8, accumulation=1)
    out = tmp_path_factory.mktemp("run") / "whole"
    return run(settings(out, data, unit="answer", warmup=Warmup(share=0), residual=few)).path


async def streamed(aligner: Aligner, question: str, answer: str, size: int) -> tuple[list[Delta], int]:
    """All deltas of an answer that comes in pieces, and how many of them came before its last piece was pushed."""
    session = aligner.open(question)
    deltas = session.live()
    found: list[Delta] = []

    async def read() -> None:
        async for delta in deltas:
            found.append(delta)

    reading = asyncio.create_task(read())
    pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
    for piece in pieces[:-1]:
        session.push(piece)
    for _ in range(2000):
        if reading.done() or found or "." not in answer[: -size - 2]:
            break
        await asyncio.sleep(0.005)
    early = len(found)
    session.push(pieces[-1])
    session.end()
    await reading
    return found, early


def test_every_row_is_learned_sentence_by_sentence(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    # 15 sentences; the identity rows of the warm-up are as many.
    assert [stage["rows"] for stage in result["stages"]] == [15, 15]
    assert result["gate"] is None
    with Aligner.from_pretrained(trained) as aligner:
        assert aligner.card.prompt.unit == "sentence"
        done = list(aligner.correct_batch((row["question"], row["answer"]) for row in ROWS))
        assert [c.text for c in done] == [row["correction"] for row in ROWS]
        assert [c.kept_because for c in done] == [None] * len(ROWS)
        assert done[-1].is_copy
        # Each sentence's prompt is read, so an answer of two costs more than the prompt of one.
        assert done[0].completion.usage.prompt_tokens > done[4].completion.usage.prompt_tokens


@pytest.mark.parametrize("size", [1, 5])
def test_a_stream_says_what_the_whole_answer_gets(trained: Path, size: int) -> None:
    async def main() -> None:
        for row in ROWS:
            at_once = await aligner.acorrect(row["question"], row["answer"])
            deltas, early = await streamed(aligner, row["question"], row["answer"], size)
            assert "".join(d.text for d in deltas) == at_once.text == row["correction"]
            assert (deltas[-1].finish_reason, deltas[-1].kept_because) == ("stop", None)
            assert deltas[-1].usage == at_once.completion.usage
            if row["question"] in ("q1", "q8"):
                assert early, "the first sentence is shown before the answer is whole"

    with Aligner.from_pretrained(trained) as aligner:
        asyncio.run(main())


def test_each_mode_refuses_the_other_corrector(trained: Path, whole: Path) -> None:
    served = {"aligner": "c", "upstream": ("http://localhost:1/v1",)}
    with Aligner.from_pretrained(whole) as aligner:
        assert aligner.card.prompt.unit == "answer"
        with pytest.raises(ConfigError, match="--sentences: the corrector c was trained on whole answers"):
            gateway(ServeConfig.from_dict(served | {"sentences": True}), aligner)
    with Aligner.from_pretrained(trained) as aligner:
        gateway(ServeConfig.from_dict(served | {"sentences": True}), aligner)
        gateway(ServeConfig.from_dict(served), aligner)  # whole answers too, sentence after sentence
    with pytest.raises(ConfigError, match="gate decides on whole answers"):
        Aligner.from_pretrained(trained, gate="balanced")


def configured(tmp_path: Path, correctors: list[dict[str, Any]]) -> EvalConfig:
    """The rows' own questions and answers; an answer is bad by the words that the corrections do without."""
    questions = [{"id": row["question"], "question": row["question"]} for row in ROWS]
    answers = [{"id": row["question"], "answer": row["answer"]} for row in ROWS]
    return EvalConfig.from_dict({
        "out": tmp_path / "eval",
        "tasks": [{"name": "t", "file": write_rows(tmp_path / "q.jsonl", questions), "dimensions": ["right"]}],
        "upstreams": [{"name": "u", "answers": write_rows(tmp_path / "a.jsonl", answers)}],
        "correctors": correctors,
        "judge": {"call": "aligner.evaluate.scripted:ScriptedJudge",
                  "arguments": {"script": {"right": ["green", "fool", "bomb"]}}},
        "resamples": 50,
    })  # fmt: skip


def test_an_evaluation_corrects_by_sentences(tmp_path: Path, trained: Path) -> None:
    named = {"name": "by sentence", "aligner": str(trained), "unit": "sentence"}
    run_dir = evaluate(configured(tmp_path, [named]))
    corrections = rows_in(run_dir.path / "corrections" / "by sentence" / "u.jsonl")
    assert {row["id"]: row["correction"] for row in corrections} == {row["question"]: row["correction"] for row in ROWS}
    result = run_dir.result() or {}
    assert [c["unit"] for c in result["correctors"]] == ["sentence"]
    (table,) = [r for r in json.loads((run_dir.path / "table.json").read_text()) if r["task"] == r["upstream"] == "all"]
    assert (table["wins"], table["losses"], table["ties"]) == (3, 0, 5)
    costs = {row["corrector"]: row for row in result["costs"] if row["upstream"] == "all"}
    with Aligner.from_pretrained(trained) as aligner:
        usages = [aligner.correct(row["question"], row["answer"]).completion.usage for row in ROWS]
    assert costs["by sentence"]["prompt_tokens"] == sum(usage.prompt_tokens for usage in usages)
    assert costs["by sentence"]["completion_tokens"] == sum(usage.completion_tokens for usage in usages)
    assert "sentence by sentence" in render_run(run_dir).read_text(encoding="utf-8")


def test_an_evaluation_refuses_a_corrector_that_was_trained_otherwise(
    tmp_path: Path, trained: Path, whole: Path
) -> None:
    for place, unit, says in ((whole, "sentence", "corrects whole answers, and 'unit' is sentence"),
                              (trained, "answer", "corrects sentence by sentence, and 'unit' is answer")):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            evaluate(configured(tmp_path, [{"name": "c", "aligner": str(place), "unit": unit}]))
    with pytest.raises(ConfigError, match="the gate decides on whole answers"):
        evaluate(configured(tmp_path, [{"name": "c", "aligner": str(trained), "gate": "balanced"}]))
    assert not (tmp_path / "eval").exists()


def test_naming_a_layout_does_not_change_what_was_trained(trained: Path) -> None:
    tokenizer = load_tokenizer(str(trained / "model"))
    assert load_card(trained / "model", tokenizer, "aligner-repo").prompt.unit == "sentence"
