"""AlpacaEval's verdicts and win rates by hand, the length-controlled fit beside scipy, and a fit that is recovered."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from aligner.errors import DataError
from aligner.evaluate.alpaca_eval import Verdicts, instruction_key, read_verdicts, win_rate
from aligner.evaluate.difficulty import estimate_difficulty, known_difficulty
from aligner.evaluate.length_control import (
    Coefficients,
    Difficulty,
    Pull,
    fit,
    length_controlled,
    length_feature,
    predicted_win_rate,
)
from aligner.evaluate.published import Published, read_difficulty, read_published

HEADER = "model,instruction_sha256,generator_1,generator_2,characters_1,characters_2,preference\n"
NO_PULL = Pull(centre=np.zeros(2), slope=np.zeros(2), curvature=np.zeros((2, 2)))


def verdicts_of(preferences: list[float], lengths: list[float] | None = None, model: str = "m") -> Verdicts:
    n = len(preferences)
    return Verdicts(
        model=model,
        baseline="base",
        instructions=tuple(f"q{i}" for i in range(n)),
        preferences=np.array(preferences),
        baseline_lengths=np.full(n, 100.0),
        lengths=np.array(lengths if lengths is not None else [100.0] * n),
    )


class World:
    """Models with known coefficients on questions of known difficulty; preferences are their exact chances."""

    def __init__(self, models: int, questions: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.difficulty = rng.normal(0, 1.5, questions)
        self.verdicts: dict[str, Verdicts] = {}
        coefficients, controlled = {}, {}
        for i in range(models):
            model = Coefficients(
                length=rng.normal(-1.8, 0.3), difficulty=rng.normal(0.9, 0.15), model=rng.normal(-2, 1)
            )
            name = f"m{i}"
            found = verdicts_of([0.5] * questions, (100 + rng.normal(0, 40, questions)).round().tolist(), name)
            z = model.length * length_feature(found) + model.difficulty * self.difficulty + model.model
            self.verdicts[name] = dataclasses.replace(found, preferences=1 / (1 + np.exp(-z)))
            coefficients[name] = model
            controlled[name] = predicted_win_rate(model, self.difficulty)
        self.published = Published(coefficients=coefficients, win_rates={}, length_controlled=controlled)


def test_win_rate_by_hand() -> None:
    found = win_rate(verdicts_of([1.0, 0.9, 0.5, 0.2, float("nan")]))
    assert found.value == pytest.approx(65.0)
    assert found.discrete == pytest.approx(62.5)
    assert (found.wins, found.losses, found.draws, found.unscored) == (2, 1, 1, 1)
    assert found.standard_error == pytest.approx(100 * np.std([1, 0.9, 0.5, 0.2], ddof=1) / 2)
    assert win_rate(verdicts_of([float("nan")])).value is None


def test_a_table_and_annotations_are_read_alike(tmp_path: Path) -> None:
    key = instruction_key("Say hé.")
    (tmp_path / "t.csv").write_text(HEADER + f"m,{key},base,m,2,5,1.25\nm,other,base,m,7,9,\nm,third,base,m,7,9,0\n")
    table = read_verdicts(tmp_path / "t.csv")["m"]
    assert table.preferences == pytest.approx([0.25, np.nan, 0.5], nan_ok=True)
    assert (table.baseline, table.lengths.tolist()) == ("base", [5, 9, 9])
    row = {"instruction": "Say hé.", "output_1": "hé", "output_2": "hé hé", "generator_1": "base", "generator_2": "m"}
    rows = [row | {"preference": 1.25}, row | {"instruction": "x", "preference": None}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    annotations = read_verdicts(tmp_path / "a.json")["m"]
    assert annotations.instructions[0] == key
    assert annotations.lengths[0] == table.lengths[0]
    assert annotations.preferences == pytest.approx([0.25, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("m,q,base,m,2,5,1.2\nm,q,base,m,2,5,1.2\n", r"t\.csv:3: the question q is judged twice"),
        ("m,q,base,m,2,5,1.2\nm,r,other,m,2,5,1.2\n", "'m' against 'other'"),
        ("m,q,base,m,2,5,2.5\n", "'preference' is 2.5"),
        ("m,q,base,m,2,5,good\n", "'preference' is 'good'"),
        ("m,q,base,m,2,-5,1\n", "-5 characters"),
        ("m,q,base\n", "3 cells under 7 columns"),
        ("", "no rows"),
    ],
)
def test_bad_tables_are_told(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(HEADER + rows)
    with pytest.raises(DataError, match=message):
        read_verdicts(tmp_path / "t.csv")


def test_a_missing_column_or_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,preference\nm,1\n")
    with pytest.raises(DataError, match="no column is called 'instruction_sha256'"):
        read_verdicts(tmp_path / "t.csv")
    (tmp_path / "a.jsonl").write_text('{"instruction": "x"}\n')
    with pytest.raises(DataError, match="'output_1' is missing"):
        read_verdicts(tmp_path / "a.jsonl")


def test_published_files_are_read(tmp_path: Path) -> None:
    names = ",np.tanh(std_delta_len),instruction_difficulty,not_gamed_baseline.astype(float)\n"
    (tmp_path / "w.csv").write_text(names + "m,-1.5,0.8,-2\nn,-1,1,0\n")
    (tmp_path / "l.csv").write_text(",win_rate,length_controlled_winrate\nm,12.5,20\nn,50,\n")
    found = read_published(tmp_path / "w.csv", tmp_path / "l.csv")
    assert found.coefficients["m"] == Coefficients(length=-1.5, difficulty=0.8, model=-2)
    assert (found.win_rates, found.length_controlled) == ({"m": 12.5, "n": 50}, {"m": 20})
    assert set(found.without("m").coefficients) == {"n"}
    (tmp_path / "d.csv").write_text(",instruction_difficulty\n1,0.5\n0,-0.5\n")
    assert read_difficulty(tmp_path / "d.csv", ["a", "b"]).tolist() == [-0.5, 0.5]
    with pytest.raises(DataError, match="number of an instruction"):
        read_difficulty(tmp_path / "d.csv", ["a"])
    with pytest.raises(DataError, match="the first is number 2"):
        read_difficulty(tmp_path / "d.csv", ["a", "b", "c"])


def test_length_feature_by_hand() -> None:
    """Gaps of 10 and −10 have the standard deviation √200, and tanh(10 / √200) = tanh(0.7071) = 0.6089."""
    assert length_feature(verdicts_of([1, 0], [90, 110])) == pytest.approx([0.60886, -0.60886], abs=1e-5)
    assert length_feature(verdicts_of([1, 0])).tolist() == [0, 0]


def test_the_fit_is_scipys_optimum_with_and_without_pull_and_weights() -> None:
    rng = np.random.default_rng(1)
    design = np.column_stack([rng.normal(size=(200, 2)), np.ones(200)])
    preferences = rng.random(200)
    weights = np.stack([np.ones(200), rng.integers(0, 4, 200).astype(float)])
    strong = Pull(centre=np.array([-1.0, 1]), slope=np.array([3.0, -2]), curvature=np.array([[9.0, 2], [2, 20]]))
    for pull in (NO_PULL, strong):
        for ours, w in zip(fit(design, preferences, weights, pull), weights, strict=True):

            def loss(theta: np.ndarray, w: np.ndarray = w, pull: Pull = pull) -> float:
                z = design @ theta
                v = theta[:2] - pull.centre
                own = (w * (preferences * np.logaddexp(0, -z) + (1 - preferences) * np.logaddexp(0, z))).sum()
                return float(own + pull.slope @ theta[:2] + v @ pull.curvature @ v / 2)

            assert ours == pytest.approx(optimize.minimize(loss, np.zeros(3), tol=1e-10).x, abs=1e-4)


def test_with_known_difficulty_the_coefficients_and_the_win_rate_are_found() -> None:
    world = World(10, 300)
    for name, found in world.verdicts.items():
        difficulty = Difficulty(instructions=found.instructions, values=world.difficulty, pull=NO_PULL)
        result = length_controlled(found, difficulty)
        assert result.coefficients.values() == pytest.approx(world.published.coefficients[name].values(), abs=1e-3)
        assert result.win_rate == pytest.approx(world.published.length_controlled[name], abs=0.01)
        assert result.interval is None
    known = known_difficulty(world.difficulty, world.verdicts, world.published)
    assert known.pull.slope == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(DataError, match="2 difficulties for 300"):
        known_difficulty(np.zeros(2), world.verdicts, world.published)


def test_difficulty_is_found_again_from_the_other_models() -> None:
    world = World(16, 200)
    found = estimate_difficulty(world.verdicts, world.published, leave_out="m0")
    assert np.corrcoef(found.values, world.difficulty)[0, 1] > 0.9
    result = length_controlled(world.verdicts["m0"], found)
    assert result.win_rate == pytest.approx(world.published.length_controlled["m0"], abs=0.5)


def test_the_model_left_out_is_looked_at_nowhere() -> None:
    """Its verdicts, weights and leaderboard rows are replaced by nonsense, and nothing changes by a bit."""
    world = World(12, 60)
    clean = estimate_difficulty(world.verdicts, world.published, leave_out="m3")
    broken = world.verdicts | {"m3": dataclasses.replace(world.verdicts["m3"], preferences=np.linspace(0, 1, 60))}
    nonsense = Published(
        coefficients=world.published.coefficients | {"m3": Coefficients(length=50.0, difficulty=-9.0, model=7.0)},
        win_rates={"m3": 3.0},
        length_controlled=dict(world.published.length_controlled) | {"m3": 99.0},
    )
    again = estimate_difficulty(broken, nonsense, leave_out="m3")
    assert np.array_equal(clean.values, again.values)
    for part in ("centre", "slope", "curvature"):
        assert np.array_equal(getattr(clean.pull, part), getattr(again.pull, part))
    assert not np.array_equal(estimate_difficulty(broken, nonsense).values, clean.values)


def test_too_few_models_are_told() -> None:
    world = World(8, 40)
    with pytest.raises(DataError, match="7 models"):
        estimate_difficulty(world.verdicts, world.published, leave_out="m0")


def test_missing_verdicts_by_instruction_and_by_row() -> None:
    """By row, questions after the missing one have their neighbours' difficulties, as in the published code."""
    values = np.array([0.0, 1.0, 2.0, 3.0])
    difficulty = Difficulty(instructions=("q0", "q1", "q2", "q3"), values=values, pull=NO_PULL)
    found = dataclasses.replace(verdicts_of([1, 0, 1]), instructions=("q0", "q2", "q3"))
    assert difficulty.of(found).tolist() == [0, 2, 3]
    assert difficulty.of(found, by_row=True).tolist() == [0, 1, 2]
    assert length_controlled(found, difficulty, by_row=True) != length_controlled(found, difficulty)
    with pytest.raises(DataError, match="'q9' has no difficulty"):
        difficulty.of(dataclasses.replace(found, instructions=("q0", "q9", "q3")))


