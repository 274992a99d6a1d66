"""Curve: a measurement over steps, thinned while it is read, so that its length never matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aligner.errors import DataError
from aligner.report.fields import number, rows_of, text

POINTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """All values of a stretch of steps: its mean step, mean value, extremes and how many there were."""

    step: float
    mean: float
    low: float
    high: float
    n: int


@dataclass(slots=True)
class _Bin:
    steps: float = 0.0
    values: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    n: int = 0

    def merge(self, other: _Bin) -> None:
        self.steps += other.steps
        self.values += other.values
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.n += other.n


class Curve:
    """Collects (step, value) in any order and keeps at most `limit` points.

    Bins are one step wide at first and double in width whenever there are too many, so memory is bounded by `limit`,
    a short curve keeps every step, and the extremes survive any thinning. Values that are not finite are only counted.
    """

    def __init__(self, limit: int = POINTS) -> None:
        self._limit = limit
        self._width = 1
        self._bins: dict[int, _Bin] = {}
        self.not_finite = 0

    def add(self, step: float, value: float) -> None:
        if not math.isfinite(value):
            self.not_finite += 1
            return
        one = _Bin(steps=step, values=value, low=value, high=value, n=1)
        self._bins.setdefault(math.floor(step / self._width), _Bin()).merge(one)
        while len(self._bins) > self._limit:
            wider: dict[int, _Bin] = {}
            for key, old in self._bins.items():
                wider.setdefault(key // 2, _Bin()).merge(old)
            self._bins, self._width = wider, self._width * 2

    def points(self) -> tuple[Point, ...]:
        return tuple(
            Point(step=b.steps / b.n, mean=b.values / b.n, low=b.low, high=b.high, n=b.n)
            for _, b in sorted(self._bins.items())
        )


def thin(values: Iterable[tuple[float, float]], limit: int = POINTS) -> tuple[Point, ...]:
    """(step, value) pairs as at most `limit` points in order of steps."""
    curve = Curve(limit)
    for step, value in values:
        curve.add(step, value)
    return curve.points()


@dataclass(slots=True, kw_only=True)
class Stage:
    """What metrics.jsonl says of one stage of training. `held_out` is keyed by source; "all" is their union."""

    name: str
    train: Curve = field(default_factory=Curve)
    held_out: dict[str, Curve] = field(default_factory=dict)
    last_step: float = 0
    last_loss: float | None = None

    @property
    def not_finite(self) -> int:
        return self.train.not_finite + sum(c.not_finite for c in self.held_out.values())


def read_stages(path: Path) -> tuple[Stage, ...]:
    """The stages of a metrics.jsonl in order of appearance; rows without a loss are passed over.

    Raises:
        DataError: the file is damaged, or a row with a loss has no stage or step.
    """
    stages: dict[str, Stage] = {}
    for row in rows_of(path):
        where = f"{path}:{row.line}"
        loss, held_out = number(row.value, "loss", where), number(row.value, "held_out_loss", where)
        if loss is None and held_out is None:
            continue
        name, step = text(row.value, "stage", where), number(row.value, "step", where)
        if name is None or step is None or not math.isfinite(step):
            raise DataError(
                f"{where}: a loss without the stage and step it belongs to; the file is not a run's metrics"
            )
        stage = stages.setdefault(name, Stage(name=name))
        stage.last_step = max(stage.last_step, step)
        if loss is not None:
            stage.train.add(step, loss)
            stage.last_loss = loss
        if held_out is not None:
            source = text(row.value, "source", where) or "all"
            stage.held_out.setdefault(source, Curve()).add(step, held_out)
    return tuple(stages.values())
