"""The public names, pinned: adding one is a decision, losing one breaks somebody's code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import aligner

# Each name and the module it is defined in.
PUBLIC = {
    "Aligner": "aligner.correct.aligner",
    "Completion": "aligner.corrections",
    "Correction": "aligner.corrections",
    "HFGenerator": "aligner.generate.hf",
    "Message": "aligner.chats",
    "OpenAIGenerator": "aligner.generate.openai",
    "PreferencePair": "aligner.corrections",
    "PromptFormat": "aligner.prompts",
    "RewardScorer": "aligner.generate.scorer",
    "Sampling": "aligner.types",
    "ScriptedGenerator": "aligner.generate.scripted",
    "StackedModel": "aligner.correct.stacked",
    "Triplet": "aligner.types",
    "Verdict": "aligner.types",
    "read_triplets": "aligner.triplets",
}


def test_all() -> None:
    assert aligner.__all__ == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_name_is_found_where_it_is_defined(name: str) -> None:
    found = getattr(aligner, name)
    assert found is getattr(import_module(PUBLIC[name]), name)
    assert found.__module__ == PUBLIC[name]


def test_type_checkers_are_told_the_same() -> None:
    source = Path(aligner.__file__).read_text(encoding="utf-8")
    block = source.split("if TYPE_CHECKING:\n")[1].split("\n\n")[0]
    told = {
        name.strip(): module
        for module, names in re.findall(r"from (\S+) import (.+)", block)
        for name in names.split(",")
    }
    assert told == PUBLIC
