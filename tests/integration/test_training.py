"""Train, save, load, correct; stop in every way there is, go on, and get the same corrector."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from aligner import Aligner
from aligner.errors import CheckpointError, ConfigError, DataError, RunError, TrainingError
from aligner.generate.collect import collect
from aligner.generate.hf import HFGenerator, load_tokenizer
from aligner.runs import RunDir
from aligner.train.config import Lora, Residual, Scratch, TrainConfig, Warmup
from aligner.train.corrector import run
from aligner.types import Sampling, as_chat
from tests.training import losses, start, tiny_config, toy_rows, weights, write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "toy.jsonl", toy_rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    """One uninterrupted run, which the others are compared with."""
    out = tmp_path_factory.mktemp("run") / "whole"
    run(tiny_config(data, out))
    return out


def test_the_gate_is_calibrated_at_the_end(tmp_path, finished) -> None:
    run_dir = run(tiny_config(write_rows(tmp_path / "toy.jsonl", toy_rows(700)), tmp_path / "run", held_out=0.5))
    said = (run_dir.result() or {})["gate"]
    assert said["needed"] >= 99
    with Aligner.from_pretrained(run_dir.path, gate="balanced") as aligner:
        assert aligner.card.gate is not None
        assert aligner.card.gate.to_json() == said
        correction = aligner.correct("list 1", "alpha gamma delta zeta.")
        assert correction.gate is not None
        assert correction.gate.threshold == said["thresholds"]["balanced"]
    # Too few held-out rows cost the gate alone.
    assert (RunDir(finished).result() or {})["gate"] is None
    with pytest.raises(CheckpointError, match="never calibrated"):
        Aligner.from_pretrained(finished, gate="balanced")


def wait_for_step(process: subprocess.Popen[str], out: Path, stage: str, step: int) -> None:
    for _ in range(3000):
        path = out / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if any(r["stage"] == stage and r["step"] >= step and "loss" in r for r in rows):
            return
        if process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()}")
        time.sleep(0.02)
    pytest.fail("the step was never reached")


def test_a_corrector_learns_its_triplets_and_survives_saving(tmp_path) -> None:
    rows = [
        {"question": "q1", "answer": "the sky is green", "correction": "the sky is blue"},
        {"question": "q2", "answer": "you fool, two", "correction": "two"},
        {"question": "q3", "answer": "cats bark", "correction": "cats meow"},
        {"question": "q4", "answer": "all is well.", "correction": "all is well."},
    ]
    config = tiny_config(
        write_rows(tmp_path / "four.json", rows),
        tmp_path / "run",
        held_out=0,
        warmup=Warmup(share=1, steps=20, batch_size=4, accumulation=1, learning_rate=3e-3),
        residual=Residual(steps=150, batch_size=4, accumulation=1, learning_rate=3e-3),
        save_every=1000,
    )
    run_dir = run(config)
    with Aligner.from_pretrained(run_dir.path) as aligner:
        corrections = list(aligner.correct_batch((r["question"], r["answer"]) for r in rows))
        assert [c.text for c in corrections] == [r["correction"] for r in rows]
        assert corrections[3].is_copy
        assert corrections[3].kept_because is None
        aligner.save_pretrained(tmp_path / "again")
    with Aligner.from_pretrained(tmp_path / "again") as again:
        assert again.card == aligner.card
        assert again.correct("q1", "the sky is green").text == "the sky is blue"


def test_what_a_run_leaves_behind(finished: Path, data: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert [s["name"] for s in result["stages"]] == ["warmup", "residual"]
    assert [s["steps"] for s in result["stages"]] == [10, 24]
    assert all(s["tokens"] > 0 and s["loss_last"] < s["loss_first"] for s in result["stages"])
    assert result["rows"]["read"] == 120
    assert result["rows"]["train"] + result["rows"]["held_out"] == 120
    table = {row["source"]: row for row in result["held_out"]}
    assert set(table) == {"even", "odd", "all"}
    assert table["all"]["n"] == table["even"]["n"] + table["odd"]["n"] == result["rows"]["held_out"]
    assert table["all"]["loss"] < table["all"]["loss_before"]
    assert table["even"]["generated"] == 4
    assert result["lineage"][0] == {"role": "data", "name": data.name, "hash": result["lineage"][0]["hash"]}
    assert len((finished / "samples.jsonl").read_text().splitlines()) == 8
    assert not (finished / "stages").exists()
    assert not (finished / "data").exists()
    steps = [(stage, step) for stage, step, _ in losses(finished)]
    assert steps == [("warmup", i) for i in range(1, 11)] + [("residual", i) for i in range(1, 25)]


def test_the_same_seed_gives_the_same_corrector_and_another_one_does_not(tmp_path, data, finished) -> None:
    run(tiny_config(data, tmp_path / "again"))
    assert losses(tmp_path / "again") == losses(finished)
    same, first = weights(tmp_path / "again"), weights(finished)
    assert all(torch.equal(same[k], first[k]) for k in first)
    run(tiny_config(data, tmp_path / "other", seed=7))
    assert losses(tmp_path / "other") != losses(finished)


@pytest.mark.parametrize(("stage", "step"), [("warmup", 3), ("warmup", 9), ("residual", 2), ("residual", 19)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, data, finished, stage, step) -> None:
    config = tiny_config(data, tmp_path / "killed")
    process = start(config)
    wait_for_step(process, config.out, stage, step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # What a crash in the middle of a save leaves: it must be passed over, not resumed from.
    half = config.out / "stages" / stage / "checkpoint-999"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    done = start(config, "--resume")
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert "report:" in out
    assert losses(config.out) == losses(finished)
    resumed, whole = weights(config.out), weights(finished)
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)
    assert (config.out / "samples.jsonl").read_text() == (finished / "samples.jsonl").read_text()


def test_killed_after_the_last_step_takes_no_step_more(tmp_path, data, finished) -> None:
    """The last checkpoint is written, the stage's end is not: resuming must not train on."""
    config = tiny_config(data, tmp_path / "end", keep_checkpoints=True)
    run(config)
    (config.out / "result.json").unlink()
    (config.out / "stages" / "residual" / "done.json").unlink()
    run(config, existing="resume")
    assert losses(config.out) == losses(finished)
    ours, whole = weights(config.out), weights(finished)
    assert all(torch.equal(ours[k], whole[k]) for k in whole)


