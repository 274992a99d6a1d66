"""`aligner train`: a corrector from triplets, warm-up on identity rows, then residual training (paper, section 2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from aligner.correct.aligner import Aligner
from aligner.correct.card import AlignerCard
from aligner.errors import ConfigError, DataError
from aligner.evaluate.loading import free_memory
from aligner.generate.hf import has_experts
from aligner.prompts import PromptFormat
from aligner.rows import storage_errors
from aligner.runs import Existing, RunDir, lineage_to_json
from aligner.tokens import TextCodec
from aligner.train.config import TrainConfig
from aligner.train.dataset import Prepared, data_files, prepare, texts
from aligner.train.figures import held_out_table
from aligner.train.held_out import HeldOut, corrections, sample_row
from aligner.train.session import Inputs, Session, Stage, dropped_text, run_session, say
from aligner.train.text_rows import read_text_rows, texts_of
from aligner.triplets import read_triplets


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
    files, mix = data_files(config.data), data_files(config.mix, "mix")
    rows = chain(read_triplets(*files), read_text_rows(*mix))
    inputs = Inputs(files=[*files, *mix], rows=rows, ready=partial(_check, config))
    return run_session(config, existing, inputs, lambda session: _train(session, files, mix))


def _train(session: Session[TrainConfig], files: list[Path], mix: list[Path]) -> None:
    config = session.config
    lineage = session.resolve(session.base.lineage([*files, *mix]))
    tokenizer = session.base.tokenizer(lambda rows: chain(texts(files, rows), texts_of(mix, rows)))
    codec = TextCodec(tokenizer)
    prompt = _prompt(config, tokenizer)
    say("reading triplets")
    with session.state.main_process_first():
        write = session.state.is_main_process
        prepared = prepare(config, files, prompt, codec, session.data_path, write=write, mix=mix)
    say(_summary(prepared))
    held_out = HeldOut.build(prepared.held_out, prompt, codec, config.max_length)
    card = AlignerCard(prompt=prompt, lineage=lineage)
    stages = [
        Stage(name="warmup", rows=prepared.stages["warmup"], schedule=config.warmup),
        Stage(name="residual", rows=prepared.stages["residual"], schedule=config.residual),
    ]
    records = session.train(stages, tokenizer, held_out, lambda _model, directory: card.save(directory))
    if session.state.is_main_process:
        _finish(session, prepared, held_out, records)


def _check(config: TrainConfig, tokenizer: Any) -> None:
    """Whether the model that it starts from can be trained so."""
    _prompt(config, tokenizer)
    if config.residual.edit_weight != 1 and config.model is not None and has_experts(config.model):
        raise ConfigError(f"residual.edit_weight: the experts of {config.model} have a loss of their own, which "
                          "weighted tokens leave out; set it to 1")  # fmt: skip


def _prompt(config: TrainConfig, tokenizer: Any) -> PromptFormat:
    card = AlignerCard.load(config.model) if config.model is not None else None
    parent = None if card is None else card.prompt
    unit = config.unit or ("answer" if parent is None else parent.unit)
    return replace(_layout(config, tokenizer, parent), unit=unit)


def _layout(config: TrainConfig, tokenizer: Any, parent: PromptFormat | None) -> PromptFormat:
    given = {name: getattr(config, name) for name in ("instruction", "request")}
    given = {name: text for name, text in given.items() if text is not None}
    if config.prompt is None and parent is not None:
        if not given:
            return parent
        if parent.name != "chat":
            raise ConfigError(f"'{next(iter(given))}' belongs to the chat format, and {config.model} was trained with "
                              f"{parent.name}; leave it out, or name 'prompt: chat' to train another")  # fmt: skip
        if len(given) == 1:
            raise ConfigError(f"'{next(iter(given))}' alone would change half of the prompt that {config.model} was "
                              "trained with; give both 'instruction' and 'request', or neither")  # fmt: skip
    if config.scratch is not None and config.prompt in (None, "chat"):
        # A model that has never read a word gains nothing from an instruction and pays for it in every row.
        given = {"instruction": "", "request": ""} | given
    return PromptFormat.preset(config.prompt or "chat", tokenizer, **given)


def _finish(
    session: Session[TrainConfig], prepared: Prepared, held_out: HeldOut, records: list[dict[str, Any]]
) -> None:
    """The corrector in its place, measured; everything that was only needed on the way removed."""
    run_dir, config = session.run_dir, session.config
    place = session.place_model("residual")
    (run_dir.path / "samples.jsonl").unlink(missing_ok=True)
    samples: list[dict[str, Any]] = []
    free_memory()  # the model that was trained: it holds itself in a circle
    with Aligner.from_pretrained(place) as aligner, run_dir.samples() as writer:
        parameters = sum(p.numel() for p in aligner.model.parameters())
        if config.samples:
            say("correcting held-out answers")
            for triplet, correction in corrections(aligner, held_out, config.samples):
                row = sample_row(triplet, correction)
                writer.write(row)
                samples.append(row)
        gate = _calibrated(aligner, held_out, place) if config.gate and aligner.card.prompt.unit == "answer" else None
        lineage = lineage_to_json(aligner.card.lineage)
    session.finish(
        {
            "kind": "train",
            "parameters": parameters,
            "rows": {
                "read": prepared.read,
                "train": prepared.train,
                "mixed": prepared.mixed,
                "held_out": prepared.held_out_total,
                "measured": sum(map(len, held_out.rows.values())),
                "shortened": prepared.shortened,
                "dropped": dict(prepared.dropped),
            },
            "stages": records,
            "held_out": held_out_table(run_dir, held_out, samples),
            "gate": gate,
            "lineage": lineage,
        }
    )


def _calibrated(aligner: Aligner, held_out: HeldOut, place: Path) -> dict[str, Any] | None:
    """Calibrate the gate and keep it in the corrector's card; None where the held-out rows are too few."""
    say("calibrating the gate")
    try:
        calibration = aligner.calibrate(chain.from_iterable(held_out.triplets.values()))
    except DataError as e:
        say(f"the gate is left uncalibrated: {e}")
        return None
    with storage_errors(place):
        aligner.card.save(place)
    return calibration.to_json()


def _summary(prepared: Prepared) -> str:
    mixed = f"{prepared.mixed:,} other rows mixed in, " if prepared.mixed else ""
    shortened = f" ({prepared.shortened:,} without their oldest turns)" if prepared.shortened else ""
    return (
        f"{prepared.read:,} triplets: {prepared.train:,} to train on{shortened}, {mixed}"
        f"{prepared.held_out_total:,} held out{dropped_text(prepared.dropped)}"
    )
