"""What every benchmark shares: interleaved timing, rows, hardware and versions, JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from aligner.runs import environment


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call; the functions take turns, so that a slow minute of the machine falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()  # warm-up
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return times


def row(
    name: str, peer: str, metric: str, unit: str, ours: list[float], theirs: list[float], **extra: Any
) -> dict[str, Any]:
    """A result: medians with their range; `ratio` above 1 means that ours is better (smaller)."""
    return {
        "name": name,
        "peer": peer,
        "metric": metric,
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "unit": unit,
        "ours_range": [min(ours), max(ours)],
        "theirs_range": [min(theirs), max(theirs)],
        "repeats": len(ours),
        **extra,
    }


def finish(rows: list[dict[str, Any]], json_path: Path | None) -> None:
    """Print the rows as a table and write them with hardware and versions."""
    for r in rows:
        low, high = r["ours_range"]
        print(
            f"{r['name']:<34} ours {r['ours']:8.3f} ({low:.3f} to {high:.3f})  {r['peer']} {r['theirs']:8.3f}"
            f"  {r['unit']}  ratio {r['ratio']:.2f}"
        )
    write(rows, json_path)


def write(rows: list[dict[str, Any]], json_path: Path | None, **more: Any) -> None:
    """Write the rows with hardware and versions, and whatever else belongs to them, where a path is given."""
    if json_path is not None:
        value = {"environment": environment() | {"torch_threads": torch.get_num_threads()}, **more, "rows": rows}
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
