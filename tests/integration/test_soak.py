"""The soak of the gateway, short: it runs, replies are as documented, and nothing is left over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aligner.correct.aligner import Aligner
from tests.models import tiny_aligner

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_a_short_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    made: Aligner = tiny_aligner(context=1024)
    made.save_pretrained(tmp_path / "corrector")
    made.close()
    command = [sys.executable, str(SOAK), "--aligner", str(tmp_path / "corrector"), "--requests", "40",
               "--silence", "20", "--json", str(tmp_path / "out.json")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (tmp_path / "out.json").is_file(), done.stderr
    [found] = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert found["wrong"] == []
    assert set(found["left"]) >= {"tasks", "sockets", "rows", "rows read ahead", "tickets", "exchanges"}
    assert not any(found["left"].values()), found["left"]
    # So few requests say nothing of memory, and it alone may be found wanting.
    assert all(line.startswith("memory") for line in found["wanted"])
