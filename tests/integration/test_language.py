"""Fine-tune on rows of any kind, load as an upstream, stop in every way, go on, and get the same model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from aligner.errors import CheckpointError, ConfigError, DataError, Interrupted, RunError, TrainingError
from aligner.generate.collect import collect
from aligner.generate.hf import HFGenerator, load_tokenizer
from aligner.report.render import render_run
from aligner.runs import RunDir
from aligner.train.config import Lora, Schedule, Scratch, SftConfig
from aligner.train.corrector import run as train_corrector
from aligner.train.language import run
from aligner.types import Sampling, as_chat
from tests.models import chatml_tokenizer, tiny_model
from tests.training import losses, text_rows, tiny_config, tiny_sft, toy_rows, weights, write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", text_rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    """One uninterrupted run, which the others are compared with."""
    out = tmp_path_factory.mktemp("run") / "whole"
    run(tiny_sft(data, out))
    return out


def start(config: SftConfig, existing: str = "refuse", before: str = "") -> subprocess.Popen[str]:
    """A run in a process of its own, ended as the command line ends: the message, and 2 or 130."""
    path = config.out.parent / f"{config.out.name}.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    code = f"""{before}
import sys
from aligner.errors import Interrupted, UserError
from aligner.train.config import SftConfig
from aligner.train.language import run
try:
    run(SftConfig.from_yaml({str(path)!r}), {existing!r})
except (UserError, Interrupted) as e:
    print(e, file=sys.stderr)
    sys.exit(130 if isinstance(e, Interrupted) else 2)
"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    for _ in range(3000):
        if (out / "metrics.jsonl").exists():
            text = (out / "metrics.jsonl").read_text().rpartition("\n")[0]
            if any(row["step"] >= step and "loss" in row for row in map(json.loads, text.splitlines())):
                return
        if process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()}")
        time.sleep(0.02)
    pytest.fail("the step was never reached")


def assert_same(out: Path, whole: Path) -> None:
    assert losses(out) == losses(whole)
    ours, theirs = weights(out), weights(whole)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def answers(model: Path, questions: list[str]) -> list[tuple[str, str]]:
    generator = HFGenerator.from_pretrained(model)
    found = collect(generator, [as_chat(q) for q in questions], Sampling(max_new_tokens=16))
    return [(c.text, c.finish_reason) for c in found]


def test_a_model_learns_its_answers_and_stops_after_them(tmp_path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "sky?", "completion": "blue"},
        {
            "prompt": [{"role": "system", "content": "Shout."}, {"role": "user", "content": "sky?"}],
            "completion": "BLUE!",
        },
        {"text": "cats say meow, and dogs do not."},
    ]
    config = tiny_sft(
        write_rows(tmp_path / "d.jsonl", rows),
        tmp_path / "run",
        held_out=0,
        schedule=Schedule(steps=150, batch_size=3, accumulation=1, learning_rate=3e-3),
        save_every=1000,
    )
    place = run(config).model_path
    assert answers(place, ["sky?"]) == [("blue", "stop")]
    generator = HFGenerator.from_pretrained(place)
    shouted = as_chat([{"role": "system", "content": "Shout."}, {"role": "user", "content": "sky?"}])
    assert collect(generator, [shouted], Sampling(max_new_tokens=16))[0].text == "BLUE!"
    tokenizer = generator.tokenizer
    ids = tokenizer("cats say", return_tensors="pt")["input_ids"]
    written = generator.model.generate(ids, max_new_tokens=32, do_sample=False)[0]
    assert tokenizer.decode(written, skip_special_tokens=True) == rows[2]["text"]
    assert written[-1] == tokenizer.eos_token_id


