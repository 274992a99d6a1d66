"""What every benchmark shares: interleaved timing, rows, hardware and versions, JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aligner.correct.decoding import StepLoop
from aligner.correct.ticket import Request
from aligner.generate.hf import NEUTRAL, steered
from aligner.runs import environment

TIE = 1e-5


def step_loop(loop: StepLoop, batch: int, rows: Sequence[Request]) -> list[list[int]]:
    """What the step loop writes, so many requests at a time."""
    written = []
    for start in range(0, len(rows), batch):
        tickets = [loop.submit(request) for request in rows[start : start + batch]]
        written += [list(loop.wait(ticket).ids) for ticket in tickets]
    return written


def generate(model: Any, batch: int, rows: Sequence[Request], **options: Any) -> list[list[int]]:
    """What transformers' generate() writes, so many requests at a time, padded on the left.

    Penalties and the like of the checkpoint's generation config are off: the step loop has none.
    """
    written = []
    options = {name: NEUTRAL[name] for name in steered(model)} | options
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        width = max(len(r.prompt) for r in part)
        tokens = torch.tensor([[0] * (width - len(r.prompt)) + list(r.prompt) for r in part], device=model.device)
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in part], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                tokens, attention_mask=mask, max_new_tokens=max(r.max_new_tokens for r in part), do_sample=False,
                pad_token_id=0, eos_token_id=sorted(part[0].stop_ids) or None, **options,
            )  # fmt: skip
        for request, row_ids in zip(part, output[:, width:].tolist(), strict=True):
            ids = row_ids[: request.max_new_tokens]
            written.append(ids[: next((i for i, t in enumerate(ids) if t in request.stop_ids), len(ids))])
    return written


def ties(model: Any, rows: Sequence[Request], mine: list[list[int]], theirs: list[list[int]]) -> int:
    """Rows that differ where the two likeliest tokens lie within 1e-5; one that differs elsewhere is an error.

    In half precision rounding decides far more often, so there all rows that differ are counted.
    """
    if model.dtype != torch.float32:
        return sum(a != b for a, b in zip(mine, theirs, strict=True))
    count = 0
    for request, a, b in zip(rows, mine, theirs, strict=True):
        if a == b:
            continue
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        with torch.inference_mode():
            ids = torch.tensor([[*request.prompt, *a[:at]]], device=model.device)
            top = model(ids).logits[0, -1].topk(2).values
        if float(top[0] - top[1]) > TIE:
            raise SystemExit(f"tokens differ at {at}, where the likeliest leads by {float(top[0] - top[1]):.1e}")
        count += 1
    return count


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call; the functions take turns, so that a slow minute of the machine falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()  # warm-up
    for _ in range(repeats):
        for name, function in functions.items():
            begin = _now()
            function()
            times[name].append(_now() - begin)
    return times


def _now() -> float:
    """The clock, once the accelerator has done all that it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def place(model: Any) -> dict[str, str]:
    """Where a model runs, and in what arithmetic: for rows."""
    return {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}


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
