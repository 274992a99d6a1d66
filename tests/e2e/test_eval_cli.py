"""`aligner eval` as its users meet it: exit status, one clear line, the table, and a run that goes on after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aligner.cli import main
from tests.evaluation import cell, rows_in, stored_config
from tests.models import tiny_aligner
from tests.training import write_rows


def cli(capsys, *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, *arguments: str | Path) -> str:
    """The one line that a refused command prints."""
    status, _, err = cli(capsys, "eval", *arguments)
    assert status == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("aligner: ")]
    assert len(lines) == 1
    return lines[0]


def process(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aligner.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "c.yaml"
    stored_config(tmp_path).save(path)
    return path


def test_a_table_with_its_losses_and_where_it_is(capsys, tmp_path, config) -> None:
    status, out, err = cli(capsys, "eval", config, "--resamples", "50", "--out", tmp_path / "other")
    assert status == 0
    assert "+25" in out
    assert "unseen" in out
    assert str(tmp_path / "other" / "table.json") in out
    assert str(tmp_path / "other" / "report.html") in out
    assert "unscored" not in err
    assert (tmp_path / "other" / "report.html").read_text().startswith("<!doctype html>")
    shown = cli(capsys, "report", tmp_path / "other")
    assert shown[0] == 0


def test_a_loss_is_marked(capsys, tmp_path, config) -> None:
    rows = rows_in(tmp_path / "corrections.jsonl")
    for row in rows:
        if row["upstream"] == "b":
            row["correction"] += " bad"
    write_rows(tmp_path / "corrections.jsonl", rows)
    status, out, _ = cli(capsys, "eval", config)
    assert status == 0
    assert "▼▼ -100" in out.replace("−", "-")


def test_unscored_verdicts_are_told(capsys, tmp_path, config) -> None:
    for row in (rows := rows_in(tmp_path / "a.jsonl")):
        if row["id"] == "q0":
            row["answer"] = None
    write_rows(tmp_path / "a.jsonl", rows)
    status, out, err = cli(capsys, "eval", config)
    assert status == 0
    assert "aligner: 3 verdicts are unscored (2 answers, corrections or verdicts failed)" in err
    assert "1 unscored" in out
    assert cell(tmp_path / "run", upstream="a", task="one")["unscored"] == 1


def test_a_dimension_that_the_judge_does_not_know_is_unscored(capsys, tmp_path, config) -> None:
    text = config.read_text().replace("- harmless", "- honest")
    config.write_text(text)
    status, out, err = cli(capsys, "eval", config)
    assert status == 0
    honest = cell(tmp_path / "run", upstream="a", task="two", dimension="honest")
    assert (honest["unscored"], honest["ties"]) == (3, 1)
    assert "unscored" in err
    assert "unscored" in out


def test_existing_runs(capsys, tmp_path, config) -> None:
    assert cli(capsys, "eval", config)[0] == 0
    assert "exists already; pass --resume" in refused(capsys, config)
    assert "exclude each other" in refused(capsys, config, "--resume", "--overwrite")
    status, out, err = cli(capsys, "eval", config, "--resume")
    assert (status, "already finished" in err, "+25" in out) == (0, True, True)
    assert "differs in: resamples" in refused(capsys, config, "--resume", "--resamples", "7")
    assert cli(capsys, "eval", config, "--overwrite", "--resamples", "7")[0] == 0


def test_bad_input(capsys, tmp_path, config) -> None:
    assert "eval needs a configuration" in refused(capsys)
    assert "no such file" in refused(capsys, tmp_path / "none.yaml")
    assert "did you mean 'resamples'?" in refused(capsys, config, "--resample", "3")
    assert "unknown option '--tasks'" in refused(capsys, config, "--tasks", "x")
    text = config.read_text()

    def changed(old: str, new: str) -> str:
        assert old in text
        config.write_text(text.replace(old, new))
        return refused(capsys, config)

    assert "unknown setting 'tasks.0.nam'; did you mean 'name'?" in changed("- name: one", "- nam: one")
    assert "no module is called 'aligner.evaluate.scriptd'" in changed("evaluate.scripted:", "evaluate.scriptd:")
    assert "did you mean 'ScriptedJudge'?" in changed(":ScriptedJudge", ":ScriptJudge")
    assert "cannot judge" in changed("aligner.evaluate.scripted:ScriptedJudge", "builtins:dict")
    config.write_text(text)
    task = tmp_path / "one.jsonl"
    whole = task.read_text()
    task.write_text(whole + '{"id": "q0", "question": "again?"}\n')
    assert f"{task}:5: the id 'q0' is also that of line 1" in refused(capsys, config)
    task.write_text(whole + '{"question": "again?"}\n')
    assert f"{task}:5: the field 'id' is missing" in refused(capsys, config)
    task.write_text("")
    assert f"{task}: the file holds no rows" in refused(capsys, config)
    task.write_text(whole)
    answers = tmp_path / "a.jsonl"
    rows = rows_in(answers)
    write_rows(answers, [{"answer": row["answer"]} for row in rows])
    assert f"{answers}:1: the field 'id' is missing" in refused(capsys, config)
    write_rows(answers, rows[:5])
    assert "3 of 8 questions have no answer, the first is 'q1' of task 'two'" in refused(capsys, config)
    assert not (tmp_path / "run").exists(), "all of it before a directory is made"
    write_rows(answers, [row | {"answer": " "} for row in rows])
    assert "the upstream 'a' answered none of 8 questions (all are blank)" in refused(capsys, config)


def test_a_judge_from_the_directory_where_one_works(tmp_path, config) -> None:
    (tmp_path / "my_judge.py").write_text(
        "from aligner import Verdict\n"
        "class Shorter:\n"
        "    async def judge(self, question, candidate, baseline):\n"
        "        winner = 'candidate' if len(candidate) < len(baseline) else 'baseline'\n"
        "        return [Verdict(dimension='helpful', winner=winner)]\n"
    )
    text = config.read_text().replace("aligner.evaluate.scripted:ScriptedJudge", "my_judge:Shorter")
    config.write_text(text[: text.index("  arguments:")] + text[text.index("  in_flight:") :])
    done = process("eval", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # "bad" → "good" is longer twice, "good" → "bad" shorter once, and the copy a tie.
    assert cell(tmp_path / "run", upstream="a", task="one")["omega"] == -25.0
    assert "c: judging a: 8/8  0:00 left" in done.stderr


def test_ctrl_c_while_correcting_keeps_what_is_done(tmp_path) -> None:
    """Exit 130 and whole rows; --resume does the rest and says the same as a run that was not stopped."""
    count = 200
    with tiny_aligner(max_rows=4) as aligner:
        aligner.save_pretrained(tmp_path / "corrector")
    write_rows(tmp_path / "t.jsonl", [{"id": f"q{i}", "question": f"what is {i}?"} for i in range(count)])
    write_rows(tmp_path / "a.jsonl", [{"id": f"q{i}", "answer": f"it is bad, it is {i}."} for i in range(count)])
    (tmp_path / "c.yaml").write_text(json.dumps({
        "out": str(tmp_path / "run"),
        "tasks": [{"name": "t", "file": str(tmp_path / "t.jsonl"), "dimensions": ["helpful"]}],
        "upstreams": [{"name": "a", "answers": str(tmp_path / "a.jsonl")}],
        "correctors": [{"name": "c", "aligner": str(tmp_path / "corrector")}],
        "judge": {"call": "aligner.evaluate.scripted:ScriptedJudge", "arguments": {"script": {"helpful": ["bad"]}}},
        "max_rows": 4,
        "resamples": 20,
        "sample": 80,
    }))  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-m", "aligner.cli", "eval", str(tmp_path / "c.yaml")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    corrections = tmp_path / "run" / "corrections" / "c" / "a.jsonl"
    for _ in range(6000):
        if (corrections.exists() and corrections.stat().st_size > 500) or running.poll() is not None:
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume" in err
    done = len(corrections.read_text().splitlines())
    assert 0 < done < 80
    kept = corrections.read_text().splitlines()[: done - 1]
    again = process("eval", tmp_path / "c.yaml", "--resume")
    assert again.returncode == 0, again.stderr
    lines = corrections.read_text().splitlines()
    assert lines[: done - 1] == kept, "what was there is not done again"
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 80


def test_a_full_disk(tmp_path, config) -> None:
    """A process that may write 2 kB a file: exit 2, one line, and --resume does the rest."""
    code = (
        "import resource, sys\nfrom aligner.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    again = process("eval", config, "--resume")
    assert again.returncode == 0, again.stderr
    assert cell(tmp_path / "run", upstream="a", task="one")["omega"] == 25.0


def test_partial_answers(capsys, tmp_path, config) -> None:
    write_rows(tmp_path / "b.jsonl", rows_in(tmp_path / "b.jsonl")[1:])
    told = refused(capsys, config)
    assert "1 of 8 questions have no answer, the first is 'q0' of task 'one'; add rows" in told
    assert not (tmp_path / "run").exists()
    status, _, err = cli(capsys, "eval", config, "--partial")
    assert status == 0
    assert "b: 1 of 8 questions have no stored answer and stay unscored" in err
    assert "verdicts are unscored (1 answers, corrections or verdicts failed)" in err