def test_what_a_run_leaves_behind(finished: Path, data: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["kind"] == "sft"
    assert [(s["name"], s["steps"]) for s in result["stages"]] == [("sft", 24)]
    assert set(result["stages"][0]) == {"name", "rows", "steps", "tokens", "seconds", "loss_first", "loss_last"}
    assert result["stages"][0]["loss_last"] < result["stages"][0]["loss_first"]
    rows = result["rows"]
    assert rows["read"] == 120 == rows["train"] + rows["held_out"]
    assert rows["measured"] == rows["held_out"] > 5
    assert result["stages"][0]["rows"] == rows["train"]
    (table,) = result["held_out"]
    assert (table["source"], table["n"], table["generated"]) == ("all", rows["measured"], 0)
    assert table["loss"] < table["loss_before"]
    assert table["edit_ratio"] is None
    (ancestor,) = result["lineage"]
    assert (ancestor["role"], ancestor["name"]) == ("data", data.name)
    assert json.loads((finished / "model" / "lineage.json").read_text())["lineage"] == [ancestor]
    assert not (finished / "stages").exists()
    assert not (finished / "data").exists()
    assert [(stage, step) for stage, step, _ in losses(finished)] == [("sft", i) for i in range(1, 25)]


def test_the_page_of_such_a_run(finished: Path) -> None:
    page = render_run(RunDir.open(finished)).read_text()
    assert "all sources" in page
    assert "rows.jsonl" in page


def test_held_out_rows_are_not_trained_on_and_split_by_prompt(tmp_path) -> None:
    """Two answers to one prompt never straddle the split, and another seed splits otherwise."""
    rows = [{"prompt": f"ask {i // 2}", "completion": f"answer {i}"} for i in range(100)]
    config = tiny_sft(write_rows(tmp_path / "d.jsonl", rows), tmp_path / "run", held_out=0.3,
                      schedule=Schedule(steps=1, batch_size=2, accumulation=1))  # fmt: skip
    result = run(config).result()
    assert result["rows"]["held_out"] % 2 == 0
    assert 16 <= result["rows"]["held_out"] <= 44
    few = run(config.model_copy(update={"out": tmp_path / "few", "held_out_rows": 5})).result()
    assert few["rows"]["measured"] == few["held_out"][0]["n"] == 5
    none = run(config.model_copy(update={"out": tmp_path / "none", "held_out": 0.0})).result()
    assert none["held_out"] == []
    assert none["rows"]["train"] == 100


@pytest.mark.parametrize("step", [3, 19])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, data, finished, step) -> None:
    config = tiny_sft(data, tmp_path / "killed")
    process = start(config)
    wait_for_step(process, config.out, step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = config.out / "stages" / "sft" / "checkpoint-999"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    run(config, existing="resume")
    assert_same(config.out, finished)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, data, finished) -> None:
    config = tiny_sft(data, tmp_path / "stopped", save_every=1000)
    process = start(config)
    wait_for_step(process, config.out, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "stopped at step" in err.strip().splitlines()[-1]
    assert len(list((config.out / "stages" / "sft").glob("checkpoint-*/whole.json"))) == 1
    run(config, existing="resume")
    assert_same(config.out, finished)


def test_full_disk_while_saving(tmp_path, data, finished) -> None:
    config = tiny_sft(data, tmp_path / "full")
    process = start(config, before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))")
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "cannot be written" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    run(config, existing="resume")
    assert_same(config.out, finished)


