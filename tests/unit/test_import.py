"""What importing the package costs, and how its names are found."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aligner

LIGHT = ["aligner", *(f"aligner.{name}" for name in ("errors", "edits", "types", "rows", "config", "runs"))]
HEAVY = {"torch", "transformers", "trl", "datasets", "accelerate", "peft", "numpy", "matplotlib"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after running `code` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_foundation_loads_no_model_library() -> None:
    modules = loaded_by("import " + ", ".join(LIGHT))
    assert "aligner" in modules
    assert not modules & HEAVY


def test_the_package_alone_loads_nothing_but_the_standard_library() -> None:
    assert not loaded_by("import aligner; dir(aligner)") & {*HEAVY, "pydantic", "rapidfuzz", "yaml", "regex"}


def test_values_load_no_model_library() -> None:
    code = "from aligner import Completion, Correction, Message, PreferencePair, Sampling, Triplet, Verdict"
    assert not loaded_by(code) & HEAVY


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'aligner' has no attribute 'Alinger'"):
        aligner.Alinger  # noqa: B018
    with pytest.raises(ImportError):
        exec("from aligner import Alinger")


def test_dir_lists_the_public_names() -> None:
    assert {*aligner.__all__, "__version__"} <= {*dir(aligner)}


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert aligner.__version__ == project["version"]
