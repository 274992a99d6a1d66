"""The page: a run directory as one HTML file that needs no network, with its plots as PNG files beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aligner.report import plots, wording
from aligner.report.curves import Stage, read_stages
from aligner.report.fields import mapping, number, objects, read_object, text
from aligner.report.samples import CLIP, GROUPS, Sample, Tally, read_samples
from aligner.rows import storage_errors, write_atomic
from aligner.runs import RunDir

_HASH_SHOWN = 12
# Lone surrogates cannot be written as UTF-8, and HTML has no place for the other control characters.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_HARDWARE = {
    "started": "Started",
    "accelerator": "Accelerator",
    "processor": "Processor",
    "cpus": "Processor cores",
    "platform": "Platform",
    "python": "Python",
    "git": "Revision",
    "command": "Command",
}
_GROUP_TITLES = {"edit": "Largest edits", "kept": "Originals kept", "copy": "Answers left as they were"}


def render_run(run: RunDir) -> Path:
    """Write `report.html`, `loss.png` and `edits.png` into the run directory; plots without data are left out.

    Returns:
        The path of the page. A page that was there is replaced whole.

    Raises:
        DataError: a file of the run is damaged; names file and line.
        StorageError: the directory cannot be written.
    """
    stages = read_stages(run.metrics_path)
    tally, samples = read_samples(run.path / "samples.jsonl")
    result_path, environment_path = run.path / "result.json", run.path / "env.json"
    result, environment = read_object(result_path), read_object(environment_path) or {}
    where = str(result_path)
    values = result or {}
    story = wording.unfinished(stages) if result is None else wording.finished(values, where)
    page = _environment().get_template("run.html.j2").render(
        name=run.path.resolve().name,
        kind="Training" if values.get("kind", "train") == "train" else str(values["kind"]).capitalize(),
        finished=result is not None,
        summary=[*story, *wording.kept(tally)],
        warnings=wording.warnings(stages),
        loss_plots=[_loss_plot(stage, i) for i, stage in enumerate(stages)],
        stages=[_stage_row(s, where) for s in objects(values, "stages", where)],
        held_out=_held_out_rows(objects(values, "held_out", where), where),
        edits_plot=_edits_plot(tally),
        tally=tally,
        groups=_groups(tally, samples),
        shown=len(samples),
        clip=CLIP,
        config=run.config_path.read_text(encoding="utf-8", errors="replace"),
        hardware=_hardware(environment),
        packages={k: str(v) for k, v in mapping(environment, "packages", str(environment_path)).items()},
        lineage=[_ancestor(a, where) for a in objects(values, "lineage", where)],
    )  # fmt: skip
    _write_png(run.path / "loss.png", plots.to_png(plots.loss_figure(stages)) if stages else None)
    drawn = plots.edits_figure(tally.ratios, tally.reference_ratios) if tally.n else None
    _write_png(run.path / "edits.png", plots.to_png(drawn) if drawn else None)
    path = run.path / "report.html"
    write_atomic(path, _UNWRITABLE.sub("\ufffd", page))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("aligner.report"),
        autoescape=True,  # model text is text, whatever it says
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=wording.count, decimal=wording.decimal, share=wording.share, name=wording.name)
    environment.filters["kept"] = lambda reason: wording.KEPT.get(reason, reason.replace("_", " "))
    return environment


def _write_png(path: Path, content: bytes | None) -> None:
    """Replace the file whole, or remove one that an earlier rendering left when there is nothing to draw now."""
    with storage_errors(path):
        if content is None:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_name(f".{path.name}.part")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


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


def _hardware(environment: Mapping[str, Any]) -> dict[str, str]:
    known = {title: environment.get(key) for key, title in _HARDWARE.items()}
    others = {k.replace("_", " "): v for k, v in environment.items() if k not in _HARDWARE and k != "packages"}
    return {k: _shown(v) for k, v in {**known, **others}.items()}


def _shown(value: Any) -> str:
    if value is None:
        return wording.ABSENT
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _ancestor(ancestor: Mapping[str, Any], where: str) -> dict[str, str]:
    digest = text(ancestor, "hash", where) or ""
    return {
        "role": text(ancestor, "role", where) or wording.ABSENT,
        "name": text(ancestor, "name", where) or wording.ABSENT,
        "hash": digest,
        "short": wording.name(digest[:_HASH_SHOWN]) or wording.ABSENT,
    }