def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(tmp_path, data, finished) -> None:
    config = tiny_config(data, tmp_path / "stopped", save_every=1000)
    process = start(config)
    wait_for_step(process, config.out, "residual", 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("aligner: stopped at step")
    assert "--resume" in last
    assert "Traceback" not in err
    whole = list((config.out / "stages" / "residual").glob("checkpoint-*/whole.json"))
    assert len(whole) == 1
    done = start(config, "--resume")
    _, err = done.communicate()
    assert done.returncode == 0, err
    assert losses(config.out) == losses(finished)


@pytest.mark.parametrize("largest", [5_000, 150_000, 300_000])
def test_full_disk_while_saving(tmp_path, data, largest) -> None:
    """The process may only write small files: the tokenizer, the weights or the optimiser's state do not fit."""
    config = tiny_config(data, tmp_path / "full", save_every=4)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))"
    process = start(config, before=limit)
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("aligner: ")
    assert "cannot be written" in last
    done = start(config, "--resume")
    _, err = done.communicate()
    assert done.returncode == 0, err


def test_out_of_memory(tmp_path, data) -> None:
    """A batch whose attention needs more than the address space that the process may have."""
    config = tiny_config(
        data,
        tmp_path / "large",
        scratch=Scratch(layers=2, hidden=512, heads=64, feed_forward=60000, vocabulary=320),
        warmup=Warmup(share=0),
        residual=Residual(steps=3, batch_size=100, accumulation=1),
        held_out=0,
        samples=0,
    )
    limit = (
        "import torch, trl, transformers, datasets, resource\n"
        "from trl import SFTTrainer\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 1_500_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"
    )
    process = start(config, before=limit)
    _, err = process.communicate()
    assert process.returncode == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("aligner: out of memory at step")
    assert "batch_size" in last
    assert "Traceback" not in err


def test_an_existing_run_is_refused_and_a_finished_one_left_alone(tmp_path, data, finished, capsys) -> None:
    config = tiny_config(data, finished)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="exists already"):
        run(config)
    run(config, existing="resume")
    assert "already finished" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before
    with pytest.raises(RunError, match="residual"):
        run(tiny_config(data, finished, residual=Residual(steps=5)), existing="resume")


def test_resuming_with_other_data_is_refused(tmp_path) -> None:
    path = write_rows(tmp_path / "d.jsonl", toy_rows(40))
    config = tiny_config(path, tmp_path / "run")
    run(config)
    (tmp_path / "run" / "result.json").unlink()
    write_rows(path, toy_rows(41))
    with pytest.raises(RunError, match=r"changed since it was started \(d\.jsonl\)"):
        run(config, existing="resume")


