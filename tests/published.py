"""The published sets where they lie, for tests: which file each is, and its questions."""

from __future__ import annotations

from functools import cache
from typing import Any

from aligner.evaluate.config import TaskSpec
from aligner.evaluate.tasks import Task, read_task
from tests.real import REAL_DATA

FILES = {
    "empathetic-dialogues": "eval/empatheticdialogues/test.csv",
    "dialogsum": "eval/dialogsum/dialogsum.test.jsonl",
    "beavertails": "eval/beavertails/BeaverTails-Evaluation.json",
    "harmfulqa": "eval/harmfulqa/harmfulqa.json",
    "truthfulqa": "eval/truthfulqa/TruthfulQA.csv",
    "truthfulqa-mc": "eval/truthfulqa/mc_task.json",
    "alpaca-eval": "alpaca_eval/outputs/gpt4_1106_preview.json.xz",
    "xstest": "eval/xstest/xstest_prompts.csv",
    "gsm8k": "eval/gsm8k/test.jsonl",
}


def spec_of(name: str, **changes: Any) -> TaskSpec:
    values = {"name": name, "format": name, "file": REAL_DATA / FILES[name]}
    return TaskSpec.from_dict(values | changes, where=name)


@cache
def published(name: str) -> Task:
    return read_task(spec_of(name))
