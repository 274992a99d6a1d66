"""Figures of a training run, read back from its metrics.jsonl, so that a resumed run counts as a whole."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from aligner.rows import JsonlWriter, read_rows
from aligner.runs import RunDir
from aligner.train.held_out import HeldOut


def held_out_table(run_dir: RunDir, held_out: HeldOut, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per source and for all: loss before and after, and how much the sampled corrections keep of the answers."""
    losses: dict[tuple[str, str], float] = {}
    for row in read_rows(run_dir.metrics_path):
        if "held_out_loss" in row.value:
            source = row.value["source"]
            losses.setdefault((source, "before"), row.value["held_out_loss"])
            losses[source, "after"] = row.value["held_out_loss"]
    table = []
    # Rows without sources stand under "all" already.
    for source in [*(s for s in held_out.rows if s != "all"), "all"] if held_out.rows else []:
        mine = [s for s in samples if source in ("all", s["source"].split("/")[0])]

        def mean(name: str, of: list[dict[str, Any]] = mine) -> float | None:
            return fmean(s[name] for s in of) if of else None

        table.append(
            {
                "source": source,
                "n": len(held_out.rows[source]) if source != "all" else sum(map(len, held_out.rows.values())),
                "loss_before": losses.get((source, "before")),
                "loss": losses.get((source, "after")),
                "generated": len(mine),
                "copied_share": mean("copied_share"),
                "edit_ratio": mean("edit_ratio"),
                "untouched": mean("is_copy"),
                "kept": fmean(s["kept_because"] is not None for s in mine) if mine else None,
                "reference_copied_share": mean("reference_copied_share"),
                "reference_edit_ratio": mean("reference_edit_ratio"),
            }
        )
    return table


def stage_figures(run_dir: RunDir, stage: str) -> dict[str, Any]:
    """Sums over a stage's rows of metrics.jsonl, so that a resumed stage counts as a whole."""
    first = last = None
    seconds = tokens = 0.0
    for row in read_rows(run_dir.metrics_path):
        if row.value.get("stage") == stage and "loss" in row.value:
            first = row.value["loss"] if first is None else first
            last = row.value["loss"]
            seconds += row.value["seconds"]
            tokens += row.value["seconds"] * row.value["tokens_per_s"]
    return {"tokens": round(tokens), "seconds": round(seconds, 1), "loss_first": first, "loss_last": last}


def cut_metrics(run_dir: RunDir, stage: str, step: int) -> None:
    """Drop the rows of steps that will be done again."""
    path = run_dir.metrics_path
    if not path.is_file():
        return
    with JsonlWriter(path) as existing:  # cuts a torn last line
        if not existing.rows:
            return
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    with JsonlWriter(temporary) as writer:
        for row in read_rows(path):
            if row.value["stage"] != stage or (step and row.value["step"] <= step):
                writer.write(row.value)
    temporary.replace(path)
