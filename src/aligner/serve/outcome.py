"""Outcome: what became of one answer, and what the response says of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from aligner.serve.measures import Measures, word_diff
from aligner.serve.options import Options
from aligner.types import Correction, GateDecision, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one answer. `reason` is None where `text` is the corrector's.

    `late`: a guard fired when text had been sent already, so that `text` is not the original though there is a reason.
    `buffered`: a stream was asked for, and the text came whole. `seconds` is what the corrector took after the answer
    was whole, None where it was not asked; `measures` say how far its correction is from the answer.
    """

    text: str
    reason: str | None = None
    correction: Correction | None = None
    measures: Measures = field(default_factory=Measures)
    late: bool = False
    buffered: bool = False
    seconds: float | None = None

    @property
    def spent(self) -> Usage:
        return self.correction.completion.usage if self.correction is not None else Usage()

    async def extension(
        self, options: Options, lost: list[str], upstream: float, *, told: bool = False
    ) -> dict[str, Any] | None:
        """The object that is put beside the text; None where there is nothing to say. `upstream` took so many
        seconds; with `told` the reason is said though nobody asked for it."""
        value: dict[str, Any] = {}
        correction = self.correction
        original = correction.answer if correction is not None else self.text
        if "original" in options.returns:
            value["original"] = original
        if "diff" in options.returns:
            shown = await word_diff(correction) if correction is not None else []
            value["diff"] = shown or ([["equal", original]] if original else [])
        if "reason" in options.returns or self.late or told:
            value["reason"] = self.reason
        if "flags" in options.returns:
            value["flags"] = list(correction.flags) if correction is not None else []
        if "gate" in options.returns:
            value["gate"] = _decision(correction.gate) if correction is not None else None
        if "seconds" in options.returns:
            corrector = round(self.seconds, 4) if self.seconds is not None else None
            value["seconds"] = {"upstream": round(upstream, 4), "corrector": corrector}
        if self.late:
            value["late"] = True
        if self.buffered:
            value["buffered"] = True
        if lost:
            value["removed"] = lost
        return value or None


def _decision(gate: GateDecision | None) -> dict[str, Any] | None:
    """A gate's decision as JSON, which has no infinite numbers."""
    if gate is None:
        return None
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(gate).items()}  # fmt: skip
