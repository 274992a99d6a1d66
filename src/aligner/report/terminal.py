"""What a terminal shows of a finished evaluation: its tables, and what must not be overlooked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.box import HORIZONTALS
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from aligner.report import wording
from aligner.report.fields import items, number, objects
from aligner.report.methods import Critic, Line, critics, critique_notes, method_lines
from aligner.report.odd_answers import odd_notes
from aligner.report.pairs import pair_notes
from aligner.report.reliability import planted_notes
from aligner.report.table import ALL, Cell, ScoreTable, Upstream, read_scores, read_upstreams

_WHERE = "result.json"
# With more columns than these the means over tasks are left out.
_WIDE = 8
# The widest interval, −100…+100, and a mark beside a number.
_NUMBER = 9
_UNBOUNDED = 10_000
_Column = tuple[str, str]  # task and dimension


def grids(rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> list[MainTable | Grid]:
    """The main tables; where one of the correctors is a method of prompting, all of them side by side as well.

    Args:
        rows: of table.json.
        values: of result.json.

    Raises:
        DataError: a value is of the wrong type.
    """
    found: list[MainTable | Grid] = []
    found += terminal_table(rows, objects(values, "upstreams", _WHERE), items(values, "self_judged", _WHERE))
    if any(isinstance(c, dict) and c.get("method") for c in items(values, "correctors", _WHERE)):
        table = read_scores(rows, "table.json")
        found.append(_methods(method_lines(table, values, _WHERE), table.dimensions))
        if known := critics(values, _WHERE):
            found.append(_critics(known))
    return found


def notes(values: Mapping[str, Any]) -> list[str]:
    """What is unscored, odd, flips, is self-judged or cannot be compared, and how correctors compare.

    Raises:
        DataError: a value is of the wrong type.
    """
    lines = []
    if unscored := number(values, "unscored", _WHERE):
        failed = f"{wording.count(number(values, 'failed', _WHERE))} answers, corrections or verdicts failed"
        failed += f"; the judge's first: {values['first_reason']}" if values.get("first_reason") else ""
        lines.append(
            f"{wording.count(unscored)} verdicts are unscored ({failed}); they are counted apart, never as ties"
        )
    lines += odd_notes(values, _WHERE)
    for row in objects(values, "reliability", _WHERE):
        flipped, pairs = (wording.count(number(row, key, _WHERE)) for key in ("flipped", "pairs"))
        if row["task"] == "all" and row["flipped"]:
            lines.append(f"on '{row['dimension']}' the judge's verdict flips with the order of the answers in "
                         f"{flipped} of {pairs} pairs; those are ties")  # fmt: skip
    lines += [
        f"the judge had a part in making '{wording.said(name)}', so its win rates are self-judged"
        for name in items(values, "self_judged", _WHERE)
    ]
    return [
        *lines,
        *planted_notes(values, _WHERE),
        *critique_notes(values, _WHERE),
        *pair_notes(values, _WHERE),
    ]


def terminal_table(
    rows: Sequence[Mapping[str, Any]], upstreams: Sequence[Mapping[str, Any]], self_judged: Sequence[Any] = ()
) -> list[MainTable]:
    """The main table for a terminal, one for each corrector: ω in per cent over its interval, by upstream and task.

    `rows` are those of table.json, `upstreams` and `self_judged` the result's. A loss is marked ▼, a sure one ▼▼; * is
    an upstream that was not seen in training.

    Raises:
        DataError: a value is of the wrong type.
    """
    table = read_scores(rows, "table.json")
    known = read_upstreams({"upstreams": list(upstreams)}, "result.json")
    groups = table.groups(known)
    return [
        MainTable(table=table, corrector=name, groups=groups, self_judged=name in self_judged)
        for name in table.correctors
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MainTable:
    """One corrector's table, shown as several where it is wider than the console: tasks stay whole, and so do numbers.

    Seven columns fit 80 characters. Broken are upstreams' names that take half the width, tasks' that take a quarter,
    and what does not fit a width that has no room for a name and one number.
    """

    table: ScoreTable
    corrector: str
    groups: Sequence[tuple[str, Sequence[Upstream]]]
    self_judged: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = list(self._parts(console, options))
        for i, columns in enumerate(parts, 1):
            grid = self._grid(columns, options.max_width)
            if len(parts) > 1:
                grid.title = Text(f"{grid.title} ({i} of {len(parts)})")
            if i < len(parts):  # the last one explains the signs
                grid.caption = None
            yield grid

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[list[_Column]]:
        """The columns of each table: as many tasks as fit side by side; of a wider task, as many dimensions."""
        unbounded = options.update_width(_UNBOUNDED)

        def fits(columns: Sequence[_Column]) -> bool:
            grid = self._grid(columns, options.max_width)
            return Measurement.get(console, unbounded, grid).maximum <= options.max_width

        part: list[_Column] = []
        for _, of_task in groupby(self._columns(), key=lambda column: column[0]):
            whole = list(of_task)
            for columns in [whole] if fits(whole) else [[column] for column in whole]:
                if part and not fits([*part, *columns]):
                    yield part
                    part = []
                part += columns
        if part:
            yield part

    def _columns(self) -> list[_Column]:
        columns = [(task, dimension) for task, dimensions in self.table.columns.items() for dimension in dimensions]
        return [c for c in columns if c[0] != ALL] if len(columns) > _WIDE else columns

    def _grid(self, columns: Sequence[_Column], width: int) -> Grid:
        caption = "ω in per cent, below it its interval: above 0 the corrections are better. ▼ loss, ▼▼ surely so"
        if any(upstream.seen is False for _, members in self.groups for upstream in members):
            caption += "; * not seen in training"
        own = " (self-judged)" if self.self_judged else ""
        grid = _grid(f"{_plain(self.corrector)}{own}", caption)
        # No column has a least width: where rich cannot keep to it, it leaves whole columns out.
        grid.add_column("Upstream", overflow="fold", max_width=width // 2)
        for task, dimension in columns:
            heading = Text(f"{'all tasks' if task == ALL else _plain(task)}\n{_plain(dimension)}")
            grid.add_column(heading, justify="right", overflow="fold", max_width=max(_NUMBER, width // 4))

        def row(label: str, upstream: str, style: str = "") -> None:
            cells = (_cell(self.table.cell(self.corrector, upstream, *column)) for column in columns)
            grid.add_row(Text(label, style=style), *cells)

        for title, members in self.groups:
            grid.add_row(Text(_plain(title), style="bold"))
            for upstream in members:
                row(f" {_plain(upstream.name)}{' *' if upstream.seen is False else ''}", upstream.name)
            grid.add_section()
        for average in self.table.averages:
            row(f"{'all upstreams' if average == ALL else average}{own}", average, "bold")
        return grid


def _cell(shown: Cell) -> Text:
    """A cell over its interval."""
    style = "bold red" if shown.sure else "red" if shown.loss else ""
    found = Text(f"{shown.mark} {shown.text}".strip(), style=style)
    for more in (shown.brief, shown.note):
        if more:
            found.append(f"\n{more}", style="dim")
    return found


def _plain(name: str) -> str:
    """A name without the control characters that would steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in wording.name(name)) or "(no name)"


