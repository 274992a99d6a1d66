"""Supervised fine-tuning on rows of any kind: a base model on text, an upstream on prompts and their answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligner.errors import DataError
from aligner.generate.hf import load_causal_lm
from aligner.rows import storage_errors
from aligner.runs import Existing, RunDir, lineage_to_json
from aligner.tokens import TextCodec
from aligner.train.base import save_lineage
from aligner.train.config import SftConfig
from aligner.train.dataset import LowestRanked, data_files, rank
from aligner.train.figures import held_out_table
from aligner.train.held_out import HeldOut
from aligner.train.row_file import EncodedRow, RowFile, TooLong
from aligner.train.session import Inputs, Session, Stage, dropped_text, run_session, say
from aligner.train.text_rows import TextFormat, read_text_rows, texts_of
from aligner.triplets import is_held_out

_STAGE = "sft"


@dataclass(slots=True, kw_only=True)
class TextRows:
    """What reading the data gave: a dataset to train on, encoded rows to measure, and what was left out."""

    dataset: Any = None
    held_out: tuple[EncodedRow, ...] = ()
    read: int = 0
    held_out_total: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def run(config: SftConfig, existing: Existing = "refuse") -> RunDir:
    """Train a language model into `config.out`; its `model/` is what `HFGenerator.from_pretrained` loads.

    The loss is taken on every token of a text, and on a completion with its end token. Everything that holds for a
    corrector's run holds here: it goes on after a kill or Ctrl-C as if nothing had happened, and says what it is
    made from.

    Raises:
        RunError: the directory exists, or was started with another configuration.
        DataError, CheckpointError, PromptError, ConfigError: what the run needs is missing or wrong.
        OutOfMemoryError, StorageError, TrainingError: training stopped; the message says how to go on.
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    files = data_files(config.data)
    inputs = Inputs(files=files, rows=read_text_rows(*files), tokenizer=config.tokenizer)
    return run_session(config, existing, inputs, lambda session: _train(session, files))


def read(
    config: SftConfig, files: list[Path], text_format: TextFormat, directory: Path, write: bool = True
) -> TextRows:
    """Read all rows once: held-out ones apart, the rest into an Arrow file.

    Rows with one prompt, and rows with one text, fall on the same side of the split, by `triplets.is_held_out`.

    Raises:
        DataError: a row is malformed or cannot be encoded, there is nothing to train on, or every row is longer than
            `max_length`.
    """
    found = TextRows()
    too_long = TooLong(setting="data", max_length=config.max_length)
    measured: LowestRanked[EncodedRow] = LowestRanked(config.held_out_rows)
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        writer = RowFile(directory / f"{_STAGE}.arrow", write)
        for row in read_text_rows(*files):
            found.read += 1
            if not row.text.strip():
                found.dropped["blank"] += 1
                continue
            triplet = row.triplet
            held_out = is_held_out(triplet, config.held_out, config.seed)
            found.held_out_total += held_out
            encoded = text_format.encode(row)
            if len(encoded.ids) > config.max_length:
                if not held_out:  # what is held out counts as that, measured or not
                    found.dropped["too_long"] += 1
                    too_long.rows, too_long.longest = too_long.rows + 1, max(too_long.longest, len(encoded.ids))
            elif held_out:
                measured.add(rank(triplet, config.seed), encoded)
            else:
                writer.write(encoded)
        found.dataset = writer.close()
    found.held_out = tuple(measured.items())
    if found.dataset is None:
        if too_long.rows:
            raise too_long.none_fits()
        raise DataError(f"data: no row to train on ({found.read} read, {found.held_out_total} held out); "
                        "name more files or lower 'held_out'")  # fmt: skip
    return found


def _train(session: Session[SftConfig], files: list[Path]) -> None:
    config = session.config
    lineage = session.resolve(session.base.lineage(files))
    tokenizer = session.base.tokenizer(lambda rows: texts_of(files, rows), config.tokenizer)
    text_format = TextFormat(TextCodec(tokenizer))
    say("reading rows")
    with session.state.main_process_first():
        write = session.state.is_main_process
        rows = read(config, files, text_format, session.data_path, write=write)
    say(
        f"{rows.read:,} rows: {len(rows.dataset):,} to train on, "
        f"{rows.held_out_total:,} held out{dropped_text(rows.dropped)}"
    )
    held_out = HeldOut(rows={"all": rows.held_out} if rows.held_out else {}, triplets={})

    def save_beside(model: Any, directory: Path) -> None:
        save_lineage(directory, lineage)
        _stop_at(model, {text_format.end_id, tokenizer.eos_token_id})
        model.generation_config.save_pretrained(directory)

    stage = Stage(name=_STAGE, rows=rows.dataset, schedule=config.schedule)
    records = session.train([stage], tokenizer, held_out, save_beside)
    if not session.state.is_main_process:
        return
    model, _ = load_causal_lm(session.place_model(_STAGE), device="cpu")
    session.finish(
        {
            "kind": "sft",
            "parameters": sum(p.numel() for p in model.parameters()),
            "rows": {
                "read": rows.read,
                "train": len(rows.dataset),
                "held_out": rows.held_out_total,
                "measured": len(rows.held_out),
                "dropped": dict(rows.dropped),
            },
            "stages": records,
            "held_out": held_out_table(session.run_dir, held_out, []),
            "lineage": lineage_to_json(lineage),
        }
    )


def _stop_at(model: Any, ends: set[int]) -> None:
    """Have generation stop where rows of training ended; a template's end token need not be the tokenizer's."""
    known = model.generation_config.eos_token_id
    before = known if isinstance(known, list) else [known]
    model.generation_config.eos_token_id = sorted({i for i in [*before, *ends] if i is not None})
