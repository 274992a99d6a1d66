"""A page for each task of an evaluation: its tables, its shift, and its biggest gains and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aligner.report import page, wording
from aligner.report.edit_rates import EditRates
from aligner.report.examples import Group, read_examples
from aligner.report.pairs import PairLine
from aligner.report.regressions import Regressions
from aligner.report.samples import CLIP
from aligner.report.shift import JITTER
from aligner.report.shift_plots import draw, slug
from aligner.report.table import ALL, AVERAGES, Cell, ScoreTable, TaskMeasure, Upstream
from aligner.report.verdicts import TaskShifts
from aligner.runs import RunDir

GROUPS: dict[Group, str] = {"gain": "Biggest gains", "loss": "Biggest losses", "random": "Picked at random"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of a table by upstream: its ω cells, and its measures as text."""

    name: str
    unseen: bool
    cells: Sequence[Cell]
    measures: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPages:
    """What the pages are made from; `names` are the correctors."""

    run: RunDir
    result: Mapping[str, Any] | None
    table: ScoreTable
    known: Sequence[Upstream]
    names: Sequence[str]
    marked: Sequence[str]
    edits: EditRates
    worse: Regressions
    pairs: Sequence[PairLine]
    shifts: TaskShifts

    def files(self) -> dict[str, str]:
        """The file of each task's page, beside report.html."""
        found: dict[str, str] = {}
        for task in self.table.columns:
            if task == ALL:
                continue
            stem = f"report-{slug(task) or 'task'}"
            name, number = f"{stem}.html", 2
            while name in found.values():
                name, number = f"{stem}-{number}.html", number + 1
            found[task] = name
        return found

    def render(self, task: str) -> str:
        """The page of one task.

        Raises:
            DataError: a file of the run is damaged; names file and line.
        """
        dimensions = self.table.columns[task]
        examples = read_examples(self.run.path / "samples.jsonl", task)
        shifts = [shift for name in self.names if (shift := self.shifts.of(name, task)) is not None]
        return page.render(
            "task.html.j2",
            self.run,
            self.result,
            kind="Evaluation",
            summary=[],
            warnings=[],
            task=task,
            every=ALL,
            dimensions=dimensions,
            columns={task: dimensions},
            mains=[self._main(name, task) for name in self.names],
            more_measures=(*self.worse.titles(), *self.edits.titles()),
            has_worse=bool(self.worse),
            has_edits=bool(self.edits),
            has_splits=bool(self.table.splits),
            split_measures=self.worse.titles(),
            splits=[(name, [self._split(name, split, task) for split in self.table.splits]) for name in self.names],
            pairs=grouped([line for line in self.pairs if line.task == task]),
            shifts=draw(shifts, files=False),
            jitter=JITTER,
            examples=[{"key": g, "title": title, "members": examples[g]} for g, title in GROUPS.items()],
            clip=CLIP,
            self_judged=self.marked,
        )

    def _main(self, name: str, task: str) -> dict[str, Any]:
        return {
            "name": name,
            "groups": [
                (title, [self._line(name, u.name, u.name, task, unseen=u.seen is False) for u in members])
                for title, members in self.table.groups(self.known)
            ],
            "foot": [self._line(name, AVERAGES[a], a, task) for a in self.table.averages],
        }

    def _line(self, corrector: str, shown: str, upstream: str, task: str, *, unseen: bool = False) -> Line:
        dimensions = self.table.columns[task]

        def value(key: TaskMeasure, dimension: str) -> float | None:
            return self.table.value(corrector, upstream, task, key, dimension)

        def any_value(key: TaskMeasure) -> float | None:
            return next((found for d in dimensions if (found := value(key, d)) is not None), None)

        return Line(
            name=shown,
            unseen=unseen,
            cells=[self.table.cell(corrector, upstream, task, d) for d in dimensions],
            measures=[
                wording.count(any_value("n")),
                *(wording.share(value("fault_rate", d)) for d in dimensions),
                *(wording.share(value("repaired", d)) for d in dimensions),
                wording.share(any_value("untouched")),
                wording.decimal(any_value("edit_ratio"), 2),
                *self.worse.cells(corrector, upstream, task),
                *self.edits.cells(corrector, upstream, task),
            ],
        )

    def _split(self, corrector: str, split: str, task: str) -> dict[str, Any]:
        cells = [self.table.split_cell(corrector, split, task, d) for d in self.table.columns[task]]
        return {"name": split, "cells": cells, "measures": self.worse.cells(corrector, ALL, task, split)}


def grouped(lines: Sequence[PairLine]) -> list[tuple[str, list[PairLine]]]:
    """Comparisons under a title for each two correctors."""
    found: dict[tuple[str, str, str], list[PairLine]] = {}
    for line in lines:
        found.setdefault((line.first, line.second, line.mark), []).append(line)
    return [
        (f"{wording.name(second)} less {wording.name(first)}{f' ({mark})' if mark else ''}", members)
        for (first, second, mark), members in found.items()
    ]
