"""Evaluation end to end: real tiny models, crashes and their repair, and what is refused before anything is spent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aligner.correct.aligner import Aligner
from aligner.correct.card import AlignerCard
from aligner.errors import CheckpointError, ConfigError, DataError, GenerationError, RunError
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run
from aligner.evaluate.scripted import ScriptedJudge
from aligner.generate.scripted import ScriptedGenerator
from aligner.report.render import render_run
from aligner.runs import Ancestor
from aligner.train.corrector import run as train
from aligner.types import Completion
from tests.evaluation import PlainJudge, cell, rows_in, stored, stored_config, task_file
from tests.models import byte_bpe_tokenizer, tiny_aligner, tiny_model
from tests.training import tiny_config, toy_rows, write_rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A corrector that has learned to write 'omega' for 'beta'."""
    directory = tmp_path_factory.mktemp("evaluation")
    return train(tiny_config(write_rows(directory / "toy.jsonl", toy_rows()), directory / "corrector")).path


def judge(**options: Any) -> ScriptedJudge:
    return ScriptedJudge({"right": ["beta"]}, **options)


def toy_task(directory: Path, count: int = 24) -> tuple[Path, dict[str, str]]:
    """Questions of the trained task, and answers to them by question."""
    rows = toy_rows(count, seed=7)
    path = write_rows(
        directory / "toy.jsonl",
        [{"id": f"t{i}", "question": row["question"], "split": "seen"} for i, row in enumerate(rows)],
    )
    return path, {row["question"]: row["answer"] for row in rows}


def live_config(tmp_path: Path, trained: Path, **changes: Any) -> tuple[EvalConfig, dict[str, str]]:
    path, answers = toy_task(tmp_path)
    settings: dict[str, Any] = {
        "out": tmp_path / "run",
        "tasks": [{"name": "toy", "file": path, "dimensions": ["right"]}],
        "upstreams": [{"name": "one"}, {"name": "two", "seen": False}],
        "correctors": [{"name": "c", "aligner": str(trained)}],
        "resamples": 100,
        "max_rows": 8,
    }
    return EvalConfig.from_dict(settings | changes), answers


def contents(out: Path) -> dict[str, Any]:
    """What a run says, without times, in an order of its own."""
    found: dict[str, Any] = {"table": json.loads((out / "table.json").read_text())}
    for folder in ("answers", "corrections", "verdicts"):
        for path in sorted((out / folder).rglob("*.jsonl")):
            rows = sorted(rows_in(path), key=lambda row: (row["task"], row["id"]))
            assert len({(row["task"], row["id"]) for row in rows}) == len(rows), "no row stands twice"
            found[str(path.relative_to(out))] = rows
    result = json.loads((out / "result.json").read_text())
    for row in result["costs"]:
        del row["seconds"], row["seconds_each"]
    return found | {k: v for k, v in result.items() if k != "seconds"}


def test_a_trained_corrector_wins_on_live_upstreams(tmp_path, trained) -> None:
    config, answers = live_config(tmp_path, trained)
    upstreams = {
        "one": ScriptedGenerator(answers),
        "two": ScriptedGenerator({q: a.replace("alpha", "kappa") for q, a in answers.items()}),
    }
    run_dir = run(config, judge=judge(), upstreams=upstreams)
    row = cell(run_dir.path, dimension="right", task="toy", upstream="one")
    faulty = sum("beta" in answer for answer in answers.values())
    assert row["n"] == 24
    assert row["fault_rate"] == pytest.approx(faulty / 24, abs=1e-4)
    assert row["wins"] == round(row["repaired"] * faulty), "one dimension: the repaired answers are the wins"
    assert row["omega"] > 0
    with Aligner.from_pretrained(trained) as aligner:
        for verdict in rows_in(run_dir.path / "verdicts" / "c" / "one.jsonl"):
            correction = aligner.correct(verdict["question"], verdict["answer"])
            assert (verdict["correction"], verdict["kept_because"]) == (correction.text, correction.kept_because)
    result = run_dir.result()
    assert result is not None
    assert result["correctors"][0]["parameters"] > 10_000
    assert {a["role"] for a in result["lineage"]} >= {"data"}
    splits = {r["upstream"]: r["split"] for r in rows_in(run_dir.path / "verdicts" / "c" / "two.jsonl")}
    assert splits == {"two": "upstream"}
    assert render_run(run_dir).read_text().startswith("<!doctype html>")


