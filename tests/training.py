"""What the training tests share: a small task that a tiny model learns in seconds, and its configuration."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from aligner.train.config import Schedule, Scratch, TrainConfig, Warmup

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def toy_rows(count: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Answers of four words in which 'beta' is a mistake for 'omega'."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        answer = [rng.choice(WORDS) for _ in range(4)]
        fixed = ["omega" if word == "beta" else word for word in answer]
        rows.append(
            {
                "question": f"list {i}",
                "answer": " ".join(answer) + ".",
                "correction": " ".join(fixed) + ".",
                "source": "odd" if i % 2 else "even",
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """A model of about 90k parameters; a stage's step takes some ten milliseconds."""
    settings: dict[str, Any] = {
        "data": (str(data),),
        "out": out,
        "scratch": Scratch(layers=2, hidden=48, heads=2, vocabulary=320),
        "max_length": 96,
        "held_out": 0.15,
        "samples": 4,
        "precision": "fp32",
        "save_every": 8,
        "warmup": Warmup(share=0.5, steps=10, batch_size=8, accumulation=1, learning_rate=3e-3),
        "residual": Schedule(steps=24, batch_size=8, accumulation=2, learning_rate=3e-3),
    }
    return TrainConfig(**(settings | changes))


def losses(out: Path) -> list[tuple[str, int, float]]:
    """(stage, step, loss) of every training step that metrics.jsonl holds, in its order."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(r["stage"], r["step"], r["loss"]) for r in rows if "loss" in r]


def weights(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(out / "model" / "model.safetensors")