def test_a_second_process_is_kept_out(tmp_path) -> None:
    config = tiny_config(write_rows(tmp_path / "d.jsonl", toy_rows(40)), tmp_path / "run")
    run_dir = RunDir.create(config.out, config)
    with run_dir.locked(), pytest.raises(RunError, match="another process works here"):
        run(config, existing="resume")
    assert run(config, existing="resume").result() is not None


def test_length_beyond_the_models_context_is_refused(tmp_path, data, finished) -> None:
    config = tiny_config(data, tmp_path / "long", scratch=None, model=str(finished / "model"), max_length=97)
    with pytest.raises(ConfigError, match="takes 96 tokens at most"):
        run(config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "OLD/model"}, ConfigError, "lies in the run's own directory"),
        ({"data": ("OLD/rows.jsonl",)}, ConfigError, "lies in the run's own directory"),
        ({"mix": ("OLD/rows.jsonl",)}, ConfigError, "lies in the run's own directory"),
        ({"model": "FINISHED/modle"}, CheckpointError, "no such directory"),
        ({"model": "FINISHED/model", "max_length": 97}, ConfigError, "takes 96 tokens at most"),
        ({"data": ("OLD/../bad.jsonl",)}, DataError, "bad.jsonl:4: the field 'correction' is missing"),
        ({"mix": ("OLD/../bad.jsonl",)}, DataError, "bad.jsonl:1: "),
    ],
)
def test_an_old_run_outlives_wrong_inputs(tmp_path, data, finished, changes, error, message) -> None:
    """--overwrite empties the old run when everything that can be checked before is right, and not sooner."""
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    write_rows(old / "rows.jsonl", toy_rows(8))
    write_rows(tmp_path / "bad.jsonl", [*toy_rows(3), {"question": "x", "answer": "y"}])
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(placed, value))
        return value.replace("OLD", str(old)).replace("FINISHED", str(finished)) if isinstance(value, str) else value

    settings = {name: placed(value) for name, value in changes.items()}
    if "model" in settings:
        settings["scratch"] = None
    with pytest.raises(error, match=re.escape(message)):
        run(tiny_config(data, old).model_copy(update=settings), existing="overwrite")
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_a_finished_run_needs_its_inputs_no_more(tmp_path, data, finished) -> None:
    base = Path(shutil.copytree(finished / "model", tmp_path / "base"))
    config = tiny_config(data, tmp_path / "on", scratch=None, model=str(base), samples=0)
    run(config)
    shutil.rmtree(base)
    assert run(config, existing="resume").result() is not None


def test_a_corrector_trained_on_keeps_its_prompt(tmp_path, data, finished) -> None:
    first = Aligner.from_pretrained(finished)
    config = tiny_config(data, tmp_path / "on", scratch=None, model=str(finished / "model"), samples=0)
    with first, Aligner.from_pretrained(run(config).path) as second:
        assert second.card.prompt == first.card.prompt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": Lora(targets=("no_such_layer",))}, "'lora': .*no_such_layer"),
        ({"seed": -1}, "seed"),
        ({"residual": {"betas": [0.9, 1.5]}}, "betas"),
        ({"residual": {"epochs": "inf"}}, "epochs"),
    ],
)
def test_values_that_a_library_would_die_of(tmp_path, data, finished, changes, message) -> None:
    base = tiny_config(data, tmp_path / "run", scratch=None, model=str(finished / "model"), samples=0)
    with pytest.raises(ConfigError, match=message):
        run(TrainConfig.from_dict(base.model_dump() | changes))


def test_warmup_may_be_left_out(tmp_path, data) -> None:
    config = tiny_config(data, tmp_path / "none", warmup=Warmup(share=0))
    run(config)
    assert {stage for stage, _, _ in losses(config.out)} == {"residual"}


def test_rows_that_do_not_fit_are_dropped_and_counted(tmp_path) -> None:
    rows = toy_rows(40)
    rows += [{**row, "question": row["question"] + " long", "answer": row["answer"] * 30} for row in rows[:5]]
    rows.append({"question": "blank", "answer": "alpha.", "correction": "  "})
    config = tiny_config(write_rows(tmp_path / "mixed.jsonl", rows), tmp_path / "run", held_out=0)
    result = run(config).result()
    assert result["rows"]["dropped"] == {"too_long": 5, "blank_correction": 1}
    assert result["rows"]["train"] == 40


