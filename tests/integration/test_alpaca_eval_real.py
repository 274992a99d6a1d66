"""AlpacaEval's published verdicts, leaderboard and weights: raw win rates, and length control of models left out."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from aligner.evaluate.alpaca_eval import Verdicts, read_verdicts, win_rate
from aligner.evaluate.difficulty import estimate_difficulty
from aligner.evaluate.length_control import Coefficients, length_controlled
from aligner.evaluate.published import Published, read_published
from tests.real import REAL_DATA, needs_real_data

FOLDER = REAL_DATA / "alpaca_eval"
pytestmark = needs_real_data
# Weak and strong ones, short and long ones, and one that was made to deceive judges.
LEFT_OUT = (
    "FuseChat-Gemma-2-9B-Instruct", "Mixtral-8x7B-Instruct-v0.1_concise", "OpenHermes-2.5-Mistral-7B", "alpaca-7b",
    "claude-2", "claude-2.1_concise", "falcon-7b-instruct", "gemma-7b-it", "gpt-3.5-turbo-1106", "gpt4_gamed",
    "minichat-3b", "oasst-rlhf-llama-33b", "text_davinci_001", "vicuna-7b-v1.5", "wizardlm-13b",
)  # fmt: skip


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdicts]:
    return read_verdicts(FOLDER / "annotations.csv.xz")


@pytest.fixture(scope="module")
def published() -> Published:
    return read_published(FOLDER / "length_controlled_weights.csv", FOLDER / "leaderboard.csv")


def test_every_win_rate_is_the_published_one(verdicts: dict[str, Verdicts]) -> None:
    with (FOLDER / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        board = {row[""]: row for row in csv.DictReader(file)}
    assert len(verdicts) == 41
    for name, found in verdicts.items():
        ours, theirs = win_rate(found), board[name]
        assert ours.value == pytest.approx(float(theirs["win_rate"]), abs=0.01)
        assert ours.standard_error == pytest.approx(float(theirs["standard_error"]), abs=0.01)
        assert ours.discrete == pytest.approx(float(theirs["discrete_win_rate"]), abs=0.01)
        assert (ours.wins, ours.losses, ours.draws) == tuple(
            int(theirs[column]) for column in ("n_wins", "n_wins_base", "n_draws")
        )


def test_annotations_as_published_are_the_tables_rows(verdicts: dict[str, Verdicts]) -> None:
    found = read_verdicts(FOLDER / "annotations" / "claude-2.json.xz")["claude-2"]
    table = verdicts["claude-2"]
    assert found.instructions == table.instructions
    assert np.array_equal(found.preferences, table.preferences)
    assert np.array_equal(found.lengths, table.lengths)
    assert np.array_equal(found.baseline_lengths, table.baseline_lengths)


@pytest.mark.slow
def test_length_control_of_models_left_out(verdicts: dict[str, Verdicts], published: Published) -> None:
    errors = []
    for name in LEFT_OUT:
        difficulty = estimate_difficulty(verdicts, published, leave_out=name)
        found = length_controlled(verdicts[name], difficulty, by_row=True)
        errors.append(abs(found.win_rate - published.length_controlled[name]))
    assert np.mean(errors) <= 0.5
    assert max(errors) <= 1.0


def test_what_is_left_out_changes_nothing(verdicts: dict[str, Verdicts], published: Published) -> None:
    name = "claude-2"
    clean = length_controlled(verdicts[name], estimate_difficulty(verdicts, published, leave_out=name)).win_rate
    nonsense = dataclasses.replace(verdicts[name], preferences=verdicts[name].preferences[::-1])
    corrupted = Published(
        coefficients=dict(published.coefficients) | {name: Coefficients(length=40.0, difficulty=-8.0, model=3.0)},
        win_rates=dict(published.win_rates) | {name: 1.0},
        length_controlled=dict(published.length_controlled) | {name: 99.0},
    )
    difficulty = estimate_difficulty(verdicts | {name: nonsense}, corrupted, leave_out=name)
    assert length_controlled(verdicts[name], difficulty).win_rate == clean
    assert clean == pytest.approx(published.length_controlled[name], abs=1.0)
