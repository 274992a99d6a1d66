"""Curves: thinning while reading, and what is drawn of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.report import plots
from aligner.report.curves import POINTS, Curve, Stage, thin


def test_a_short_curve_keeps_every_step() -> None:
    points = thin([(3, 1.0), (1, 5.0), (2, 3.0)])
    assert [(p.step, p.mean, p.low, p.high, p.n) for p in points] == [(1, 5, 5, 5, 1), (2, 3, 3, 3, 1), (3, 1, 1, 1, 1)]
    assert thin([]) == ()


def test_thinning_keeps_extremes_and_means() -> None:
    values = [(i, float(i % 100)) for i in range(100_000)]
    values[54_321] = (54_321, 1e6)
    points = thin(values)
    assert POINTS / 2 <= len(points) <= POINTS
    assert sum(p.n for p in points) == 100_000
    assert max(p.high for p in points) == 1e6
    assert min(p.low for p in points) == 0.0
    assert sum(p.mean * p.n for p in points) == pytest.approx(sum(v for _, v in values))
    assert [p.step for p in points] == sorted(p.step for p in points)


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e6, 1e6)), max_size=200),
    st.integers(1, 20),
)
def test_thinning_is_bounded_and_loses_nothing(values: list[tuple[int, float]], limit: int) -> None:
    points = thin(values, limit)
    assert len(points) <= limit
    assert sum(p.n for p in points) == len(values)
    assert points == thin(values, limit)
    for p in points:
        assert p.low <= p.high
        assert p.low - 1e-6 <= p.mean <= p.high + 1e-6
    if values:
        assert max(p.high for p in points) == max(v for _, v in values)


def test_values_that_are_not_finite_are_only_counted() -> None:
    curve = Curve()
    for i, value in enumerate([1.0, math.nan, math.inf, -math.inf]):
        curve.add(i, value)
    assert curve.not_finite == 3
    assert len(curve.points()) == 1


def stage_of(losses: Iterable[float], **sources: Iterable[float]) -> Stage:
    stage = Stage(name="residual")
    for i, value in enumerate(losses):
        stage.train.add(i, value)
    for source, values in sources.items():
        stage.held_out[source] = Curve()
        for i, value in enumerate(values):
            stage.held_out[source].add(i, value)
    return stage


def test_the_scale_is_logarithmic_only_where_that_helps() -> None:
    def scale(stage: Stage) -> str:
        return str(plots.loss_figure([stage]).axes[0].get_yscale())

    assert scale(stage_of([10, 1, 0.1])) == "log"
    assert scale(stage_of([2, 1, 0.5])) == "linear"
    assert scale(stage_of([10, 1, 0.0])) == "linear"
    assert scale(stage_of([0.2, 0.1], all=[9.0])) == "log"


def test_the_union_is_drawn_first_and_few_sources_with_it() -> None:
    stage = stage_of([1, 2], **{f"s{i}": [1.0] for i in range(9)}, all=[1.0], diverged=[math.nan])
    assert plots.drawn_sources(stage) == ["all", "s0", "s1", "s2", "s3", "s4"]
    labels = [t.get_text() for t in plots.loss_figure([stage]).axes[0].get_legend().get_texts()]
    assert labels == ["training", "held out", "s0", "s1", "s2", "s3", "s4"]


def test_steps_on_the_axis_are_whole() -> None:
    for stage in (stage_of([1.0]), stage_of([1.0, 0.9, 0.8])):
        figure = plots.loss_figure([stage])
        figure.draw_without_rendering()
        (low, high), ticks = figure.axes[0].get_xlim(), figure.axes[0].get_xticks()
        shown = [t for t in ticks if low <= t <= high]
        assert shown
        assert all(t == int(t) for t in shown)
