"""ScoreTable: ω by corrector, upstream, task, dimension and split, looked up for a page or a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from aligner.report import wording
from aligner.report.fields import number, objects, read_objects, text, wrong

ALL = "all"
# Means over upstreams stand in the table under these names.
AVERAGES = {ALL: "All upstreams", "seen": "Seen in training", "unseen": "Not seen in training"}
_UNGROUPED = "Upstreams"

Measure = Literal["fault_rate", "repaired", "untouched", "edit_ratio"]
TaskMeasure = Literal["n", "fault_rate", "repaired", "untouched", "edit_ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One model whose answers were corrected; `seen` says whether answers of it were trained on, None: not known."""

    name: str
    group: str
    seen: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row of table.json: ω with its interval in per cent, shares from 0 to 1; None is not measured.

    `fault_rate` and `repaired` are of the dimension: answers with a fault, and those of them without one afterwards;
    `untouched` is the share of faultless answers that came back as they were.
    """

    corrector: str
    upstream: str
    task: str
    dimension: str
    split: str
    n: float | None
    omega: float | None
    low: float | None
    high: float | None
    unscored: float | None
    fault_rate: float | None
    repaired: float | None
    untouched: float | None
    edit_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands in one place of a table. A loss is marked by a sign as well as by colour."""

    text: str = wording.ABSENT
    bounds: tuple[float, float] | None = None
    note: str = ""
    loss: bool = False
    sure: bool = False

    @property
    def mark(self) -> str:
        return "▼▼" if self.sure else "▼" if self.loss else ""

    @property
    def interval(self) -> str:
        """[+1.2, +3.4], or nothing."""
        return wording.interval(*self.bounds) if self.bounds else ""

    @property
    def brief(self) -> str:
        """The interval in whole per cent where room is short: +1…+3, or nothing."""
        return "…".join(f"{b:+.0f}".replace("-", wording.MINUS) for b in self.bounds) if self.bounds else ""


class ScoreTable:
    """The rows of a table.json. Everything is listed in order of first appearance; `columns` are dimensions by task."""

    def __init__(self, scores: Iterable[Score]) -> None:
        self._scores: dict[tuple[str, str, str, str, str], Score] = {}
        self._of: dict[tuple[str, str], list[Score]] = {}
        self.correctors: list[str] = []
        self.upstreams: list[str] = []
        self.splits: list[str] = []
        self.dimensions: list[str] = []
        self.columns: dict[str, list[str]] = {}
        overall: list[str] = []
        for s in scores:
            self._scores[s.corrector, s.upstream, s.task, s.dimension, s.split] = s
            self._of.setdefault((s.corrector, s.upstream), []).append(s)
            _note(self.correctors, s.corrector)
            _note(self.dimensions, s.dimension)
            if s.upstream not in AVERAGES:
                _note(self.upstreams, s.upstream)
            if s.split != ALL:
                _note(self.splits, s.split)
            if s.task != ALL:
                _note(self.columns.setdefault(s.task, []), s.dimension)
            elif s.upstream not in AVERAGES:
                _note(overall, s.dimension)
        # With one task, the mean over tasks says the same again.
        if overall and len(self.columns) != 1:
            self.columns[ALL] = overall

    @property
    def averages(self) -> list[str]:
        """Which of AVERAGES the table has."""
        return [a for a in AVERAGES if any(upstream == a for _, upstream in self._of)]

    def cell(self, corrector: str, upstream: str, task: str, dimension: str, split: str = ALL) -> Cell:
        """A dash for what was not asked; "unscored" for what was asked and no judge could score."""
        return cell(self._scores.get((corrector, upstream, task, dimension, split)))

    def split_cell(self, corrector: str, split: str, task: str, dimension: str) -> Cell:
        """The mean over upstreams on one split: the table's own where it has one, else every scored upstream alike."""
        own = self._scores.get((corrector, ALL, task, dimension, split))
        if own is not None:
            return cell(own)
        found = [self._scores.get((corrector, upstream, task, dimension, split)) for upstream in self.upstreams]
        asked = [s for s in found if s is not None]
        scored = [s.omega for s in asked if s.omega is not None]
        if not scored:
            return Cell(text="unscored") if any(s.unscored for s in asked) else Cell()
        mean = fmean(scored)
        note = f"{len(scored)} of {len(asked)} scored" if len(scored) < len(asked) else ""
        return Cell(text=wording.signed(mean), note=note, loss=mean < 0)

    def measure(self, corrector: str, upstream: str, key: Measure, dimension: str | None = None) -> float | None:
        """A share of an upstream over all tasks, of one dimension or, where it has none, of the one that most answers
        have: the table's own where it has one, else the mean of the tasks.
        """
        known: list[tuple[str, float, float]] = [
            (s.task, s.n or 0.0, value)
            for s in self._of.get((corrector, upstream), ())
            if s.split == ALL and dimension in (None, s.dimension) and (value := getattr(s, key)) is not None
        ]
        best: dict[str, tuple[float, float]] = {}
        for task, n, value in known:
            if task not in best or n > best[task][0]:
                best[task] = n, value
        if ALL in best:
            return best[ALL][1]
        return fmean(value for _, value in best.values()) if best else None

    def value(self, corrector: str, upstream: str, task: str, key: TaskMeasure, dimension: str) -> float | None:
        """A measure of an upstream in one task and dimension."""
        score = self._scores.get((corrector, upstream, task, dimension, ALL))
        return None if score is None else getattr(score, key)

    def answers(self, corrector: str, upstream: str) -> float | None:
        """How many answers of an upstream were asked about, each once, whatever its dimensions."""
        most: dict[str, float] = {}
        for s in self._of.get((corrector, upstream), ()):
            if s.split == ALL and s.n is not None:
                most[s.task] = max(s.n, most.get(s.task, 0.0))
        overall = most.pop(ALL, None)
        return sum(most.values()) if most else overall

    def losses(self, corrector: str) -> tuple[int, int, int]:
        """How many cells of the main table are scored, how many of them are losses and how many surely so."""
        cells = [
            cell(s)
            for upstream in self.upstreams
            for s in self._of.get((corrector, upstream), ())
            if s.split == ALL and s.task in self.columns and s.task != ALL and s.omega is not None
        ]
        return len(cells), sum(c.loss for c in cells), sum(c.sure for c in cells)

    def groups(self, known: Sequence[Upstream]) -> list[tuple[str, list[Upstream]]]:
        """The upstreams by class; those that only the table knows come last, without one."""
        names = {u.name for u in known}
        others = [Upstream(name=u, group="", seen=None) for u in self.upstreams if u not in names]
        groups: dict[str, list[Upstream]] = {}
        for upstream in (*known, *others):
            groups.setdefault(upstream.group or _UNGROUPED, []).append(upstream)
        return list(groups.items())


