"""The gate: lets an answer through untouched where the corrector finds a copy likely enough.

The answer is verified as a draft, so the log-probabilities of a copy are there before anything is written. What they
must reach is calibrated on held-out triplets and saved in the corrector's card.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from aligner.errors import CheckpointError, ConfigError, DataError
from aligner.types import GateDecision

GateMode = Literal["off", "balanced", "strict"]

MISS_RATES: Mapping[GateMode, float] = {"balanced": 0.01, "strict": 0.002}
"""Share of all answers that need a correction which a gate may let through though the corrector would change them."""


def copy_score(log_probs: Sequence[float]) -> float:
    """How likely a copy is: log μ_φ(y_o | y_o, x), in nats; 0 is certain.

    Args:
        log_probs: natural log-probabilities of the answer's ids, the end id included.
    """
    return math.fsum(log_probs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Passes answers whose copy's score is above a threshold, in nats; infinity passes none."""

    threshold: float

    @property
    def whole(self) -> bool:
        """Whether it wants the whole score, however an answer begins."""
        return math.isinf(self.threshold)

    def decide(self, log_probs: Sequence[float], answer_tokens: int, prompt_tokens: int) -> GateDecision | None:
        """Whether the answer may stand; None while only more of it can tell.

        A copy's score only falls as it goes on: what is at the threshold or below never passes, and need not be read to
        its end. What is no number never passes either. A threshold of infinity wants the whole score.

        Args:
            log_probs: of the answer's ids, as far as it was read.
            answer_tokens: all ids of the answer, the end id included.
            prompt_tokens: ids before the answer.
        """
        score = copy_score(log_probs)
        may = score > self.threshold
        if len(log_probs) < answer_tokens and (may or self.whole):
            return None
        return GateDecision(passed=may, score=score, threshold=self.threshold, tokens=prompt_tokens + len(log_probs))


NEVER = Gate(threshold=math.inf)
"""Reads every answer to its end and lets nothing pass: for the scores of answers that are corrected."""

