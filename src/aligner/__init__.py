"""Alignment by learning to correct: a small model that turns any LLM's answers into better ones.

    aligner = Aligner.from_pretrained(path)
    aligner.correct(question, answer).text

Importing this package loads neither torch nor transformers; the names below load what they need on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aligner.chats import Message
    from aligner.correct.aligner import Aligner
    from aligner.correct.stacked import StackedModel
    from aligner.corrections import Completion, Correction, PreferencePair
    from aligner.generate.hf import HFGenerator
    from aligner.generate.openai import OpenAIGenerator
    from aligner.generate.scorer import RewardScorer
    from aligner.generate.scripted import ScriptedGenerator
    from aligner.prompts import PromptFormat
    from aligner.triplets import read_triplets
    from aligner.types import Sampling, Triplet, Verdict

_HOMES = {
    "Aligner": "aligner.correct.aligner",
    "StackedModel": "aligner.correct.stacked",
    "read_triplets": "aligner.triplets",
    "HFGenerator": "aligner.generate.hf",
    "OpenAIGenerator": "aligner.generate.openai",
    "RewardScorer": "aligner.generate.scorer",
    "ScriptedGenerator": "aligner.generate.scripted",
    "PromptFormat": "aligner.prompts",
    "Completion": "aligner.corrections",
    "Correction": "aligner.corrections",
    "Message": "aligner.chats",
    "PreferencePair": "aligner.corrections",
    "Sampling": "aligner.types",
    "Triplet": "aligner.types",
    "Verdict": "aligner.types",
}

__all__ = [
    "Aligner",
    "Completion",
    "Correction",
    "HFGenerator",
    "Message",
    "OpenAIGenerator",
    "PreferencePair",
    "PromptFormat",
    "RewardScorer",
    "Sampling",
    "ScriptedGenerator",
    "StackedModel",
    "Triplet",
    "Verdict",
    "read_triplets",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aligner' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
