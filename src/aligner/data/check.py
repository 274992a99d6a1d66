"""`aligner data check`: what is in files of triplets, and what is wrong with them, before any training."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from aligner import edits
from aligner.config import Config
from aligner.errors import ConfigError, DataError
from aligner.rows import read_rows
from aligner.triplets import to_triplet
from aligner.types import Triplet, content_hash

_SHOWN = 20


class CheckConfig(Config):
    """Look at files of triplets: counts per source, lengths, copies, duplicates, rows that cannot be used."""

    files: tuple[Path, ...] = Field(min_length=1)
    """JSON lists or JSONL files, plain, .gz or .xz."""
    tokenizer: str | None = None
    """Directory or Hub id of a tokenizer, to count tokens with; without it lengths are in words."""
    max_length: int | None = None
    """With a tokenizer: count the rows whose question, answer and correction have more tokens than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCheck:
    """One source's figures; lengths are medians, in words or, with a tokenizer, in tokens."""

    source: str
    rows: int
    identical: int
    duplicates: int
    blank: int
    too_long: int
    question_length: float
    answer_length: float
    correction_length: float
    edit_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found: figures per source, and the unusable rows (their number, and the first of them in words)."""

    sources: tuple[SourceCheck, ...]
    unusable: int
    problems: tuple[str, ...]


class _Tally:
    """Running figures of one source: counters, and eight bytes per row and figure."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.hashes = array("Q")
        self.lengths = {name: array("L") for name in ("question", "answer", "correction")}
        self.ratios = array("f")

    def add(self, triplet: Triplet, lengths: dict[str, int], too_long: bool) -> None:
        self.counts["rows"] += 1
        self.counts["identical"] += triplet.answer == triplet.correction
        self.counts["blank"] += not triplet.answer.strip() or not triplet.correction.strip()
        self.counts["too_long"] += too_long
        self.hashes.append(int(content_hash(triplet.question_key, triplet.answer, triplet.correction), 16))
        self.ratios.append(edits.edit_ratio(triplet.answer, triplet.correction))
        for name, length in lengths.items():
            self.lengths[name].append(length)

    def result(self, source: str) -> SourceCheck:
        return SourceCheck(
            source=source,
            rows=self.counts["rows"],
            identical=self.counts["identical"],
            duplicates=len(self.hashes) - len(np.unique(np.frombuffer(self.hashes, dtype=np.uint64))),
            blank=self.counts["blank"],
            too_long=self.counts["too_long"],
            question_length=float(np.median(self.lengths["question"])),
            answer_length=float(np.median(self.lengths["answer"])),
            correction_length=float(np.median(self.lengths["correction"])),
            edit_ratio=float(np.mean(np.frombuffer(self.ratios, dtype=np.float32))),
        )


def check(config: CheckConfig) -> Check:
    """Read every file to its end; a row that is no triplet is counted and named, the rest is measured.

    Raises:
        DataError: a file that cannot be read as JSON.
        CheckpointError: the tokenizer cannot be loaded.
    """
    if config.max_length is not None and config.tokenizer is None:
        raise ConfigError("'max_length' counts tokens; name the tokenizer to count with (--tokenizer)")
    measure = _measure(config.tokenizer)
    tallies: dict[str, _Tally] = {}
    problems: list[str] = []
    unusable = 0
    for item in _rows(config.files):
        if isinstance(item, str):
            unusable += 1
            if len(problems) < _SHOWN:
                problems.append(item)
            continue
        lengths = {
            "question": measure(item.question_key),
            "answer": measure(item.answer),
            "correction": measure(item.correction),
        }
        too_long = config.max_length is not None and sum(lengths.values()) > config.max_length
        source = item.source.split("/")[0]
        tallies.setdefault(source, _Tally()).add(item, lengths, too_long)
    return Check(
        sources=tuple(tally.result(source) for source, tally in sorted(tallies.items())),
        unusable=unusable,
        problems=tuple(problems),
    )


def _rows(files: tuple[Path, ...]) -> Iterator[Triplet | str]:
    for path in files:
        for row in read_rows(path):
            try:
                yield to_triplet(path, row)
            except DataError as e:
                yield str(e)


def _measure(tokenizer: str | None) -> Any:
    if tokenizer is None:
        return lambda text: len(edits.words(text))
    from aligner.generate.hf import load_tokenizer
    from aligner.tokens import TextCodec

    codec = TextCodec(load_tokenizer(tokenizer))
    return lambda text: len(codec.encode(text))
