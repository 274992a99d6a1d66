"""Pairs: two correctors on the same answers, as lines of a table and of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aligner.report import wording
from aligner.report.fields import items, number, objects, text
from aligner.report.table import ALL, Cell

_SURE = 0.05
# A terminal's reader wants the verdict, and a page has the rest.
_TOLD = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLine:
    """The second corrector against the first in one task and dimension. `cell` is the difference of their ω.

    `mark` says which of the two the judge had a part in, if any.
    """

    first: str
    second: str
    task: str
    dimension: str
    cell: Cell
    p_value: str
    counts: tuple[str, ...]
    mark: str
    clear: bool


def read_pairs(values: Mapping[str, Any], where: str) -> list[PairLine]:
    """The comparisons of a result, in its order; none where it has one corrector.

    Raises:
        DataError: a value is of the wrong type.
    """
    marked = items(values, "self_judged", where)
    found = []
    for row in objects(values, "pairs", where):
        names = [text(row, key, where) or "" for key in ("first", "second")]
        low, high, p = (number(row, key, where) for key in ("low", "high", "p_value"))
        difference = number(row, "difference", where)
        own = [wording.name(name) for name in names if name in marked]
        found.append(
            PairLine(
                first=names[0],
                second=names[1],
                task=text(row, "task", where) or "",
                dimension=text(row, "dimension", where) or "",
                cell=Cell(
                    text=wording.signed(difference),
                    bounds=None if low is None or high is None else (low, high),
                    loss=difference is not None and difference < 0,
                    sure=high is not None and high < 0,
                ),
                p_value=_chance(p),
                counts=tuple(
                    wording.count(number(row, key, where)) for key in ("better", "worse", "regressions", "pairs")
                ),
                mark=f"self-judged: {wording.listing(own)}" if own else "",
                clear=p is not None and p < _SURE,
            )
        )
    return found


def overall(lines: list[PairLine]) -> list[PairLine]:
    """Those over all tasks; with one task, its own."""
    return [line for line in lines if line.task == ALL] or lines


def pair_notes(values: Mapping[str, Any], where: str) -> list[str]:
    """A line for every two correctors: by how much the second is ahead of the first on the same answers.

    Raises:
        DataError: a value is of the wrong type.
    """
    by_pair: dict[tuple[str, str], list[PairLine]] = {}
    for line in overall(read_pairs(values, where)):
        by_pair.setdefault((line.first, line.second), []).append(line)
    told = []
    for (first, second), lines in by_pair.items():
        each = [
            f"{wording.name(line.dimension)} {line.cell.text} {line.cell.interval} (p {line.p_value}"
            f"{'' if line.clear else ', may be chance'})"
            for line in lines
            if line.cell.text != wording.ABSENT
        ]
        if each:
            mark = f" ({lines[0].mark})" if lines[0].mark else ""
            told.append(f"'{wording.name(second)}' less '{wording.name(first)}' on the same answers, in points of "
                        f"ω{mark}: {'; '.join(each)}")  # fmt: skip
    left = len(told) - _TOLD
    return [*told[:_TOLD], *([f"{wording.plural(left, 'more pair')} of correctors: see the page"] if left > 0 else [])]


def _chance(p: float | None) -> str:
    return "< 0.001" if p is not None and p < 0.001 else wording.decimal(p)
