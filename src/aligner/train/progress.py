"""What a stage shows while it runs and leaves in metrics.jsonl, and how Ctrl-C stops it."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from aligner.errors import TrainingError
from aligner.rows import JsonlWriter

_LINE_EVERY = 15.0  # seconds between lines where no terminal shows a bar


class StageProgress(TrainerCallback):
    """Writes a metrics row per step, shows loss, tokens/s and time left, and stops on request after a whole step.

    Args:
        stage: the stage's name.
        metrics: metrics.jsonl, or None on processes that do not write.
        evaluate: called with the step every `evaluate_every` steps.
        stop: set by Ctrl-C; training then writes a checkpoint and ends.
    """

    def __init__(
        self,
        stage: str,
        metrics: JsonlWriter | None,
        *,
        stop: threading.Event,
        evaluate: Callable[[int], None] | None = None,
        evaluate_every: int | None = None,
    ) -> None:
        self.stage = stage
        self.tokens = 0
        self.seconds = 0.0
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self._metrics = metrics
        self._stop = stop
        self._evaluate = evaluate
        self._evaluate_every = evaluate_every
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._line_at = 0.0
        self._step_at = 0.0
        self._speed = 0.0
        self._begin = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step_at = self._line_at = time.monotonic()
        self._begin = state.global_step
        if self._metrics is not None and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._bar.add_task(self.stage, total=state.max_steps, completed=state.global_step, figures="")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        now = time.monotonic()
        seconds, self._step_at = now - self._step_at, now
        tokens = int(logs.get("num_tokens", self.tokens)) - self.tokens
        self.tokens += tokens
        self.seconds += seconds
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of {self.stage} is {loss} at step {state.global_step}; lower learning_rate or "
                "max_grad_norm, or use precision fp32, and start anew with --overwrite"
            )
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_loss = loss
        rate = tokens / seconds if seconds > 0 else 0.0
        self._speed = rate if self._speed == 0 else 0.95 * self._speed + 0.05 * rate
        if self._metrics is not None:
            self._metrics.write(
                {
                    "stage": self.stage,
                    "step": state.global_step,
                    "loss": loss,
                    "lr": logs.get("learning_rate"),
                    "grad_norm": logs.get("grad_norm"),
                    "tokens_per_s": round(rate, 1),
                    "seconds": round(seconds, 4),
                }
            )
            self._show(state, loss, now)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = self._evaluate_every and state.global_step % self._evaluate_every == 0
        if self._evaluate and due and state.global_step < state.max_steps:  # the last step's is the stage's own
            begin = time.monotonic()
            self._evaluate(state.global_step)
            self._step_at += time.monotonic() - begin
        if any_stops(self._stop):
            control.should_save = control.should_training_stop = True

    def close(self) -> None:
        """Take the bar down; called whatever way the stage ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, state: Any, loss: float, now: float) -> None:
        figures = f"loss {loss:.3f}  {self._speed:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=state.global_step, figures=figures)
        elif now - self._line_at >= _LINE_EVERY or state.global_step == state.max_steps:
            self._line_at = now
            steps = state.max_steps - state.global_step
            left = steps * self.seconds / max(state.global_step - self._begin, 1)
            print(  # noqa: T201 - progress for a log file
                f"{self.stage}: step {state.global_step}/{state.max_steps}  {figures}  {_time(left)} left",
                file=sys.stderr,
                flush=True,
            )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def any_stops(stop: threading.Event) -> bool:
    """Whether one of the processes is to stop; then all of them are, so that none waits for one that is gone."""
    state = PartialState()
    if state.num_processes == 1:
        return stop.is_set()
    flag = torch.tensor(float(stop.is_set()), device=state.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    # What they agreed on, and not the event: that may have been set here since, which the others do not know yet.
    if agreed := bool(flag.item()):
        stop.set()
    return agreed


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that a step can end and be saved; the second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    pressed = False

    def handler(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:  # another process may have set the event
            raise KeyboardInterrupt
        pressed = True
        stop.set()
        print("\nstopping after this step and saving; Ctrl-C again stops at once", file=sys.stderr)  # noqa: T201

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
