"""The table of one corrector: what its verdicts come to, by upstream, task, dimension and split, with their means."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool

from aligner.evaluate.config import EvalSettings, UpstreamSpec
from aligner.evaluate.metrics import (
    ABSENT,
    LOSS,
    TIE,
    UNSCORED,
    WIN,
    Counts,
    Outcomes,
    Replicates,
    count,
    interval,
    mean_of,
    resample,
)
from aligner.evaluate.regressions import Regressions
from aligner.evaluate.tasks import ALL, Suite, Task, split_of

Mask = Bool[np.ndarray, "questions upstreams"]

_CODES = {"candidate": WIN, "baseline": LOSS, "tie": TIE, None: UNSCORED}
_AVERAGED = {"seen": True, "unseen": False}


@dataclass(slots=True, kw_only=True)
class Shares:
    """What lies behind the shares of a cell, as sums, so that cells can be added up."""

    counted: int = 0  # answers whose faults in the dimension are known
    faulty: int = 0
    faulty_after_known: int = 0
    repaired: int = 0
    faultless: int = 0  # answers without a fault in any dimension
    untouched: int = 0
    rows: int = 0
    edits: float = 0.0

    def add(self, other: Shares) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place of the table. `replicates` are its ω in the bootstrap samples."""

    counts: Counts
    omega: float | None
    replicates: Replicates
    shares: Shares


class Tally:
    """Collects the verdicts of one corrector row by row; only codes and sums stay in memory.

    `regressions` are corrections that lost in at least one dimension of their task. `outcomes` are the codes of
    `metrics` by task and dimension.
    """

    def __init__(self, corrector: str, suite: Suite, upstreams: Sequence[UpstreamSpec]) -> None:
        self.corrector = corrector
        self.regressions = Regressions()
        self._suite, self._upstreams = suite, upstreams
        self._columns = {spec.name: i for i, spec in enumerate(upstreams)}
        self.outcomes: dict[tuple[str, str], Outcomes] = {
            (task.name, dimension): np.full((len(task.items), len(upstreams)), UNSCORED, np.int8)
            for task in suite.tasks
            for dimension in task.dimensions
        }
        self._shares: defaultdict[tuple[str, str, str, str], Shares] = defaultdict(Shares)

    def add(self, place: int, row: Mapping[str, Any]) -> None:
        """Count one row of a verdict file."""
        task, upstream, verdicts = row["task"], row["upstream"], row["verdicts"]
        question, column = place - self._suite.ranges[task].start, self._columns[upstream]
        for dimension in self._suite.dimensions[task]:
            winner = verdicts.get(dimension)
            self.outcomes[task, dimension][question, column] = _CODES[winner]
            for split in {ALL, row["split"]}:
                _share(self._shares[task, dimension, split, upstream], row, dimension)
        self.regressions.add(row)

    @property
    def unscored(self) -> int:
        """Verdicts that are missing, those of answers that failed included."""
        return sum(int((outcomes == UNSCORED).sum()) for outcomes in self.outcomes.values())

    def rows(self, settings: EvalSettings) -> list[dict[str, Any]]:
        """The rows of table.json: ω with its interval in per cent, shares from 0 to 1; None is not measured."""
        tables: dict[str, dict[tuple[str, str, str], Cell]] = {name: {} for name in (*self._columns, ALL, *_AVERAGED)}
        for task in self._suite.tasks:
            splits = self._splits(task)
            for dimension in task.dimensions:
                for split, belongs in splits.items():
                    for upstream, cell in self._cells(task, dimension, split, belongs, settings).items():
                        tables[upstream][task.name, dimension, split] = cell
        found = []
        for upstream, table in tables.items():
            by_dimension: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
            for (_, dimension, split), cell in table.items():
                by_dimension[dimension, split].append(cell)
            overall = {(ALL, *key): _mean(cells) for key, cells in by_dimension.items()}
            for (task_name, dimension, split), cell in {**table, **overall}.items():
                key = {"task": task_name, "dimension": dimension, "split": split}
                values = _values(cell, settings.confidence)
                found.append({"corrector": self.corrector, "upstream": upstream, **key, **values})
        return found

    def worse_rows(self) -> list[dict[str, Any]]:
        """The answers made worse, with the names of table.json for upstreams, their means, tasks and splits."""
        upstreams = {name: [name] for name in self._columns} | self._groups()
        rows = self.regressions.rows(upstreams, [task.name for task in self._suite.tasks])
        return [{"corrector": self.corrector, **row} for row in rows]

    def _splits(self, task: Task) -> dict[str, Mask]:
        """Which answers are reported under each split; all of them under "all"."""
        numbers = {ALL: 0}  # of questions without a split
        columns: dict[bool, list[int]] = {}
        unseen = [spec.seen is False for spec in self._upstreams]
        for which in sorted(set(unseen)):
            names = (split_of(item, seen=not which) for item in task.items)
            columns[which] = [numbers.setdefault(name, len(numbers)) for name in names]
        codes = np.array([columns[which] for which in unseen], np.int32).T
        return {name: codes >= 0 if name == ALL else codes == number for name, number in numbers.items()}

    def _cells(self, task: Task, dimension: str, split: str, belongs: Mask, settings: EvalSettings) -> dict[str, Cell]:
        """One split of a task: the cells of all upstreams that have answers in it, and their means."""
        asked = belongs.any(axis=1)
        codes = np.where(belongs, self.outcomes[task.name, dimension], np.int8(ABSENT))[asked]
        seed = [settings.seed, zlib.crc32(f"{task.name}\0{dimension}\0{split}".encode("utf-8", "replace"))]
        replicates = resample(codes, settings.resamples, seed)
        cells: dict[str, Cell] = {}
        for i, spec in enumerate(self._upstreams):
            counts = count(codes[:, i])
            if counts.n:
                shares = self._shares[task.name, dimension, split, spec.name]
                cells[spec.name] = Cell(counts=counts, omega=counts.omega, replicates=replicates[:, i], shares=shares)
        return cells | self._averages(cells)

    def _averages(self, cells: Mapping[str, Cell]) -> dict[str, Cell]:
        """The means over upstreams that have answers."""
        groups = {name: [cells[m] for m in members if m in cells] for name, members in self._groups().items()}
        return {name: _mean(group) for name, group in groups.items() if group}

    def _groups(self) -> dict[str, list[str]]:
        """All upstreams, and those that were seen in training and those that were not."""
        groups = {ALL: list(self._columns)}
        if any(spec.seen is not None for spec in self._upstreams):
            groups |= {n: [s.name for s in self._upstreams if s.seen is seen] for n, seen in _AVERAGED.items()}
        return groups


