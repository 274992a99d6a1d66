"""AlpacaEval 2's verdicts: a judge's preference between a baseline's answer and a model's, and the win rate of it."""

from __future__ import annotations

import csv
import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from aligner.errors import DataError
from aligner.rows import open_text, read_rows

_TABLE = ("model", "instruction_sha256", "generator_1", "generator_2", "characters_1", "characters_2", "preference")
_ROW = ("instruction", "output_1", "output_2", "generator_1", "generator_2", "preference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the judge said of one model, a value per question; lengths are in characters.

    A preference is from 0 (the baseline is better) to 1 (the model is better); NaN is not scored.
    """

    model: str
    baseline: str
    instructions: tuple[str, ...]
    preferences: Float[np.ndarray, " questions"]
    baseline_lengths: Float[np.ndarray, " questions"]
    lengths: Float[np.ndarray, " questions"]

    def __len__(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """In per cent; `discrete` counts a verdict as won, lost or drawn, `value` counts how sure the judge was."""

    value: float | None
    standard_error: float | None
    discrete: float | None
    wins: int
    losses: int
    draws: int
    unscored: int


def win_rate(verdicts: Verdicts) -> WinRate:
    """AlpacaEval 2's win rate: the mean preference (Dubois et al. 2024, section 2); None where nothing is scored."""
    scored = verdicts.preferences[~np.isnan(verdicts.preferences)]
    wins, draws = int((scored > 0.5).sum()), int((scored == 0.5).sum())
    n = len(scored)
    return WinRate(
        value=100 * float(scored.mean()) if n else None,
        standard_error=100 * float(scored.std(ddof=1)) / math.sqrt(n) if n > 1 else None,
        discrete=100 * (wins + draws / 2) / n if n else None,
        wins=wins,
        losses=n - wins - draws,
        draws=draws,
        unscored=len(verdicts) - n,
    )


def instruction_key(instruction: str) -> str:
    """The name of an instruction in verdict tables: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(instruction.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_verdicts(path: str | Path) -> dict[str, Verdicts]:
    """Read verdicts by model, from a table (.csv) or from a model's annotations as published (.json, .jsonl); .gz and
    .xz are opened. Preferences are written from 1 (the first is better) to 2; 0 is a draw, an empty one not scored.

    Raises:
        DataError: a row lacks a field, a number is none, one question is judged twice, or there are two baselines.
    """
    path = Path(path)
    kind = next((s.lower() for s in reversed(path.suffixes) if s.lower() not in (".gz", ".xz")), "")
    columns: dict[str, _Columns] = {}
    for where, row in _table_rows(path) if kind == ".csv" else _json_rows(path):
        model = row["model"]
        if model not in columns:
            columns[model] = _Columns(model, row["generator_1"])
        columns[model].add(where, row)
    return {model: found.verdicts() for model, found in columns.items()}


class _Columns:
    """One model's rows on their way into arrays."""

    def __init__(self, model: str, baseline: str) -> None:
        self.model, self.baseline = model, baseline
        self.met: dict[str, None] = {}
        self.values = [array("d") for _ in range(3)]

    def add(self, where: str, row: Mapping[str, str]) -> None:
        key = row["instruction_sha256"]
        if key in self.met:
            raise DataError(f"{where}: the question {key} is judged twice for '{self.model}'; give one verdict each")
        if row["generator_1"] != self.baseline or row["generator_2"] != self.model:
            raise DataError(f"{where}: '{row['generator_2']}' against '{row['generator_1']}'; expected '{self.model}' "
                            f"as generator_2 against '{self.baseline}' as in the rows before")  # fmt: skip
        self.met[key] = None
        numbers = (_preference(where, row["preference"]), *(_length(where, row[f"characters_{i}"]) for i in (1, 2)))
        for column, number in zip(self.values, numbers, strict=True):
            column.append(number)

    def verdicts(self) -> Verdicts:
        preferences, baseline_lengths, lengths = (np.array(column) for column in self.values)
        return Verdicts(
            model=self.model,
            baseline=self.baseline,
            instructions=tuple(self.met),
            preferences=preferences,
            baseline_lengths=baseline_lengths,
            lengths=lengths,
        )


def csv_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line, row) of a CSV file with a header; an unnamed first column is called "".

    Raises:
        DataError: the file is missing, has no rows, or lacks a column or a cell.
    """
    with open_text(path) as file:
        rows = csv.reader(file)
        header = next(rows, [])
        missing = [name for name in needed if name not in header]
        if missing:
            raise DataError(f"{path}:1: no column is called '{missing[0]}' (found: {', '.join(header) or 'none'}); "
                            f"expected {', '.join(needed)}")  # fmt: skip
        empty = True
        for cells in rows:
            where = f"{path}:{rows.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells under {len(header)} columns; the file may be cut")
            empty = False
            yield where, dict(zip(header, cells, strict=True))
        if empty:
            raise DataError(f"{path}: the table holds no rows; give one with {', '.join(needed)}")


def number(where: str, name: str, text: str) -> float:
    """A finite number, or a DataError that says where it should stand."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: '{name}' is {text!r}; expected a number")
    return value


def _table_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    yield from csv_rows(path, _TABLE)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for row in read_rows(path):
        where, value = f"{path}:{row.line}", row.value
        for name in _ROW:
            if name not in value:
                raise DataError(f"{where}: the field '{name}' is missing (found: {', '.join(value) or 'none'}); "
                                f"expected {', '.join(_ROW)}")  # fmt: skip
            if name != "preference" and not isinstance(value[name], str):
                raise DataError(f"{where}: '{name}' is a {type(value[name]).__name__}; expected text")
        yield (
            where,
            {
                "model": value["generator_2"],
                "instruction_sha256": instruction_key(value["instruction"]),
                "generator_1": value["generator_1"],
                "generator_2": value["generator_2"],
                "characters_1": str(len(value["output_1"])),
                "characters_2": str(len(value["output_2"])),
                "preference": "" if value["preference"] is None else str(value["preference"]),
            },
        )


def _preference(where: str, text: str) -> float:
    if text.strip().lower() in ("", "nan", "none", "null"):
        return math.nan
    value = number(where, "preference", text)
    if value == 0:
        return 0.5
    if not 1 <= value <= 2:
        raise DataError(f"{where}: 'preference' is {text}; expected 1 (the first is better) to 2 (the second), or 0")
    return value - 1


def _length(where: str, text: str) -> float:
    value = number(where, "characters", text)
    if value < 0 or value != int(value):
        raise DataError(f"{where}: an answer has {text} characters; expected a whole number, 0 or more")
    return value
