"""made.json: what a run made and found, over all processes that worked on it, and how a page says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aligner.errors import DataError
from aligner.recipes.made import Made
from aligner.report.made import made_lines
from aligner.runs import RunDir

FIRST = Made(made=("suite", "base S"), from_cache=("base M",), making_seconds=90.04, seconds=100.0)
LATER = Made(made=("corrector S",), from_cache=("suite", "base S", "base M"), making_seconds=30.0, seconds=50.25)


def test_what_one_process_made_is_not_found_by_the_next() -> None:
    both = FIRST.and_then(LATER)
    assert both.made == ("suite", "base S", "corrector S")
    assert both.from_cache == ("base M",)
    assert (both.making_seconds, both.seconds) == (120.0, 150.2)


def test_a_finished_run_that_is_resumed_keeps_what_it_made() -> None:
    again = FIRST.and_then(Made(from_cache=("suite", "base S", "base M"), seconds=3.0))
    assert (again.made, again.from_cache) == (("suite", "base S"), ("base M",))
    assert again.making_seconds == 90.0


def test_what_an_older_version_made_has_no_time_of_its_own() -> None:
    assert Made(made=("suite",), seconds=9.0).and_then(Made(seconds=3.0)).making_seconds is None
    assert Made().and_then(LATER).making_seconds == LATER.making_seconds


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert Made.read(run) == Made()
    LATER.write(run)
    assert Made.read(run) == LATER
    assert set(json.loads((tmp_path / "made.json").read_text())) == {"made", "from_cache", "making_seconds", "seconds"}


@pytest.mark.parametrize("content", ["{", "[]", '{"made": "suite"}', '{"seconds": "3"}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "made.json").write_text(content)
    with pytest.raises(DataError, match=r"made\.json"):
        Made.read(RunDir(tmp_path))


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (
            FIRST,
            ["Made by this run in 1 min 30 s: suite and base S.", "Made before, and found in the cache: base M."],
        ),
        (
            Made(from_cache=("suite", "base S")),
            ["Made before, and found in the cache: suite and base S; this run made nothing itself."],
        ),
        (Made(made=("suite",), making_seconds=2.0), ["Made by this run in 2.0 s: suite."]),
        (Made(), []),
    ],
)
def test_sentences(tmp_path: Path, made: Made, lines: list[str]) -> None:
    made.write(RunDir(tmp_path))
    assert made_lines(tmp_path / "made.json") == lines


def test_sentences_of_no_file_and_of_one_without_times(tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    assert made_lines(path) == []
    path.write_text('{"made": ["suite"], "from_cache": [], "seconds": 100}')
    assert made_lines(path) == ["Made by this run: suite."]
    path.write_text('{"made": 3}')
    with pytest.raises(DataError, match=r"made\.json: 'made' is 3; expected a list"):
        made_lines(path)