def test_all_rows_too_long_names_the_length_to_set(tmp_path, data) -> None:
    with pytest.raises(
        DataError, match=r"all \d+ training rows are longer than max_length \(16 tokens\).*needs (\d+)"
    ) as e:
        run(tiny_config(data, tmp_path / "short", max_length=16))
    needed = int(str(e.value).split("needs ")[1].split(":")[0])
    shutil.rmtree(tmp_path / "short")
    result = run(tiny_config(data, tmp_path / "short", max_length=needed)).result()
    assert result["rows"]["dropped"] == {}


def test_everything_held_out_is_an_error(tmp_path) -> None:
    path = write_rows(tmp_path / "one.jsonl", toy_rows(2))
    with pytest.raises(DataError, match="no row to train on"):
        run(tiny_config(path, tmp_path / "run", held_out=0.9999999))


def test_a_loss_that_is_no_number_stops_with_a_reason(tmp_path, data) -> None:
    wild = Residual(steps=40, batch_size=8, accumulation=1, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TrainingError, match="learning_rate"):
        run(tiny_config(data, tmp_path / "wild", warmup=Warmup(share=0), residual=wild))


def test_from_a_checkpoint_with_its_lineage_and_held_out_curve(tmp_path, data, finished) -> None:
    config = tiny_config(
        data,
        tmp_path / "tuned",
        scratch=None,
        model=str(finished / "model"),
        instruction="Correct it.",
        request="",
        evaluate_every=10,
        gradient_checkpointing=True,
        keep_checkpoints=True,
    )
    run_dir = run(config)
    with Aligner.from_pretrained(run_dir.path) as aligner:
        assert [a.role for a in aligner.card.lineage] == ["data", "base"]
        assert "Correct it." in aligner.card.prompt.before
    rows = [json.loads(line) for line in run_dir.metrics_path.read_text().splitlines()]
    steps = [r["step"] for r in rows if r.get("source") == "all" and r["stage"] == "residual"]
    assert steps == [0, 10, 20, 24]
    assert (run_dir.path / "stages" / "warmup" / "model" / "aligner.json").is_file()


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_lora_is_merged_into_a_plain_checkpoint(tmp_path, data, finished, targets) -> None:
    config = tiny_config(
        data,
        tmp_path / "lora",
        scratch=None,
        model=str(finished / "model"),
        prompt="aligner-repo",
        lora=Lora(rank=4, alpha=8, targets=targets),
        warmup=Warmup(share=0.5, steps=2, batch_size=8, accumulation=1),
    )
    run_dir = run(config)
    before, after = weights(finished), weights(run_dir.path)
    assert set(before) == set(after)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    expected = ("q_proj", "v_proj") if isinstance(targets, tuple) else ("proj",)
    assert changed
    assert all(any(t in k for t in expected) for k in changed)
    with Aligner.from_pretrained(run_dir.path) as aligner:
        assert aligner.card.prompt.name == "aligner-repo"
        assert aligner.correct("list 1", "alpha beta gamma delta.").completion.text


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_bf16_and_both_architectures(tmp_path, data, architecture) -> None:
    scratch = Scratch(
        architecture=architecture, layers=1, hidden=32, heads=2, kv_heads=1, feed_forward=48, vocabulary=300
    )
    config = tiny_config(data, tmp_path / "bf16", precision="bf16", scratch=scratch, samples=0)
    result = run(config).result()
    assert result["held_out"][-1]["loss"] < result["held_out"][-1]["loss_before"]
    assert result["held_out"][-1]["edit_ratio"] is None
    assert weights(config.out)["model.norm.weight"].dtype == torch.float32


