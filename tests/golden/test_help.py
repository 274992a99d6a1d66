"""The help texts, word for word: a change of an option is seen here and in the same commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aligner.cli import main

HERE = Path(__file__).parent
VERBS = {
    "aligner": [],
    "train": ["train"],
    "correct": ["correct"],
    "calibrate": ["calibrate"],
    "serve": ["serve"],
    "eval": ["eval"],
    "data_check": ["data", "check"],
    "demo": ["demo"],
    "reproduce_table1": ["reproduce", "table1"],
    "reproduce_table2": ["reproduce", "table2"],
    "report": ["report"],
}


@pytest.mark.parametrize("name", VERBS)
def test_help(capsys, name: str) -> None:
    """`UPDATE_GOLDEN=1 pytest tests/golden` writes the files anew."""
    assert main([*VERBS[name], "--help"]) == 0
    shown = capsys.readouterr().out
    path = HERE / f"help_{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")
