"""`make demo`: what it asks of the command line, and what it says when a stopped demo cannot go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout that is set up, whose `aligner` writes down its arguments and ends with the status in a file."""
    for name in ("pyproject.toml", "constraints.txt", "status"):
        (tmp_path / name).write_text("0")
    command = tmp_path / ".venv/bin/aligner"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "$@" >> asked\nexit $(cat status)\n')
    command.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def make(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(MAKEFILE), "demo", *arguments]
    # A make that runs these tests would hand its own variables down.
    given = {"VENV", "QUICK", "FRESH", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}
    environment = {k: v for k, v in os.environ.items() if k not in given}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=environment)


def begun(place: Path, name: str, *, finished: bool = False) -> None:
    (place / "runs" / name).mkdir(parents=True)
    (place / "runs" / name / "config.yaml").touch()
    if finished:
        (place / "runs" / name / "result.json").touch()


def asked(place: Path) -> list[str]:
    return (place / "asked").read_text().splitlines()


def test_a_stopped_demo_goes_on_and_any_other_is_started_anew(place: Path) -> None:
    begun(place, "demo-quick")
    assert make(place).returncode == 0
    assert make(place, "QUICK=1").returncode == 0
    assert make(place, "QUICK=1", "FRESH=1").returncode == 0
    begun(place, "demo", finished=True)
    assert make(place).returncode == 0
    assert asked(place) == ["demo --overwrite", "demo --resume --quick", "demo --overwrite --quick", "demo --overwrite"]


def test_a_stopped_demo_that_is_refused_says_how_make_starts_it_anew(place: Path) -> None:
    begun(place, "demo-quick")
    (place / "status").write_text("2")
    done = make(place, "QUICK=1")
    assert done.returncode == 2
    assert "make demo QUICK=1 FRESH=1" in done.stderr
    assert "FRESH=1" not in make(place, "QUICK=1", "FRESH=1").stderr, "it was started anew"
    (place / "status").write_text("130")
    done = make(place, "QUICK=1")
    assert done.returncode != 0
    assert "FRESH=1" not in done.stderr, "Ctrl-C is no reason to start anew"
