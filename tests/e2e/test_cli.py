"""The command line as its users meet it: exit status, one clear line, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aligner.cli import main
from aligner.train.corrector import run
from tests.training import tiny_config, toy_rows, write_rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("cli")
    data = write_rows(directory / "toy.jsonl", toy_rows())
    return run(tiny_config(data, directory / "run")).path


@pytest.fixture
def answers(tmp_path) -> Path:
    rows = [
        {"question": f"list {i}", "answer": row["answer"], "extra": {"keep": i}, "note": "ä🙂"}
        for i, row in enumerate(toy_rows(30, seed=5))
    ]
    rows[3]["question"] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "list 3"}]
    return write_rows(tmp_path / "answers.jsonl", rows)


def cli(capsys, *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, *arguments: str | Path) -> str:
    """The one line that a refused command prints."""
    status, _, err = cli(capsys, *arguments)
    assert status == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith("aligner: ")
    assert "Traceback" not in err
    return line


def aligner_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aligner.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_help_needs_no_model_library_and_is_quick() -> None:
    code = "import sys; from aligner.cli import main; main(['--help']);"
    code += "print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False False\n")
    assert "aligner train" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], [], ["help"], ["data"], ["data", "--help"]])
def test_help_lists_the_verbs(capsys, arguments) -> None:
    status, out, _ = cli(capsys, *arguments)
    assert status == 0
    assert all(verb in out for verb in ("aligner train", "aligner correct", "aligner data check", "aligner report"))


@pytest.mark.parametrize("verb", [["train"], ["correct"], ["data", "check"], ["report"]])
def test_every_verb_explains_its_settings(capsys, verb) -> None:
    status, out, _ = cli(capsys, *verb, "--help")
    assert status == 0
    assert "usage: aligner" in out
    assert "--" in out


def test_version(capsys) -> None:
    from aligner import __version__

    assert cli(capsys, "--version")[1].strip() == __version__


def test_train_correct_report_from_a_shell(tmp_path) -> None:
    """The whole way in processes of their own, with exit status 0 and the places of the results on stdout."""
    data = write_rows(tmp_path / "toy.jsonl", toy_rows(60))
    config = tiny_config(data, tmp_path / "run", samples=2)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    trained = aligner_process("train", tmp_path / "c.yaml", "--residual.steps", "6", "--warmup.steps=4")
    assert trained.returncode == 0, trained.stderr
    assert str(tmp_path / "run" / "model") in trained.stdout
    assert "tokens/s" in trained.stderr
    assert "left" in trained.stderr
    done = aligner_process("correct", "--aligner", tmp_path / "run", "--input", data, "--output", tmp_path / "o.jsonl")
    assert done.returncode == 0, done.stderr
    assert "60 answers" in done.stdout
    shown = aligner_process("report", tmp_path / "run")
    assert shown.returncode == 0
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")


def test_correct_keeps_order_and_fields_and_adds_its_own(capsys, tmp_path, trained, answers) -> None:
    output = tmp_path / "out" / "corrected.jsonl"
    status, out, _ = cli(capsys, "correct", "--aligner", trained, "--input", answers, "--output", output)
    assert status == 0
    assert "30 answers" in out
    before = [json.loads(line) for line in answers.read_text().splitlines()]
    after = [json.loads(line) for line in output.read_text().splitlines()]
    assert [{k: row[k] for k in before[0]} for row in after] == before
    for row in after:
        assert set(row) - set(before[0]) == {
            "correction",
            "diff",
            "kept_because",
            "flags",
            "edit_ratio",
            "copied_share",
            "error",
            "gate",
        }
        assert "".join(text for op, text in row["diff"] if op != "insert") == row["answer"]
        assert "".join(text for op, text in row["diff"] if op != "delete") == row["correction"]


@pytest.mark.parametrize("torn", ["", '{"question": "list 7", "answ'])
def test_correct_resumes_after_a_crash(capsys, tmp_path, trained, answers, torn) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert cli(capsys, "correct", "--aligner", trained, "--input", answers, "--output", whole)[0] == 0
    lines = whole.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:7]) + torn)
    whole.with_name("whole.jsonl.config.yaml").rename(part.with_name("part.jsonl.config.yaml"))
    status, out, _ = cli(capsys, "correct", "--aligner", trained, "--input", answers, "--output", part, "--resume")
    assert status == 0
    assert "23 answers" in out
    assert "7 done before" in out
    assert part.read_text() == whole.read_text()
    status, out, _ = cli(capsys, "correct", "--aligner", trained, "--input", answers, "--output", part, "--resume")
    assert (status, "0 answers" in out) == (0, True)


def test_correct_refuses_what_would_lose_work(capsys, tmp_path, trained, answers) -> None:
    output = tmp_path / "o.jsonl"
    common = ["correct", "--aligner", trained, "--input", answers, "--output"]
    assert cli(capsys, *common, output)[0] == 0
    assert "exists already" in refused(capsys, *common, output)
    assert "is the input itself" in refused(capsys, *common, answers)
    other = write_rows(tmp_path / "other.jsonl", toy_rows(40, seed=9))
    line = refused(capsys, "correct", "--aligner", trained, "--input", other, "--output", output, "--resume")
    assert "is not the correction of" in line
    short = write_rows(tmp_path / "short.jsonl", toy_rows(3, seed=5))
    line = refused(capsys, "correct", "--aligner", trained, "--input", short, "--output", output, "--resume")
    assert "more rows than the input (3)" in line
    assert cli(capsys, *common, output, "--overwrite")[0] == 0


def test_correct_never_eats_a_foreign_file(capsys, tmp_path, trained, answers) -> None:
    """--resume on a file that is no output, --overwrite with a corrector that does not load: the file stands."""
    notes = tmp_path / "notes.txt"
    notes.write_text("years of work, one line, no newline")
    common = ["correct", "--input", answers, "--output", notes]
    assert "is no row of corrections" in refused(capsys, *common, "--aligner", trained, "--resume")
    assert "no such directory" in refused(capsys, *common, "--aligner", "./typo", "--overwrite")
    assert notes.read_text() == "years of work, one line, no newline"
    directory = tmp_path / "d"
    directory.mkdir()
    assert "is no ordinary file" in refused(
        capsys, "correct", "--aligner", trained, "--input", answers, "--output", directory, "--overwrite"
    )
    assert "cannot be written" in refused(
        capsys, "correct", "--aligner", trained, "--input", answers, "--output", notes / "x.jsonl"
    )


def test_correct_keeps_the_corrections_that_a_file_of_triplets_has(capsys, tmp_path, trained) -> None:
    triplets = write_rows(tmp_path / "t.jsonl", toy_rows(3))
    output = tmp_path / "o.jsonl"
    common = ["correct", "--aligner", trained, "--input", triplets, "--output", output, "--cache-tokens", "500"]
    assert cli(capsys, *common)[0] == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["input_correction"] for row in rows] == [row["correction"] for row in toy_rows(3)]


def test_correct_says_when_rows_failed(capsys, tmp_path, trained, answers, monkeypatch) -> None:
    from aligner.correct.forward import Forward

    monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("lost device")))
    status, _, err = cli(capsys, "correct", "--aligner", trained, "--input", answers, "--output", tmp_path / "o.jsonl")
    assert status == 1
    assert "30 answers could not be corrected; the first: the model failed: lost device" in err
    assert "--resume tries them again" in err
    row = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    assert (row["kept_because"], row["correction"]) == ("error", row["answer"])
    assert "lost device" in row["error"]
    again = ["correct", "--aligner", trained, "--input", answers, "--output", tmp_path / "o.jsonl", "--resume"]
    assert cli(capsys, *again)[0] == 1
    monkeypatch.undo()
    line = refused(capsys, *again, "--guards.cut", "off", "--temperature", "0.5")
    assert "started with other settings (differs in: guards.cut, temperature; see o.jsonl.config.yaml)" in line
    status, out, _ = cli(capsys, *again)
    assert (status, "30 answers" in out) == (0, True)
    assert [json.loads(line)["error"] for line in (tmp_path / "o.jsonl").read_text().splitlines()] == [None] * 30


def test_correct_samples_and_limits(capsys, tmp_path, trained, answers) -> None:
    """Every decoding option reaches the decoder: the outputs differ from greedy, and equal seeds give equal files."""
    common = ["correct", "--aligner", trained, "--input", answers, "--device", "cpu", "--dtype", "float32"]
    outputs = {}
    for name, flags in {
        "greedy": [],
        "hot": ["--temperature", "2.0", "--seed", "3"],
        "again": ["--temperature", "2.0", "--seed", "3", "--max-rows", "4"],
        "other": ["--temperature", "2.0", "--seed", "4"],
        "likeliest": ["--temperature", "2.0", "--top-k", "1"],
        "nucleus": ["--temperature", "2.0", "--top-p", "0.0001"],
        "short": ["--max-new-tokens", "2"],
        "short and undrafted": ["--max-new-tokens", "2", "--speculate", "false"],
    }.items():
        path = tmp_path / f"{name}.jsonl"
        assert cli(capsys, *common, "--output", path, *flags)[0] == 0
        outputs[name] = path.read_text()
    assert outputs["hot"] == outputs["again"]
    assert len({outputs[n] for n in ("greedy", "hot", "other")}) == 3
    assert outputs["likeliest"] == outputs["nucleus"] == outputs["greedy"]
    assert outputs["short"] == outputs["short and undrafted"]
    short = [json.loads(line) for line in outputs["short"].splitlines()]
    assert {row["kept_because"] for row in short} <= {"cut", "emptied", None}
    assert sum(row["kept_because"] == "cut" for row in short) > len(short) / 2
    assert all(len(row["correction"]) < 12 for row in short if row["kept_because"] is None), "two tokens at most"


def test_data_check_counts_and_names(capsys, tmp_path) -> None:
    rows = toy_rows(10)
    rows += [rows[0], {**rows[1], "correction": rows[1]["answer"]}, {**rows[2], "answer": " "}]
    good = write_rows(tmp_path / "good.jsonl", rows)
    status, out, _ = cli(capsys, "data", "check", good)
    assert status == 0
    assert "even" in out
    assert "odd" in out
    bad = write_rows(
        tmp_path / "bad.jsonl",
        [rows[0], {"question": "q", "answer": "a"}, {"question": 3, "answer": "a", "correction": "c"}],
    )
    status, out, err = cli(capsys, "data", "check", good, bad)
    assert status == 2
    assert f"{bad}:2: the field 'correction' is missing" in out
    assert f"{bad}:3: 'question' is a int" in out
    assert "2 rows are no triplet" in err


def test_data_check_with_a_tokenizer(capsys, tmp_path, trained) -> None:
    data = write_rows(tmp_path / "d.jsonl", toy_rows(10))
    assert cli(capsys, "data", "check", data, "--tokenizer", trained / "model", "--max-length", "5")[0] == 0
    assert "name the tokenizer" in refused(capsys, "data", "check", data, "--max-length", "5")
    assert "no such directory" in refused(capsys, "data", "check", data, "--tokenizer", "./nowhere")


def broken(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{"question": "q", "answer": "a", "correction": "c"}\n{"question": "q", "answer" "a"}\n', 2, "not valid JSON"),
        ('[\n{"question": "q", "answer": "a", "correction": "c"},\n{"question": oops}\n]', 3, "not valid JSON"),
        ('{"question": "q", "answer": "a", "correction": "c"}\n[1, 2]\n', 2, "where an object should start"),
        ('{"question": "q", "correction": "c"}', 1, "the field 'answer' is missing (found: question, correction)"),
        ('{"question": "q", "answer": null, "correction": "c"}', 1, "'answer' is a NoneType; expected text"),
        ('{"question": [{"role": "robot", "content": "x"}], "answer": "a", "correction": "c"}', 1, "the role 'robot'"),
    ],
)
def test_bad_rows_name_file_line_and_what_was_expected(capsys, tmp_path, text, line, message) -> None:
    data = broken(tmp_path, "bad.json", text)
    config = tiny_config(data, tmp_path / "run")
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    told = refused(capsys, "train", tmp_path / "c.yaml")
    assert f"{data}:{line}: " in told
    assert message in told
    assert "expected" in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.json", "", "the file holds no rows"),
        ("empty.jsonl.gz", b"", "empty"),
        ("cut.jsonl.xz", b"\xfd7zXZ\x00\x00", "damaged or cut"),
        ("latin.json", b'{"question": "\xe9"}', "not UTF-8"),
    ],
)
def test_bad_files(capsys, tmp_path, name, content, message) -> None:
    data = broken(tmp_path, name, content)
    line = refused(capsys, "train", "--data", data, "--out", tmp_path / "run", "--scratch.layers", "1")
    assert message in line
    assert name in line


def test_missing_files(capsys, tmp_path, trained) -> None:
    assert "names no file" in refused(
        capsys, "train", "--data", tmp_path / "no*.json", "--out", tmp_path / "r", "--scratch.layers", "1"
    )
    assert "environment variable" in refused(
        capsys, "train", "--data", "$NO_SUCH_NAME/x", "--out", tmp_path / "r", "--scratch.layers", "1"
    )
    assert "no such file" in refused(capsys, "train", tmp_path / "none.yaml")
    assert "no such file" in refused(
        capsys, "correct", "--aligner", trained, "--input", tmp_path / "x", "--output", tmp_path / "y"
    )
    assert "no run directory" in refused(capsys, "report", tmp_path).replace("is not a", "no")


def test_unknown_settings_name_the_nearest(capsys, tmp_path) -> None:
    path = broken(tmp_path, "c.yaml", "data: [x]\nout: y\nscratch: {layer: 2}\n")
    assert "unknown setting 'scratch.layer'; did you mean 'layers'?" in refused(capsys, "train", path)
    path = broken(tmp_path, "c.yaml", "data: [x]\nout: y\nmax_lenght: 5\nscratch: {}\n")
    assert "did you mean 'max_length'?" in refused(capsys, "train", path)
    path = broken(tmp_path, "c.yaml", "data: [x\n")
    assert "not valid YAML" in refused(capsys, "train", path)
    assert "did you mean 'residual.learning-rate'?" in refused(capsys, "train", "--residual.lerning-rate", "1")
    assert "did you mean 'train'?" in refused(capsys, "trian")
    assert "did you mean 'data check'?" in refused(capsys, "data", "chek")
    assert "needs a value" in refused(capsys, "train", "--out")
    assert "belongs to no option" in refused(capsys, "correct", "surprise")
    assert "'out' is missing" in refused(capsys, "train", "--data", "x", "--scratch.layers", "1")
    assert "'max_length'" in refused(
        capsys, "train", "--data", "x", "--out", "y", "--scratch.layers", "1", "--max-length", "five"
    )
    assert "exclude each other" in refused(capsys, "train", "--resume", "--overwrite")


def test_checkpoints_that_cannot_be_used(capsys, tmp_path, trained, answers) -> None:
    common = ["--input", answers, "--output", tmp_path / "o.jsonl"]
    line = refused(capsys, "correct", "--aligner", tmp_path, *common)
    assert "no model in this directory" in line
    assert "no such directory" in refused(capsys, "correct", "--aligner", "./nowhere", *common)
    assert "a file" in refused(capsys, "correct", "--aligner", answers, *common)
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in (trained / "model").iterdir():
        if file.name != "aligner.json":
            (plain / file.name).write_bytes(file.read_bytes())
    line = refused(capsys, "correct", "--aligner", plain, *common)
    assert "no aligner.json" in line
    assert "--prompt" in line
    assert "aligner-v1" in line
    assert not (tmp_path / "o.jsonl").exists(), "a corrector that does not load leaves no empty output behind"
    status, _, _ = cli(capsys, "correct", "--aligner", plain, "--prompt", "aligner-repo", *common)
    assert status == 0
    line = refused(capsys, "correct", "--aligner", plain, "--prompt", "aligner-v2", *common, "--overwrite")
    assert "did you mean 'aligner-v1'?" in line
    (plain / "aligner.json").write_text("{}")
    assert "aligner.json" in refused(capsys, "correct", "--aligner", plain, *common, "--overwrite")
    (plain / "config.json").write_text('{"model_type": "nonsense"}')
    assert "cannot be loaded" in refused(capsys, "correct", "--aligner", plain, *common, "--overwrite")


def test_a_hub_id_that_cannot_be_reached_says_so(tmp_path, answers) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "aligner.cli", "correct", "--aligner", "nobody/nothing", "--input", str(answers),
         "--output", str(tmp_path / "o.jsonl")], capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("aligner: nobody/nothing: the tokenizer cannot be loaded")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_hub_id_is_loaded_from_the_hubs_cache(tmp_path, trained, answers) -> None:
    """The Hub's own code finds weights, tokenizer and aligner.json of an id, here in a cache made by hand, offline."""
    repository = tmp_path / "hub" / "models--somebody--corrector"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in (trained / "model").iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    outputs = []
    for name in ("somebody/corrector", str(trained)):
        outputs.append(tmp_path / f"{len(outputs)}.jsonl")
        subprocess.run(
            [sys.executable, "-m", "aligner.cli", "correct", "--aligner", name, "--input", str(answers),
             "--output", str(outputs[-1])], check=True, env=environment,
        )  # fmt: skip
    assert outputs[0].read_text() == outputs[1].read_text()


