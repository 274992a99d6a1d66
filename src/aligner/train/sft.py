"""One stage of supervised training on rows of token ids, through TRL's SFTTrainer.

Works for any rows; the loss is on the tokens that have a label. Checkpoints hold the full state (weights,
optimiser, schedule, random numbers), so that a killed stage goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aligner.errors import ConfigError, OutOfMemoryError, StorageError
from aligner.rows import storage_errors, write_atomic
from aligner.train.config import Lora, Residual, Schedule
from aligner.train.trainer import trainer_class

_WHOLE = "whole.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """What a stage made: the trained model (adapters merged), and the optimiser step it ended at."""

    model: Any
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """How a stage uses the machine."""

    bf16: bool
    gradient_checkpointing: bool
    save_every: int
    seed: int


def bf16_is_fast() -> bool:
    """Whether this machine computes in bf16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def train_stage(
    model: Any,
    tokenizer: Any,
    rows: Any,
    schedule: Schedule,
    directory: Path,
    resources: Resources,
    *,
    lora: Lora | None = None,
    callbacks: Sequence[Any] = (),
    resume: Path | None = None,
) -> StageResult:
    """Train on a dataset with the columns input_ids, labels and length (`row_file.RowFile` writes them).

    Args:
        model: a causal LM with fp32 weights; it is changed in place (with `lora`: its adapters are merged at the end).
        directory: where full-state checkpoints go.
        resume: a checkpoint that `last_whole_checkpoint` found; training goes on from there.

    Raises:
        OutOfMemoryError, StorageError: with the last whole checkpoint and how to go on.
    """
    from trl import SFTConfig

    model.config.use_cache = False
    arguments = SFTConfig(
        output_dir=str(directory),
        max_steps=schedule.steps or -1,
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=schedule.scheduler,
        warmup_steps=schedule.warmup_share,  # below 1 it is a share of the steps, however many processes there are
        weight_decay=schedule.weight_decay,
        adam_beta1=schedule.betas[0],
        adam_beta2=schedule.betas[1],
        max_grad_norm=schedule.max_grad_norm,
        bf16=resources.bf16,
        activation_checkpointing=resources.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available() and model.device.type == "cpu",
        # Rows that do not fit are dropped before, in sight; the trainer must never cut one.
        max_length=None,
        packing=False,
        pad_to_multiple_of=None,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=resources.save_every,
        # Two, so that a crash between writing one and deleting the other leaves a whole one.
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=resources.seed,
        data_seed=resources.seed,
    )
    # transformers would spread each batch over all GPUs that it sees, which TRL refuses; `accelerate launch` uses them.
    arguments._n_gpu = min(1, arguments.n_gpu)
    try:
        trainer = trainer_class()(
            model=model,
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=peft_config(lora) if lora is not None else None,
            callbacks=[*callbacks, _whole_marker()],
        )
    except ValueError as e:
        if lora is None:
            raise
        raise ConfigError(f"'lora': {str(e).splitlines()[0]}") from e
    if isinstance(schedule, Residual):
        trainer.edit_weight = schedule.edit_weight
    _remove_default_printers(trainer)
    try:
        with storage_errors(directory):
            if resume is not None and _is_finished(resume):
                trainer._load_from_checkpoint(str(resume))  # train() would take one step too many
                trainer.state.global_step = checkpoint_step(resume)
            else:
                trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, StorageError) as e:
        raise _named(e, trainer.state.global_step, directory) from e
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if lora is not None:
        trained = trained.merge_and_unload()
    trained.config.use_cache = True
    return StageResult(model=trained, steps=trainer.state.global_step)


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    whole = []
    for path in directory.glob("checkpoint-*"):
        if (path / _WHOLE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    return max(whole, key=checkpoint_step, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, which has no one class for it on a CPU, says that memory ran out."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in text or "alloc" in text


def _is_finished(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def checkpoint_step(path: Path) -> int:
    """The step a checkpoint was written at."""
    return int(path.name.rsplit("-", 1)[1])


def _named(error: Exception, step: int, directory: Path) -> Exception:
    """The user's error behind what torch says, or the error itself."""
    last = last_whole_checkpoint(directory)
    state = f"the last whole checkpoint is {last}" if last else "no checkpoint was written yet"
    if isinstance(error, StorageError):
        return StorageError(
            f"{directory}: the checkpoint of step {step} cannot be written (disk full?); {state}; "
            "free some space, then go on with --resume"
        )
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"out of memory at step {step}; {state}; free memory and go on with --resume, or start anew with a smaller "
            "batch_size (raise accumulation by as much) or max_length, or with gradient_checkpointing"
        )
    return error


def peft_config(lora: Lora) -> Any:
    """The adapters' settings as peft has them.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise ConfigError("'lora' needs peft; install the extra: pip install 'aligner[lora]'") from None

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def _whole_marker() -> Any:
    from transformers import TrainerCallback

    class WholeMarker(TrainerCallback):
        """Marks a checkpoint as written to its end; without the mark it is not resumed from."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE
                write_atomic(path, json.dumps({"step": state.global_step}))

    return WholeMarker()


def _remove_default_printers(trainer: Any) -> None:
    from transformers import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