def _methods(lines: Sequence[Line], dimensions: Sequence[str]) -> Grid:
    grid = _grid("methods", "ω in per cent, mean over upstreams and tasks; of one answer: tokens read and written, and "
                 "seconds, on top of those of nothing")  # fmt: skip
    grid.add_column("Method", overflow="fold")
    for heading in (*map(_plain, dimensions), "made\nworse", "read", "written", "seconds"):
        grid.add_column(Text(heading), justify="right", overflow="fold")
    for line in lines:
        cells = (_cell(cell) for cell in line.cells)
        grid.add_row(Text(_plain(line.name)), *cells, line.worse, line.read, line.written, line.seconds)
    return grid


def _critics(known: Mapping[str, Sequence[Critic]]) -> Grid:
    grid = _grid("critiques", "balanced accuracy, with its interval, of an upstream's critiques against the faults of "
                 "its answers: 0.50 is chance")  # fmt: skip
    grid.add_column("Upstream", overflow="fold")
    for name in known:
        grid.add_column(Text(_plain(name)), justify="right", overflow="fold")
    found = {name: {critic.upstream: critic for critic in of} for name, of in known.items()}
    for upstream in dict.fromkeys(critic.upstream for of in known.values() for critic in of):
        grid.add_row(Text(_plain(upstream)), *(_critic(found[name].get(upstream)) for name in known))
    return grid


def _critic(critic: Critic | None) -> Text:
    if critic is None:
        return Text(wording.ABSENT)
    found = Text(critic.accuracy, style="red" if critic.at_chance else "")
    for more in (critic.interval, critic.note, critic.silence):
        if more:
            found.append(f"\n{more}", style="dim")
    return found


def _grid(title: str, caption: str) -> Grid:
    return Grid(title=Text(title), caption=Text(caption), title_style="bold", box=HORIZONTALS, pad_edge=False,
                padding=(0, 0, 0, 0))  # fmt: skip
