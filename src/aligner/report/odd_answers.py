"""Odd answers: they count like any other, and say that something is wrong with an upstream or its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligner.report import wording
from aligner.report.fields import number, objects, text

_KINDS = {
    "blank": "blank answers, corrected and judged like any other",
    "cut": "answers that were cut off at their longest length, corrected and judged like any other (`aligner serve` "
    "leaves such answers alone)",
    "reasoning": "answers that begin with their reasoning, which was corrected and judged with them (`aligner serve` "
    "shows it to no corrector)",
}


def odd_notes(values: Mapping[str, Any], where: str) -> list[str]:
    """A line for each kind of odd answers, with their number by upstream; nothing where there are none.

    Raises:
        DataError: a value is of the wrong type.
    """
    lines = []
    for key, words in _KINDS.items():
        found = [
            f"{wording.count(n)} of '{wording.name(text(one, 'name', where) or '')}'"
            for one in objects(values, "upstreams", where)
            if (n := number(one, key, where))
        ]
        lines += [f"{words}: {wording.listing(found)}"] if found else []
    return lines
