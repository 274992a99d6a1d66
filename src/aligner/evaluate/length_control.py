"""AlpacaEval 2's length-controlled win rate: what the judge would have said of answers as long as the baseline's.

The published generalised linear model (Dubois et al. 2024, section 3), with l = tanh of the baseline's length minus
the model's over its standard deviation, and d the instruction's difficulty:

    P(model preferred) = σ(θ + φ l + ψ d),   win rate = 100 · mean σ(θ + ψ d)

The published fit also pulls φ and ψ towards those of two variants of the baseline, one told to be verbose and one to be
concise. Their verdicts are not published with the leaderboard, so the `Pull` stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aligner.errors import DataError
from aligner.evaluate.alpaca_eval import Verdicts
from aligner.evaluate.metrics import interval
from aligner.evaluate.resampling import resampled

Questions = Float[np.ndarray, " questions"]
Design = Float[np.ndarray, "questions 3"]
Weights = Float[np.ndarray, "resamples questions"]
Fits = Float[np.ndarray, "resamples 3"]

# Columns of a design and entries of a fit: length, difficulty, model.
_MOST_STEPS = 100
# A ridge: it keeps the fit finite where a model never wins, and defined where all lengths are alike. In a fit of
# hundreds of questions it changes nothing.
_TINY = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """φ, ψ and θ of one model."""

    length: float
    difficulty: float
    model: float

    def values(self) -> tuple[float, float, float]:
        return self.length, self.difficulty, self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What is added to the log loss, summed over questions, for (φ, ψ) = w: slope · w + ½ vᵀ C v, v = w − centre."""

    centre: Float[np.ndarray, " 2"]
    slope: Float[np.ndarray, " 2"]
    curvature: Float[np.ndarray, "2 2"]

    def gradient(self, w: Float[np.ndarray, "any 2"]) -> Float[np.ndarray, "any 2"]:
        found: Float[np.ndarray, "any 2"] = self.slope + (w - self.centre) @ self.curvature
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """How hard each instruction is for the baseline's rivals, and the pull of the fit that goes with it."""

    instructions: tuple[str, ...]
    values: Questions
    pull: Pull

    def of(self, verdicts: Verdicts, by_row: bool = False) -> Questions:
        """The difficulty of each question of some verdicts; `by_row` goes by their numbers instead of their names.

        Raises:
            DataError: an instruction has none.
        """
        if by_row and len(verdicts) <= len(self.values):
            return self.values[: len(verdicts)]
        places = {key: i for i, key in enumerate(self.instructions)}
        try:
            return self.values[[places[key] for key in verdicts.instructions]]
        except KeyError as e:
            raise DataError(f"verdicts of '{verdicts.model}': the instruction {e} has no difficulty; estimate it from "
                            "models that were judged on it") from None  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControlled:
    """In per cent, with the percentile interval of resampled questions (None where there are no resamples)."""

    win_rate: float
    interval: tuple[float, float] | None
    standard_error: float | None
    coefficients: Coefficients


def length_feature(verdicts: Verdicts) -> Questions:
    """tanh((baseline's length − model's length) / its standard deviation), 0 where all lengths are equal."""
    gap = verdicts.baseline_lengths - verdicts.lengths
    spread = float(gap.std(ddof=1)) if len(gap) > 1 else 0.0
    return np.tanh(gap / spread) if spread > 0 else np.zeros(len(gap))


def length_controlled(
    verdicts: Verdicts,
    difficulty: Difficulty,
    *,
    resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    by_row: bool = False,
) -> LengthControlled:
    """Fit the model to one system's verdicts and predict its win rate at equal lengths.

    Args:
        verdicts: of the model; what is not scored takes part in the prediction alone, as in the published fit.
        difficulty: of the instructions, estimated from other models or read.
        resamples: bootstrap samples of the questions; difficulty is kept as it is.
        confidence: that the interval covers.
        seed: of the resamples.
        by_row: find difficulties by the row's number, as the published code does, for comparison with the leaderboard:
            from the first missing row on, questions then have others' difficulties. The same where no row is missing.

    Raises:
        DataError: nothing is scored, or an instruction has no difficulty.
    """
    if verdicts.model == verdicts.baseline:
        zero = Coefficients(length=0.0, difficulty=0.0, model=0.0)
        return LengthControlled(win_rate=50.0, interval=(50.0, 50.0), standard_error=0.0, coefficients=zero)
    scored = ~np.isnan(verdicts.preferences)
    if not scored.any():
        raise DataError(f"verdicts of '{verdicts.model}': none is scored; a win rate needs some that are")
    hardness = difficulty.of(verdicts, by_row)
    design = np.column_stack([length_feature(verdicts), hardness, np.ones(len(verdicts))])
    preferences = np.where(scored, verdicts.preferences, 0.0)

    def rates(weights: Weights) -> tuple[Fits, Float[np.ndarray, " resamples"]]:
        found = fit(design, preferences, weights * scored, difficulty.pull)
        predicted = sigmoid(found[:, 1:] @ design[:, 1:].T)
        return found, 100 * (weights * predicted).sum(axis=1) / weights.sum(axis=1)

    fits, value = rates(np.ones((1, len(verdicts))))
    drawn = resampled(lambda weights: rates(weights)[1], len(verdicts), resamples, seed)
    return LengthControlled(
        win_rate=float(value[0]),
        interval=interval(drawn, confidence),
        standard_error=float(drawn.std(ddof=1)) if len(drawn) > 1 else None,
        coefficients=Coefficients(length=float(fits[0, 0]), difficulty=float(fits[0, 1]), model=float(fits[0, 2])),
    )


def fit(design: Design, preferences: Questions, weights: Weights, pull: Pull) -> Fits:
    """Logistic regressions of preferences from 0 to 1, one for each row of weights, by Newton's method."""
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), 9)
    theta = np.zeros((len(weights), 3))
    ridge = _TINY * np.eye(3)
    ridge[:2, :2] += pull.curvature
    for _ in range(_MOST_STEPS):
        p = sigmoid(theta @ design.T)
        gradient = (weights * (preferences - p)) @ design - _TINY * theta
        gradient[:, :2] -= pull.gradient(theta[:, :2])
        hessian = ((weights * p * (1 - p)) @ squares).reshape(-1, 3, 3) + ridge
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        # Far from the optimum the curvature vanishes and a whole step would overshoot.
        theta += step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True))
        if np.abs(step).max() < 1e-9:
            break
    return theta


def predicted_win_rate(coefficients: Coefficients, difficulty: Questions) -> float:
    """100 · mean σ(θ + ψ d): what published coefficients say, in per cent."""
    return 100 * float(sigmoid(coefficients.model + coefficients.difficulty * difficulty).mean())


def sigmoid(z: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """σ(z), without overflow."""
    found: Float[np.ndarray, "*any"] = 0.5 * (1 + np.tanh(z / 2))
    return found
