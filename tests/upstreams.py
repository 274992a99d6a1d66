"""A tiny language model that writes something: for tests of what runs in process."""

from __future__ import annotations

from typing import Any

from aligner.train.config import Scratch
from aligner.train.scratch import build_model, train_tokenizer


def tiny_upstream() -> tuple[Any, Any]:
    """A model with 96 positions and its tokenizer; its weights are large, so that it repeats itself less."""
    tokenizer = train_tokenizer(iter(["the cat sat on the mat.", "a dog ran home."] * 5), 320)
    model = build_model(Scratch(layers=2, hidden=32, heads=2, vocabulary=320), tokenizer, 96, seed=1).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(8)
    return model, tokenizer
