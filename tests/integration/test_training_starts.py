"""What a training run starts from and with: a checkpoint's tokenizer and prompt, its processes, its GPUs, its rows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import transformers

from aligner.errors import CheckpointError, ConfigError, DataError, PromptError, RunError
from aligner.evaluate.config import EvalConfig
from aligner.generate.hf import load_causal_lm, load_tokenizer
from aligner.prompts import PromptFormat
from aligner.tokens import TextCodec
from aligner.train.base import check_base
from aligner.train.config import Residual, TrainConfig, Warmup
from aligner.train.corrector import _prompt, run
from aligner.train.dataset import prepare
from tests.training import losses, tiny_config, toy_rows, write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "toy.jsonl", toy_rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    run(tiny_config(data, out, samples=0))
    return out


def copied(finished: Path, place: Path) -> Path:
    return Path(shutil.copytree(finished / "model", place))


def rewritten(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_an_old_run_outlives_a_base_that_carries_no_prompt(tmp_path, data, finished) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    base = copied(finished, tmp_path / "base")
    for name in ("aligner.json", "chat_template.jinja"):
        (base / name).unlink()
    with pytest.raises(PromptError, match="chat template"):
        run(tiny_config(data, old, scratch=None, model=str(base)), existing="overwrite")
    assert (old / "result.json").is_file()
    assert (old / "model" / "model.safetensors").is_file()


def test_a_run_goes_on_with_as_many_processes_as_it_was_started_with(tmp_path, data, finished) -> None:
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    (old / "result.json").unlink()
    config = tiny_config(data, old, samples=0)
    (old / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    rewritten(old / "resolved.json", processes=2)
    with pytest.raises(RunError, match="was started with 2 processes, and these are 1"):
        run(config, existing="resume")


def test_one_process_uses_one_gpu_however_many_there_are(tmp_path, data, monkeypatch) -> None:
    found = transformers.TrainingArguments.__dict__["_setup_devices"]

    def two(arguments: Any) -> Any:
        device = found.func(arguments)
        arguments._n_gpu = 2
        return device

    devices = cached_property(two)
    devices.__set_name__(transformers.TrainingArguments, "_setup_devices")
    monkeypatch.setattr(transformers.TrainingArguments, "_setup_devices", devices)
    config = tiny_config(data, tmp_path / "run", samples=0, gate=False, warmup=Warmup(share=0),
                         residual=Residual(steps=2, batch_size=4, accumulation=1))  # fmt: skip
    run(config)
    assert len(losses(config.out)) == 2


def test_a_checkpoint_without_all_of_its_weights_is_refused(tmp_path, finished) -> None:
    base = copied(finished, tmp_path / "base")
    model, tokenizer = load_causal_lm(base)
    transformers.LlamaForSequenceClassification(model.config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    rewritten(base / "config.json", architectures=["LlamaForCausalLM"], tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight would be random"):
        load_causal_lm(base)


def test_a_tokenizer_that_does_not_fit_its_model_is_refused(tmp_path, data, finished) -> None:
    base = copied(finished, tmp_path / "base")
    tokenizer = load_tokenizer(base)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(base)
    assert check_base(tiny_config(data, tmp_path / "run", scratch=None, model=str(base))) is not None
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(base)
    config = tiny_config(data, tmp_path / "run", scratch=None, model=str(base))
    with pytest.raises(
        CheckpointError, match=rf"embeddings for {size} ids, and \[PAD\] of its tokenizer is id {size + 1}"
    ):
        run(config)
    rewritten(base / "tokenizer_config.json", pad_token=None, eos_token=None)
    with pytest.raises(CheckpointError, match="neither a pad nor an end token"):
        run(config)
    assert not config.out.exists()


def test_a_corrector_trained_on_keeps_its_prompt_and_unit_or_says_why_not(tmp_path, data, finished) -> None:
    base = copied(finished, tmp_path / "base")
    tokenizer = load_tokenizer(base)
    card = json.loads((base / "aligner.json").read_text(encoding="utf-8"))
    config = tiny_config(data, tmp_path / "run", scratch=None, model=str(base))

    def prompt(**changes: Any) -> PromptFormat:
        return _prompt(TrainConfig(**(dict(config) | changes)), tokenizer)

    assert prompt().unit == "answer"
    with pytest.raises(ConfigError, match="'request' alone would change half of the prompt"):
        prompt(request="Fix it.")
    assert "Fix it." in prompt(request="Fix it.", instruction="").after
    rewritten(base / "aligner.json", prompt=card["prompt"] | {"unit": "sentence"})
    assert prompt().unit == "sentence"
    assert prompt(unit="answer").unit == "answer"
    old = PromptFormat.preset("aligner-v1", tokenizer).to_json()
    rewritten(base / "aligner.json", prompt=old)
    assert prompt().to_json() == old
    with pytest.raises(ConfigError, match=r"'request' belongs to the chat format, and .* with aligner-v1"):
        prompt(request="Fix it.")


def test_what_is_left_out_of_rows_is_counted(tmp_path, finished) -> None:
    tokenizer = load_tokenizer(finished / "model")
    codec = TextCodec(tokenizer)
    form = PromptFormat.preset("chat", tokenizer, instruction="", request="")
    talk = [{"role": ("user", "assistant")[i % 2], "content": "alpha beta gamma delta epsilon"} for i in range(9)]
    rows = [
        {"question": talk, "answer": "zeta eta.", "correction": "zeta omega."},
        {"question": "list", "answer": "", "correction": "alpha."},
        {"question": "list", "answer": "beta.", "correction": "omega."},
    ]
    path = write_rows(tmp_path / "d.jsonl", rows)
    config = tiny_config(path, tmp_path / "run", held_out=0, max_length=48, warmup=Warmup(share=1))
    prepared = prepare(config, [path], form, codec, tmp_path / "rows")
    assert (prepared.shortened, dict(prepared.dropped)) == (1, {"identity_blank": 1})
    assert (len(prepared.stages["residual"]), len(prepared.stages["warmup"])) == (3, 2)


def test_places_are_written_as_the_files_are(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    config = TrainConfig.from_dict({"data": ["x"], "out": "$RUNS/a", "model": "~/base"}, where="x")
    assert (config.out, config.model) == (tmp_path / "runs/a", str(tmp_path / "base"))
    assert TrainConfig.from_dict({"data": ["x"], "out": "~/a", "model": "me/base"}, where="x").model == "me/base"
    with pytest.raises(DataError, match="out: '\\$NOWHERE/a' uses an environment variable that is not set"):
        TrainConfig.from_dict({"data": ["x"], "out": "$NOWHERE/a", "scratch": {}}, where="x")
    task = {"name": "t", "file": "t.jsonl", "dimensions": ["helpful"]}
    values = {
        "out": "~/e",
        "tasks": [task],
        "upstreams": [{"name": "u", "answers": "a.jsonl"}],
        "correctors": [{"name": "c", "corrections": "c.jsonl"}],
        "judge": {"call": "a:b"},
    }
    assert EvalConfig.from_dict(values, where="x").out == tmp_path / "e"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the second process by /proc")
def test_all_processes_stop_where_one_is_told_to(tmp_path, data) -> None:
    """Ctrl-C may reach one node of several: the others would wait for it in the next step for hours."""
    stage = {"steps": 4000, "batch_size": 4, "accumulation": 1}
    config = tiny_config(data, tmp_path / "two", warmup=Warmup(share=0), residual=Residual(**stage), samples=0)
    path = tmp_path / "two.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={port}",
              "-m", "aligner.cli", "train", str(path)]  # fmt: skip
    with (tmp_path / "said").open("w") as said:
        launcher = subprocess.Popen(
            [sys.executable, *launch], stdout=said, stderr=said,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}, start_new_session=True,
        )  # fmt: skip
        try:
            metrics, deadline = config.out / "metrics.jsonl", time.monotonic() + 180
            while not metrics.is_file() or metrics.read_text().count('"loss"') < 3:
                assert launcher.poll() is None, (tmp_path / "said").read_text()[-3000:]
                assert time.monotonic() < deadline, (tmp_path / "said").read_text()[-3000:]
                time.sleep(0.1)
            os.kill(_second(launcher.pid), signal.SIGINT)
            assert launcher.wait(timeout=120) != 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)  # its workers, too
    text = (tmp_path / "said").read_text()
    assert "go on with --resume" in text, text[-3000:]
    assert list((config.out / "stages" / "residual").glob("checkpoint-*/whole.json"))


def _second(launcher: int) -> int:
    """The process of rank 1 that a launcher started."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"RANK=1" in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    raise AssertionError("no process of rank 1")