def test_an_existing_run_directory_is_refused(capsys, tmp_path) -> None:
    data = write_rows(tmp_path / "d.jsonl", toy_rows(20))
    out = tmp_path / "taken"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    common = ["train", "--data", data, "--out", out, "--scratch.layers", "1"]
    assert "exists already" in refused(capsys, *common)
    assert "is not a run directory" in refused(capsys, *common, "--overwrite")
    assert (out / "thesis.tex").read_text() == "years of work"


def test_interrupted_correcting_keeps_what_is_done(tmp_path, trained) -> None:
    """Ctrl-C while answers are corrected: exit 130, whole rows, and --resume does the rest."""
    import signal

    rows = [{"question": f"list {i}", "answer": row["answer"]} for i, row in enumerate(toy_rows(4000, seed=2))]
    answers = write_rows(tmp_path / "many.jsonl", rows)
    output = tmp_path / "o.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "aligner.cli", "correct", "--aligner", str(trained), "--input", str(answers),
         "--output", str(output), "--max-rows", "8"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(3000):
        if output.exists() and output.stat().st_size > 5000:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume" in err
    done = len(output.read_text().splitlines())
    assert 0 < done < 4000
    assert all(json.loads(line) for line in output.read_text().splitlines()[:-1])
    finished = aligner_process("correct", "--aligner", trained, "--input", answers, "--output", output, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert [json.loads(line)["question"] for line in output.read_text().splitlines()] == [r["question"] for r in rows]


def test_full_disk_while_correcting(tmp_path, trained, answers) -> None:
    """A process that may write 3 kB: exit 2, one line, whole rows, and --resume does the rest."""
    output = tmp_path / "o.jsonl"
    code = (
        "import resource, sys\nfrom aligner.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = ["correct", "--aligner", str(trained), "--input", str(answers), "--output", str(output)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"aligner: {output}: cannot be written")
    again = aligner_process(*arguments, "--resume")
    assert again.returncode == 0, again.stderr
    assert len([json.loads(line) for line in output.read_text().splitlines()]) == 30
