"""EditRates: how corrections edit, by corrector, upstream and task, as cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligner.report import wording
from aligner.report.fields import number, objects, text
from aligner.report.table import ALL

TITLES = ("Copied", "Edit precision", "Edit recall")
_KEYS = ("copied_share", "precision", "recall")


class EditRates:
    """The edit metrics of a result; false where it has none.

    Raises:
        DataError: a value is of the wrong type.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._cells: dict[tuple[str, str, str], tuple[str, ...]] = {}
        for row in objects(values, "edits", where):
            corrector, upstream, task = (text(row, key, where) or "" for key in ("corrector", "upstream", "task"))
            self._cells[corrector, upstream, task] = tuple(wording.share(number(row, key, where)) for key in _KEYS)

    def __bool__(self) -> bool:
        return bool(self._cells)

    def titles(self) -> tuple[str, ...]:
        """The columns; none where nothing is known."""
        return TITLES if self else ()

    def cells(self, corrector: str, upstream: str, task: str = ALL) -> tuple[str, ...]:
        """What stands under the titles; a dash for what is not known."""
        return self._cells.get((corrector, upstream, task), (wording.ABSENT,) * 3) if self else ()