def test_models_and_correctors_from_directories(tmp_path, capsys) -> None:
    """An upstream and a corrector of random weights, loaded one after the other by the configuration alone."""
    tokenizer = byte_bpe_tokenizer()
    model = tiny_model("llama", tokenizer, seed=3)
    model.save_pretrained(tmp_path / "upstream")
    tokenizer.save_pretrained(tmp_path / "upstream")
    with tiny_aligner("qwen2", tokenizer) as aligner:
        aligner.save_pretrained(tmp_path / "corrector")
    config = EvalConfig.from_dict({
        "out": tmp_path / "run",
        "tasks": [{"name": "t", "file": task_file(tmp_path / "t.jsonl", 5), "dimensions": ["helpful"]}],
        "upstreams": [{"name": "u", "model": str(tmp_path / "upstream")}],
        "correctors": [{"name": "c", "aligner": str(tmp_path / "corrector")}],
        "judge": {"call": "tests.evaluation:PlainJudge"},
        "sampling": {"max_new_tokens": 6},
        "batch_size": 2,
        "resamples": 10,
    })  # fmt: skip
    out = run(config).path
    answers = rows_in(out / "answers" / "u.jsonl")
    assert {row["id"] for row in answers} == {f"q{i}" for i in range(5)}
    assert all(0 < row["completion_tokens"] <= 6 for row in answers)
    assert cell(out, task="t", upstream="u")["n"] == 5
    told = capsys.readouterr().err
    for line in ("u: loading", "u: answering: 5/5  0:00 left", "c: correcting u: 5/5", "c: judging u: 5/5",
                 "counting verdicts: 5/5"):  # fmt: skip
        assert line in told