def _mean(cells: Sequence[Cell]) -> Cell:
    """Each cell that is scored weighs the same in ω; counts and shares are added up."""
    shares, counts = Shares(), Counts()
    for cell in cells:
        counts += cell.counts
        shares.add(cell.shares)
    scored = [(cell.omega, cell.replicates) for cell in cells if cell.omega is not None]
    if not scored:
        return Cell(counts=counts, omega=None, replicates=cells[0].replicates, shares=shares)
    omega = sum(value for value, _ in scored) / len(scored)
    return Cell(counts=counts, omega=omega, replicates=mean_of([r for _, r in scored]), shares=shares)


def _share(shares: Shares, row: Mapping[str, Any], dimension: str) -> None:
    before, after = row["faults_before"], row["faults_after"]
    shares.rows += 1
    shares.edits += row["edit_ratio"]
    if before is None:
        return
    if not any(before.values()):
        shares.faultless += 1
        shares.untouched += row["correction"] == row["answer"]
    if dimension in before:
        shares.counted += 1
        shares.faulty += before[dimension] > 0
        if before[dimension] > 0 and after is not None and dimension in after:
            shares.faulty_after_known += 1
            shares.repaired += after[dimension] == 0


def _values(cell: Cell, confidence: float) -> dict[str, Any]:
    low, high = interval(cell.replicates, confidence) or (None, None)
    if cell.omega is None:
        low = high = None
    counts, shares = cell.counts, cell.shares
    return {
        "n": counts.n,
        "omega": _rounded(cell.omega),
        "low": _rounded(low),
        "high": _rounded(high),
        "wins": counts.wins,
        "losses": counts.losses,
        "ties": counts.ties,
        "unscored": counts.unscored,
        "fault_rate": _part(shares.faulty, shares.counted),
        "repaired": _part(shares.repaired, shares.faulty_after_known),
        "untouched": _part(shares.untouched, shares.faultless),
        "edit_ratio": _part(shares.edits, shares.rows),
    }


def _part(part: float, whole: int) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