def test_existing_finished_locked_and_changed_runs(tmp_path, data, finished, capsys) -> None:
    config = tiny_sft(data, finished)
    with pytest.raises(RunError, match="exists already"):
        run(config)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    run(config, existing="resume")
    assert "already finished" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before
    with pytest.raises(RunError, match="max_length"):
        run(tiny_sft(data, finished, max_length=90), existing="resume")
    path = write_rows(tmp_path / "d.jsonl", text_rows(40))
    mine = tiny_sft(path, tmp_path / "run", schedule=Schedule(steps=2, batch_size=4, accumulation=1))
    with RunDir.create(mine.out, mine).locked(), pytest.raises(RunError, match="another process works here"):
        run(mine, existing="resume")
    run(mine, existing="resume")
    (mine.out / "result.json").unlink()
    write_rows(path, text_rows(41))
    with pytest.raises(RunError, match=r"changed since it was started \(d\.jsonl\)"):
        run(mine, existing="resume")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer": "model"}, ConfigError, "lies in the run's own directory"),
        ({"tokenizer": "../none/of/it"}, CheckpointError, "no such directory"),
        ({"scratch": None, "model": "model"}, ConfigError, "lies in the run's own directory"),
    ],
)
def test_an_old_run_outlives_a_wrong_start(tmp_path, data, finished, changes, error, message) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    settings = {name: value and str(old / value) for name, value in changes.items()}
    with pytest.raises(error, match=message):
        run(tiny_sft(data, old, **settings), existing="overwrite")
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_fine_tuning_an_upstream_keeps_its_tokenizer_and_lineage(tmp_path, data, finished) -> None:
    rows = write_rows(tmp_path / "more.jsonl", [{"prompt": f"ask {i}", "completion": "omega"} for i in range(20)])
    schedule = Schedule(steps=60, batch_size=5, accumulation=1, learning_rate=3e-3)
    config = tiny_sft(
        rows, tmp_path / "tuned", scratch=None, model=str(finished / "model"), held_out=0, schedule=schedule
    )
    result = run(config).result()
    assert [(a["role"], a["name"]) for a in result["lineage"]] == [
        ("data", "more.jsonl"), ("base", "model"), ("data", data.name)
    ]  # fmt: skip
    tuned, base = (load_tokenizer(p / "model") for p in (config.out, finished))
    assert tuned.get_vocab() == base.get_vocab()
    assert answers(config.out / "model", ["ask 3", "ask 77"]) == [("omega", "stop")] * 2
    corrector = tiny_config(
        write_rows(tmp_path / "triplets.jsonl", toy_rows(30)), tmp_path / "corrector",
        scratch=None, model=str(config.out / "model"), samples=0, instruction="", request="",
    )  # fmt: skip
    roles = [a["role"] for a in train_corrector(corrector).result()["lineage"]]
    assert roles == ["data", "base", "data", "base", "data"], "a corrector made from it knows all of it"


def test_lora_is_merged_and_the_rest_is_left_alone(tmp_path, data, finished) -> None:
    config = tiny_sft(
        data, tmp_path / "lora", scratch=None, model=str(finished / "model"),
        lora=Lora(rank=4, alpha=8, targets=("q_proj", "v_proj")), gradient_checkpointing=True, evaluate_every=10,
    )  # fmt: skip
    run(config)
    before, after = weights(finished), weights(config.out)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert set(before) == set(after)
    assert changed
    assert all("q_proj" in k or "v_proj" in k for k in changed)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "held_out_loss" in r] == [0, 10, 20, 24]


def test_generation_stops_at_the_templates_end_token(tmp_path) -> None:
    """The template ends an answer with another token than the tokenizer's own end token, as base models have it."""
    tokenizer = chatml_tokenizer()
    tokenizer.save_pretrained(tmp_path / "base")
    model = tiny_model("llama", tokenizer)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(0.1)
    model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<|endoftext|>"
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = write_rows(tmp_path / "d.jsonl", [{"prompt": "dog?", "completion": "yes"}, {"text": "the fox"}])
    config = tiny_sft(
        rows, tmp_path / "run", scratch=None, model=str(tmp_path / "base"), held_out=0,
        schedule=Schedule(steps=100, batch_size=2, accumulation=1, learning_rate=3e-3),
    )  # fmt: skip
    place = run(config).model_path
    ends = sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert json.loads((place / "generation_config.json").read_text())["eos_token_id"] == ends
    assert answers(place, ["dog?"]) == [("yes", "stop")]


