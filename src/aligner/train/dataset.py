"""Triplets to rows of token ids on disk: what a stage trains on, and the held-out rows it is measured on."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from aligner.errors import DataError
from aligner.prompts import PromptFormat
from aligner.rows import storage_errors
from aligner.tokens import TextCodec
from aligner.train.config import TrainConfig
from aligner.triplets import is_held_out, read_triplets
from aligner.types import Triplet


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow:
    """Ids of prompt and completion together; `prompt_length` says where the completion starts."""

    ids: tuple[int, ...]
    prompt_length: int


@dataclass(slots=True, kw_only=True)
class Prepared:
    """What reading the data gave: datasets per stage, held-out triplets, and what was left out."""

    stages: dict[str, Any] = field(default_factory=dict)
    held_out: list[Triplet] = field(default_factory=list)
    read: int = 0
    held_out_total: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def data_files(patterns: tuple[str, ...]) -> list[Path]:
    """The files that the configuration's patterns name, sorted within each.

    Raises:
        DataError: a pattern names no file, or an environment variable that is not set.
    """
    found: list[Path] = []
    for pattern in patterns:
        place = os.path.expanduser(os.path.expandvars(pattern))  # noqa: PTH111 - patterns, not yet paths
        if "$" in place:
            raise DataError(f"data: '{pattern}' uses an environment variable that is not set; set it or write the path")
        files = sorted(glob(place, recursive=True))  # noqa: PTH207 - absolute patterns too
        if not files:
            raise DataError(f"data: '{pattern}' names no file; check the path")
        found += [Path(f) for f in files]
    return list(dict.fromkeys(found))


def encode_row(triplet: Triplet, prompt: PromptFormat, codec: TextCodec, max_length: int) -> EncodedRow | None:
    """A triplet as training sees it and serving will; None where it does not fit.

    The oldest turns of a long conversation are left out first, as in serving.

    Raises:
        PromptError: a text cannot be encoded.
    """
    completion = prompt.encode_correction(codec, triplet.correction)
    room = max_length - len(completion)
    if room < 1:
        return None
    encoded = prompt.encode(codec, triplet.chat, triplet.answer, max_tokens=room)
    if len(encoded.ids) > room:
        return None
    return EncodedRow(ids=(*encoded.ids, *completion), prompt_length=len(encoded.ids))


class _RowFile:
    """Appends rows to an Arrow file, which training then maps into memory instead of holding it there."""

    def __init__(self, path: Path, write: bool) -> None:
        self._path = path
        self._writer: Any = None
        self.rows = 0
        if not write:  # another process has written it, and has it mapped
            return
        from datasets import Features, Sequence, Value
        from datasets.arrow_writer import ArrowWriter

        features = Features({
            "input_ids": Sequence(Value("int32")),
            "completion_mask": Sequence(Value("int8")),
            "length": Value("int32"),
        })  # fmt: skip
        self._writer = ArrowWriter(path=str(path), features=features)

    def write(self, row: EncodedRow) -> None:
        mask = [0] * row.prompt_length + [1] * (len(row.ids) - row.prompt_length)
        if self._writer is not None:
            self._writer.write({"input_ids": list(row.ids), "completion_mask": mask, "length": len(row.ids)})
        self.rows += 1

    def close(self) -> Any:
        from datasets import Dataset

        if not self.rows:
            if self._writer is not None:
                self._writer.close()
            return None
        if self._writer is not None:
            self._writer.finalize()
        return Dataset.from_file(str(self._path))


def prepare(
    config: TrainConfig, files: list[Path], prompt: PromptFormat, codec: TextCodec, directory: Path, write: bool = True
) -> Prepared:
    """Read all triplets once: held-out ones apart, the rest as rows of both stages into Arrow files.

    Of several processes one writes; the others, after it, map what it wrote (`write=False`).

    Raises:
        DataError: a file cannot be read, there is nothing to train on, or every row is longer than `max_length`.
    """
    prepared = Prepared()
    longest = 0
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        writers = {name: _RowFile(directory / f"{name}.arrow", write) for name in ("warmup", "residual")}
        measured: list[tuple[int, int, Triplet]] = []
        for triplet in read_triplets(*files):
            prepared.read += 1
            if is_held_out(triplet, config.held_out, config.seed):
                prepared.held_out_total += 1
                entry = (-_rank(triplet, config.seed), -prepared.read, triplet)
                push = heapq.heappush if len(measured) < config.held_out_rows else heapq.heappushpop
                push(measured, entry)
                continue
            if not triplet.correction.strip():
                prepared.dropped["blank_correction"] += 1
                continue
            row = encode_row(triplet, prompt, codec, config.max_length)
            if row is None:
                prepared.dropped["too_long"] += 1
                longest = max(longest, _needed(triplet, prompt, codec)) if not writers["residual"].rows else longest
                continue
            writers["residual"].write(row)
            if _rank(triplet, config.seed + 1) < config.warmup.share * 2**64:
                identity = encode_row(triplet.identity(), prompt, codec, config.max_length)
                if identity is None:
                    prepared.dropped["identity_too_long"] += 1
                else:
                    writers["warmup"].write(identity)
        prepared.stages = {name: writer.close() for name, writer in writers.items()}
    prepared.held_out = [triplet for _, _, triplet in sorted(measured, key=lambda entry: (-entry[0], -entry[1]))]
    if prepared.stages["residual"] is None:
        if prepared.dropped["too_long"]:
            raise DataError(
                f"data: all {prepared.dropped['too_long']} training rows are longer than max_length "
                f"({config.max_length} tokens); the longest needs {longest}: set max_length to that"
            )
        raise DataError(f"data: no row to train on ({prepared.read} read, {prepared.held_out_total} held out); "
                        "name more files or lower 'held_out'")  # fmt: skip
    return prepared


def texts(files: list[Path], rows: int) -> Iterator[str]:
    """The texts of the first triplets, for a tokenizer to be trained on."""
    for i, triplet in enumerate(read_triplets(*files)):
        if i >= rows:
            return
        yield from (message.content for message in triplet.chat)
        yield triplet.answer
        yield triplet.correction


def _needed(triplet: Triplet, prompt: PromptFormat, codec: TextCodec) -> int:
    return len(prompt.encode(codec, triplet.chat, triplet.answer).ids) + len(
        prompt.encode_correction(codec, triplet.correction)
    )


def _rank(triplet: Triplet, seed: int) -> int:
    """A triplet's place in a shuffle that depends on its id and the seed, not on the order of the files."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{triplet.id}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
