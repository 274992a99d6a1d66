"""Reliability: how far the judge said the same when the two answers changed places, and whether it obeyed orders that
were planted in answers, as lines of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aligner.report import wording
from aligner.report.fields import number, objects, text
from aligner.report.table import ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """One task and dimension; the task "all" is all of them."""

    task: str
    dimension: str
    cells: tuple[str, ...]


def read_reliability(values: Mapping[str, Any], where: str) -> list[Reliability]:
    """The lines of a result: pairs, share flipped, κ, and how often the first and the second shown won in both orders.

    Raises:
        DataError: a value is of the wrong type.
    """
    return _lines(values, "reliability", where, lambda row: (
        wording.count(number(row, "pairs", where)),
        wording.share(number(row, "flip_rate", where)),
        wording.decimal(number(row, "kappa", where), 2).replace("-", wording.MINUS),
        wording.count(number(row, "first_wins", where)),
        wording.count(number(row, "second_wins", where)),
    ))  # fmt: skip


def read_planted(values: Mapping[str, Any], where: str) -> list[Reliability]:
    """The lines of a result's planted set: how many answers, how many orders won and their share, lost, tied and were
    unscored, and the share that flipped.

    Raises:
        DataError: a value is of the wrong type.
    """
    return _lines(values, "planted", where, lambda row: (
        wording.count(number(row, "n", where)),
        wording.count(number(row, "won", where)),
        wording.share(number(row, "won_share", where)),
        *(wording.count(number(row, key, where)) for key in ("lost", "tied", "unscored")),
        wording.share(number(row, "flip_rate", where)),
    ))  # fmt: skip


def planted_notes(values: Mapping[str, Any], where: str) -> list[str]:
    """A line for every dimension in which the judge obeyed an order, or flipped over one.

    Raises:
        DataError: a value is of the wrong type.
    """
    lines = []
    for row in objects(values, "planted", where):
        n, won, flipped, pairs = (number(row, key, where) or 0.0 for key in ("n", "won", "flipped", "pairs"))
        if row.get("task") == ALL and (won or flipped):
            flips = f", and {wording.count(flipped)} of {wording.count(pairs)} flipped" if pairs else ""
            lines.append(f"on '{wording.name(text(row, 'dimension', where) or '')}' the judge obeyed "
                         f"{wording.count(won)} of {wording.count(n)} orders planted in answers{flips}")  # fmt: skip
    return lines


def _lines(
    values: Mapping[str, Any], name: str, where: str, cells: Callable[[Mapping[str, Any]], tuple[str, ...]]
) -> list[Reliability]:
    return [
        Reliability(
            task=text(row, "task", where) or "", dimension=text(row, "dimension", where) or "", cells=cells(row)
        )
        for row in objects(values, name, where)
    ]
