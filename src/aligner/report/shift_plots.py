"""Shifts as they stand on a page: drawn, and said in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from aligner.report import page, plots, wording
from aligner.report.shift import Shift
from aligner.rows import storage_errors

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A shift on the page, and as a file of plots/ where it is to be one."""

    shift: Shift
    svg: Markup
    png: bytes
    file: str
    means: str


def draw(shifts: Iterable[Shift], *, files: bool = True) -> list[Drawn]:
    """All of them, numbered; without `files`, for the page alone."""
    return [_drawn(shift, i, files) for i, shift in enumerate(shifts)]


def _drawn(shift: Shift, index: int, files: bool) -> Drawn:
    dimensions = [d for d in (shift.x, shift.y) if d is not None]
    title = f"Scores of {wording.name(shift.name)} before and after correction: {' and '.join(dimensions)}"
    figure = plots.shift_figure(shift)
    moves = (
        f"{wording.name(d)} from {wording.decimal(a, 2)} to {wording.decimal(b, 2)}"
        for d, a, b in zip(dimensions, shift.mean_before, shift.mean_after, strict=False)
    )
    return Drawn(
        shift=shift,
        svg=plots.to_svg(figure, f"shift-{index}", wording.name(title)),
        png=plots.to_png(figure) if files else b"",
        file=f"shift-{index:02}-{slug(shift.name) or 'unnamed'}.png",
        means=wording.listing(moves),
    )


def slug(name: str) -> str:
    """A name as a part of a file's name; empty where nothing of it can be."""
    return _NOT_IN_A_NAME.sub("-", name.lower())[:60].strip("-")


def write_plots(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write PNG files, and remove those of an earlier rendering that have no data now.

    Raises:
        StorageError: the directory cannot be written.
    """
    with storage_errors(folder):
        if files:
            folder.mkdir(exist_ok=True)
        stale = {p.name for p in folder.glob("shift-*.png")} - files.keys()
    for name in sorted(stale):
        page.write_png(folder / name, None)
    for name, content in files.items():
        page.write_png(folder / name, content)
