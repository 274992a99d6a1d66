"""Blank answers: they count like any other, and say that something is wrong with an upstream or its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligner.report import wording
from aligner.report.fields import number, objects, text


def blank_notes(values: Mapping[str, Any], where: str) -> list[str]:
    """A line with the number of each upstream that gave blank answers; nothing where none did.

    Raises:
        DataError: a value is of the wrong type.
    """
    found = []
    for one in objects(values, "upstreams", where):
        if blank := number(one, "blank", where):
            found.append(f"{wording.count(blank)} of '{wording.name(text(one, 'name', where) or '')}'")
    return [f"blank answers, corrected and judged like any other: {wording.listing(found)}"] if found else []