def _note(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def cell(score: Score | None) -> Cell:
    """The cell of one row; ω below 0 is a loss, and a sure one where the whole interval is."""
    if score is None:
        return Cell()
    if score.omega is None:
        of = f"{wording.count(score.unscored)} of {wording.count(score.n)}" if score.unscored and score.n else ""
        return Cell(text="unscored", note=of) if score.unscored else Cell()
    loss = score.omega < 0
    return Cell(
        text=wording.signed(score.omega),
        bounds=None if score.low is None or score.high is None else (score.low, score.high),
        note=f"{wording.count(score.unscored)} unscored" if score.unscored else "",
        loss=loss,
        sure=loss and score.high is not None and score.high < 0,
    )


def read_table(path: Path) -> ScoreTable:
    """A table.json; empty when there is no such file.

    Raises:
        DataError: the file is damaged; names it and the row.
    """
    return read_scores(read_objects(path), str(path))


def read_upstreams(values: Mapping[str, Any], where: str) -> list[Upstream]:
    """The upstreams of a result.

    Raises:
        DataError: one of them is not an object with a name, a group and whether it was seen.
    """
    found = []
    for one in objects(values, "upstreams", where):
        seen = one.get("seen")
        if seen is not None and not isinstance(seen, bool):
            raise wrong(where, "seen", seen, "true or false")
        name, group = text(one, "name", where) or "", text(one, "group", where) or ""
        found.append(Upstream(name=name, group=group, seen=seen))
    return found


def read_scores(rows: Iterable[Mapping[str, Any]], where: str) -> ScoreTable:
    """The table of rows that are read already.

    Raises:
        DataError: a value is of the wrong type.
    """
    return ScoreTable(_score(row, f"{where}, row {i}") for i, row in enumerate(rows, 1))


def _score(row: Mapping[str, Any], where: str) -> Score:
    return Score(
        corrector=text(row, "corrector", where) or "",
        upstream=text(row, "upstream", where) or "",
        task=text(row, "task", where) or "",
        dimension=text(row, "dimension", where) or "",
        split=text(row, "split", where) or ALL,
        n=number(row, "n", where),
        omega=number(row, "omega", where),
        low=number(row, "low", where),
        high=number(row, "high", where),
        unscored=number(row, "unscored", where),
        fault_rate=number(row, "fault_rate", where),
        repaired=number(row, "repaired", where),
        untouched=number(row, "untouched", where),
        edit_ratio=number(row, "edit_ratio", where),
    )
