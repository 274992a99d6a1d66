"""What every training run shares: its directory and lock, what it starts from, and stages that stop and go on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Generic, TypeVar

import torch
from accelerate import PartialState

from aligner.errors import AlignerError, Interrupted, OutOfMemoryError, RunError
from aligner.rows import JsonlWriter, storage_errors, write_atomic
from aligner.runs import Existing, Lineage, RunDir, check_apart, lineage_to_json
from aligner.train.base import Base, check_base
from aligner.train.config import RunSettings, Schedule
from aligner.train.figures import cut_metrics, stage_figures
from aligner.train.held_out import HeldOut, held_out_losses
from aligner.train.processes import is_first, processes
from aligner.train.progress import StageProgress, any_stops, stop_on_interrupt
from aligner.train.sft import (
    Resources,
    bf16_is_fast,
    checkpoint_step,
    is_out_of_memory,
    last_whole_checkpoint,
    peft_config,
    train_stage,
)

C = TypeVar("C", bound=RunSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of training: its rows (None leaves it out) and how it is optimised."""

    name: str
    rows: Any
    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run is about to read: its files, all of their rows, and a tokenizer where one is named; `ready` is called
    with the tokenizer of the model that it starts from, and raises where the two do not go together."""

    files: Sequence[Path]
    rows: Iterable[object]
    tokenizer: str | None = None
    ready: Callable[[Any], object] | None = None


def run_session(config: C, existing: Existing, inputs: Inputs, work: Callable[[Session[C]], None]) -> RunDir:
    """Make or open the run's directory and do `work` in it, unless it is finished already.

    Started under `accelerate launch`, every process works and the first one writes. What is wrong with the inputs is
    found before a directory is made, or a run that is to be overwritten is emptied.

    Raises:
        RunError: the directory exists, was started with another configuration, or another process works there.
        ConfigError, CheckpointError, DataError: what the run needs is missing, wrong, or in its own directory.
        OutOfMemoryError: memory ran out; the message says how to go on.
    """
    state = processes()
    if (spare := torch.cuda.device_count() - 1) > 0 and state.num_processes == 1:
        say(f"one GPU is used, and {spare} more could be: start with `accelerate launch`")
    if existing != "resume" or RunDir(config.out).result() is None:
        _check(config, existing, inputs, state)
    with state.main_process_first():
        # Only the first process may find the directory taken; the others come to one that it has just made.
        run_dir = RunDir.create(config.out, config, existing if state.is_main_process else "resume")
    if run_dir.result() is not None:
        say(f"{config.out}: already finished")
        return run_dir
    try:
        with run_dir.locked() if state.is_main_process else nullcontext():
            work(Session(config, run_dir, state))
    except AlignerError:
        raise
    except Exception as e:
        if is_out_of_memory(e):
            raise OutOfMemoryError(
                f"{config.out}: out of memory outside a training step; lower max_length or the model's size, or free "
                "memory and go on with --resume"
            ) from e
        raise
    return run_dir


def _check(config: RunSettings, existing: Existing, inputs: Inputs, state: PartialState) -> None:
    check_apart(config.out, [*inputs.files, config.model, inputs.tokenizer])
    if state.is_main_process:
        RunDir.check_place(config.out, existing)
    tokenizer = check_base(config, inputs.tokenizer)
    if tokenizer is not None and inputs.ready is not None:
        inputs.ready(tokenizer)
    if config.lora is not None:
        peft_config(config.lora)
    if existing == "overwrite" and state.is_main_process and RunDir(config.out).config_path.is_file():
        say("reading the new rows before the old run is removed")
        for _ in inputs.rows:
            pass


class Session(Generic[C]):
    """One run on its way: what its steps share."""

    def __init__(self, config: C, run_dir: RunDir, state: PartialState) -> None:
        self.config, self.run_dir, self.state = config, run_dir, state
        self.base = Base(config, run_dir, state)
        self.stages_path = run_dir.path / "stages"
        self.data_path = run_dir.path / "data"
        self.resources = Resources(
            bf16=bf16_is_fast() if config.precision == "auto" else config.precision == "bf16",
            gradient_checkpointing=config.gradient_checkpointing,
            save_every=config.save_every,
            seed=config.seed,
        )

    def resolve(self, lineage: Lineage) -> Lineage:
        """Note what the run was started with beyond its configuration; resuming with anything else is refused.

        Raises:
            RunError: the data, the base model, the arithmetic or the number of processes is another than at the start.
        """
        path = self.run_dir.path / "resolved.json"
        count = self.state.num_processes
        with self.state.main_process_first():
            now = {"bf16": self.resources.bf16, "processes": count, "lineage": lineage_to_json(lineage)}
            if not path.is_file():
                write_atomic(path, json.dumps(now, indent=2) + "\n")
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["bf16"] != now["bf16"]:
            raise RunError(f"{self.run_dir.path}: was started in {'bf16' if before['bf16'] else 'fp32'}, which this "
                           "machine would not choose; start anew with --overwrite")  # fmt: skip
        if (started := before.get("processes", count)) != count:
            # A step's batch is that of all of them, and so steps and schedule would be others.
            raise RunError(f"{self.run_dir.path}: was started with {started} process{'es' * (started != 1)}, and these "
                           f"are {count}; go on with as many, or start anew with --overwrite")  # fmt: skip
        if before["lineage"] != now["lineage"]:
            old = {(a["role"], a["name"], a["hash"]) for a in before["lineage"]}
            changed = [a.name for a in lineage if (a.role, a.name, a.hash) not in old]
            raise RunError(
                f"{self.run_dir.path}: the data or the base model changed since it was started "
                f"({', '.join(changed) or 'something is missing'}); start anew with --overwrite"
            )
        return lineage

    def train(
        self,
        stages: Sequence[Stage],
        tokenizer: Any,
        held_out: HeldOut,
        save_beside: Callable[[Any, Path], None],
    ) -> list[dict[str, Any]]:
        """Train the stages one after the other, each from the model that the one before it left.

        Args:
            held_out: what the loss is measured on, before and after each stage.
            save_beside: called with the model and the directory its weights were saved in.

        Returns:
            A record per stage: its name, rows, steps and figures.

        Raises:
            Interrupted: Ctrl-C; a checkpoint was written.
            OutOfMemoryError, StorageError, TrainingError: training stopped; the message says how to go on.
        """
        model, before = None, None
        records = []
        with stop_on_interrupt() as stop:
            for stage in stages:
                if stage.rows is None:
                    continue
                directory = self.stages_path / stage.name
                done = directory / "done.json"
                if done.is_file():
                    records.append(json.loads(done.read_text(encoding="utf-8")))
                    before = directory / "model"
                    continue
                if model is None:
                    model = self.base.model(tokenizer, before)
                model, record = self._stage(stage, model, tokenizer, held_out, stop)
                records.append(record)
                if self.state.is_main_process:
                    with storage_errors(directory):
                        model.save_pretrained(directory / "model")
                        tokenizer.save_pretrained(directory / "model")
                        save_beside(model, directory / "model")
                    write_atomic(done, json.dumps(record))
                self.state.wait_for_everyone()
                if any_stops(stop):
                    raise Interrupted(f"stopped after {stage.name}, which is saved; go on with --resume")
        return records

    def _stage(
        self, stage: Stage, model: Any, tokenizer: Any, held_out: HeldOut, stop: Event
    ) -> tuple[Any, dict[str, Any]]:
        name, directory = stage.name, self.stages_path / stage.name
        directory.mkdir(parents=True, exist_ok=True)
        resume = last_whole_checkpoint(directory)
        start = checkpoint_step(resume) if resume else 0
        if self.state.is_main_process:
            cut_metrics(self.run_dir, name, start)
        say(f"{name}: {len(stage.rows):,} rows" + (f", going on from step {start}" if resume else ""))
        with self._metrics() as metrics:

            def evaluate(step: int) -> None:
                losses = held_out_losses(model, held_out, self.resources.bf16)
                if metrics is not None:
                    for source, loss in losses.items():
                        metrics.write({"stage": name, "step": step, "held_out_loss": loss, "source": source})

            if resume is None:
                evaluate(0)
            progress = StageProgress(
                name,
                metrics,
                stop=stop,
                evaluate=evaluate,
                evaluate_every=self.config.evaluate_every,
            )
            try:
                result = train_stage(
                    model,
                    tokenizer,
                    stage.rows,
                    stage.schedule,
                    directory,
                    self.resources,
                    lora=self.config.lora,
                    callbacks=[progress],
                    resume=resume,
                )
            finally:
                progress.close()
            if any_stops(stop):
                raise Interrupted(f"stopped at step {result.steps} of {name}; the last checkpoint is "
                                  f"{last_whole_checkpoint(directory)}; go on with --resume")  # fmt: skip
            model = result.model
            evaluate(result.steps)
        figures = stage_figures(self.run_dir, name)
        return model, {"name": name, "rows": len(stage.rows), "steps": result.steps, **figures}

    def place_model(self, stage: str) -> Path:
        """Put the model that a stage left into its place in the run directory."""
        final, place = self.stages_path / stage / "model", self.run_dir.model_path
        with storage_errors(place):
            if final.is_dir():
                shutil.rmtree(place, ignore_errors=True)
                if self.config.keep_checkpoints:
                    shutil.copytree(final, place)
                else:
                    final.rename(place)
        return place

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result and remove everything that was only needed on the way."""
        self.run_dir.write_result(result)
        shutil.rmtree(self.data_path, ignore_errors=True)
        if not self.config.keep_checkpoints:
            shutil.rmtree(self.stages_path, ignore_errors=True)

    @contextmanager
    def _metrics(self) -> Iterator[JsonlWriter | None]:
        if not self.state.is_main_process:
            yield None
            return
        with self.run_dir.metrics() as writer:
            yield writer


def say(text: str) -> None:
    """A line of progress on stderr, from the first process alone."""
    if is_first():
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress goes to stderr


def dropped_text(dropped: dict[str, int]) -> str:
    """, dropped 3 too long, 1 blank: the end of a summary line."""
    parts = [f"{count:,} {why.replace('_', ' ')}" for why, count in dropped.items()]
    return f", dropped {', '.join(parts)}" if parts else ""
