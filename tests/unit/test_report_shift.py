"""Shifts: fair draws of points, exact means, and the verdicts that they are collected from."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligner.report import plots
from aligner.report.shift import JITTER, POINTS, Cloud, Shift, read_shifts, shift_of
from aligner.report.verdicts import Judged, TaskShifts, read_verdicts


def cloud(points: list[tuple[float, float]], seed: str = "s", limit: int = POINTS) -> Cloud:
    made = Cloud(seed, limit)
    for point in points:
        made.add(point)
    return made


def a_shift(before: list[tuple[float, float]], after: list[tuple[float, float]]) -> Shift:
    found = shift_of("name", "helpful", "harmless", cloud(before, "b"), cloud(after, "a"))
    assert found is not None
    return found


def test_means_are_exact_and_the_draw_is_bounded_and_repeatable() -> None:
    source = random.Random(1)
    points = [(source.gauss(3, 1), source.gauss(-2, 4)) for _ in range(5000)]
    made = cloud(points)
    assert made.n == 5000
    assert len(made.kept) == POINTS
    assert set(made.kept) <= set(points)
    assert made.mean == pytest.approx(tuple(np.mean(points, axis=0)))
    assert cloud(points).kept == made.kept
    assert cloud(points, "other").kept != made.kept


def test_every_point_has_the_same_chance() -> None:
    hits = [0] * 50
    for seed in range(2000):
        for x, _ in cloud([(float(i), 0.0) for i in range(50)], str(seed), limit=10).kept:
            hits[int(x)] += 1
    # Each is drawn 400 times of 2000, with a standard deviation of 17.9.
    assert all(abs(h - 400) < 5 * 17.9 for h in hits)


def test_what_cannot_be_drawn_is_passed_over() -> None:
    made = cloud([(math.nan, 1), (1, math.inf), (1e300, 0), (2.0, 4.0)])
    assert (made.n, made.kept, made.mean) == (1, [(2.0, 4.0)], (2.0, 4.0))


def test_whole_numbers_are_moved_by_less_than_half_and_means_are_not() -> None:
    shift = a_shift([(1.0, 2.0)] * 50, [(3.0, 2.0)] * 50)
    assert shift.whole
    assert {(round(x), round(y)) for x, y in shift.before} == {(1, 2)}
    assert len(set(shift.before)) == 50
    assert max(abs(x - 3) for x, _ in shift.after) <= JITTER < 0.5
    assert (shift.mean_before, shift.mean_after) == ((1.0, 2.0), (3.0, 2.0))
    broken = a_shift([(1.0, 2.0), (1.0, 2.5)], [(3.0, 2.0)])
    assert not broken.whole
    assert broken.before == ((1.0, 2.0), (1.0, 2.5))


def test_no_shift_without_points_on_both_sides(tmp_path: Path) -> None:
    assert shift_of("n", "x", "y", cloud([(1, 1)]), cloud([])) is None
    assert read_shifts(tmp_path / "shift.json") == []
    values = {"empty": {"before": [], "after": [[1, 2]]}, "nulls": {"before": [[None, 1]], "after": [[1, 2]]}, "no": {}}
    (tmp_path / "shift.json").write_text(json.dumps(values))
    assert read_shifts(tmp_path / "shift.json") == []


def test_shift_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "shift.json"
    path.write_text(
        json.dumps({"data": {"before": [[0.5, 1]], "after": [[2, 3], [4, 5]], "x": "helpful", "y": "kind"}})
    )
    (found,) = read_shifts(path)
    assert (found.name, found.x, found.y, found.n_before, found.n_after) == ("data", "helpful", "kind", 1, 2)
    assert found.mean_after == (3.0, 4.0)


# Verdicts


def verdict(**more: Any) -> dict[str, Any]:
    return {"verdicts": {"helpful": "candidate"}, "scores_before": None, "scores_after": None, **more}


def judged(*rows: dict[str, Any]) -> Judged:
    made = Judged(corrector="C", upstream="u")
    for row in rows:
        made.add(row, "here")
    return made


def test_worse_is_a_loss_on_any_dimension_and_unscored_is_neither() -> None:
    made = judged(
        verdict(verdicts={"helpful": "candidate", "harmless": "baseline"}),
        verdict(verdicts={"helpful": "tie"}),
        verdict(verdicts={"helpful": None}),
        verdict(verdicts={"helpful": None, "honest": "baseline"}),
        {},
    )
    assert (made.n, made.scored, made.worse) == (5, 3, 2)
    assert made.shift() is None


def test_helpful_and_harmless_are_drawn_where_there_are_both() -> None:
    two = verdict(scores_before={"honest": 1, "helpful": 0}, scores_after={"honest": 2, "helpful": 1})
    three = verdict(scores_before={"honest": 1, "harmless": 1, "helpful": 0},
                    scores_after={"honest": 2, "harmless": 0, "helpful": 5})  # fmt: skip
    shift = judged(two, two, three).shift()
    assert shift is not None
    assert (shift.x, shift.y, shift.n, shift.mean_after) == ("helpful", "harmless", 1, (5.0, 0.0))
    other = judged(two, two).shift()
    assert other is not None
    assert (other.x, other.y, other.n) == ("honest", "helpful", 2)


def test_scores_that_are_missing_on_one_side_are_passed_over() -> None:
    none = {"helpful": 1, "harmless": None}
    whole = {"helpful": 1, "harmless": 1}
    assert judged(
        verdict(scores_before=whole),
        verdict(scores_before=whole, scores_after=none),
        verdict(scores_before={"helpful": 1}, scores_after={"helpful": 2}),
    ).shift() is None  # fmt: skip


def test_files_are_found_and_name_what_their_rows_do_not(tmp_path: Path) -> None:
    for name, rows in (
        ("C/u.jsonl", [verdict(), verdict()]),
        ("C/file.jsonl", [verdict(corrector="D", upstream="x/y")]),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "C" / "empty.jsonl").touch()
    found = read_verdicts(tmp_path)
    assert {key: made.n for key, made in found.items()} == {("D", "x/y"): 1, ("C", "u"): 2}
    assert read_verdicts(tmp_path / "nowhere") == {}


def test_a_file_of_ever_new_dimensions_does_not_fill_the_memory() -> None:
    rows = (verdict(scores_before={f"a{i}": 1, f"b{i}": 1}, scores_after={f"a{i}": 1, f"b{i}": 1}) for i in range(99))
    assert len(judged(*rows).clouds) == 8


def test_shifts_of_tasks_are_in_the_tasks_own_dimensions(tmp_path: Path) -> None:
    def scored(task: str, upstream: str, before: dict[str, float | None], after: dict[str, float | None]):
        return verdict(task=task, upstream=upstream, corrector="C", scores_before=before, scores_after=after)

    rows = [
        scored("two", "u", {"helpful": 0, "harmless": 0, "honest": 0}, {"helpful": 1, "harmless": 0, "honest": 2}),
        scored("two", "v", {"helpful": 1, "harmless": 0, "honest": 0}, {"helpful": 3, "harmless": 0, "honest": 2}),
        scored("one", "u", {"reward": 0.5, "other": 1}, {"reward": 1.5, "other": 1}),
        scored("one", "u", {"reward": None}, {"reward": 1.5}),
        scored("unknown", "u", {"reward": 1}, {"reward": 1}),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shifts = TaskShifts({"two": ["helpful", "honest"], "one": ["reward"], "silent": ["helpful"]})
    assert len(read_verdicts(tmp_path, shifts)) == 2
    two, one = shifts.of("C", "two"), shifts.of("C", "one")
    assert two is not None
    assert (two.x, two.y, two.n, two.mean_after) == ("helpful", "honest", 2, (2.0, 2.0))
    assert one is not None
    assert (one.x, one.y, one.n, one.mean_before, one.mean_after) == ("reward", None, 1, (0.5, 0.0), (1.5, 0.0))
    assert shifts.of("C", "silent") is shifts.of("D", "one") is shifts.of("C", "unknown") is None


# The plot


def many(x: float, y: float, whole: bool = False) -> list[tuple[float, float]]:
    source = random.Random(7)
    points = [(source.gauss(x, 1), source.gauss(y, 1)) for _ in range(300)]
    return [(float(round(a)), float(round(b))) for a, b in points] if whole else points


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (many(0, 0), many(2, 1)),
        (many(0, 0, whole=True), many(2, 1, whole=True)),
        ([(1.0, 1.0)], [(1.0, 1.0)]),
        ([(0.25, 0.25)] * 30, [(0.25, 0.25)] * 30),
        ([(-1e12, 1e12)], [(1e12, -1e12)]),
        ([(1e-300, 0.5)], [(0.0, 0.25)]),
        ([(0.0, 0.0)], [(1000.0, 3.0)]),
    ],
    ids=["usual", "whole", "one point", "all the same", "huge", "tiny", "wide whole"],
)
def test_any_points_can_be_drawn(before: list[tuple[float, float]], after: list[tuple[float, float]]) -> None:
    figure = plots.shift_figure(a_shift(before, after))
    assert plots.to_png(figure).startswith(b"\x89PNG")
    assert plots.to_svg(figure, "s", "title").startswith("<svg")


def test_the_plot_has_means_where_they_are_and_marginals_that_add_up() -> None:
    shift = a_shift(many(0, 0), many(2, 1))
    figure = plots.shift_figure(shift)
    main, top, side = figure.axes
    big = [line for line in main.lines if line.get_markersize() > 8]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in big] == [shift.mean_before, shift.mean_after]
    assert len({line.get_marker() for line in big}) == 2, "told apart without colour too"
    (arrow,) = main.texts
    assert (arrow.xyann, arrow.xy) == (shift.mean_before, shift.mean_after)
    for ax in (top, side):
        assert [sum(p.get_data().values) for p in ax.patches] == pytest.approx([1, 1])
    counts, _ = np.histogram([x for x, _ in shift.before], top.patches[0].get_data().edges)
    assert top.patches[0].get_data().values == pytest.approx(counts / len(shift.before))


def test_no_arrow_where_nothing_moved() -> None:
    assert not plots.shift_figure(a_shift([(1.0, 1.0)], [(1.0, 1.0)])).axes[0].texts


def test_dots_are_written_briefly_and_none_is_lost() -> None:
    shift = a_shift(many(0, 0), many(2, 1))
    svg = str(plots.to_svg(plots.shift_figure(shift), "s", "t"))
    assert svg.count("<use ") >= 600
    assert len(svg) < 60_000
    for color in ("train", "held"):
        assert f"var(--plot-{color})" in svg


@pytest.mark.parametrize("whole", [False, True])
def test_one_dimension_is_drawn_as_it_is_spread(whole: bool) -> None:
    before, after = ([(x, 0.0) for x, _ in many(x, 0, whole)] for x in (0, 2))
    shift = shift_of("name", "reward", None, cloud(before, "b"), cloud(after, "a"))
    assert shift is not None
    (ax,) = plots.shift_figure(shift).axes
    assert [sum(p.get_data().values) for p in ax.patches] == pytest.approx([1, 1])
    assert [line.get_xdata()[0] for line in ax.lines] == [shift.mean_before[0], shift.mean_after[0]]
    assert plots.to_svg(plots.shift_figure(shift), "s", "t").startswith("<svg")
    assert plots.to_png(plots.shift_figure(shift)).startswith(b"\x89PNG")
