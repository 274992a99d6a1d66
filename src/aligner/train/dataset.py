"""What a stage trains on and what it is measured on: triplets, and the rows mixed in, as rows of token ids on disk."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, Generic, TypeVar

from aligner.config import expand
from aligner.errors import DataError, PromptError
from aligner.prompts import PromptFormat
from aligner.rows import read_rows, storage_errors
from aligner.tokens import TextCodec
from aligner.train.config import TrainConfig
from aligner.train.edited import edited
from aligner.train.row_file import EncodedRow, RowFile, TooLong
from aligner.train.sentences import TrainingRow, sentence_rows
from aligner.train.text_rows import TextFormat, read_text_rows
from aligner.triplets import is_held_out, read_triplets, to_triplet
from aligner.types import Triplet

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Prepared:
    """What reading the data gave: datasets per stage, held-out triplets, and what was left out.

    `train` counts the triplets that the residual stage trains on, `mixed` the other rows it has besides, and
    `shortened` the triplets that had no room for their oldest turns.
    """

    stages: dict[str, Any] = field(default_factory=dict)
    held_out: list[Triplet] = field(default_factory=list)
    read: int = 0
    train: int = 0
    mixed: int = 0
    held_out_total: int = 0
    shortened: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class LowestRanked(Generic[T]):
    """Keeps the `limit` items of lowest rank, whatever the order they come in; of equals the first."""

    def __init__(self, limit: int) -> None:
        self.seen = 0
        self._limit = limit
        self._heap: list[tuple[int, int, T]] = []

    def add(self, rank: int, item: T) -> None:
        self.seen += 1
        push = heapq.heappush if len(self._heap) < self._limit else heapq.heappushpop
        push(self._heap, (-rank, -self.seen, item))

    def items(self) -> list[T]:
        return [item for _, _, item in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]


def data_files(patterns: tuple[str, ...], setting: str = "data") -> list[Path]:
    """The files that the configuration's patterns name, sorted within each.

    Raises:
        DataError: a pattern names no file, or an environment variable that is not set.
    """
    found: list[Path] = []
    for pattern in patterns:
        files = sorted(glob(str(expand(pattern, setting)), recursive=True))  # noqa: PTH207 - absolute patterns too
        if not files:
            raise DataError(f"{setting}: '{pattern}' names no file; check the path")
        found += [Path(f) for f in files]
    return list(dict.fromkeys(found))


def training_rows(triplet: Triplet, prompt: PromptFormat) -> Iterator[TrainingRow]:
    """What is learned of a triplet: itself, or its sentences."""
    if prompt.unit == "sentence":
        yield from sentence_rows(triplet)
    else:
        yield TrainingRow(triplet=triplet)


def encode_row(
    triplet: Triplet,
    prompt: PromptFormat,
    codec: TextCodec,
    max_length: int,
    prefix: str = "",
    behind: str = "",
    weigh_edits: bool = False,
) -> EncodedRow | None:
    """A row as training sees it and serving will; None where it does not fit. `prefix` and `behind` are what was
    corrected before and the white space after, where the row is a sentence; `weigh_edits` finds the edited tokens.

    The oldest turns of a long conversation are left out first, as in serving.

    Raises:
        PromptError: a text cannot be encoded.
    """
    completion = prompt.encode_correction(codec, triplet.correction)
    room = max_length - len(completion)
    if room < 1:
        return None
    encoded = prompt.encode(codec, triplet.chat, triplet.answer + behind, max_tokens=room, prefix=prefix)
    if len(encoded.ids) > room:
        return None
    differs = weigh_edits and triplet.answer != triplet.correction
    found = edited(prompt.encode_correction(codec, triplet.answer), completion) if differs else ()
    return EncodedRow(
        ids=(*encoded.ids, *completion), prompt_length=len(encoded.ids), edited=found, left_out=encoded.dropped_turns
    )


def prepare(
    config: TrainConfig,
    files: list[Path],
    prompt: PromptFormat,
    codec: TextCodec,
    directory: Path,
    write: bool = True,
    mix: list[Path] | None = None,
) -> Prepared:
    """Read all triplets once: held-out ones apart, the rest as rows of both stages into Arrow files; then the mix.

    Of several processes one writes; the others, after it, map what it wrote (`write=False`).

    Raises:
        DataError: a file cannot be read, a row cannot be encoded, there is nothing to train on, or every row is longer
            than `max_length`.
        PromptError: the tokenizer lacks a token that the format needs.
    """
    prompt.end_id(codec)  # what is wrong with the tokenizer is no row's fault
    prepared = Prepared()
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        writers = {name: RowFile(directory / f"{name}.arrow", write) for name in ("warmup", "residual")}
        too_long = _write_triplets(config, files, prompt, codec, writers, prepared)
        if not prepared.train:
            if too_long.rows:
                raise too_long.none_fits()
            raise DataError(f"data: no row to train on ({prepared.read} read, {prepared.held_out_total} held out); "
                            "name more files or lower 'held_out'")  # fmt: skip
        if mix:
            _write_mixed(config, mix, TextFormat(codec), writers, prepared)
        prepared.stages = {name: writer.close() for name, writer in writers.items()}
    return prepared


def _write_triplets(
    config: TrainConfig,
    files: list[Path],
    prompt: PromptFormat,
    codec: TextCodec,
    writers: dict[str, RowFile],
    prepared: Prepared,
) -> TooLong:
    too_long = TooLong(setting="data", max_length=config.max_length)
    measured: LowestRanked[Triplet] = LowestRanked(config.held_out_rows)
    for where, triplet in _located(files):
        prepared.read += 1
        if is_held_out(triplet, config.held_out, config.seed):
            measured.add(rank(triplet, config.seed), triplet)
            continue
        if not triplet.correction.strip():
            prepared.dropped["blank_correction"] += 1
            continue
        try:
            rows = [(r, _encoded(r, prompt, codec, config)) for r in training_rows(triplet, prompt)]
            for row, encoded in rows:
                if encoded is None:
                    prepared.dropped["too_long"] += 1
                    too_long.rows += 1
                    if not prepared.train:
                        too_long.longest = max(too_long.longest, _needed(row, prompt, codec))
                else:
                    writers["residual"].write(encoded)
            if not any(encoded is not None for _, encoded in rows):
                continue
            prepared.train += 1
            prepared.shortened += any(encoded is not None and encoded.left_out for _, encoded in rows)
            if not in_warmup(triplet, config):
                continue
            if not triplet.answer.strip():
                prepared.dropped["identity_blank"] += 1  # it would teach to write nothing
                continue
            identities = [_encoded(r, prompt, codec, config) for r in training_rows(triplet.identity(), prompt)]
        except PromptError as e:
            raise DataError(f"{where}: {e}") from None
        for identity in identities:
            if identity is None:
                prepared.dropped["identity_too_long"] += 1
            else:
                writers["warmup"].write(identity)
    prepared.held_out, prepared.held_out_total = measured.items(), measured.seen
    return too_long


def _write_mixed(
    config: TrainConfig, files: list[Path], text_format: TextFormat, writers: dict[str, RowFile], prepared: Prepared
) -> None:
    too_long = TooLong(setting="mix", max_length=config.max_length)
    for text_row in read_text_rows(*files):
        if not text_row.text.strip():
            prepared.dropped["mixed_blank"] += 1
            continue
        row = text_format.encode(text_row)
        if len(row.ids) > config.max_length:
            prepared.dropped["mixed_too_long"] += 1
            too_long.rows, too_long.longest = too_long.rows + 1, max(too_long.longest, len(row.ids))
            continue
        prepared.mixed += 1
        writers["residual"].write(row)
        if in_warmup(text_row.triplet, config):
            writers["warmup"].write(row)
    if not prepared.mixed and too_long.rows:
        raise too_long.none_fits()


def texts(files: list[Path], rows: int) -> Iterator[str]:
    """The texts of the first triplets, for a tokenizer to be trained on."""
    for i, triplet in enumerate(read_triplets(*files)):
        if i >= rows:
            return
        yield from (message.content for message in triplet.chat)
        yield triplet.answer
        yield triplet.correction


def rank(row: Triplet, seed: int) -> int:
    """A row's place, below 2**64, in a shuffle that depends on its id and the seed, not on the order of the files."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row.id}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


def in_warmup(row: Triplet, config: TrainConfig) -> bool:
    """Whether the warm-up has this row too."""
    return rank(row, config.seed + 1) < config.warmup.share * 2**64


def _located(files: list[Path]) -> Iterator[tuple[str, Triplet]]:
    for path in files:
        for row in read_rows(path):
            yield f"{path}:{row.line}", to_triplet(path, row)


def _encoded(row: TrainingRow, prompt: PromptFormat, codec: TextCodec, config: TrainConfig) -> EncodedRow | None:
    weigh = config.residual.edit_weight != 1
    return encode_row(row.triplet, prompt, codec, config.max_length, row.prefix, row.behind, weigh)


def _needed(row: TrainingRow, prompt: PromptFormat, codec: TextCodec) -> int:
    triplet = row.triplet
    return len(prompt.encode(codec, triplet.chat, triplet.answer + row.behind, prefix=row.prefix).ids) + len(
        prompt.encode_correction(codec, triplet.correction)
    )
