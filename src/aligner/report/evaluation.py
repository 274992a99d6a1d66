"""The pages of an evaluation: what correcting won and lost, by upstream, task and split, with examples of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner.report import page, wording
from aligner.report.edit_rates import EditRates
from aligner.report.examples import read_examples
from aligner.report.fields import items, mapping, number, objects, read_object, text, wrong
from aligner.report.lineage import told_apart
from aligner.report.made import made_lines
from aligner.report.methods import critics, critique_notes, method_lines
from aligner.report.odd_answers import odd_notes
from aligner.report.pairs import overall, read_pairs
from aligner.report.regressions import TITLE, Regressions
from aligner.report.reliability import planted_notes, read_planted, read_reliability
from aligner.report.samples import CLIP
from aligner.report.shift import JITTER, read_shifts
from aligner.report.shift_plots import Drawn, draw, write_plots
from aligner.report.table import ALL, AVERAGES, Cell, ScoreTable, Upstream, read_table, read_upstreams
from aligner.report.task_pages import GROUPS, Line, TaskPages, grouped
from aligner.report.verdicts import Judged, Pair, TaskShifts, WorseShares, read_verdicts
from aligner.runs import RunDir

_WORK = {"answers": "answering", "corrections": "correcting", "judging": "judging"}
_UNFINISHED = "This run is not finished: it has no result.json yet. The page shows what it has written so far."


def is_evaluation(run: RunDir, result: Mapping[str, Any] | None) -> bool:
    """Whether the run says so, or, not being finished, has begun to write verdicts."""
    return (run.path / "verdicts").is_dir() if result is None else result.get("kind") == "eval"


def render_evaluation(run: RunDir, result: Mapping[str, Any] | None) -> Path:
    """Write `report.html`, `report-TASK.html` for each task, and `plots/shift-*.png`; plots of an earlier rendering
    that have no data now are removed.

    Returns:
        The path of report.html. A page that was there is replaced whole.

    Raises:
        DataError: a file of the run is damaged; names file and line.
        StorageError: the directory cannot be written.
    """
    values, where = result or {}, str(run.path / "result.json")
    table, known = read_table(run.path / "table.json"), read_upstreams(values, where)
    shifts = TaskShifts({task: dimensions for task, dimensions in table.columns.items() if task != ALL})
    judged = read_verdicts(run.path / "verdicts", shifts)
    examples = read_examples(run.path / "samples.jsonl")
    correctors = [_model(c, where) for c in items(values, "correctors", where)]
    listed = {c["name"]: c for c in correctors}
    names = list(dict.fromkeys([*listed, *table.correctors]))
    marked = [wording.said(s) for s in items(values, "self_judged", where)]
    drawn = _shifts(run, judged, names, [u.name for _, group in table.groups(known) for u in group])
    worse = WorseShares(judged, known)
    edited, lost, pairs = EditRates(values, where), Regressions(values, where), read_pairs(values, where)
    pages = TaskPages(
        run=run, result=result, table=table, known=known, names=names, marked=marked, edits=edited, worse=lost,
        pairs=pairs, shifts=shifts,
    )  # fmt: skip
    made = page.render(
        "evaluation.html.j2",
        run,
        None if result is None else _with_lineages(values, where),
        kind="Evaluation",
        summary=[*([] if result is not None else [_UNFINISHED]), *_summary(run, values, table, names, where)],
        warnings=[
            *_warnings(values, marked, table, names, where),
            *(f"{note[0].upper()}{note[1:]}." for note in planted_notes(values, where)),
            *critique_notes(values, where),
        ],
        dimensions=table.dimensions,
        headline=[_headline(n, listed.get(n, {}), table, values, worse, n in marked, where) for n in names],
        mains=[_main(n, table, known, worse, edited) for n in names],
        more_measures=(TITLE, *edited.titles()),
        has_edits=bool(edited),
        pairs=grouped(overall(pairs)),
        task_pages=pages.files(),
        methods=method_lines(table, values, where),
        critics=critics(values, where),
        reliability=read_reliability(values, where),
        planted=read_planted(values, where),
        columns=table.columns,
        every=ALL,
        has_splits=bool(table.splits),
        split_measures=lost.titles(),
        splits=[(n, [_split(n, split, table, lost) for split in table.splits]) for n in names],
        shifts=drawn,
        jitter=JITTER,
        examples=[{"key": g, "title": title, "members": examples[g]} for g, title in GROUPS.items()],
        clip=CLIP,
        judge=_facts(values.get("judge"), where),
        tasks=[_task(t, where) for t in objects(values, "tasks", where)],
        correctors=[(n, listed.get(n, {})) for n in names],
        self_judged=marked,
    )
    of_tasks = {file: pages.render(task) for task, file in pages.files().items()}
    write_plots(run.path / "plots", {d.file: d.png for d in drawn})
    for file, text_of_page in of_tasks.items():
        page.write_page(run, text_of_page, file)
    return page.write_page(run, made)


def _model(value: Any, where: str) -> dict[str, str]:
    if isinstance(value, str):
        return {"name": value, "aligner": wording.ABSENT, "parameters": wording.ABSENT}
    if not isinstance(value, dict):
        raise wrong(where, "correctors", value, "names or objects")
    size = number(value, "parameters", where)
    place = wording.said(value.get("aligner") or value.get("corrections") or value.get("method"))
    return {
        "name": text(value, "name", where) or "",
        "aligner": f"{place}, sentence by sentence" if value.get("unit") == "sentence" else place,
        "parameters": wording.ABSENT if size is None else wording.magnitude(size),
    }


def _with_lineages(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The result with each corrector's own ancestors in place of all of them together, where it has them."""
    models = [c for c in items(values, "correctors", where) if isinstance(c, dict)]
    own = {text(c, "name", where) or "": _ancestors(c, where) for c in models}
    return {**values, "lineage": own} if any(own.values()) else values