def test_edges_of_length_control() -> None:
    difficulty = Difficulty(instructions=tuple(f"q{i}" for i in range(6)), values=np.arange(6.0), pull=NO_PULL)
    assert length_controlled(verdicts_of([0.5] * 6, model="base"), difficulty).win_rate == 50.0
    pulled = dataclasses.replace(
        difficulty, pull=Pull(centre=np.array([-1.0, 1]), slope=np.zeros(2), curvature=np.eye(2))
    )
    assert length_controlled(verdicts_of([0.0] * 6, [90, 100, 110, 95, 105, 99]), pulled).win_rate < 0.5
    with pytest.raises(DataError, match="none is scored"):
        length_controlled(verdicts_of([float("nan")] * 6), difficulty)


def test_intervals_of_length_control_resample_questions() -> None:
    world = World(10, 300)
    rng = np.random.default_rng(0)
    found = world.verdicts["m1"]
    found = dataclasses.replace(found, preferences=(rng.random(300) < found.preferences).astype(float))
    difficulty = Difficulty(instructions=found.instructions, values=world.difficulty, pull=NO_PULL)
    wide = length_controlled(found, difficulty, resamples=300, seed=1)
    narrow = length_controlled(found, difficulty, resamples=300, seed=1, confidence=0.5)
    assert wide.interval is not None
    assert narrow.interval is not None
    assert wide.interval[0] < narrow.interval[0] < wide.win_rate < narrow.interval[1] < wide.interval[1]
    assert wide.interval[0] < world.published.length_controlled["m1"] < wide.interval[1]
    assert length_controlled(found, difficulty, resamples=300, seed=2).interval != wide.interval
    assert wide.standard_error == pytest.approx((wide.interval[1] - wide.interval[0]) / 3.92, rel=0.2)
