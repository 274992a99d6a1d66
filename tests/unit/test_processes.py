"""The processes that train together: what they wait for, and what is refused before anything is done."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aligner.errors import ConfigError
from aligner.train.corrector import run
from tests.training import tiny_config, toy_rows, write_rows

_ASK = """
import torch
from torch.distributed.distributed_c10d import _get_default_group
from aligner.train.processes import is_first, processes
state = processes()
group = _get_default_group()._get_backend(torch.device("cpu"))
print(state.num_processes, is_first(), group.options._timeout.total_seconds() / 3600)
"""


def test_a_process_waits_for_hours_while_the_first_one_reads_the_data() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **place, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count, first, hours = done.stdout.split()
    assert (count, first) == ("1", "True")
    assert float(hours) >= 6


def _deepspeed_file(directory: Path, stage: int) -> str:
    path = directory / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("variables", "way"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "DeepSpeed ZeRO-3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "3"}, "DeepSpeed ZeRO-3"),
    ],
)
def test_weights_split_over_processes_are_refused_at_once(tmp_path, monkeypatch, variables, way) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, _deepspeed_file(tmp_path, int(value)) if name.endswith("FILE") else value)
    config = tiny_config(write_rows(tmp_path / "d.jsonl", toy_rows(8)), tmp_path / "run")
    with pytest.raises(ConfigError, match=f"training under {way}, .* not supported; choose .*DDP"):
        run(config)
    assert not config.out.exists()


@pytest.mark.parametrize("given", ["variable", "file"])
def test_whole_weights_in_every_process_are_not_refused(tmp_path, monkeypatch, given) -> None:
    from aligner.train import processes

    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    if given == "file":
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", _deepspeed_file(tmp_path, 2))
    else:
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    processes._refuse_sharding()
