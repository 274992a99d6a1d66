"""`aligner correct`: every answer of a JSONL file corrected, in order, resumable row by row."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator
from rich.console import Console
from rich.progress import track

from aligner.config import Config
from aligner.correct.aligner import Aligner
from aligner.correct.gate import GateMode
from aligner.correct.guards import GuardPolicy
from aligner.correct.keep_best import KeepBest, load_ranker
from aligner.correct.loading import check_options, load_corrector
from aligner.correct.output import Output, check_same, claimed, has_failed
from aligner.correct.remote import RemoteAligner, Sends
from aligner.errors import DataError, RunError
from aligner.generate.hf import Dtype, Quantize
from aligner.rows import Row, read_rows
from aligner.runs import Existing
from aligner.types import Chat, Correction, Sampling, as_chat

# What a row gains. A field of the input with such a name, as triplets have, is kept under "input_<name>".
_ADDED = ("correction", "diff", "kept_because", "flags", "edit_ratio", "copied_share", "error", "gate")

# Settings of which the corrections do not depend, so that an output may be gone on with by others.
_FREE = ("input", "output", "aligner_key_env", "max_rows", "cache_tokens", "speculate", "device")


class CorrectConfig(Config):
    """Correct the answers of a file: rows with question and answer in, the same rows with a correction out."""

    aligner: str
    """The corrector: a directory, a training run or a Hub id; or the address of a server that runs it, such as
    http://localhost:8001/v1."""
    input: Path
    """JSONL or JSON list (plain, .gz or .xz); every row has a question (text or messages) and an answer."""
    output: Path
    """JSONL; rows in the input's order with all their fields, and correction, diff and kept_because added."""
    tokenizer: str | None = None
    """For a corrector behind an address: the directory with its tokenizer, config.json and aligner.json."""
    served_aligner: str | None = None
    """For a corrector behind an address: its name there; left out, the only model that is served."""
    aligner_takes: Sends = "ids"
    """For a corrector behind an address: whether its server takes token ids (vLLM, llama.cpp) or text only."""
    aligner_key_env: str | None = None
    """The environment variable with the key for that address."""
    prompt: str | None = None
    """The prompt format of a checkpoint without aligner.json: aligner-v1, aligner-repo or chat."""
    max_rows: int = Field(default=64, ge=1)
    """Answers corrected at the same time."""
    cache_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the cache may hold: answers at a time × the longest of them; lower it where memory runs out."""
    speculate: bool = True
    """Verify each answer in place of writing it token by token: faster, and the corrections are the same."""
    gate: GateMode = "off"
    """Let answers through untouched that one pass finds good enough: of all that need a correction, "balanced" loses
    the correction of 1 % at most, "strict" of 0.2 %, as calibrated after training or by `aligner calibrate`."""
    best_of: int = Field(default=1, ge=1)
    """Corrections of each answer, the first as below and the others sampled; what `scorer` ranks highest is kept, the
    answer itself included."""
    scorer: str | None = None
    """Who ranks them: self (the corrector, by how likely it is to leave each as it is), a reward model (a directory or
    a Hub id), or `module:callable`, which returns a scorer or a judge."""
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How much more than the answer a correction must score to be kept, in the scorer's units: a scorer that errs makes
    fewer answers worse with some."""
    device: str | None = None
    """cpu, cuda, …; left out: the accelerator where there is one."""
    dtype: Dtype = "auto"
    """Arithmetic; auto keeps what the checkpoint was saved in."""
    quantize: Quantize = "none"
    """Keep the weights in 8 or 4 bits, for less memory; takes the extra [quant]."""
    guards: GuardPolicy = GuardPolicy()
    """What each guard does when it fires."""
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.best_of > 1) != (self.scorer is not None):
            raise ValueError("'best_of' (2 or more) and 'scorer', which ranks the corrections, are given together")
        if self.margin and self.scorer is None:
            raise ValueError("'margin' is for a 'scorer', which ranks the corrections; give both")
        check_options(self, self.aligner)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectSummary:
    """What became of the rows of one call: `skipped` were done before, `kept` are counted by reason. `passed` of the
    copies were let through by the gate. `failed` of the kept ones would be done again.

    `first_error` is what the first failed row says; None where none failed.
    """

    output: Path
    rows: int
    skipped: int
    changed: int
    copies: int
    passed: int
    kept: Mapping[str, int]
    failed: int
    first_error: str | None


