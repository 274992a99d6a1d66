"""`aligner train`: a corrector from triplets, warm-up on identity rows, then residual training (paper, section 2)."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState

from aligner.correct.aligner import Aligner
from aligner.correct.card import AlignerCard
from aligner.errors import AlignerError, ConfigError, Interrupted, OutOfMemoryError, RunError
from aligner.generate.hf import default_device, load_causal_lm, load_tokenizer, model_context
from aligner.prompts import PromptFormat
from aligner.rows import JsonlWriter, storage_errors, write_atomic
from aligner.runs import Existing, Lineage, RunDir, ancestor_of_file, ancestor_of_model, lineage_to_json, merge_lineage
from aligner.tokens import TextCodec
from aligner.train.config import Schedule, TrainConfig
from aligner.train.dataset import Prepared, data_files, prepare, texts
from aligner.train.figures import cut_metrics, held_out_table, stage_figures
from aligner.train.held_out import HeldOut, corrections, held_out_losses, sample_row
from aligner.train.progress import StageProgress, stop_on_interrupt
from aligner.train.scratch import build_model, train_tokenizer
from aligner.train.sft import (
    Resources,
    bf16_is_fast,
    checkpoint_step,
    is_out_of_memory,
    last_whole_checkpoint,
    train_stage,
)

_STAGES = ("warmup", "residual")


def run(config: TrainConfig, existing: Existing = "refuse") -> RunDir:
    """Train a corrector into `config.out`; its `model/` is what `Aligner.from_pretrained` loads.

    Started under `accelerate launch`, every process trains and the first one writes. With existing="resume" a run that
    was stopped goes on from its last whole checkpoint, and one that is finished is left as it is.

    Raises:
        RunError: the directory exists, or was started with another configuration.
        DataError, CheckpointError, PromptError, ConfigError: what the run needs is missing or wrong.
        OutOfMemoryError, StorageError, TrainingError: training stopped; the message says how to go on.
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    files = data_files(config.data)
    state = PartialState()
    with state.main_process_first():
        # Only the first process may find the directory taken; the others come to one that it has just made.
        run_dir = RunDir.create(config.out, config, existing if state.is_main_process else "resume")
    if run_dir.result() is not None:
        _say(f"{config.out}: already finished")
        return run_dir
    try:
        with run_dir.locked() if state.is_main_process else nullcontext():
            _Training(config, run_dir, files, state).run()
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