class Interrupting(PlainJudge):
    """Ctrl-C comes at a certain call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    async def judge(self, question, candidate, baseline):
        found = await super().judge(question, candidate, baseline)
        if len(self.asked) == self.at:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("at", [1, 3, 4])
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_been(tmp_path, at) -> None:
    whole = contents(run(stored_config(tmp_path), judge=PlainJudge()).path)
    config = stored_config(tmp_path, out=tmp_path / "again")
    first, second = Interrupting(at), PlainJudge()
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=first)
    assert not (config.out / "result.json").exists()
    kept = len(rows_in(config.out / "verdicts" / "c" / "a.jsonl"))
    out = run(config, "resume", judge=second).path
    assert contents(out) == whole
    judged_again = len(first.asked) + len(second.asked) - 6
    assert judged_again <= 8, "no more than was in flight"
    assert len(second.asked) <= 6
    assert kept <= 8


def test_answers_and_corrections_are_not_asked_for_twice(tmp_path, trained) -> None:
    config, answers = live_config(tmp_path, trained)
    asked: Counter[str] = Counter()

    def stopping_at(limit: int) -> ScriptedGenerator:
        def answer(chat: Any) -> str:
            question = chat[0].content
            asked[question] += 1
            if asked.total() == limit:
                raise KeyboardInterrupt
            return answers[question]

        return ScriptedGenerator(answer)

    with pytest.raises(KeyboardInterrupt):
        run(config, judge=judge(), upstreams={"one": stopping_at(10), "two": stopping_at(999)})
    assert len(rows_in(config.out / "answers" / "one.jsonl")) == 9
    upstreams = {"one": stopping_at(999), "two": ScriptedGenerator(answers)}
    run(config, "resume", judge=judge(), upstreams=upstreams)
    assert sorted(asked.values()) == [1] * 23 + [2], "only what was in flight"
    # Both upstreams say the same, and one corrector corrects it once.
    one, two = (rows_in(config.out / "corrections" / "c" / f"{name}.jsonl") for name in ("one", "two"))
    assert [(r["id"], r["correction"]) for r in sorted(two, key=lambda r: r["id"])] == [
        (r["id"], r["correction"]) for r in sorted(one, key=lambda r: r["id"])
    ]


def test_equal_answers_of_two_upstreams_are_corrected_once(tmp_path, trained, monkeypatch) -> None:
    config, answers = live_config(tmp_path, trained)
    corrected: list[str] = []
    correct_batch = Aligner.correct_batch

    def counting(self: Aligner, pairs: Any, sampling: Any = None, **others: Any) -> Any:
        def counted() -> Any:
            for pair in pairs:
                corrected.append(pair[1])
                yield pair

        yield from correct_batch(self, counted(), sampling, **others)

    monkeypatch.setattr(Aligner, "correct_batch", counting)
    other = {q: (a if i % 4 else a.replace(".", "!")) for i, (q, a) in enumerate(answers.items())}
    upstreams = {"one": ScriptedGenerator(answers), "two": ScriptedGenerator(other)}
    out = run(config, judge=judge(), upstreams=upstreams).path
    assert len(corrected) == 24 + 6
    with Aligner.from_pretrained(trained) as aligner:
        for row in rows_in(out / "verdicts" / "c" / "two.jsonl"):
            assert row["correction"] == aligner.correct(row["question"], row["answer"]).text


def test_failed_answers_are_counted_and_asked_again(tmp_path, trained) -> None:
    config, answers = live_config(tmp_path, trained, upstreams=[{"name": "one"}])
    failing = {"t3", "t4", "t5"}
    rows = toy_rows(24, seed=7)
    broken = {rows[int(i[1:])]["question"] for i in failing}
    flaky = ScriptedGenerator(
        lambda chat: (
            Completion(text="half", finish_reason="error", error="overloaded")
            if chat[0].content in broken
            else answers[chat[0].content]
        )
    )
    out = run(config, judge=judge(), upstreams={"one": flaky}).path
    result = json.loads((out / "result.json").read_text())
    assert (result["failed"], result["failed_by_step"]["answers"], result["unscored"]) == (3, 3, 3)
    row = cell(out, dimension="right", task="toy", upstream="one")
    assert (row["n"], row["unscored"], row["wins"] + row["losses"] + row["ties"]) == (24, 3, 21)
    assert failing.isdisjoint(r["id"] for r in rows_in(out / "verdicts" / "c" / "one.jsonl"))
    assert render_run(run(config, "resume", judge=judge(), upstreams={"one": flaky})).is_file()
    healed = run(config, "resume", judge=judge(), upstreams={"one": ScriptedGenerator(answers)}).path
    assert json.loads((healed / "result.json").read_text())["failed"] == 0
    assert cell(healed, dimension="right", task="toy", upstream="one")["unscored"] == 0
    straight = EvalConfig(**(dict(config) | {"out": tmp_path / "straight"}))
    expected = contents(run(straight, judge=judge(), upstreams={"one": ScriptedGenerator(answers)}).path)
    assert contents(healed) == expected


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys) -> None:
    config = stored_config(tmp_path)
    out = run(config).path
    before = (out / "result.json").read_bytes()
    silent = PlainJudge()
    run(config, "resume", judge=silent)
    assert silent.asked == []
    assert (out / "result.json").read_bytes() == before
    assert "already finished" in capsys.readouterr().err
    with pytest.raises(RunError, match="exists already"):
        run(config)
    run(config, "overwrite")


class Failing(PlainJudge):
    """Fails where a certain word is in the answer or the correction."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    async def judge(self, question, candidate, baseline):
        if self.word in question[0].content:
            raise TimeoutError("no reply in 60 s")
        return await super().judge(question, candidate, baseline)