def _ancestors(corrector: Mapping[str, Any], where: str) -> Sequence[Mapping[str, Any]]:
    known = objects(corrector, "lineage", where)
    place = Path(text(corrector, "aligner", where) or "")
    # A corrector is named by its training run or by the model in it.
    return told_apart(known, place.parent if place.name == RunDir(place).model_path.name else place)


def _summary(run: RunDir, values: Mapping[str, Any], table: ScoreTable, names: Sequence[str], where: str) -> list[str]:
    lines = []
    tasks = len([t for t in table.columns if t != ALL])
    if table.upstreams:
        lines.append(
            f"Answers of {wording.plural(len(table.upstreams), 'upstream')} to {wording.plural(tasks, 'task')} were "
            f"compared with their corrections by {wording.plural(len(names), 'corrector')}."
        )
    seconds = mapping(values, "seconds", where)
    took = {_WORK.get(k, k): number(seconds, k, where) for k in seconds}
    spent = [f"{wording.name(k)} {wording.duration(v)}" for k, v in took.items() if v is not None]
    known = read_object(run.path / "env.json") or {}
    machine = known.get("accelerator") or known.get("processor")
    on = f" on {wording.name(str(machine))}" if machine else ""
    if spent:
        lines.append(f"Time{on}: {wording.listing(spent)}.")
    elif on:
        lines.append(f"Run{on}.")
    return [*lines, *made_lines(run.path / "made.json")]


def _warnings(
    values: Mapping[str, Any], marked: Sequence[str], table: ScoreTable, names: Sequence[str], where: str
) -> list[str]:
    """What a reader must not overlook: where correcting hurt, and what the numbers leave out."""
    lines = []
    for name in names:
        scored, lost, sure = table.losses(name)
        if lost:
            lines.append(
                f"{wording.name(name)} loses in {lost} of {scored} cells of its table (▼)"
                + (f", in {sure} of them with the whole interval below 0 (▼▼)." if sure else ".")
            )
    if unscored := number(values, "unscored", where):
        what = "1 verdict is" if unscored == 1 else f"{wording.count(unscored)} verdicts are"
        lines.append(f"{what} unscored, those of failed answers included: counted apart, neither as ties nor as 0.")
    if failed := number(values, "failed", where):
        by_step = mapping(values, "failed_by_step", where)
        steps = wording.tallied({k: n for k in by_step if (n := number(by_step, k, where))})
        lines.append(f"Failed and left unscored: {wording.count(failed)}{f' ({steps})' if steps else ''}.")
    lines += (f"{note[0].upper()}{note[1:]}." for note in odd_notes(values, where))
    if marked:
        shown = wording.listing([wording.name(m) for m in marked])
        lines.append(
            f"Self-judged: {shown}. The judge had a part in making what it judges, so what it says stands in the "
            "tables below and not in the headline."
        )
    return lines


