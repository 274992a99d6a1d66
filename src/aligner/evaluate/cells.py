"""Cells of original rows: taken out with an error that names the place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aligner.errors import DataError


def text_of(value: Mapping[str, Any], column: str, where: str) -> str:
    """A cell's text without white space around it.

    Raises:
        DataError: it is no text, or blank.
    """
    cell = value[column]
    if not isinstance(cell, str):
        raise DataError(f"{where}: '{column}' is a {type(cell).__name__}; expected text")
    if not cell.strip():
        raise DataError(f"{where}: '{column}' is blank; expected text")
    return cell.strip()


def has_column(value: Mapping[str, Any], column: str) -> bool:
    """Whether a column is there and its cell is not empty."""
    return value.get(column) not in (None, "")


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "none"
