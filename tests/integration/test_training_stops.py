"""What ends a run apart from its steps: a disk that fills at every other place, and Ctrl-C before the first step."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from aligner.runs import RunDir
from tests.training import losses, start, tiny_config, toy_rows, write_rows

LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "toy.jsonl", toy_rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    config = tiny_config(data, tmp_path_factory.mktemp("run") / "whole")
    process = start(config)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return config.out


# The disk fills at the moment that a module takes the file in hand; the limit itself is the system's.
PLACES = {
    "rows": (
        "import aligner.train.corrector as c\nwhole = c.prepare\n"
        f"def prepare(*a, **k):\n    {LIMIT.format(2000)}\n    return whole(*a, **k)\nc.prepare = prepare"
    ),
    "samples": (
        "from aligner.runs import RunDir\nwhole = RunDir.samples\n"
        f"def samples(self):\n    {LIMIT.format(300)}\n    return whole(self)\nRunDir.samples = samples"
    ),
    "result": (
        "from aligner.runs import RunDir\nwhole = RunDir.write_result\n"
        f"def write_result(self, result):\n    {LIMIT.format(100)}\n    return whole(self, result)\n"
        "RunDir.write_result = write_result"
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_full_disk_elsewhere(tmp_path, data, finished, place) -> None:
    """One line, exit 2, and --resume ends with the corrector of a run that was never stopped."""
    config = tiny_config(data, tmp_path / "full")
    process = start(config, before=PLACES[place])
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"aligner: {config.out}")
    assert "cannot be written" in last
    assert RunDir.open(config.out).result() is None
    done = start(config, "--resume")
    _, err = done.communicate()
    assert done.returncode == 0, err
    assert losses(config.out) == losses(finished)
    assert (config.out / "samples.jsonl").read_text() == (finished / "samples.jsonl").read_text()


def test_ctrl_c_while_reading_data(tmp_path) -> None:
    """Nothing is trained yet: 130, no traceback, and --resume does it all."""
    rows = [{**row, "question": f"list {i}"} for i, row in enumerate(toy_rows() * 500)]
    config = tiny_config(write_rows(tmp_path / "many.jsonl", rows), tmp_path / "early")
    process = start(config)
    place = config.out / "data"
    for _ in range(3000):
        if place.is_dir():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume" in err.strip().splitlines()[-1]
    assert not (config.out / "metrics.jsonl").exists()
    resumed = start(config, "--resume")
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert json.loads((config.out / "result.json").read_text())["rows"]["read"] == len(rows)
