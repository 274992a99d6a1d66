"""Looks into rows and objects that a run wrote: absent and null are None, a wrong type is an error with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aligner.errors import DataError
from aligner.rows import Row, read_rows

_ADVICE = "the file was changed by hand or comes from another version"


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file; none when it is missing or empty, as a run that has just begun leaves it.

    Raises:
        DataError: the file is damaged.
    """
    if path.is_file() and path.stat().st_size:
        yield from read_rows(path)


def read_object(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file, None when there is no such file.

    Raises:
        DataError: not readable as one JSON object.
    """
    if not path.is_file():
        return None
    value = _parsed(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: a {type(value).__name__} where an object should be; {_ADVICE}")
    return value


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that holds one JSON list; none when there is no such file.

    Raises:
        DataError: not readable as a JSON list of objects.
    """
    if not path.is_file():
        return []
    value = _parsed(path)
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise DataError(f"{path}: not a list of objects; {_ADVICE}")
    return value


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"{path}: not valid JSON ({e}); {_ADVICE}") from None


def number(values: Mapping[str, Any], key: str, where: str) -> float | None:
    """A number, or None for "not measured". NaN and infinities are numbers."""
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(where, key, value, "a number")
    try:
        return float(value)
    except OverflowError:  # JSON integers have no upper end
        return float("inf") if value > 0 else float("-inf")


def text(values: Mapping[str, Any], key: str, where: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise wrong(where, key, value, "text")
    return value


def mapping(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """An object; empty when absent."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(where, key, value, "an object")
    return value


def objects(values: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """A list of objects; empty when absent."""
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise wrong(where, key, value, "a list of objects")
    return value


def items(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """A list of anything; empty when absent."""
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(where, key, value, "a list")
    return value


def wrong(where: str, key: str, value: object, expected: str) -> DataError:
    """The error of a value of the wrong type, in one line."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    return DataError(f"{where}: '{key}' is {shown}; expected {expected}; {_ADVICE}")