class _Training:
    """One run on its way: what its steps share."""

    def __init__(self, config: TrainConfig, run_dir: RunDir, files: list[Path], state: PartialState) -> None:
        self.config, self.run_dir, self.files, self.state = config, run_dir, files, state
        self.stages_path = run_dir.path / "stages"
        self.resources = Resources(
            bf16=bf16_is_fast() if config.precision == "auto" else config.precision == "bf16",
            gradient_checkpointing=config.gradient_checkpointing,
            save_every=config.save_every,
            seed=config.seed,
        )

    def run(self) -> None:
        config = self.config
        self._check_context()
        lineage = self._resolve()
        tokenizer = self._tokenizer()
        codec = TextCodec(tokenizer)
        prompt = self._prompt(tokenizer)
        _say("reading triplets")
        with self.state.main_process_first():
            write = self.state.is_main_process
            prepared = prepare(config, self.files, prompt, codec, self.run_dir.path / "data", write=write)
        _say(_summary(prepared))
        held_out = HeldOut.build(prepared.held_out, prompt, codec, config.max_length)
        card = AlignerCard(prompt=prompt, lineage=lineage)
        model = None
        records = []
        schedules: dict[str, Schedule] = {"warmup": config.warmup, "residual": config.residual}
        with stop_on_interrupt() as stop:
            for name in _STAGES:
                rows = prepared.stages[name]
                if rows is None:
                    continue
                directory = self.stages_path / name
                done = directory / "done.json"
                if done.is_file():
                    records.append(json.loads(done.read_text(encoding="utf-8")))
                    continue
                if model is None:
                    model = self._base_model(tokenizer)
                model, record = self._stage(name, model, tokenizer, rows, schedules[name], held_out, stop)
                records.append(record)
                if self.state.is_main_process:
                    with storage_errors(directory):
                        model.save_pretrained(directory / "model")
                        tokenizer.save_pretrained(directory / "model")
                        card.save(directory / "model")
                    write_atomic(done, json.dumps(record))
                self.state.wait_for_everyone()
                if stop.is_set():
                    raise Interrupted(f"stopped after {name}, which is saved; go on with --resume")
        model = None  # the finish loads the saved one
        if self.state.is_main_process:
            self._finish(prepared, held_out, records)

    def _stage(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        rows: Any,
        schedule: Schedule,
        held_out: HeldOut,
        stop: Any,
    ) -> tuple[Any, dict[str, Any]]:
        directory = self.stages_path / name
        directory.mkdir(parents=True, exist_ok=True)
        resume = last_whole_checkpoint(directory)
        start = checkpoint_step(resume) if resume else 0
        if self.state.is_main_process:
            cut_metrics(self.run_dir, name, start)
        _say(f"{name}: {len(rows):,} rows" + (f", going on from step {start}" if resume else ""))
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
                    rows,
                    schedule,
                    directory,
                    self.resources,
                    lora=self.config.lora,
                    callbacks=[progress],
                    resume=resume,
                )
            finally:
                progress.close()
            if stop.is_set():
                raise Interrupted(f"stopped at step {result.steps} of {name}; the last checkpoint is "
                                  f"{last_whole_checkpoint(directory)}; go on with --resume")  # fmt: skip
            model = result.model
            evaluate(result.steps)
        return model, {"name": name, "rows": len(rows), "steps": result.steps, **stage_figures(self.run_dir, name)}

    def _tokenizer(self) -> Any:
        config = self.config
        if config.model is not None:
            tokenizer = load_tokenizer(config.model)
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            return tokenizer
        assert config.scratch is not None
        path = self.run_dir.path / "tokenizer"
        with self.state.main_process_first():
            if not path.is_dir():
                _say("training a tokenizer")
                tokenizer = train_tokenizer(texts(self.files, config.scratch.tokenizer_rows), config.scratch.vocabulary)
                part = path.with_suffix(".part")
                with storage_errors(path):
                    shutil.rmtree(part, ignore_errors=True)
                    tokenizer.save_pretrained(part)
                    part.replace(path)
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(path)

    def _prompt(self, tokenizer: Any) -> PromptFormat:
        if self.config.prompt is None and self.config.instruction is None and self.config.model is not None:
            parent = AlignerCard.load(self.config.model)
            if parent is not None:
                return parent.prompt
        if self.config.instruction is not None:
            return PromptFormat.preset("chat", tokenizer, instruction=self.config.instruction)
        if self.config.scratch is not None and self.config.prompt in (None, "chat"):
            # A model that has never read a word gains nothing from an instruction and pays for it in every row.
            return PromptFormat.preset("chat", tokenizer, instruction="", request="")
        return PromptFormat.preset(self.config.prompt or "chat", tokenizer)

    def _base_model(self, tokenizer: Any) -> Any:
        warmed = self.stages_path / "warmup" / "model"
        if (self.stages_path / "warmup" / "done.json").is_file():
            return load_causal_lm(warmed, dtype="float32")[0].train()
        if self.config.scratch is not None:
            model = build_model(self.config.scratch, tokenizer, self.config.max_length, self.config.seed)
            return model.to(default_device())
        assert self.config.model is not None
        return load_causal_lm(self.config.model, dtype="float32")[0].train()

    def _check_context(self) -> None:
        """Positions that the model does not have are an index error deep in a library, or nonsense learned."""
        if self.config.model is None:
            return
        context = model_context(self.config.model)
        if self.config.max_length > context:
            raise ConfigError(
                f"'max_length' is {self.config.max_length}, but {self.config.model} takes {context} tokens at most; "
                f"set max_length to {context} or less"
            )

    def _resolve(self) -> Lineage:
        """What the run was started with beyond its configuration; resuming with anything else is refused."""
        path = self.run_dir.path / "resolved.json"
        with self.state.main_process_first():
            lineage = self._lineage()
            now = {"bf16": self.resources.bf16, "lineage": lineage_to_json(lineage)}
            if not path.is_file():
                write_atomic(path, json.dumps(now, indent=2) + "\n")
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["bf16"] != now["bf16"]:
            raise RunError(f"{self.run_dir.path}: was started in {'bf16' if before['bf16'] else 'fp32'}, which this "
                           "machine would not choose; start anew with --overwrite")  # fmt: skip
        if before["lineage"] != now["lineage"]:
            old = {(a["role"], a["name"], a["hash"]) for a in before["lineage"]}
            changed = [a.name for a in lineage if (a.role, a.name, a.hash) not in old]
            raise RunError(
                f"{self.run_dir.path}: the data or the base model changed since it was started "
                f"({', '.join(changed) or 'something is missing'}); start anew with --overwrite"
            )
        return lineage

    def _lineage(self) -> Lineage:
        own = [ancestor_of_file("data", path) for path in self.files]
        if self.config.model is None:
            return merge_lineage(own)
        parent = AlignerCard.load(self.config.model)
        base = [ancestor_of_model("base", self.config.model)]
        return merge_lineage(own, base, parent.lineage if parent is not None else ())

    @contextmanager
    def _metrics(self) -> Iterator[JsonlWriter | None]:
        if not self.state.is_main_process:
            yield None
            return
        with self.run_dir.metrics() as writer:
            yield writer

    def _finish(self, prepared: Prepared, held_out: HeldOut, records: list[dict[str, Any]]) -> None:
        """The corrector in its place, measured; everything that was only needed on the way removed."""
        final = self.stages_path / "residual" / "model"
        with storage_errors(self.run_dir.model_path):
            if final.is_dir() and self.config.keep_checkpoints:
                shutil.rmtree(self.run_dir.model_path, ignore_errors=True)
                shutil.copytree(final, self.run_dir.model_path)
            elif final.is_dir():
                shutil.rmtree(self.run_dir.model_path, ignore_errors=True)
                final.rename(self.run_dir.model_path)
        samples_path = self.run_dir.path / "samples.jsonl"
        samples_path.unlink(missing_ok=True)
        samples: list[dict[str, Any]] = []
        with Aligner.from_pretrained(self.run_dir.model_path) as aligner, self.run_dir.samples() as writer:
            parameters = sum(p.numel() for p in aligner.model.parameters())
            if self.config.samples:
                _say("correcting held-out answers")
                for triplet, correction in corrections(aligner, held_out, self.config.samples):
                    row = sample_row(triplet, correction)
                    writer.write(row)
                    samples.append(row)
            lineage = lineage_to_json(aligner.card.lineage)
        self.run_dir.write_result(
            {
                "kind": "train",
                "parameters": parameters,
                "rows": {
                    "read": prepared.read,
                    "train": len(prepared.stages["residual"]),
                    "held_out": prepared.held_out_total,
                    "measured": sum(map(len, held_out.rows.values())),
                    "dropped": dict(prepared.dropped),
                },
                "stages": records,
                "held_out": held_out_table(self.run_dir, held_out, samples),
                "lineage": lineage,
            }
        )
        shutil.rmtree(self.run_dir.path / "data", ignore_errors=True)
        if not self.config.keep_checkpoints:
            shutil.rmtree(self.stages_path, ignore_errors=True)


def _summary(prepared: Prepared) -> str:
    dropped = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in prepared.dropped.items())
    return (
        f"{prepared.read:,} triplets: {len(prepared.stages['residual']):,} to train on, "
        f"{prepared.held_out_total:,} held out" + (f", dropped {dropped}" if dropped else "")
    )


def _say(text: str) -> None:
    if PartialState().is_main_process:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress goes to stderr