def run(config: CorrectConfig, existing: Existing = "refuse") -> CorrectSummary:
    """Correct the input into the output; each row is on disk before the next is waited for.

    The whole input is checked before the model is loaded, so no paid-for work is lost to a bad last row. With
    existing="resume" the rows that failed are done again, in their places, and those that are missing.

    Raises:
        DataError: the input cannot be read or a row lacks question or answer.
        RunError: the output exists (without resume or overwrite), another process writes it, or it belongs to another
            input or to other settings.
        CheckpointError, StorageError: the corrector cannot be loaded, the output not written.
    """
    rows = sum(1 for row in read_rows(config.input) if _pair(config.input, row))
    if config.output.resolve() == config.input.resolve():
        raise RunError(f"{config.output}: is the input itself; choose another --output")
    with claimed(config.output, existing):
        anew = existing != "resume" or not config.output.exists()
        if not anew:
            check_same(config.output, config.input, rows, config, _FREE)
        return _run(config, rows, anew)


def _run(config: CorrectConfig, rows: int, anew: bool) -> CorrectSummary:
    counts: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    first_error: str | None = None
    with _aligner(config) as aligner:
        corrector: Aligner | KeepBest | RemoteAligner = aligner
        if config.scorer is not None and isinstance(aligner, Aligner):
            ranker = load_ranker(config.scorer, aligner, config.device, config.dtype)
            corrector = KeepBest(aligner=aligner, ranker=ranker, count=config.best_of, margin=config.margin)
        # Only now: a corrector that does not load must not have cost an output that was there before.
        with Output(config.output, config, anew=anew) as output:
            skipped = output.rows - len(output.failed)
            done = _corrections(config.input, corrector, output.missing)
            for i, row, correction in _shown(done, rows - skipped):
                made = _output_row(row.value, correction)
                output.write(i, made)
                counts["rows"] += 1
                counts["changed"] += not correction.is_copy
                counts["copies"] += correction.is_copy and correction.kept_because is None
                counts["passed"] += correction.gate is not None and correction.gate.passed
                if correction.kept_because is not None:
                    kept[correction.kept_because] += 1
                if has_failed(made):
                    counts["failed"] += 1
                    first_error = first_error or correction.completion.error or f"it was {correction.kept_because}"
    return CorrectSummary(
        output=config.output,
        rows=counts["rows"],
        skipped=skipped,
        changed=counts["changed"],
        copies=counts["copies"],
        passed=counts["passed"],
        kept=dict(kept),
        failed=counts["failed"],
        first_error=first_error,
    )


def _aligner(config: CorrectConfig) -> Aligner | RemoteAligner:
    sampling = Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    return load_corrector(
        config.aligner,
        tokenizer=config.tokenizer,
        served=config.served_aligner,
        sends=config.aligner_takes,
        api_key_env=config.aligner_key_env,
        quotes=True,  # the errors stand beside the texts
        prompt=config.prompt,
        device=config.device,
        dtype=config.dtype,
        sampling=sampling,
        max_rows=config.max_rows,
        cache_tokens=config.cache_tokens,
        speculate=config.speculate,
        gate=config.gate,
        guards=config.guards,
        quantize=config.quantize,
    )


def _corrections(
    path: Path, corrector: Aligner | KeepBest | RemoteAligner, missing: Callable[[int], bool]
) -> Iterator[tuple[int, Row, Correction]]:
    waiting: deque[tuple[int, Row]] = deque()

    def pairs() -> Iterator[tuple[Chat, str]]:
        for i, row in enumerate(read_rows(path)):
            if missing(i):
                waiting.append((i, row))
                yield _pair(path, row)

    for correction in corrector.correct_batch(pairs()):
        yield *waiting.popleft(), correction


def _shown(done: Iterator[tuple[int, Row, Correction]], total: int) -> Iterator[tuple[int, Row, Correction]]:
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
    names = {k: _free_name(k, value) if k in _ADDED else k for k in value}
    return {
        **{names[k]: v for k, v in value.items()},
        "correction": correction.text,
        "diff": [[edit.op, edit.text] for edit in correction.diff],
        "kept_because": correction.kept_because,
        "error": correction.completion.error,
        "flags": list(correction.flags),
        "gate": asdict(correction.gate) if correction.gate is not None else None,
        "edit_ratio": round(correction.edit_ratio, 4),
        "copied_share": round(correction.copied_share, 4),
    }


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    """Rows that were corrected before have an `input_correction`, which may be all that is left of a reference."""
    tried = (f"input_{name}_{i}" if i > 1 else f"input_{name}" for i in count(1))
    return next(free for free in tried if free not in taken)
