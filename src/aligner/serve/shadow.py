"""Shadow: what would have changed, recorded in the background while everybody gets the original."""

from __future__ import annotations

import asyncio
import logging

from aligner.errors import RequestError, StorageError
from aligner.rows import JsonlWriter
from aligner.serve.measures import word_diff
from aligner.serve.policy import Policy
from aligner.serve.wire import Answer, Json
from aligner.types import Corrector

_log = logging.getLogger(__name__)
_PATIENCE = 5.0  # seconds that a server which stops waits for corrections


class Shadow:
    """Corrects answers that were sent already, and writes a row for each. No row holds a key.

    Args:
        policy: asks the corrector.
        writer: where the rows go.
        most: answers that may wait at the same time; more are left out and counted.
    """

    def __init__(self, policy: Policy, writer: JsonlWriter, *, most: int = 256) -> None:
        self._policy, self._writer, self._most = policy, writer, most
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, request: Json, answers: list[Answer], corrector: Corrector, *, missing: int = 0) -> None:
        """Take answers on; returns at once. `missing` are counted as left out: they were never whole."""
        self._policy.metrics.shadow_dropped.inc(max(missing, 0))
        for answer in answers:
            if len(self._tasks) >= self._most:
                self._policy.metrics.shadow_dropped.inc()
                continue
            task = asyncio.create_task(self._record(request.get("model"), answer, corrector))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait a moment for what still waits, and give up the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)
        self._policy.metrics.shadow_dropped.inc(len(self._tasks))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()

    async def _record(self, model: object, answer: Answer, corrector: Corrector) -> None:
        row: Json = {
            "model": model,
            "question": [{"role": m.role, "content": m.content} for m in answer.question],
            "answer": answer.text,
        }
        try:
            outcome = await self._policy.correct(answer, corrector)
        except RequestError as e:
            row |= {"correction": None, "reason": e.code, "error": str(e)}
        else:
            row |= {"correction": outcome.text, "reason": outcome.reason}
            if outcome.correction is not None:
                row["diff"] = await word_diff(outcome.correction)
                row["edit_ratio"] = round(outcome.measures.edit_ratio, 4)
        try:
            self._writer.write(row)
        except StorageError as e:
            _log.error("shadow: %s", e)
