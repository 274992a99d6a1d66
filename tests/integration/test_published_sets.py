"""Evaluations on the published sets, from their original files to the table, and judged again without them."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from aligner.errors import ConfigError, DataError, RunError
from aligner.evaluate.config import EvalConfig, TaskSpec
from aligner.evaluate.run import run
from aligner.evaluate.scripted import ScriptedJudge
from aligner.evaluate.tasks import Item, question_value, read_task
from aligner.report.render import render_run
from aligner.types import Judge
from tests.evaluation import PlainJudge, cell, rows_in, stored, stored_config
from tests.published import FILES, published, spec_of
from tests.real import REAL_DATA, needs_real_data
from tests.training import write_rows

EXACT = {"call": "aligner.evaluate.exact:exact"}


def config_of(tmp_path: Path, task: dict[str, Any], **changes: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "out": tmp_path / "run",
        "tasks": [task],
        "upstreams": [{"name": "u", "answers": tmp_path / "answers.jsonl"}],
        "correctors": [{"name": "c", "corrections": tmp_path / "corrections.jsonl"}],
        "judge": EXACT,
        "resamples": 100,
    }
    return EvalConfig.from_dict(settings | changes)


def small_gsm8k(tmp_path: Path) -> EvalConfig:
    """Six sums: the answers to the first four are wrong; of the corrections those to the first three and the last."""
    rows = [{"question": f"{i} + {i}?", "answer": f"#### {2 * i}"} for i in range(6)]
    path = write_rows(tmp_path / "gsm8k.jsonl", rows)
    task = {"name": "gsm8k", "format": "gsm8k", "file": path}
    ids = [item.id for item in read(task)]
    stored(tmp_path / "answers.jsonl", {id_: str(2 * i if i >= 4 else 99) for i, id_ in enumerate(ids)})
    right = [2 * i if i in (3, 4) else 99 for i in range(6)]
    stored(
        tmp_path / "corrections.jsonl", {id_: f"It is {n}." for id_, n in zip(ids, right, strict=True)}, upstream="u"
    )
    return config_of(tmp_path, task)


def read(task: dict[str, Any]) -> tuple[Item, ...]:
    return read_task(TaskSpec.from_dict(task)).items


def test_sums_are_judged_by_their_final_number(tmp_path) -> None:
    out = run(small_gsm8k(tmp_path)).path
    row = cell(out, task="gsm8k", dimension="correct", upstream="u")
    # Wrong → wrong three times, wrong → right once, right → right once, right → wrong once.
    assert (row["wins"], row["losses"], row["ties"], row["unscored"]) == (1, 1, 4, 0)
    assert (row["fault_rate"], row["repaired"]) == (pytest.approx(4 / 6, abs=1e-4), 0.25)
    assert render_run(run(small_gsm8k(tmp_path), "resume")).is_file()


def test_a_run_is_judged_again_without_the_files_it_was_made_from(tmp_path) -> None:
    first = run(small_gsm8k(tmp_path)).path
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    again = config_of(
        tmp_path,
        {"name": "gsm8k", "file": first / "questions" / "gsm8k.jsonl", "dimensions": ["correct"]},
        out=tmp_path / "again",
        upstreams=[{"name": "u", "answers": first / "answers" / "u.jsonl"}],
        correctors=[{"name": "c", "corrections": first / "corrections" / "c" / "{upstream}.jsonl"}],
    )
    second = run(again).path
    assert json.loads((second / "table.json").read_text()) == json.loads((first / "table.json").read_text())
    assert (second / "questions" / "gsm8k.jsonl").read_bytes() == (first / "questions" / "gsm8k.jsonl").read_bytes()
    assert rows_in(second / "verdicts" / "c" / "u.jsonl") == rows_in(first / "verdicts" / "c" / "u.jsonl")


@pytest.mark.parametrize("existing", ["refuse", "overwrite"])
def test_a_run_does_not_read_what_it_would_overwrite(tmp_path, existing) -> None:
    config = small_gsm8k(tmp_path)
    out = run(config).path
    answers = out / "answers" / "u.jsonl"
    before = answers.read_bytes()
    itself = config.model_copy(
        update={"upstreams": (config.upstreams[0].model_copy(update={"answers": answers}),)},
    )
    with pytest.raises(ConfigError, match="lies in the run's own directory"):
        run(itself, existing)
    assert answers.read_bytes() == before


@pytest.mark.parametrize("what", ["upstreams", "correctors"])
def test_a_run_does_not_overwrite_a_model_it_is_to_measure(tmp_path, what) -> None:
    config = small_gsm8k(tmp_path)
    out = run(config).path
    (out / "model").mkdir()
    before = sorted(out.rglob("*"))
    field = {"upstreams": {"answers": None, "model": str(out / "model")},
             "correctors": {"corrections": None, "aligner": str(out)}}[what]  # fmt: skip
    itself = config.model_copy(update={what: (getattr(config, what)[0].model_copy(update=field),)})
    with pytest.raises(ConfigError, match="lies in the run's own directory"):
        run(itself, "overwrite")
    assert sorted(out.rglob("*")) == before


def test_answers_that_lack_questions_are_refused_or_left_unscored_and_listed(tmp_path, capsys) -> None:
    config = stored_config(tmp_path)
    rows = [row for row in rows_in(tmp_path / "a.jsonl") if (row["id"], row["task"]) != ("q0", "two")]
    write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(
        DataError, match=r"a.jsonl: 1 of 8 questions have no answer, .*leave them unscored with --partial"
    ):
        run(config)
    assert not config.out.exists()
    config = config.model_copy(update={"partial": True})
    out = run(config).path
    assert json.loads((out / "inputs.json").read_text())["lacking"] == {"a": {"two": ["q0"]}}
    assert "a: 1 of 8 questions have no stored answer and stay unscored" in capsys.readouterr().err
    row = cell(out, upstream="a", task="two")
    assert (row["n"], row["unscored"], row["wins"] + row["losses"] + row["ties"]) == (4, 1, 3)
    result = json.loads((out / "result.json").read_text())
    assert result["failed_by_step"] == {"answers": 1, "corrections": 0, "verdicts": 0}
    # With the answer there after all, the files are others, and the run says so instead of mixing them.
    stored_config(tmp_path)
    with pytest.raises(RunError, match="changed since the run was started"):
        run(config, "resume")


def test_environment_variables_in_the_paths_of_stored_texts(tmp_path, monkeypatch) -> None:
    config = small_gsm8k(tmp_path)
    whole = cell(run(config).path, task="gsm8k", dimension="correct", upstream="u")
    monkeypatch.setenv("ALIGNER_TEST_PLACE", str(tmp_path))
    moved = config_of(
        tmp_path,
        {"name": "gsm8k", "format": "gsm8k", "file": "$ALIGNER_TEST_PLACE/gsm8k.jsonl"},
        out=tmp_path / "moved",
        upstreams=[{"name": "u", "answers": "$ALIGNER_TEST_PLACE/answers.jsonl"}],
        correctors=[{"name": "c", "corrections": "$ALIGNER_TEST_PLACE/corrections.jsonl"}],
    )
    out = run(moved).path
    assert cell(out, task="gsm8k", dimension="correct", upstream="u") == whole
    assert str(tmp_path) not in (out / "inputs.json").read_text() + (out / "result.json").read_text()
    monkeypatch.delenv("ALIGNER_TEST_PLACE")
    with pytest.raises(DataError, match="uses an environment variable that is not set"):
        run(moved, "overwrite")


def test_what_was_read_is_recorded(tmp_path) -> None:
    path = tmp_path / "h.json"
    path.write_text(json.dumps({"Arts": {"Film": [f"{i}?" for i in range(9)], "Music": ["3?"]}}))
    task = {"name": "h", "format": "harmfulqa", "file": path, "sample": 4, "dimensions": ["helpful"]}
    answers = {item.id: "bad" for item in read(task | {"sample": None})}
    stored(tmp_path / "answers.jsonl", answers)
    stored(tmp_path / "corrections.jsonl", dict.fromkeys(answers, "good"), upstream="u")
    out = run(config_of(tmp_path, task), judge=PlainJudge()).path
    inputs = json.loads((out / "inputs.json").read_text())
    assert inputs["questions"] == {"h": {"total": 9, "used": 4, "repeated": 1}}
    questions = rows_in(out / "questions" / "h.jsonl")
    assert [row["id"] for row in questions] == inputs["sampled"]["h"]
    assert questions[0].keys() == {"id", "question", "split", "topic", "subtopic"}
    (told,) = json.loads((out / "result.json").read_text())["tasks"]
    assert (told["n"], told["total"], told["repeated"], told["sampled"]) == (4, 9, 1, True)


def test_a_judge_is_handed_the_questions(tmp_path) -> None:
    handed: list[str] = []

    class Asking(PlainJudge):
        def for_questions(self, items: Any) -> Judge:
            handed.extend(item.id for item in items)
            return PlainJudge()

    run(stored_config(tmp_path), judge=Asking())
    assert handed == ["q0", "q1", "q2", "q3"] * 2


@needs_real_data
def test_every_published_set_runs_to_its_table(tmp_path) -> None:
    """Samples of all nine in one run; what is written is read back equal."""
    tasks = [spec_of(name, sample=12).model_dump(mode="json") for name in FILES]
    answers, corrections = [], []
    for name in FILES:
        for item in published(name).items:
            key = {"id": item.id, "task": name}
            answers.append(key | {"answer": "bad"})
            corrections.append(key | {"upstream": "u", "correction": "good" if len(answers) % 3 else "bad"})
    write_rows(tmp_path / "answers.jsonl", answers)
    write_rows(tmp_path / "corrections.jsonl", corrections)
    settings = {"tasks": [task | {"dimensions": ["helpful"]} for task in tasks]}
    config = config_of(tmp_path, {}, **settings)
    out = run(config, judge=PlainJudge()).path
    for name in FILES:
        assert cell(out, task=name, upstream="u")["n"] == 12
        again = read({"name": name, "file": out / "questions" / f"{name}.jsonl", "dimensions": ["helpful"]})
        known = {item.id: item for item in published(name).items}
        for item in again:
            assert item == known[item.id]
            assert question_value(item) == question_value(known[item.id])
    assert cell(out, task="xstest", upstream="u", split="safe")["n"] > 0


@needs_real_data
def test_real_outputs_and_their_real_corrections(tmp_path) -> None:
    """AlpacaEval's files as they are: two models' 805 answers, and the published 2B corrector's corrections of them.

    The judge counts answers that end without punctuation, which that corrector is known for: 47 of Qwen1.5-72B's
    answers and 205 of their corrections have none.
    """
    outputs = REAL_DATA / "alpaca_eval" / "outputs"
    for name in ("qwen1.5-72b-chat", "gpt-4-turbo-2024-04-09"):
        source = "Qwen1.5-72B-Chat" if name.startswith("qwen") else name
        (tmp_path / f"{name}.json.xz").symlink_to(outputs / f"{source}.json.xz")
    config = EvalConfig.from_dict({
        "out": tmp_path / "run",
        "tasks": [spec_of("alpaca-eval").model_dump(mode="json")],
        "upstreams": [
            {"name": name, "answers": tmp_path / f"{name}.json.xz"}
            for name in ("qwen1.5-72b-chat", "gpt-4-turbo-2024-04-09")
        ],
        "correctors": [{"name": "2b", "corrections": outputs / "aligner-2b_{upstream}.json.xz"}],
        "judge": {"call": "tests.integration.test_published_sets:punctuation"},
        "resamples": 50,
    })  # fmt: skip
    out = run(config).path
    rows = rows_in(out / "verdicts" / "2b" / "qwen1.5-72b-chat.jsonl")
    originals = {row["instruction"].strip(): row for row in _json_xz(outputs / "aligner-2b_qwen1.5-72b-chat.json.xz")}
    assert len(rows) == 805
    for row in rows:
        original = originals[row["question"]]
        assert row["correction"] == original["output"]
        assert row["answer"] == original["original_output"]
    row = cell(out, task="alpaca-eval", upstream="qwen1.5-72b-chat")
    assert row["n"] == 805
    assert row["losses"] > 2 * row["wins"]
    assert "corrections/2b/gpt-4-turbo-2024-04-09" in json.loads((out / "inputs.json").read_text())["files"]


def punctuation() -> Any:
    return ScriptedJudge(lambda _, answer: {"helpful": int(answer.rstrip()[-1:].isalnum())})


def _json_xz(path: Path) -> list[dict[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows: list[dict[str, str]] = json.load(file)
    return rows
