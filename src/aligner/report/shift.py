"""Shift: how scores moved from answers to their corrections, as points that a plot can hold and means over all."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner.report.fields import items, mapping, number, read_object, text, wrong

POINTS = 600
# Whole numbers fall on each other; moved by less than half, each stays with its own.
JITTER = 0.22
_LARGEST = 1e12  # beyond it nothing is drawn: the sums would lose their digits and the axes their labels

Point = tuple[float, float]


class Cloud:
    """Collects any number of points and keeps a fair draw of them, the same for the same points in the same order."""

    def __init__(self, seed: str, limit: int = POINTS) -> None:
        self._random = _seeded(seed)
        self._limit = limit
        self._sums = [0.0, 0.0]
        self.kept: list[Point] = []
        self.n = 0
        self.whole = True

    def add(self, point: Point) -> None:
        """Count one point; one that is not finite, or is too large to draw, is passed over."""
        if not all(abs(v) <= _LARGEST for v in point):  # NaN compares as false
            return
        self.n += 1
        for i, value in enumerate(point):
            self._sums[i] += value
        self.whole = self.whole and all(v == int(v) for v in point)
        # Reservoir sampling (Vitter 1985, algorithm R).
        if len(self.kept) < self._limit:
            self.kept.append(point)
        elif (place := self._random.randrange(self.n)) < self._limit:
            self.kept[place] = point

    @property
    def mean(self) -> Point:
        return self._sums[0] / self.n, self._sums[1] / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Points before and after on two dimensions, ready to be drawn; the means are those of all `n` points.

    With one dimension `y` is None, and the second number of every point is 0.

    `whole` says that all scores are whole numbers; the points to draw are then moved a little, by less than half.
    """

    name: str
    x: str
    y: str | None
    before: tuple[Point, ...]
    after: tuple[Point, ...]
    mean_before: Point
    mean_after: Point
    n_before: int
    n_after: int
    whole: bool

    @property
    def drawn(self) -> int:
        return max(len(self.before), len(self.after))

    @property
    def n(self) -> int:
        return max(self.n_before, self.n_after)


def shift_of(name: str, x: str, y: str | None, before: Cloud, after: Cloud) -> Shift | None:
    """The shift between two clouds; None when one of them is empty."""
    if not before.n or not after.n:
        return None
    whole = before.whole and after.whole
    source = _seeded(f"{name}/{x}/{y}")

    def drawn(cloud: Cloud) -> tuple[Point, ...]:
        if not whole:
            return tuple(cloud.kept)
        return tuple((a + source.uniform(-JITTER, JITTER), b + source.uniform(-JITTER, JITTER)) for a, b in cloud.kept)

    return Shift(
        name=name,
        x=x,
        y=y,
        before=drawn(before),
        after=drawn(after),
        mean_before=before.mean,
        mean_after=after.mean,
        n_before=before.n,
        n_after=after.n,
        whole=whole,
    )


def _seeded(seed: str) -> random.Random:
    return random.Random(seed.encode("utf-8", "surrogatepass"))


def read_shifts(path: Path) -> list[Shift]:
    """The shifts of a shift.json, `{name: {before: [[x, y], …], after: …, x: dimension, y: dimension}}`, with points.

    Raises:
        DataError: the file is damaged.
    """
    values = read_object(path) or {}
    where = str(path)
    found = []
    for name in values:
        one = mapping(values, name, where)
        x, y = text(one, "x", where) or "x", text(one, "y", where) or "y"
        before, after = (_cloud(one, key, f"{name}/{key}", where) for key in ("before", "after"))
        if (shift := shift_of(name, x, y, before, after)) is not None:
            found.append(shift)
    return found


def _cloud(values: Mapping[str, Any], key: str, seed: str, where: str) -> Cloud:
    cloud = Cloud(seed)
    for point in items(values, key, where):
        if not isinstance(point, list) or len(point) != 2:
            raise wrong(where, key, point, "a list of points [x, y]")
        x, y = (number({key: v}, key, where) for v in point)
        if x is not None and y is not None:
            cloud.add((x, y))
    return cloud
