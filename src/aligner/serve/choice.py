"""Choice: which corrector a request gets, by the gate and the number of corrections that it asks for."""

from __future__ import annotations

from contextlib import suppress
from typing import get_args

from aligner.correct.aligner import Aligner
from aligner.correct.gate import GateMode
from aligner.correct.keep_best import KeepBest
from aligner.errors import RequestError, UserError
from aligner.serve.options import Options
from aligner.types import Corrector, Judge, Scorer


class Choice:
    """The correctors that requests may choose from; all of them share one model.

    Args:
        corrector: in process or behind an address; only one in process has a gate or several corrections.
        gate: of requests that ask for none.
        ranker: of several corrections; None allows one only.
        best_of: corrections for requests that do not say how many.
        margin: by how much a correction must score above the answer.
        most: corrections that a request may ask for.

    Raises:
        CheckpointError: the gate was not calibrated.
        ConfigError: the corrector reads no answers in advance, and so has no gate; the ranker cannot rank, or not by
            this margin.
    """

    def __init__(
        self,
        corrector: Corrector,
        *,
        gate: GateMode = "off",
        ranker: Scorer | Judge | None = None,
        best_of: int = 1,
        margin: float = 0.0,
        most: int = 8,
    ) -> None:
        self.gate, self.best_of, self._ranker, self._margin = gate, best_of, ranker, margin
        self.most = most if ranker is not None and isinstance(corrector, Aligner) else 1
        self._gated: dict[str, Corrector] = {gate: corrector}
        if not isinstance(corrector, Aligner):
            return
        if ranker is not None:  # what it cannot do is told now, not to each request
            KeepBest(aligner=corrector, ranker=ranker, margin=margin)
        self._gated = {gate: corrector.with_gate(gate)}
        for mode in get_args(GateMode):
            with suppress(UserError):  # a request for it is told that it is not to be had
                self._gated.setdefault(mode, corrector.with_gate(mode))

    @property
    def gates(self) -> list[str]:
        """The gates that requests may ask for."""
        return list(self._gated)

    def pick(self, options: Options) -> Corrector:
        """The corrector for a request.

        Raises:
            RequestError: 400, it asks for a gate or a number of corrections that is not to be had.
        """
        gate = options.gate or self.gate
        count = options.best_of or self.best_of
        if gate not in self._gated:
            raise _bad(f"'aligner.gate' {gate} needs a corrector that runs in the gateway and is calibrated for it; "
                       f"this gateway has {', '.join(self._gated)}")  # fmt: skip
        corrector = self._gated[gate]
        if count == 1:
            return corrector
        if self._ranker is None or not isinstance(corrector, Aligner):
            raise _bad("'aligner.best_of' other than 1 needs a scorer to choose with, which this gateway has not; "
                       "leave it out")  # fmt: skip
        if count > self.most:
            raise _bad(f"'aligner.best_of' is {count}; this gateway makes {self.most} corrections at most")
        return KeepBest(aligner=corrector, ranker=self._ranker, count=count, margin=self._margin)


def _bad(message: str) -> RequestError:
    return RequestError(message, status=400, code="invalid_option")
