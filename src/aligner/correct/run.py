"""`aligner correct`: every answer of a JSONL file corrected, in order, resumable row by row."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.progress import track

from aligner.config import Config
from aligner.correct.aligner import Aligner
from aligner.errors import DataError, RunError
from aligner.generate.hf import Dtype
from aligner.rows import JsonlWriter, Row, read_rows
from aligner.runs import Existing
from aligner.types import Chat, Correction, Sampling, as_chat

# What a row gains; a field of the input with such a name would be overwritten.
_ADDED = ("correction", "diff", "kept_because", "flags", "edit_ratio", "copied_share")


class CorrectConfig(Config):
    """Correct the answers of a file: rows with question and answer in, the same rows with a correction out."""

    aligner: str
    """The corrector: a directory, a training run, or a Hub id."""
    input: Path
    """JSONL or JSON list (plain, .gz or .xz); every row has a question (text or messages) and an answer."""
    output: Path
    """JSONL; rows in the input's order with all their fields, and correction, diff and kept_because added."""
    prompt: str | None = None
    """The prompt format of a checkpoint without aligner.json: aligner-v1, aligner-repo or chat."""
    max_rows: int = Field(default=64, ge=1)
    """Answers corrected at the same time."""
    device: str | None = None
    """cpu, cuda, …; left out: the accelerator where there is one."""
    dtype: Dtype = "auto"
    """Arithmetic; auto keeps what the checkpoint was saved in."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy, the default on purpose."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k likeliest tokens (0: all)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that hold this much probability (1: all)."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest correction; left out: twice the answer and 256."""
    seed: int = 0
    """Of sampling; each row draws from its own stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectSummary:
    """What became of the rows of one call: `skipped` were done before, `kept` are counted by reason."""

    output: Path
    rows: int
    skipped: int
    changed: int
    copies: int
    kept: Mapping[str, int]


def run(config: CorrectConfig, existing: Existing = "refuse") -> CorrectSummary:
    """Correct the input into the output; each row is on disk before the next is waited for.

    The whole input is checked before the model is loaded, so no paid-for work is lost to a bad last row.

    Raises:
        DataError: the input cannot be read or a row lacks question or answer.
        RunError: the output exists (without resume or overwrite), or belongs to another input.
        CheckpointError, StorageError: the corrector cannot be loaded, the output not written.
    """
    rows = sum(1 for row in read_rows(config.input) if _pair(config.input, row))
    if config.output.resolve() == config.input.resolve():
        raise RunError(f"{config.output}: is the input itself; choose another --output")
    if config.output.exists():
        if existing == "refuse":
            raise RunError(
                f"{config.output}: exists already; pass --resume to go on, --overwrite to start anew, or another path"
            )
        if existing == "overwrite":
            config.output.unlink()
    config.output.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    with _aligner(config) as aligner, JsonlWriter(config.output) as writer:
        skipped = writer.rows
        _check_belongs(config, skipped, rows)
        done = _corrections(config.input, aligner, skipped)
        for row, correction in _shown(done, rows - skipped):
            writer.write(_output_row(row.value, correction))
            counts["rows"] += 1
            counts["changed"] += not correction.is_copy
            counts["copies"] += correction.is_copy and correction.kept_because is None
            if correction.kept_because is not None:
                kept[correction.kept_because] += 1
    return CorrectSummary(
        output=config.output,
        rows=counts["rows"],
        skipped=skipped,
        changed=counts["changed"],
        copies=counts["copies"],
        kept=dict(kept),
    )


def _aligner(config: CorrectConfig) -> Aligner:
    sampling = Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    return Aligner.from_pretrained(
        config.aligner,
        prompt=config.prompt,
        device=config.device,
        dtype=config.dtype,
        sampling=sampling,
        max_rows=config.max_rows,
    )


def _corrections(path: Path, aligner: Aligner, skip: int) -> Iterator[tuple[Row, Correction]]:
    waiting: deque[Row] = deque()

    def pairs() -> Iterator[tuple[Chat, str]]:
        for row in islice(read_rows(path), skip, None):
            waiting.append(row)
            yield _pair(path, row)

    for correction in aligner.correct_batch(pairs()):
        yield waiting.popleft(), correction


def _shown(done: Iterator[tuple[Row, Correction]], total: int) -> Iterator[tuple[Row, Correction]]:
    """A bar with the time left, where there is a terminal to show it on."""
    console = Console(stderr=True)
    return iter(track(done, "correcting", total=total, console=console, disable=not console.is_terminal))


def _pair(path: Path, row: Row) -> tuple[Chat, str]:
    where, value = f"{path}:{row.line}", row.value
    for name in ("question", "answer"):
        if name not in value:
            raise DataError(f"{where}: the field '{name}' is missing (found: {', '.join(value) or 'none'}); "
                            "expected question and answer")  # fmt: skip
    if not isinstance(value["answer"], str):
        raise DataError(f"{where}: 'answer' is a {type(value['answer']).__name__}; expected text")
    if not isinstance(value["question"], str | list):
        raise DataError(f"{where}: 'question' is a {type(value['question']).__name__}; expected text or messages")
    try:
        return as_chat(value["question"]), value["answer"]
    except DataError as e:
        raise DataError(f"{where}: in 'question', {e}") from None


def _output_row(value: Mapping[str, Any], correction: Correction) -> dict[str, Any]:
    return {
        **{k: v for k, v in value.items() if k not in _ADDED},
        "correction": correction.text,
        "diff": [[edit.op, edit.text] for edit in correction.diff],
        "kept_because": correction.kept_because,
        "flags": list(correction.flags),
        "edit_ratio": round(correction.edit_ratio, 4),
        "copied_share": round(correction.copied_share, 4),
    }


def _check_belongs(config: CorrectConfig, done: int, rows: int) -> None:
    """Refuse to go on with an output that was made from another input."""
    if done > rows:
        raise RunError(f"{config.output}: has {done} rows, the input only {rows}; they do not belong together, "
                       "choose another --output or pass --overwrite")  # fmt: skip
    if done:
        for before, after in zip(read_rows(config.input), read_rows(config.output), strict=False):
            same = all(before.value.get(k) == after.value.get(k) for k in ("question", "answer"))
            if not same:
                raise RunError(f"{config.output}:{after.line}: is not the correction of {config.input}:{before.line}; "
                               "choose another --output or pass --overwrite")  # fmt: skip