def test_a_judge_that_fails_at_some_leaves_those_unscored_and_is_asked_again(tmp_path) -> None:
    config = stored_config(tmp_path)
    out = run(config, judge=Failing("question 2")).path
    result = json.loads((out / "result.json").read_text())
    assert result["failed_by_step"] == {"answers": 0, "corrections": 0, "verdicts": 2}
    row = cell(out, upstream="a", task="one")
    assert (row["unscored"], row["omega"]) == (1, pytest.approx(100 * 2 / 3, abs=1e-3))
    errors = [r["error"] for r in rows_in(out / "verdicts" / "c" / "a.jsonl") if r["error"]]
    assert errors == ["TimeoutError: no reply in 60 s"] * 2
    healed = PlainJudge()
    run(config, "resume", judge=healed)
    assert len(healed.asked) == 2
    assert cell(out, upstream="a", task="one")["omega"] == 25.0


def test_a_judge_that_fails_at_all_stops_the_run(tmp_path) -> None:
    with pytest.raises(DataError) as e:
        run(stored_config(tmp_path), judge=Failing("question"))
    assert "the judge 'plain' failed at all 6 corrections, the first: TimeoutError: no reply" in str(e.value)


def test_a_judge_that_refuses_the_input_is_heard(tmp_path) -> None:
    class Refusing(PlainJudge):
        async def judge(self, question, candidate, baseline):
            raise DataError("q0: stands in the training split; judge held-out questions")

    with pytest.raises(DataError, match="stands in the training split"):
        run(stored_config(tmp_path), judge=Refusing())


@pytest.mark.parametrize("answer", [None, "", "  \n"])
def test_an_upstream_that_answers_nothing(tmp_path, answer) -> None:
    config = stored_config(tmp_path)
    rows = [{"id": f"q{i}", "task": task, "answer": answer} for task in ("one", "two") for i in range(4)]
    write_rows(tmp_path / "b.jsonl", rows)
    with pytest.raises(DataError) as e:
        run(config)
    assert "the upstream 'b' answered none of 8 questions" in str(e.value)
    assert ("8 failed, the first: no answer is stored" if answer is None else "all are blank") in str(e.value)
    assert "\n" not in str(e.value)


def test_stored_corrections_that_are_missing_are_failed(tmp_path) -> None:
    config = stored_config(tmp_path)
    rows = [row for row in rows_in(tmp_path / "corrections.jsonl") if (row["id"], row["upstream"]) != ("q1", "a")]
    write_rows(tmp_path / "corrections.jsonl", rows)
    out = run(config).path
    assert json.loads((out / "result.json").read_text())["failed_by_step"]["corrections"] == 2
    row = cell(out, upstream="a", task="one")
    assert (row["n"], row["unscored"], row["ties"]) == (4, 1, 0)


def test_a_sample_is_recorded(tmp_path) -> None:
    tasks = [{"name": "one", "file": task_file(tmp_path / "1.jsonl", 40), "dimensions": ["helpful"], "sample": 7}]
    answers = stored(tmp_path / "x.jsonl", {f"q{i}": "bad" for i in range(40)})
    fixed = stored(tmp_path / "y.jsonl", {f"q{i}": "good" for i in range(40)}, upstream="a")
    config = stored_config(
        tmp_path, tasks=tasks, upstreams=[{"name": "a", "answers": answers}],
        correctors=[{"name": "c", "corrections": fixed}],
    )  # fmt: skip
    out = run(config).path
    drawn = json.loads((out / "inputs.json").read_text())["sampled"]["one"]
    assert len(drawn) == 7
    assert {r["id"] for r in rows_in(out / "verdicts" / "c" / "a.jsonl")} == set(drawn)
    assert cell(out, upstream="a")["n"] == 7


def test_files_that_changed_since_are_refused_on_resume(tmp_path) -> None:
    config = stored_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=Interrupting(1))
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunError, match="changed since the run was started"):
        run(config, "resume", judge=PlainJudge())


