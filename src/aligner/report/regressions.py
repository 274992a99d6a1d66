"""Regressions: how many answers were made worse, by corrector, upstream, task and split, as cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligner.report import wording
from aligner.report.fields import number, objects, text
from aligner.report.table import ALL

TITLE = "Made worse"


class Regressions:
    """The answers of a result that were made worse; false where it says nothing of them, as one of an older version.

    Raises:
        DataError: a value is of the wrong type.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._cells: dict[tuple[str, ...], str] = {}
        for row in objects(values, "made_worse", where):
            key = tuple(text(row, name, where) or "" for name in ("corrector", "upstream", "task", "split"))
            self._cells[key] = wording.share(number(row, "share", where))

    def __bool__(self) -> bool:
        return bool(self._cells)

    def titles(self) -> tuple[str, ...]:
        """The column; none where nothing is known."""
        return (TITLE,) if self else ()

    def cells(self, corrector: str, upstream: str, task: str, split: str = ALL) -> tuple[str, ...]:
        """What stands under the title; a dash for what is not known."""
        return (self._cells.get((corrector, upstream, task, split), wording.ABSENT),) if self else ()
