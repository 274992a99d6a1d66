"""Jobs that depend on each other, run in processes of their own, as many at a time as there are cores for.

Small models gain little from a third thread, so a job gets two cores; on an accelerator, jobs take turns. Who sets
OMP_NUM_THREADS says how many threads a job gets.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligner.cores import usable_cores
from aligner.errors import RunError

_TELL_EVERY = 15.0
_THREADS = "OMP_NUM_THREADS"
# Rows of many lengths make a kernel for each length: 16 kept, a job needs half the memory. Giving memory back to the
# system at once (MALLOC_MMAP_THRESHOLD_) would halve it again, at three times the time; huge pages cost nothing.
_LEAN = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to do once what it needs is done: `call(*arguments)`, a function that a new process can import.

    `weight` is how long it takes beside the others; what it says goes to the file `log`.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    log: Path


@dataclass(slots=True)
class _Board:
    """What is known while the jobs run."""

    started: float = field(default_factory=time.monotonic)
    begun: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def lanes_here() -> int:
    """How many jobs to run at a time on the cores that this process may use."""
    import torch

    if torch.accelerator.is_available():
        return 1
    return max(1, min(usable_cores() // 2, 8))


def run_jobs(jobs: Sequence[Job], lanes: int, say: Callable[[str], None], *, after: float = 0.0) -> Mapping[str, float]:
    """Run all jobs, those that others wait for longest first; returns the seconds each took.

    Args:
        jobs: what to do.
        lanes: jobs at a time.
        say: is told what begins, goes on and ends, and how long all will take.
        after: the weight of what the caller does when all are done.

    Raises:
        RunError: two jobs share a name, one needs what is no job, or a process was killed from outside.
        Whatever a job raised, once the others that were under way have ended.
    """
    by_name = {job.name: job for job in jobs}
    unknown = {need for job in jobs for need in job.needs} - by_name.keys()
    if len(by_name) < len(jobs) or unknown:
        raise RunError(
            f"jobs need names of their own and known needs (unknown: {', '.join(sorted(unknown)) or 'none'})"
        )
    order = sorted(jobs, key=lambda job: -_path(job, by_name, jobs))
    board = _Board()
    running: dict[Future[None], Job] = {}
    waiting = list(order)
    before, threads = dict(os.environ), _threads(lanes)
    # A new process, or the server it is copied from, reads these before it loads a numerical library.
    os.environ.update(_LEAN | before | {_THREADS: threads})
    context = _context()
    try:
        with ProcessPoolExecutor(max_workers=lanes, mp_context=context, max_tasks_per_child=1) as pool:
            try:
                while waiting or running:
                    for job in [j for j in waiting if all(n in board.seconds for n in j.needs)][: lanes - len(running)]:
                        waiting.remove(job)
                        board.begun[job.name] = time.monotonic()
                        say(f"{_clock(board.started)}  {job.name}: started")
                        running[pool.submit(_work, job.call, job.arguments, str(job.log), threads)] = job
                    done, _ = wait(running, timeout=_TELL_EVERY, return_when=FIRST_COMPLETED)
                    for future in done:
                        job = running.pop(future)
                        future.result()
                        board.seconds[job.name] = time.monotonic() - board.begun[job.name]
                        say(f"{_clock(board.started)}  {job.name}: done in {_minutes(board.seconds[job.name])}, "
                            f"about {_left(board, jobs, lanes, after)} left")  # fmt: skip
                    if not done:
                        for job in running.values():
                            say(f"{_clock(board.started)}  {job.name}: {_last_line(job.log)}")
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    except BrokenProcessPool as e:
        logs = ", ".join(str(job.log) for job in running.values()) or "none"
        raise RunError(f"a job's process was killed, for lack of memory perhaps; what it said: {logs}") from e
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    return board.seconds


def _threads(lanes: int) -> str:
    """What OMP_NUM_THREADS is to say in each of so many processes: what it says here, if that is a number."""
    given = os.environ.get(_THREADS, "")
    first = given.partition(",")[0].strip()  # the numbers after it are those of threads within threads
    return given if first.isdecimal() and int(first) else str(max(1, usable_cores() // lanes))


def _context() -> Any:
    """Where the system has it, a server that has loaded the libraries once and is copied for each job."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.trainer", "trl.trainer.sft_trainer"])
    return context


def _path(job: Job, by_name: Mapping[str, Job], jobs: Sequence[Job]) -> float:
    """The weight of the longest way from a job to the end."""
    after = [_path(other, by_name, jobs) for other in jobs if job.name in other.needs]
    return job.weight + max(after, default=0.0)


def _work(call: Callable[..., Any], arguments: tuple[Any, ...], log: str, threads: str) -> None:
    """In the job's process: what it says goes to its log, from libraries written in C too."""
    os.environ[_THREADS] = threads
    if "torch" in sys.modules:  # loaded by the server, which may have been started for other lanes
        sys.modules["torch"].set_num_threads(int(threads.partition(",")[0]))
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("a", encoding="utf-8") as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        call(*arguments)


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 1000))
            lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
    except OSError:
        return "starting"
    return next((line.strip() for line in reversed(lines) if line.strip()), "starting")


def _left(board: _Board, jobs: Sequence[Job], lanes: int, after: float) -> str:
    done = sum(job.weight for job in jobs if job.name in board.seconds)
    spent = sum(board.seconds.values())
    rest = sum(job.weight for job in jobs if job.name not in board.seconds)
    now = time.monotonic()
    under_way = sum(now - t for name, t in board.begun.items() if name not in board.seconds)
    if not done:
        return _minutes(0.0)
    pace = spent / done  # seconds for a weight of 1
    return _minutes(max(0.0, rest * pace - under_way) / lanes + after * pace)


def _clock(started: float) -> str:
    return f"[{_minutes(time.monotonic() - started)}]"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
