"""What the makers of AlpacaEval 2 publish: the coefficients of their length-controlled fits, and their win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aligner.errors import DataError
from aligner.evaluate.alpaca_eval import csv_rows, number
from aligner.evaluate.length_control import Coefficients, Questions

_LENGTH, _DIFFICULTY, _MODEL = (
    "np.tanh(std_delta_len)",
    "instruction_difficulty",
    "not_gamed_baseline.astype(float)",
)
_WIN_RATE, _CONTROLLED = "win_rate", "length_controlled_winrate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """By model: coefficients, win rates and length-controlled win rates in per cent."""

    coefficients: Mapping[str, Coefficients]
    win_rates: Mapping[str, float]
    length_controlled: Mapping[str, float]

    def without(self, *models: str) -> Published:
        """All that is published of the other models."""
        left_out = set(models)
        return Published(
            coefficients={name: value for name, value in self.coefficients.items() if name not in left_out},
            win_rates={name: value for name, value in self.win_rates.items() if name not in left_out},
            length_controlled={name: value for name, value in self.length_controlled.items() if name not in left_out},
        )


def read_published(weights: str | Path, leaderboard: str | Path) -> Published:
    """Read the weights file and the leaderboard file of AlpacaEval 2, as published (.csv, .gz and .xz are opened).

    Raises:
        DataError: a file is missing, lacks a column, or has something else where a number should stand.
    """
    coefficients, rates, controlled = {}, {}, {}
    for where, row in csv_rows(Path(weights), ("", _LENGTH, _DIFFICULTY, _MODEL)):
        length, difficulty, model = (number(where, name, row[name]) for name in (_LENGTH, _DIFFICULTY, _MODEL))
        coefficients[row[""]] = Coefficients(length=length, difficulty=difficulty, model=model)
    for where, row in csv_rows(Path(leaderboard), ("", _WIN_RATE, _CONTROLLED)):
        rates[row[""]] = number(where, _WIN_RATE, row[_WIN_RATE])
        if row[_CONTROLLED]:
            controlled[row[""]] = number(where, _CONTROLLED, row[_CONTROLLED])
    return Published(coefficients=coefficients, win_rates=rates, length_controlled=controlled)


def read_difficulty(path: str | Path, instructions: Sequence[str]) -> Questions:
    """Read the official difficulty file: a row per instruction, its number (from 0) first and its difficulty last.

    Args:
        path: of the CSV file.
        instructions: in the order of the evaluation set, which the numbers refer to.

    Raises:
        DataError: a number stands twice, is missing, or is none of these instructions'.
    """
    found: dict[int, float] = {}
    for where, row in csv_rows(Path(path), ()):
        cells = list(row.values())
        place = number(where, "the first column", cells[0])
        if len(cells) < 2 or place != int(place) or not 0 <= place < len(instructions) or place in found:
            raise DataError(f"{where}: expected the number of an instruction (0 to {len(instructions) - 1}, each once) "
                            "and its difficulty")  # fmt: skip
        found[int(place)] = number(where, "the last column", cells[-1])
    if len(found) < len(instructions):
        lacking = next(i for i in range(len(instructions)) if i not in found)
        raise DataError(f"{path}: {len(instructions) - len(found)} instructions have no difficulty, the first is "
                        f"number {lacking}; give the file of this evaluation set")  # fmt: skip
    return np.array([found[i] for i in range(len(instructions))])