def test_what_is_wrong_is_told_before_a_directory_is_made(tmp_path) -> None:
    config = stored_config(tmp_path)
    with pytest.raises(ConfigError, match="an upstream 'z' is handed in"):
        run(config, upstreams={"z": ScriptedGenerator({})})
    with pytest.raises(ConfigError, match="the setting 'judge' is missing"):
        run(stored_config(tmp_path, judge=None))
    with pytest.raises(ConfigError, match="'new': give 'model'"):
        run(stored_config(tmp_path, upstreams=[{"name": "new"}]))
    missing = [{"name": "c", "aligner": str(tmp_path / "nowhere")}]
    with pytest.raises(CheckpointError, match="no such directory"):
        run(stored_config(tmp_path, correctors=missing))
    with pytest.raises(CheckpointError, match="no such directory"):
        run(stored_config(tmp_path, upstreams=[{"name": "a", "model": str(tmp_path / "nowhere")}, {"name": "b"}][:1]))
    with tiny_aligner() as aligner:
        aligner.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "aligner.json").unlink()
    with pytest.raises(CheckpointError, match=r"no aligner\.json.*'prompt'"):
        run(stored_config(tmp_path, correctors=[{"name": "c", "aligner": str(tmp_path / "plain")}]))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("")
    with pytest.raises(CheckpointError, match="this run has no model yet"):
        run(stored_config(tmp_path, correctors=[{"name": "c", "aligner": str(unfinished)}]))
    assert not config.out.exists()


def test_an_upstream_that_fails_on_a_batch_keeps_what_it_said(tmp_path, trained) -> None:
    config, answers = live_config(tmp_path, trained, upstreams=[{"name": "one"}])

    class Breaking(ScriptedGenerator):
        async def generate(self, chats, sampling):
            async for i, completion in super().generate(chats, sampling):
                if i == 6:
                    raise GenerationError("one: the server is gone")
                yield i, completion

    with pytest.raises(GenerationError, match="the server is gone"):
        run(config, judge=judge(), upstreams={"one": Breaking(answers)})
    assert len(rows_in(config.out / "answers" / "one.jsonl")) == 6
    run(config, "resume", judge=judge(), upstreams={"one": ScriptedGenerator(answers)})


def test_a_generator_that_forgets_questions_leaves_them_failed(tmp_path, trained) -> None:
    config, answers = live_config(tmp_path, trained, upstreams=[{"name": "one"}])

    class Forgetting(ScriptedGenerator):
        async def generate(self, chats, sampling):
            async for i, completion in super().generate(chats, sampling):
                if i % 2:
                    yield i, completion

    out = run(config, judge=judge(), upstreams={"one": Forgetting(answers)}).path
    assert json.loads((out / "result.json").read_text())["failed"] == 12


@pytest.mark.parametrize("by", ["name", "hash"])
def test_a_judge_in_the_lineage_is_marked(tmp_path, trained, by) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained / "model", copy)
    card = AlignerCard.load(copy)
    assert card is not None
    ancestor = Ancestor(role="teacher", name="gpt-teacher", hash="f" * 64)
    AlignerCard(prompt=card.prompt, lineage=(*card.lineage, ancestor)).save(copy)
    correctors = [{"name": "c", "aligner": str(trained)}, {"name": "marked", "aligner": str(copy)}]
    config, answers = live_config(tmp_path, trained, correctors=correctors, upstreams=[{"name": "one"}])
    the_judge = judge(lineage_name="gpt-teacher" if by == "name" else None)
    if by == "hash":
        the_judge.ancestor = Ancestor(role="judge", name="other", hash="f" * 64)  # type: ignore[attr-defined]
    result = run(config, judge=the_judge, upstreams={"one": ScriptedGenerator(answers)}).result()
    assert result is not None
    assert result["self_judged"] == ["marked"]
    assert [a["name"] for a in result["correctors"][1]["lineage"]][-1] == "gpt-teacher"