ALWAYS = Gate(threshold=-math.inf)
"""Reads every answer to its end and lets all of them pass: for the scores alone, so that nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """What is known of one held-out triplet: its copy's score, whether it needs a correction, and gets one."""

    score: float
    needed: bool
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCalibration:
    """What a corrector's gate was set by.

    `thresholds` (nats) holds the modes that there were rows enough for, and `passed` what share of the held-out rows
    that need no correction each lets through. `strength` is that of the dial, which was at 0. `quantize` is how the
    weights were kept: in fewer bits they find other things likely. `dtype` is the arithmetic then, to be looked up.
    """

    thresholds: Mapping[GateMode, float]
    passed: Mapping[GateMode, float]
    needed: int
    faultless: int
    strength: float = 0.0
    quantize: str = "none"
    dtype: str = ""

    def gate(self, mode: GateMode, strength: float = 0.0, quantize: str = "none") -> Gate | None:
        """The gate of a mode; None for "off".

        Raises:
            ConfigError: the mode is none, the corrector's dial does not stand where it stood at the calibration, or its
                weights are kept in other bits.
            CheckpointError: there were too few rows for this mode.
        """
        check_mode(mode)
        if mode == "off":
            return None
        if strength != self.strength:
            raise ConfigError(f"gate={mode}: it was calibrated at the dial strength {self.strength:g} and says nothing "
                              f"at {strength:g}; use gate=off there")  # fmt: skip
        if quantize != self.quantize:
            option = f" --quantize {quantize}" if quantize in ("int8", "int4") else ""
            raise ConfigError(f"gate={mode}: it was calibrated with quantize={self.quantize} and says nothing of "
                              f"{quantize}; calibrate again (aligner calibrate{option}), or use "
                              "gate=off")  # fmt: skip
        if mode not in self.thresholds:
            least = rows_needed(MISS_RATES[mode])
            raise CheckpointError(f"gate={mode}: {self.needed} held-out rows that need a correction are too few, it "
                                  f"takes {least}; calibrate with more (aligner calibrate)")  # fmt: skip
        return Gate(threshold=self.thresholds[mode])

    def to_json(self) -> dict[str, Any]:
        return {
            "thresholds": dict(self.thresholds),
            "passed": dict(self.passed),
            "needed": self.needed,
            "faultless": self.faultless,
            "strength": self.strength,
            "quantize": self.quantize,
            "dtype": self.dtype,
        }

    @classmethod
    def from_json(cls, values: Any, where: str) -> Self:
        """Read back what `to_json` wrote.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            return cls(
                thresholds={mode: _finite(values["thresholds"][mode]) for mode in MISS_RATES
                            if mode in values["thresholds"]},
                passed={mode: _finite(values["passed"][mode]) for mode in MISS_RATES if mode in values["passed"]},
                needed=int(values["needed"]),
                faultless=int(values["faultless"]),
                strength=_finite(values["strength"]),
                quantize=str(values.get("quantize", "none")),
                dtype=str(values.get("dtype", "")),
            )  # fmt: skip
        except (TypeError, KeyError, ValueError):
            raise CheckpointError(f"{where}: 'gate' is no calibration of a gate; calibrate again (aligner "
                                  "calibrate)") from None  # fmt: skip


def gate_of(
    calibration: GateCalibration | None, mode: GateMode, where: str, strength: float = 0.0, quantize: str = "none"
) -> Gate | None:
    """The gate of a mode by a corrector's calibration; "off" needs none.

    Raises:
        ConfigError: the mode is none, or the dial's strength or the weights' bits are not those of the calibration.
        CheckpointError: the corrector was not calibrated, or with too few rows for this mode; names `where` it lies.
    """
    check_mode(mode)
    if mode == "off":
        return None
    if calibration is None:
        raise CheckpointError(f"{where}: gate={mode}, and this corrector's gate was never calibrated; do it with "
                              "`aligner calibrate`, or use gate=off")  # fmt: skip
    try:
        return calibration.gate(mode, strength, quantize)
    except CheckpointError as e:
        raise CheckpointError(f"{where}: {e}") from None


def check_mode(mode: str) -> None:
    """Raises ConfigError where a gate has no such mode."""
    if mode not in get_args(GateMode):
        raise ConfigError(f"gate is {mode!r}; it is {', '.join(get_args(GateMode))}")


def rows_needed(miss_rate: float) -> int:
    """Rows that need a correction without which no threshold can promise this miss rate."""
    return math.ceil(1 / miss_rate - 1e-9) - 1


def threshold_for(scores: Sequence[float], miss_rate: float) -> float | None:
    """The lowest threshold above which a new row scores with a probability of at most `miss_rate`.

    Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021, section 1): of n exchangeable scores the
    ⌈(n + 1)(1 − miss_rate)⌉-th smallest is exceeded by a new one with at most that probability, over the draw of the n
    and the new one, whatever their distribution. None where that place lies behind the last: n is too small.
    """
    place = math.ceil((len(scores) + 1) * (1 - miss_rate) - 1e-9)
    return sorted(scores)[place - 1] if 1 <= place <= len(scores) else None


def calibrate_scores(rows: Iterable[HeldOutScore]) -> GateCalibration:
    """Set the thresholds by held-out rows that the corrector was not trained on.

    A gate loses a correction where it passes an answer that needs one and that the corrector would have changed. An
    answer that the corrector copies anyway cannot be lost, so it counts with a score of −∞ among those that need one.

    Raises:
        DataError: too few rows for any mode.
    """
    rows = list(rows)
    # What is no number passes no gate, so nothing is lost there; and among numbers it would spoil their order.
    needed = [row.score if row.changed and row.score > -math.inf else -math.inf for row in rows if row.needed]
    faultless = [row.score for row in rows if not row.needed]
    found = {mode: threshold_for(needed, rate) for mode, rate in MISS_RATES.items()}
    # Stands for −∞, which JSON cannot hold.
    lowest = min((row.score for row in rows if math.isfinite(row.score)), default=0.0)
    # Rounded up, which loses nothing: the last digits hang on what shared a pass, and a second run has others.
    thresholds = {mode: math.ceil(max(t, lowest) * 1000) / 1000 for mode, t in found.items() if t is not None}
    if not thresholds:
        least = min(rows_needed(rate) for rate in MISS_RATES.values())
        raise DataError(f"{len(needed)} held-out rows need a correction; to calibrate a gate takes {least}, give more")
    passed = {mode: sum(s > t for s in faultless) / max(len(faultless), 1) for mode, t in thresholds.items()}
    return GateCalibration(thresholds=thresholds, passed=passed, needed=len(needed), faultless=len(faultless))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number
