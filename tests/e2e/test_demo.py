"""The quick demo as its users run it: trained for real, on what is left of the shared cache where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aligner.cli import main
from tests.pages import Page, assert_self_contained

ROOT = Path(__file__).parents[2]
FIELDS = {
    "corrector", "upstream", "task", "dimension", "split", "n", "omega", "low", "high", "wins", "losses", "ties",
    "unscored", "fault_rate", "repaired", "untouched", "edit_ratio",
}  # fmt: skip


@pytest.mark.slow
def test_the_quick_demo(tmp_path) -> None:
    out = tmp_path / "demo"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "aligner.cli", "demo", "--quick"),
            *("--out", str(out), "--cache", str(ROOT / "runs/.cache")),
        ],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "report.html" in done.stdout
    rows = json.loads((out / "table.json").read_text())
    assert all(set(row) >= FIELDS for row in rows)
    cells = [
        r for r in rows if r["split"] == "all" and r["task"] != "all" and r["upstream"] not in ("all", "seen", "unseen")
    ]
    assert {r["upstream"] for r in cells} == {"heron", "crow", "dove"}
    assert all(r["n"] >= 200 and r["unscored"] == 0 for r in cells)
    assert all(r["wins"] + r["losses"] + r["ties"] == r["n"] for r in cells)
    # What a small corrector reaches in minutes, with room for another machine's last digits (measured: ω helpful 24.6,
    # harmless 25.4, 41 % repaired, 86 % untouched, 8.7 % made worse).
    total = {r["dimension"]: r for r in rows if (r["upstream"], r["task"], r["split"]) == ("all",) * 3}
    assert total["helpful"]["low"] > 10
    assert total["harmless"]["low"] > 10
    assert total["honest"]["low"] > 0
    assert total["helpful"]["repaired"] > 0.25
    assert total["helpful"]["untouched"] > 0.7
    assert json.loads((out / "result.json").read_text())["regressions"]["S"]["share"] < 0.16
    assert_self_contained(Page((out / "report.html").read_text(encoding="utf-8")))
    shift = json.loads((out / "shift.json").read_text())["training data"]
    before, after = (sum(x for x, _ in shift[k]) / len(shift[k]) for k in ("before", "after"))
    assert after > before


def test_an_existing_demo_is_not_written_over(tmp_path, capsys) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("mine")
    assert main(["demo", "--quick", "--out", str(tmp_path / "demo"), "--cache", str(tmp_path / "cache")]) == 2
    assert (tmp_path / "demo" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "cache").exists(), "it is refused before anything is trained"
    assert "--overwrite" in capsys.readouterr().err


def test_a_cache_within_the_run_is_not_emptied_with_it(tmp_path, capsys) -> None:
    kept = tmp_path / "demo" / "cache" / "base-S" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_text("weights")
    arguments = ["demo", "--quick", "--overwrite", "--out", str(tmp_path / "demo"), "--cache", str(kept.parents[1])]
    assert main(arguments) == 2
    assert "lies in the run's own directory" in capsys.readouterr().err
    assert kept.read_text() == "weights"
