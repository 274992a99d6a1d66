"""Progress: a bar on a terminal, lines in a log, and nothing left behind by a failure."""

from __future__ import annotations

import pytest

from aligner.evaluate import progress as module
from aligner.evaluate.progress import Progress


def test_lines_say_what_is_done_and_the_time_left(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress("u: answering", 2000, done=1000) as shown:
        for _ in range(10):
            now[0] += 4.0
            shown.step()
    told = capsys.readouterr().err.splitlines()
    # A line at least ten seconds after the last: at 12, 24 and 36 seconds, and one at the end.
    assert told[0] == "u: answering: 1003/2000  1:06:28 left"
    assert len(told) == 4
    assert told[-1].startswith("u: answering: 1010/2000")


def test_a_bar_where_there_is_a_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress("c: judging [u]", 3, done=1) as shown:
        shown.step()
        shown.step()
    told = capsys.readouterr().err
    assert "c: judging [u]" in told
    assert "3/3" in told


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failure_takes_the_bar_down(capsys, monkeypatch, terminal) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ZeroDivisionError), Progress("x", 3) as shown:
        shown.step(1 // 0)
    assert "left" not in capsys.readouterr().err
    with Progress("y", 1) as again:  # rich allows one bar at a time
        again.step()
