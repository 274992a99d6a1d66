"""Reliability: how far the judge said the same when the two answers changed places, as lines of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aligner.report import wording
from aligner.report.fields import number, objects, text


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
    return [
        Reliability(
            task=text(row, "task", where) or "",
            dimension=text(row, "dimension", where) or "",
            cells=(
                wording.count(number(row, "pairs", where)),
                wording.share(number(row, "flip_rate", where)),
                wording.decimal(number(row, "kappa", where), 2).replace("-", wording.MINUS),
                wording.count(number(row, "first_wins", where)),
                wording.count(number(row, "second_wins", where)),
            ),
        )
        for row in objects(values, "reliability", where)
    ]
