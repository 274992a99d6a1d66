"""What the tests of methods side by side share: a table and a result of five correctors."""

from __future__ import annotations

from typing import Any


def cost(corrector: str | None, read: float | None, written: float | None, seconds: float | None) -> dict[str, Any]:
    each = {"prompt_tokens_each": read, "completion_tokens_each": written, "seconds_each": seconds}
    return {"corrector": corrector, "upstream": "all", "answers": 10, "copied": 0, "counted": 10, **each}


def critique(corrector: str, upstream: str, accuracy: float | None, at_chance: bool | None) -> dict[str, Any]:
    bounds = {"low": None, "high": None}
    if accuracy is not None:
        bounds = {"low": accuracy - 0.11, "high": accuracy + 0.09}
    key = {"corrector": corrector, "upstream": upstream, "principle": "all", "dimension": None}
    counts = {"faultless_passed": 10, "faultless_failed": 5, "faulty_passed": 3, "faulty_failed": 12, "unread": 0}
    if accuracy is None:
        counts = {**dict.fromkeys(counts, 0), "faulty_failed": 4, "unread": 1196}
    return {**key, "accuracy": accuracy, **bounds, "at_chance": at_chance, **counts}


RESULT: dict[str, Any] = {
    "upstreams": [{"name": "crow"}, {"name": "dove"}],
    "correctors": [
        {"name": "M", "aligner": "runs/m"}, {"name": "CAI", "method": "cai"}, {"name": "self", "method": "mine.yaml"},
        {"name": "own", "aligner": "runs/own"}, {"name": "stored", "corrections": "c.jsonl"},
    ],
    "regressions": {"M": {"share": 0.04}, "CAI": {"share": 0.3}, "own": {"share": 0.1}},
    "self_judged": ["own"],
    "costs": [
        cost(None, 12.0, 30.5, 0.25), {**cost(None, 1.0, 1.0, 1.0), "upstream": "crow"},
        cost("M", 44.0, 31.0, 0.0101), cost("CAI", 80.0, 9.5, 0.5), cost("self", 200.0, 9.0, 1.0),
        cost("own", 1.0, 1.0, 1.0), cost("stored", None, None, None),
    ],
    "critiques": [
        critique("CAI", "crow", 0.71, False), {**critique("CAI", "crow", 0.1, True), "principle": "honest"},
        critique("CAI", "dove", 0.5, True), critique("self", "crow", None, None), critique("self", "dove", None, None),
    ],
}  # fmt: skip
OMEGA = {"M": (10.0, 20.0), "CAI": (-5.0, 1.0), "self": (0.0, 0.0), "own": (90.0, 90.0), "stored": (1.0, 1.0)}
TABLE: list[dict[str, Any]] = [
    {"corrector": name, "upstream": upstream, "task": task, "dimension": dimension, "split": "all", "n": 10,
     "omega": omega}
    for name, values in OMEGA.items()
    for upstream in ("crow", "dove", "all")
    for task in ("t", "s", "all")
    for dimension, omega in zip(("helpful", "honest"), values, strict=True)
]  # fmt: skip
