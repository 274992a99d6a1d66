"""Progress: what is being done, how much of it is done and how long the rest will take, on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_LINE_EVERY = 10.0  # seconds between lines where no terminal shows a bar


class Progress:
    """One step over `total` questions, of which `done` were done before: a bar on a terminal, else lines for a log."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._before = done
        self._began = self._line_at = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._bar.add_task(escape(self.label), total=self.total, completed=self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line()

    def step(self, count: int = 1) -> None:
        """Some more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
        elif time.monotonic() - self._line_at >= _LINE_EVERY:
            self._line()

    def _line(self) -> None:
        now = self._line_at = time.monotonic()
        each = (now - self._began) / max(self.done - self._before, 1)
        left = _time(each * (self.total - self.done))
        print(f"{self.label}: {self.done}/{self.total}  {left} left", file=sys.stderr, flush=True)  # noqa: T201


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