def test_two_processes_train_as_one(tmp_path, data) -> None:
    """Data-parallel on two CPU processes: one run directory, written once, one corrector, one report.

    Two processes take a step on the rows that one takes it on with twice the accumulation, to the same losses.
    """

    def config_of(name: str, accumulation: int) -> TrainConfig:
        schedule = {"steps": 6, "batch_size": 4, "accumulation": accumulation, "learning_rate": 3e-3}
        return tiny_config(data, tmp_path / name, warmup=Warmup(share=1, **schedule), residual=Residual(**schedule),
                           samples=0, keep_checkpoints=True)  # fmt: skip

    config, alone = config_of("two", 1), config_of("one", 2)
    run(alone)
    path = tmp_path / "two.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not `accelerate launch --cpu --num_processes=2`, which starts one process.
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}",
              "-m", "aligner.cli", "train", str(path)]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    last = config.out / "stages" / "residual" / "checkpoint-6"
    assert {p.name for p in last.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert done.stdout.count("corrector:") == done.stdout.count("report:") == 1
    two, one = losses(config.out), losses(alone.out)
    assert [row[:2] for row in two] == [row[:2] for row in one]
    assert [row[2] for row in two] == [pytest.approx(row[2], rel=1e-3) for row in one]
    with Aligner.from_pretrained(config.out) as aligner:
        assert aligner.correct("list 1", "alpha beta.").completion.finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x"}, "not both"),
        ({"scratch": None}, "either 'model'"),
        ({"prompt": "aligner-v1", "instruction": "x"}, "'instruction' belongs to the chat format"),
        ({"prompt": "aligner-v1", "request": ""}, "'request' belongs to the chat format"),
        ({"scratch": {"hidden": 50, "heads": 4}}, "even multiple of heads"),
        ({"scratch": {"heads": 4, "kv_heads": 3}}, "multiple of kv_heads"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path, changes, message) -> None:
    base = {"data": ["x"], "out": str(tmp_path), "scratch": {}}
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(base | changes)


def test_rows_mixed_in_teach_the_corrector_what_they_say(tmp_path) -> None:
    """With the mix a corrector also knows a text and an answer that no triplet holds; without it, it does not."""
    triplets = write_rows(tmp_path / "t.jsonl", toy_rows(30))
    known = [{"text": "capital of zeta: omega"}, {"prompt": "who is theta?", "completion": "a kappa"}]
    mix = write_rows(tmp_path / "mix.jsonl", known)
    schedule = Residual(steps=120, batch_size=16, accumulation=1, learning_rate=3e-3)

    def knows(out: Path) -> bool:
        generator = HFGenerator.from_pretrained(out / "model")
        found = collect(generator, [as_chat("who is theta?")], Sampling(max_new_tokens=12))
        return found[0].text == "a kappa"

    config = tiny_config(
        triplets, tmp_path / "mixed", mix=(str(mix),), held_out=0.1, residual=schedule, warmup=Warmup(share=0)
    )
    result = run(config).result()
    assert result["rows"]["mixed"] == 2
    assert result["rows"]["read"] == 30 == result["rows"]["train"] + result["rows"]["held_out"]
    assert result["stages"][0]["rows"] == result["rows"]["train"] + 2
    assert [a["name"] for a in result["lineage"]] == ["t.jsonl", "mix.jsonl"]
    assert knows(config.out)
    plain = config.model_copy(update={"mix": (), "out": tmp_path / "plain"})
    assert run(plain).result()["rows"]["mixed"] == 0
    assert not knows(plain.out)
    with pytest.raises(DataError, match=r"mix: '.*' names no file"):
        run(config.model_copy(update={"mix": (str(tmp_path / "none"),), "out": tmp_path / "none"}))
    (config.out / "result.json").unlink()
    write_rows(mix, known[:1])
    with pytest.raises(RunError, match=r"changed since it was started \(mix\.jsonl\)"):
        run(config, existing="resume")


def test_mixed_texts_train_the_tokenizer_too(tmp_path) -> None:
    """A word that only mixed rows hold is one token of the vocabulary, which bytes alone would not make it."""
    triplets = write_rows(tmp_path / "t.jsonl", toy_rows(30))
    mix = write_rows(tmp_path / "mix.jsonl", [{"text": "zyzzyva zyzzyva zyzzyva"}] * 60)
    config = tiny_config(triplets, tmp_path / "run", mix=(str(mix),), samples=0, warmup=Warmup(share=0))
    run(config.model_copy(update={"residual": Residual(steps=1, batch_size=4, accumulation=1)}))
    tokenizer = load_tokenizer(config.out / "model")
    assert len(tokenizer(" zyzzyva")["input_ids"]) == 1


@pytest.mark.parametrize(
    ("given", "before", "after"),
    [
        ({}, "", "<|user|><|end|>"),
        ({"request": "Fix it."}, "", "<|user|>Fix it.<|end|>"),
        ({"instruction": "Edit.", "request": ""}, "<|system|>Edit.<|end|>", "<|user|><|end|>"),
    ],
)
def test_the_request_stands_after_the_answer(tmp_path, data, given, before, after) -> None:
    schedule = {"residual": Residual(steps=1, batch_size=4, accumulation=1), "warmup": Warmup(share=0), "samples": 0}
    run_dir = run(tiny_config(data, tmp_path / "run", **schedule, **given))
    with Aligner.from_pretrained(run_dir.path) as aligner:
        assert aligner.card.prompt.before == f"{before}<|user|>"
        assert aligner.card.prompt.after == f"<|end|>{after}<|assistant|>"
