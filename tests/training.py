"""What the training tests share: a small task that a tiny model learns in seconds, and its configuration."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from aligner.train.config import Residual, Schedule, Scratch, SftConfig, TrainConfig, Warmup

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
        "residual": Residual(steps=24, batch_size=8, accumulation=2, learning_rate=3e-3),
    }
    return TrainConfig(**(settings | changes))


def text_rows(count: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """Half plain texts, half prompts with the answer that belongs to them: a word after its prompt's last word."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        words = [rng.choice(WORDS) for _ in range(3)]
        follows = WORDS[(WORDS.index(words[-1]) + 1) % len(WORDS)]
        if i % 2:
            rows.append({"text": f"{i}: {' '.join(words)} then {follows}."})
        else:
            rows.append({"prompt": f"{i}: {' '.join(words)}", "completion": f"{follows}."})
    return rows


def tiny_sft(data: Path, out: Path, **changes: Any) -> SftConfig:
    """As small as `tiny_config`, on rows of text."""
    settings: dict[str, Any] = {
        "data": (str(data),),
        "out": out,
        "scratch": Scratch(layers=2, hidden=48, heads=2, vocabulary=320),
        "max_length": 96,
        "held_out": 0.15,
        "precision": "fp32",
        "save_every": 8,
        "schedule": Schedule(steps=24, batch_size=8, accumulation=2, learning_rate=3e-3),
    }
    return SftConfig(**(settings | changes))


def losses(out: Path) -> list[tuple[str, int, float]]:
    """(stage, step, loss) of every training step that metrics.jsonl holds, in its order."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(r["stage"], r["step"], r["loss"]) for r in rows if "loss" in r]


def weights(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(out / "model" / "model.safetensors")


def start(config: TrainConfig, *flags: str, before: str = "") -> subprocess.Popen[str]:
    """`aligner train` in a process of its own; `before` runs in it first."""
    path = config.out.parent / f"{config.out.name}.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    code = (
        f"{before}\nimport sys\nfrom aligner.cli import main\nsys.exit(main(['train', {str(path)!r}, *sys.argv[1:]]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