def test_stored_texts_are_scored_without_a_model_library(tmp_path) -> None:
    config = stored_config(tmp_path)
    config.save(tmp_path / "c.yaml")
    code = (
        "import sys\nfrom aligner.evaluate.config import EvalConfig\nfrom aligner.evaluate.run import run\n"
        f"run(EvalConfig.from_yaml({str(tmp_path / 'c.yaml')!r}))\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert cell(config.out, upstream="a", task="one")["omega"] == 25.0


def test_inside_a_running_loop(tmp_path) -> None:
    """As in a notebook."""
    import asyncio

    async def cell_of_a_notebook() -> Path:
        return run(stored_config(tmp_path)).path

    assert cell(asyncio.run(cell_of_a_notebook()), upstream="a", task="one")["omega"] == 25.0


def test_one_judge_is_asked_from_one_loop_and_about_several_at_a_time(tmp_path) -> None:
    import asyncio

    class Slow(PlainJudge):
        now = most = 0

        def __init__(self) -> None:
            super().__init__()
            self.loops: set[int] = set()

        async def judge(self, question, candidate, baseline):
            self.loops.add(id(asyncio.get_running_loop()))
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return await super().judge(question, candidate, baseline)

    slow = Slow()
    run(stored_config(tmp_path, judge={"call": "a:b", "in_flight": 3}), judge=slow)
    assert len(slow.loops) == 1
    assert slow.most == 3


class Knowing(PlainJudge):
    """Knows where "bad" stands, and scores by how often it does not."""

    async def fault_spans(self, question, answers):
        return [[(a.index("bad"), a.index("bad") + 3)] if "bad" in a else [] for a in answers]

    async def score(self, question, answers):
        return [{"helpful": -float(a.count("bad"))} for a in answers]


def test_two_correctors_are_compared_and_their_edits_measured(tmp_path) -> None:
    stored_config(tmp_path)
    rows = rows_in(tmp_path / "corrections.jsonl")
    before = {"q0": "bad", "q1": "good", "q2": "good", "q3": "bad"}
    copies = [row | {"correction": before[row["id"]] + " b" * (row["upstream"] == "b")} for row in rows]
    write_rows(tmp_path / "copies.jsonl", copies)
    files = {"c": "corrections", "none": "copies"}
    correctors = [{"name": name, "corrections": tmp_path / f"{file}.jsonl"} for name, file in files.items()]
    config = stored_config(tmp_path, correctors=correctors)
    run_dir = run(config, judge=Knowing())
    result = run_dir.result()
    assert result is not None
    pairs = {(r["task"], r["dimension"]): r for r in result["pairs"]}
    assert list(pairs) == [("one", "helpful"), ("two", "helpful"), ("two", "harmless"), ("all", "helpful"),
                           ("all", "harmless")]  # fmt: skip
    # c wins twice and loses once among the four answers of a, and copies those of b.
    one = pairs["one", "helpful"]
    assert (one["first"], one["second"], one["pairs"], one["difference"]) == ("c", "none", 8, -12.5)
    assert (one["better"], one["worse"], one["regressions"]) == (1, 2, 0)
    assert pairs["two", "harmless"]["pairs"] == 5, "the judge says nothing of it, and copies are ties"
    assert result["judge"]["locates_faults"] is True
    edited = {(r["corrector"], r["upstream"], r["task"]): r for r in result["edits"]}
    assert len(edited) == 2 * 3 * 3
    c = edited["c", "a", "one"]
    assert (c["answers"], c["located"], c["changed"], c["faulty"], c["changed_faulty"]) == (4, 4, 3, 2, 2)
    assert (c["precision"], c["recall"], c["copied_share"]) == (0.6667, 1.0, 0.25)
    assert edited["none", "all", "all"]["recall"] == 0.0
    assert edited["none", "all", "all"]["copied_share"] == 1.0

    page = render_run(run_dir).read_text(encoding="utf-8")
    assert "none less c" in page
    assert "Edit precision" in page
    for task in ("one", "two"):
        of_task = (run_dir.path / f"report-{task}.html").read_text(encoding="utf-8")
        assert "none less c" in of_task
        assert of_task.count("<svg") == 2, "one dimension is scored, so its spread is drawn"


def test_a_run_of_one_corrector_compares_none(tmp_path) -> None:
    result = run(stored_config(tmp_path)).result()
    assert result is not None
    assert result["pairs"] == result["planted"] == []
    assert {r["precision"] for r in result["edits"]} == {None}, "this judge does not know where faults are"
