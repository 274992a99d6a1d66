"""The page: a run directory as one HTML file that needs no network, with its plots as PNG files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aligner.config import read_yaml
from aligner.errors import ConfigError
from aligner.report import page, plots, wording
from aligner.report.curves import Stage, read_stages
from aligner.report.evaluation import is_evaluation, render_evaluation
from aligner.report.fields import number, objects, read_object, text
from aligner.report.lineage import told_apart
from aligner.report.samples import CLIP, GROUPS, Sample, Tally, read_samples
from aligner.runs import RunDir

_GROUP_TITLES = {"edit": "Largest edits", "kept": "Originals kept", "copy": "Answers left as they were"}


def render_run(run: RunDir) -> Path:
    """Write `report.html` and its plots: `plots/*.png` of an evaluation, `loss.png` and `edits.png` of any other run.

    Plots without data are left out.

    Returns:
        The path of the page. A page that was there is replaced whole.

    Raises:
        DataError: a file of the run is damaged; names file and line.
        StorageError: the directory cannot be written.
    """
    result = read_object(run.path / "result.json")
    if is_evaluation(run, result):
        return render_evaluation(run, result)
    if result is None and _is_shadow(run):
        return _render_shadow(run)
    return _render_training(run, result)


def _is_shadow(run: RunDir) -> bool:
    try:
        return read_yaml(run.config_path).get("mode") == "shadow"
    except ConfigError:  # the page shows it as it is
        return False


def _with_lineage(run: RunDir, values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The result with the files of one name told apart in its lineage."""
    if isinstance(values.get("lineage"), dict):
        return values
    return {**values, "lineage": told_apart(objects(values, "lineage", where), run.path)}


def _render_training(run: RunDir, result: Mapping[str, Any] | None) -> Path:
    stages = read_stages(run.metrics_path)
    tally, samples = read_samples(run.path / "samples.jsonl")
    values, where = result or {}, str(run.path / "result.json")
    story = wording.unfinished(stages) if result is None else wording.finished(values, where)
    made = page.render(
        "run.html.j2",
        run,
        None if result is None else _with_lineage(run, values, where),
        shadow=False,
        kind="Training" if values.get("kind", "train") == "train" else str(values["kind"]).capitalize(),
        summary=[*story, *wording.kept(tally)],
        warnings=wording.warnings(stages),
        loss_plots=[_loss_plot(stage, i) for i, stage in enumerate(stages)],
        stages=[_stage_row(s, where) for s in objects(values, "stages", where)],
        held_out=_held_out_rows(objects(values, "held_out", where), where),
        **_shown(tally, samples),
    )
    page.write_png(run.path / "loss.png", plots.to_png(plots.loss_figure(stages)) if stages else None)
    _write_edits(run, tally)
    return page.write_page(run, made)


def _render_shadow(run: RunDir) -> Path:
    tally, samples = read_samples(run.path / "samples.jsonl", shadow=True)
    made = page.render(
        "run.html.j2",
        run,
        {},  # it never has a result, and is not unfinished for that
        shadow=True,
        kind="Shadow",
        summary=[*wording.shadowed(tally), *wording.kept(tally)],
        warnings=wording.without_correction(tally),
        **_shown(tally, samples),
    )
    _write_edits(run, tally)
    return page.write_page(run, made)


def _shown(tally: Tally, samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "edits_plot": _edits_plot(tally),
        "tally": tally,
        "groups": _groups(tally, samples),
        "shown": len(samples),
        "clip": CLIP,
    }


def _write_edits(run: RunDir, tally: Tally) -> None:
    drawn = plots.edits_figure(tally.ratios, tally.reference_ratios) if tally.n else None
    page.write_png(run.path / "edits.png", plots.to_png(drawn) if drawn else None)


def _loss_plot(stage: Stage, index: int) -> dict[str, Any]:
    sources = [s for s in stage.held_out if s != "all"]
    drawn = [s for s in plots.drawn_sources(stage) if s != "all"]
    title = f"Loss over steps in stage {wording.name(stage.name)}"
    return {
        "name": stage.name,
        "svg": plots.to_svg(plots.loss_figure([stage]), f"loss-{index}", title),
        "omitted": len(sources) - len(drawn),
        "sources": len(sources),
    }


def _edits_plot(tally: Tally) -> Markup | None:
    if not tally.n:
        return None
    title = f"Edit ratio of {tally.n} corrections"
    return plots.to_svg(plots.edits_figure(tally.ratios, tally.reference_ratios), "edits", title)


def _stage_row(stage: Mapping[str, Any], where: str) -> dict[str, str]:
    tokens, seconds = number(stage, "tokens", where), number(stage, "seconds", where)
    speed = tokens / seconds if tokens is not None and seconds else None
    return {
        "name": text(stage, "name", where) or "unnamed",
        "rows": wording.count(number(stage, "rows", where)),
        "steps": wording.count(number(stage, "steps", where)),
        "tokens": wording.count(tokens),
        "time": wording.duration(seconds),
        "speed": wording.count(speed),
        "first": wording.decimal(number(stage, "loss_first", where)),
        "last": wording.decimal(number(stage, "loss_last", where)),
    }


def _held_out_rows(table: Sequence[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    """The table's cells as text, the union of the sources last."""
    rows = []
    for row in sorted(table, key=lambda r: r.get("source") == "all"):
        before, after = number(row, "loss_before", where), number(row, "loss", where)
        source = text(row, "source", where) or "(no source)"
        rows.append({
            "source": "all sources" if source == "all" else source,
            "union": source == "all",
            "worse": before is not None and after is not None and wording.got_worse(before, after),
            "cells": [
                wording.count(number(row, "n", where)),
                wording.decimal(before),
                wording.decimal(after),
                wording.count(number(row, "generated", where)),
                wording.share(number(row, "untouched", where)),
                *(wording.share(number(row, k, where)) for k in ("copied_share", "reference_copied_share")),
                *(wording.decimal(number(row, k, where), 2) for k in ("edit_ratio", "reference_edit_ratio")),
            ],
        })  # fmt: skip
    return rows


def _groups(tally: Tally, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    groups = []
    for group in GROUPS:
        members = [s for s in samples if s.group == group]
        if members:
            groups.append({"title": _GROUP_TITLES[group], "samples": members, "total": tally.groups[group]})
    return groups
