"""CopyScorer: what a corrector itself thinks of answers, by how likely it is to leave each as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aligner.correct.aligner import Aligner
from aligner.correct.gate import ALWAYS
from aligner.errors import ConfigError, GenerationError
from aligner.types import Chat, Sampling


class CopyScorer:
    """Scores answers by the corrector that corrects them: log μ_φ(y | y, x) in nats, for one pass over the answer.

    What the corrector would correct again scores low. So it can rank its own corrections, with no reward model: as the
    ranker of `KeepBest`. What does not fit the context has no score.

    Raises:
        ConfigError: the corrector does not verify answers (`speculate`), or corrects sentence by sentence.
    """

    def __init__(self, aligner: Aligner) -> None:
        if not aligner.speculate or aligner.card.prompt.unit == "sentence":
            why = "corrects sentence by sentence" if aligner.speculate else "writes token by token (speculate=false)"
            raise ConfigError("scorer=self: the corrector scores answers by reading them as a whole, and this one "
                              f"{why}; give another scorer, or leave best_of out")  # fmt: skip
        self._reader = aligner.with_gate(ALWAYS)

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
