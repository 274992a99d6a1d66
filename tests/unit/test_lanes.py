"""Jobs in processes: order, errors, what they say, and the environment they get."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from aligner.errors import DataError, RunError
from aligner.pocket.upstreams import profiles
from aligner.recipes import lanes
from aligner.recipes.lanes import Job, run_jobs
from aligner.recipes.suite_models import Models, settings
from aligner.train.config import SftConfig, TrainConfig


def write(path: str, text: str, *after: str) -> None:
    """Write a file; the files named `after` must be there."""
    assert all(Path(p).is_file() for p in after)
    sys.stderr.write(f"writing {text}\n")
    Path(path).write_text(f"{text} {os.environ['OMP_NUM_THREADS']}", encoding="utf-8")


def fail(path: str) -> None:
    raise DataError(f"{path}: is not good; make it better")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: str) -> None:
    """Ends only when the other job runs at the same time."""
    for _ in range(600):
        if Path(path).is_file():
            return
        time.sleep(0.05)
    raise DataError("nobody came")


def job(tmp_path: Path, name: str, call, *arguments: str, **more) -> Job:
    return Job(name=name, call=call, arguments=arguments, log=tmp_path / "logs" / f"{name}.log", **more)


def test_jobs_wait_for_what_they_need_and_say_it_in_their_logs(tmp_path) -> None:
    a, b, c = (str(tmp_path / x) for x in "abc")
    said: list[str] = []
    jobs = [
        job(tmp_path, "last", write, c, "C", a, b, needs=("first", "second")),
        job(tmp_path, "first", write, a, "A"),
        job(tmp_path, "second", write, b, "B", a, needs=("first",)),
    ]
    seconds = run_jobs(jobs, 2, said.append)
    assert set(seconds) == {"first", "second", "last"}
    assert Path(c).read_text().startswith("C ")
    assert (tmp_path / "logs" / "first.log").read_text() == "writing A\n"
    order = [line.split("  ")[1].split(":")[0] for line in said if line.endswith("started")]
    assert order == ["first", "second", "last"]
    assert any("last: done in 0:0" in line for line in said)


@pytest.mark.parametrize(("given", "threads"), [(None, "3"), ("1", "1"), ("4,2", "4,2"), ("many", "3")])
def test_a_job_gets_its_share_of_the_cores_or_the_threads_that_were_asked_for(
    tmp_path, monkeypatch, given: str | None, threads: str
) -> None:
    monkeypatch.setattr(lanes, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    run_jobs([job(tmp_path, "a", write, str(tmp_path / "a"), "A")], 2, lambda _: None)
    assert (tmp_path / "a").read_text() == f"A {threads}"
    assert os.environ.get("OMP_NUM_THREADS") == given, "here it is as it was"


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (64, 8)])
def test_lanes_go_by_the_cores_that_may_be_used(monkeypatch, cores: int, expected: int) -> None:
    monkeypatch.setattr(lanes, "usable_cores", lambda: cores)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert lanes.lanes_here() == expected


def test_two_lanes_run_at_the_same_time(tmp_path) -> None:
    mark = str(tmp_path / "mark")
    run_jobs([job(tmp_path, "waits", wait_for, mark, weight=2), job(tmp_path, "comes", write, mark, "here")], 2, print)


def test_an_error_in_a_job_is_raised_and_nothing_new_is_begun(tmp_path) -> None:
    after = str(tmp_path / "after")
    jobs = [job(tmp_path, "bad", fail, "x.jsonl"), job(tmp_path, "after", write, after, "A", needs=("bad",))]
    with pytest.raises(DataError, match=r"x.jsonl: is not good; make it better"):
        run_jobs(jobs, 1, print)
    assert not Path(after).exists()


def test_a_killed_process_is_told_with_its_log(tmp_path) -> None:
    with pytest.raises(RunError, match="a job's process was killed"):
        run_jobs([job(tmp_path, "dies", die)], 1, print)


def test_names_and_needs_are_checked(tmp_path) -> None:
    with pytest.raises(RunError, match="unknown: nobody"):
        run_jobs([job(tmp_path, "a", die, needs=("nobody",))], 1, print)
    with pytest.raises(RunError, match="names of their own"):
        run_jobs([job(tmp_path, "a", die), job(tmp_path, "a", die)], 1, print)


def test_models_are_keyed_by_what_makes_them(tmp_path) -> None:
    def places(**changes) -> dict[str, Path]:
        models = Models(cache=tmp_path, **changes)
        suite = models.suite()
        return {"suite": suite, "base": models.base("S"), "corrector": models.corrector("S")}

    first, again, quick = places(), places(), places(quick=True)
    assert first == again
    assert all(first[name] != quick[name] for name in first)
    models = Models(cache=tmp_path)
    models.suite()
    models.base("S")
    models.corrector("S")
    assert [j.name for j in models.jobs] == ["suite", "base S", "corrector S"]
    assert models.jobs[2].needs == ("suite", "base S")
    models = Models(cache=tmp_path)
    models.suite()
    models.base("S")
    for name in ("crow", "finch"):
        models.upstream(profiles()[name])
    models.model_triplets(profiles()["crow"])
    taught = models.corrector("S", ("crow", "finch", "kite"))
    assert taught != first["corrector"], "what the upstreams answer is part of what makes it"
    assert models.jobs[-1].needs == ("suite", "base S", "answers crow")
    assert [Path(p).parent.name[:4] for p in models.jobs[-1].arguments[1]["data"]] == ["suit", "answ"]
    first["suite"].mkdir(parents=True)
    (first["suite"] / "result.json").write_text("{}")
    later = Models(cache=tmp_path)
    later.suite()
    later.base("S")
    assert later.from_cache == ["suite"]
    assert later.jobs[0].needs == ()


def test_correctors_of_all_sizes_get_the_same_rows() -> None:
    values = settings("corrector")
    config = TrainConfig.from_dict(values, where="corrector.yaml")
    assert config.residual.steps is None
    bases = [SftConfig.from_dict(settings(f"base-{size}"), where=size) for size in "SML"]
    assert len({b.schedule.epochs for b in bases}) == len({b.data for b in bases}) == 1
    width = [(b.scratch.layers, b.scratch.hidden) for b in bases if b.scratch is not None]
    assert width == sorted(width)
