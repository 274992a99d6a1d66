"""CopyScorer: what a corrector itself thinks of answers, by how likely it is to leave each as it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from aligner.correct.aligner import Aligner
from aligner.correct.gate import Gate
from aligner.errors import GenerationError
from aligner.types import Chat, Sampling

_ALL = Gate(threshold=-math.inf)  # passes every answer once it is read, so that nothing is written


class CopyScorer:
    """Scores answers by the corrector that corrects them: log μ_φ(y | y, x) in nats, for one pass over the answer.

    What the corrector would correct again scores low. So it can rank its own corrections, with no reward model: as the
    ranker of `KeepBest`. What does not fit the context has no score.

    Raises:
        ConfigError: the corrector does not verify answers (`speculate`), or corrects sentence by sentence.
    """

    def __init__(self, aligner: Aligner) -> None:
        self._reader = aligner.with_gate(_ALL)

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        """One score, "copied", for every answer; they share the corrector's batch.

        Raises:
            GenerationError: the corrector failed.
        """
        # Its own limit of tokens might be below the answer's length, of which a gate would then not be asked.
        read = await asyncio.gather(*(self._reader.acorrect(question, answer, Sampling()) for answer in answers))
        for correction in read:
            if correction.kept_because == "error":
                raise GenerationError(correction.completion.error or "the corrector failed")
        return [{"copied": None if c.gate is None else c.gate.score} for c in read]