def _headline(
    name: str, model: Mapping[str, str], table: ScoreTable, values: Mapping[str, Any], worse: WorseShares, marked: bool,
    where: str,
) -> dict[str, Any]:  # fmt: skip
    if marked:  # all of it would come from a judge that had a part in it
        own = "self-judged"
        each = [own] * len(table.dimensions)
        found = {
            "cells": [Cell(text=e) for e in each],
            "repaired": each,
            "untouched": own,
            "worse": own,
            "worse_of": "",
        }
    else:
        lost = mapping(mapping(values, "regressions", where), name, where)
        share, n, of = (number(lost, k, where) for k in ("share", "worse", "n"))
        found = {
            "cells": [table.cell(name, ALL, ALL, d) for d in table.dimensions],
            "repaired": [wording.share(table.measure(name, ALL, "repaired", d)) for d in table.dimensions],
            "untouched": wording.share(table.measure(name, ALL, "untouched")),
            "worse": wording.share(worse.share(name, ALL) if share is None else share),
            "worse_of": "" if n is None or of is None else f"{wording.count(n)} of {wording.count(of)}",
        }
    return {"name": name, "parameters": model.get("parameters", wording.ABSENT), **found}


def _main(
    name: str, table: ScoreTable, known: Sequence[Upstream], worse: WorseShares, edited: EditRates
) -> dict[str, Any]:
    def line(shown: str, upstream: str, unseen: bool = False) -> Line:
        return Line(
            name=shown,
            unseen=unseen,
            cells=[table.cell(name, upstream, t, d) for t, dimensions in table.columns.items() for d in dimensions],
            measures=[
                wording.count(table.answers(name, upstream)),
                *(wording.share(table.measure(name, upstream, "fault_rate", d)) for d in table.dimensions),
                *(wording.share(table.measure(name, upstream, "repaired", d)) for d in table.dimensions),
                wording.share(table.measure(name, upstream, "untouched")),
                wording.decimal(table.measure(name, upstream, "edit_ratio"), 2),
                wording.share(worse.share(name, upstream)),
                *edited.cells(name, upstream),
            ],
        )

    return {
        "name": name,
        "groups": [
            (title, [line(u.name, u.name, u.seen is False) for u in members]) for title, members in table.groups(known)
        ],
        "foot": [line(AVERAGES[a], a) for a in table.averages],
    }


def _split(name: str, split: str, table: ScoreTable, lost: Regressions) -> dict[str, Any]:
    cells = [table.split_cell(name, split, t, d) for t, dimensions in table.columns.items() for d in dimensions]
    return {"name": split, "cells": cells, "measures": lost.cells(name, ALL, ALL, split)}


def _shifts(
    run: RunDir, judged: Mapping[Pair, Judged], correctors: Sequence[str], upstreams: Sequence[str]
) -> list[Drawn]:
    """All shifts there are, drawn: data first, then by corrector and upstream as in the tables."""
    place = {n: i for i, n in enumerate(correctors)}, {n: i for i, n in enumerate(upstreams)}
    order = sorted(judged, key=lambda k: (place[0].get(k[0], len(place[0])), place[1].get(k[1], len(place[1]))))
    of_answers = [shift for key in order if (shift := judged[key].shift()) is not None]
    return draw([*read_shifts(run.path / "shift.json"), *of_answers])


def _task(task: Mapping[str, Any], where: str) -> dict[str, str]:
    return {
        "name": text(task, "name", where) or "",
        "n": wording.count(number(task, "n", where)),
        "dimensions": wording.said(task.get("dimensions")),
        "splits": wording.said(task.get("splits")),
    }


def _facts(value: Any, where: str) -> dict[str, str]:
    """What the judge is: a name, or an object of settings."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise wrong(where, "judge", value, "text or an object")
    return {k.replace("_", " "): wording.said(v) for k, v in _flat(value)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
