"""How hard each instruction is, found from verdicts on other models and what is published of their fits.

The official difficulties are not part of the leaderboard's files. Three things tell of them:

1. The verdicts: with a model's published φ, ψ and θ, its preferences on an instruction are likely under
   σ(θ + φ l + ψ d) for some difficulties d and not for others.
2. The leaderboard: 100 · mean σ(θ + ψ d) is the published length-controlled win rate of *every* model, judged or not.
3. Published coefficients are optima: where a model's verdicts are at hand, its log likelihood is level in θ there, and
   in φ and ψ it is as steep as the pull of the regulariser, whatever that is, asks for.

The pull is estimated beside: its curvature is the inverse covariance of the published (φ, ψ), and its slope is how
steep the likelihoods are at published coefficients. In-sample, noise in d makes them steeper, so the slope is taken
from models that had no part in the difficulties (4 folds). See docs/design/length-control.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aligner.errors import DataError
from aligner.evaluate.alpaca_eval import Verdicts
from aligner.evaluate.length_control import Difficulty, Pull, Questions, length_feature, sigmoid
from aligner.evaluate.published import Published

Matrix = Float[np.ndarray, "models questions"]
Rows = Float[np.ndarray, "models 3"]
Residuals = Float[np.ndarray, " equations"]
Jacobian = Float[np.ndarray, "equations questions"]

_FEWEST = 8
_FOLDS = 4
# Variance of difficulties before anything is known: wide, only there to keep every equation solvable.
_SPREAD = 10.0
# How far the equations may miss: win rates as parts of one, and the sums of (preference − prediction) · feature. The
# published fit has an L1 penalty chosen by cross-validation, mostly a weak one, and the pull is no more than quadratic.
_RATE, _LEVEL, _STEEP = 5e-4, 0.5, 2.0
_ROUNDS = 2
_MOST_STEPS = 60
_LONGEST_STEP = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """Models that were judged (preferences, lengths, coefficients), and models on the leaderboard."""

    names: tuple[str, ...]
    preferences: Matrix
    lengths: Matrix
    coefficients: Rows
    board_names: tuple[str, ...]
    board: Rows
    board_rates: Float[np.ndarray, " board"]

    def pick(self, chosen: Sequence[int], masked: Sequence[str]) -> _Evidence:
        """Some of the judged models; `masked` ones leave the leaderboard too."""
        stay = [i for i, name in enumerate(self.board_names) if name not in set(masked)]
        return _Evidence(
            names=tuple(self.names[i] for i in chosen),
            preferences=self.preferences[chosen],
            lengths=self.lengths[chosen],
            coefficients=self.coefficients[chosen],
            board_names=tuple(self.board_names[i] for i in stay),
            board=self.board[stay],
            board_rates=self.board_rates[stay],
        )


def estimate_difficulty(verdicts: Mapping[str, Verdicts], published: Published, *, leave_out: str = "") -> Difficulty:
    """Estimate the difficulty of every instruction and the pull of the published fit.

    Models with missing verdicts take no part: the published fit finds the difficulty by the row's number, so that
    theirs were fitted to other instructions' difficulties.

    Args:
        verdicts: by model, on the same instructions against one baseline.
        published: coefficients and win rates.
        leave_out: a model that is not looked at anywhere, so that its own fit is one of an unknown model.

    Raises:
        DataError: fewer than eight models have both verdicts and coefficients.
    """
    instructions, evidence = _evidence(verdicts, published, leave_out)
    values, pull = _settle(evidence, np.zeros(len(instructions)), None, _ROUNDS)
    slopes = np.empty((len(evidence.names), 2))
    everyone = np.arange(len(evidence.names))
    for fold in range(_FOLDS):
        held = everyone[fold::_FOLDS]
        rest = evidence.pick(np.setdiff1d(everyone, held).tolist(), [evidence.names[i] for i in held])
        others, _ = _settle(rest, values, _pull(rest, values), 1)
        slopes[held] = _steepness(evidence.pick(held.tolist(), ()), others)[:, :2]
    pull = Pull(centre=pull.centre, slope=slopes.mean(axis=0), curvature=pull.curvature)
    return Difficulty(instructions=instructions, values=values, pull=pull)


def known_difficulty(values: Questions, verdicts: Mapping[str, Verdicts], published: Published) -> Difficulty:
    """The official difficulties, in the order of the evaluation set, with the pull that is estimated from them.

    Raises:
        DataError: fewer than eight models have both verdicts and coefficients, or the number of values is another.
    """
    instructions, evidence = _evidence(verdicts, published, "")
    if len(values) != len(instructions):
        raise DataError(f"there are {len(values)} difficulties for {len(instructions)} instructions; they must match")
    return Difficulty(instructions=instructions, values=values, pull=_pull(evidence, values))


def _evidence(
    verdicts: Mapping[str, Verdicts], published: Published, leave_out: str
) -> tuple[tuple[str, ...], _Evidence]:
    published = published.without(leave_out)
    others = [v for name, v in verdicts.items() if name != leave_out and v.model not in (leave_out, v.baseline)]
    instructions = max((v.instructions for v in others), key=len, default=())
    usable = [
        v
        for v in others
        if v.model in published.coefficients
        and v.model in published.length_controlled
        and v.instructions == instructions
        and not np.isnan(v.preferences).any()
    ]
    if len(usable) < _FEWEST:
        raise DataError(f"difficulty: {len(usable)} models have all their verdicts, coefficients and a published "
                        f"win rate; it takes {_FEWEST} or more, judged on the same instructions")  # fmt: skip
    baselines = {v.baseline for v in usable}
    board = [
        name for name in published.coefficients if name in published.length_controlled and name not in baselines
    ]  # fmt: skip
    return instructions, _Evidence(
        names=tuple(v.model for v in usable),
        preferences=np.stack([v.preferences for v in usable]),
        lengths=np.stack([length_feature(v) for v in usable]),
        coefficients=np.array([published.coefficients[v.model].values() for v in usable]),
        board_names=tuple(board),
        board=np.array([published.coefficients[name].values() for name in board]).reshape(-1, 3),
        board_rates=np.array([published.length_controlled[name] for name in board]) / 100,
    )


def _pull(evidence: _Evidence, values: Questions) -> Pull:
    return Pull(
        centre=evidence.coefficients[:, :2].mean(axis=0),
        slope=_steepness(evidence, values)[:, :2].mean(axis=0),
        curvature=np.linalg.inv(np.cov(evidence.board[:, :2].T)),
    )


def _steepness(evidence: _Evidence, values: Questions) -> Rows:
    """The gradients of the log likelihoods at the published coefficients."""
    length, hardness, model = (column[:, None] for column in evidence.coefficients.T)
    missed = evidence.preferences - sigmoid(length * evidence.lengths + hardness * values + model)
    return np.column_stack([(missed * evidence.lengths).sum(axis=1), missed @ values, missed.sum(axis=1)])


def _settle(evidence: _Evidence, values: Questions, pull: Pull | None, rounds: int) -> tuple[Questions, Pull]:
    """Difficulties and pull in turns; the first difficulties are found without the third kind of evidence."""
    if pull is None:
        values = _solve(evidence, values, None)
        pull = _pull(evidence, values)
    for _ in range(rounds):
        values = _solve(evidence, values, pull)
        pull = _pull(evidence, values)
    return values, pull


def _solve(evidence: _Evidence, values: Questions, pull: Pull | None) -> Questions:
    """Gauss-Newton: the likelihood's curvature is diagonal, and the equations add a few hundred directions to it."""
    for _ in range(_MOST_STEPS):
        gradient, diagonal = _likelihood(evidence, values)
        residuals, jacobian = _equations(evidence, values, pull)
        gradient -= jacobian.T @ residuals
        # Woodbury's identity: the system has as many unknowns as there are equations, not instructions.
        scaled = jacobian / diagonal
        inner = np.eye(len(jacobian)) + scaled @ jacobian.T
        step = gradient / diagonal - scaled.T @ np.linalg.solve(inner, scaled @ gradient)
        values = values + step * min(1.0, _LONGEST_STEP / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-6:
            break
    return values


def _likelihood(evidence: _Evidence, values: Questions) -> tuple[Questions, Questions]:
    """Slope and (negated) curvature of all verdicts' log likelihood in each difficulty, with a wide normal prior."""
    length, hardness, model = (column[:, None] for column in evidence.coefficients.T)
    p = sigmoid(length * evidence.lengths + hardness * values + model)
    gradient = ((evidence.preferences - p) * hardness).sum(axis=0) - values / _SPREAD
    return gradient, (p * (1 - p) * hardness**2).sum(axis=0) + 1 / _SPREAD


def _equations(evidence: _Evidence, values: Questions, pull: Pull | None) -> tuple[Residuals, Jacobian]:
    """By how many tolerances each equation is missed, and how that changes with the difficulties."""
    length, hardness, model = (column[:, None] for column in evidence.coefficients.T)
    p = sigmoid(length * evidence.lengths + hardness * values + model)
    missed, bend = evidence.preferences - p, -p * (1 - p) * hardness
    on_board = sigmoid(evidence.board[:, 1:2] * values + evidence.board[:, 2:])
    residuals = [(on_board.mean(axis=1) - evidence.board_rates) / _RATE, missed.sum(axis=1) / _LEVEL]
    jacobian = [evidence.board[:, 1:2] * on_board * (1 - on_board) / len(values) / _RATE, bend / _LEVEL]
    if pull is not None:
        wanted = pull.gradient(evidence.coefficients[:, :2])
        residuals.append(((missed * evidence.lengths).sum(axis=1) - wanted[:, 0]) / _STEEP)
        residuals.append((missed @ values - wanted[:, 1]) / _STEEP)
        jacobian += [bend * evidence.lengths / _STEEP, (bend * values + missed) / _STEEP]
    return np.concatenate(residuals), np.concatenate(jacobian)