@pytest.mark.parametrize("place", ["model", "tokenizer"])
def test_models_of_several_sizes_share_a_tokenizer(tmp_path, data, finished, place) -> None:
    config = tiny_sft(
        data, tmp_path / "wide", scratch=Scratch(layers=1, hidden=64, heads=2), tokenizer=str(finished / place),
        schedule=Schedule(steps=2, batch_size=4, accumulation=1),
    )  # fmt: skip
    run(config)
    ours, theirs = (load_tokenizer(p / "model") for p in (config.out, finished))
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.chat_template == theirs.chat_template
    assert weights(config.out)["model.embed_tokens.weight"].shape == (len(theirs), 64)
    (config.out / "result.json").unlink()
    shutil.rmtree(config.out / "model")
    run(config.model_copy(update={"out": config.out}), existing="resume")
    assert (config.out / "model" / "model.safetensors").is_file()


def test_rows_that_do_not_fit_or_say_nothing_are_dropped_and_counted(tmp_path) -> None:
    rows = [*text_rows(20), {"text": "alpha " * 200}, {"prompt": "alpha " * 200, "completion": "x"}, {"text": " \n"}]
    schedule = Schedule(steps=1, batch_size=4, accumulation=1)
    config = tiny_sft(write_rows(tmp_path / "d.jsonl", rows), tmp_path / "run", held_out=0, schedule=schedule)
    result = run(config).result()
    assert result["rows"]["dropped"] == {"too_long": 2, "blank": 1}
    assert result["rows"]["train"] == 20


def test_all_rows_too_long_names_the_length_to_set(tmp_path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"text": f"{i}: " + "alpha beta " * 15} for i in range(10)])
    settings = {"schedule": Schedule(steps=1, batch_size=4, accumulation=1), "held_out": 0}
    with pytest.raises(DataError, match=r"data: all 10 training rows are longer than max_length \(16 tokens\)") as e:
        run(tiny_sft(data, tmp_path / "short", max_length=16, **settings))
    needed = int(str(e.value).split("needs ")[1].split(":")[0])
    assert run(tiny_sft(data, tmp_path / "fits", max_length=needed, **settings)).result()["rows"]["dropped"] == {}


def test_what_is_wrong_is_said_before_training(tmp_path, data, finished) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "fine"}, {"prompt": "x"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:2: found prompt"):
        run(tiny_sft(bad, tmp_path / "a"))
    with pytest.raises(DataError, match="names no file"):
        run(tiny_sft(tmp_path / "none.jsonl", tmp_path / "b"))
    with pytest.raises(DataError, match=r"no row to train on \(1 read, 0 held out\)"):
        run(tiny_sft(write_rows(tmp_path / "blank.jsonl", [{"text": " "}]), tmp_path / "c"))
    with pytest.raises(ConfigError, match="takes 96 tokens at most"):
        run(tiny_sft(data, tmp_path / "d", scratch=None, model=str(finished / "model"), max_length=97))
    with pytest.raises(CheckpointError, match="no model in this directory"):
        run(tiny_sft(data, tmp_path / "e", tokenizer=str(tmp_path)))
    wild = Schedule(steps=40, batch_size=8, accumulation=1, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TrainingError, match="learning_rate"):
        run(tiny_sft(data, tmp_path / "f", schedule=wild))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x"}, "not both"),
        ({"scratch": None}, "either 'model'"),
        ({"scratch": None, "model": "x", "tokenizer": "y"}, "'tokenizer' belongs to 'scratch'"),
        ({"schedul": {}}, "did you mean 'schedule'"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SftConfig.from_dict({"data": ["x"], "out": str(tmp_path), "scratch": {}} | changes)


def test_an_interrupt_is_an_interrupt_in_process_too(tmp_path, data, finished, monkeypatch) -> None:
    """Ctrl-C while the run is in the caller's own process, and a resume there."""
    from aligner.train.progress import StageProgress

    config, real = tiny_sft(data, tmp_path / "run", save_every=1000), StageProgress.on_step_end

    def interrupted(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            signal.raise_signal(signal.SIGINT)
        real(self, args, state, control, **kwargs)

    monkeypatch.setattr(StageProgress, "on_step_end", interrupted)
    with pytest.raises(Interrupted, match="stopped at step 5 of sft"):
        run(config)
    monkeypatch.undo()
    run(config, existing="resume")
    assert_same(config.out, finished)
