"""What a run made itself and what it found in the cache, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aligner.report import wording
from aligner.report.fields import items, number, read_object


def made_lines(path: Path) -> list[str]:
    """What the file made.json says; nothing where there is none, as in a run that made nothing to begin with.

    Raises:
        DataError: the file is damaged.
    """
    known = read_object(path) or {}
    lines = []
    if made := _names(known, "made", path):
        seconds = number(known, "making_seconds", str(path))
        took = f" in {wording.duration(seconds)}" if seconds is not None else ""
        lines.append(f"Made by this run{took}: {wording.listing(made)}.")
    if found := _names(known, "from_cache", path):
        rest = "" if made else "; this run made nothing itself"
        lines.append(f"Made before, and found in the cache: {wording.listing(found)}{rest}.")
    return lines


def _names(known: Mapping[str, Any], key: str, path: Path) -> list[str]:
    return [wording.name(wording.said(value)) for value in items(known, key, str(path))]
