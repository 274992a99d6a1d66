"""The second step: every answer corrected, once where several upstreams gave the same one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt64

from aligner.errors import DataError
from aligner.evaluate.progress import Progress
from aligner.evaluate.store import Store
from aligner.evaluate.tasks import Suite
from aligner.types import Chat, Correction, content_hash

if TYPE_CHECKING:
    from aligner.correct.aligner import Aligner

# What stored corrections took is not known.
_UNKNOWN = {"prompt_tokens": None, "completion_tokens": None}

Hashes = UInt64[np.ndarray, " questions"]


def hash_answers(store: Store, size: int) -> Hashes:
    """A 64-bit hash of every answer; 0 where it failed."""
    hashes = np.zeros(size, np.uint64)
    for place, row in store.rows():
        if place in store:
            hashes[place] = int(content_hash(row["answer"]), 16)
    return hashes


def copy_same(hashes: Hashes, store: Store, others: Iterable[tuple[Hashes, Store]]) -> int:
    """Take over the corrections of equal answers to the same questions, made for other upstreams.

    A greedy corrector would write them again; one that samples draws from the question and the answer alone. They cost
    nothing, and their rows say that they are copied.

    Returns:
        How many were taken over.
    """
    missing = [place for place in store.missing() if hashes[place]]
    copied = 0
    for theirs, other in others:
        rest = []
        for place in missing:
            if theirs[place] == hashes[place] and place in other:
                row = other.get(place)
                same = {"correction": row["correction"], "kept_because": row["kept_because"]}
                store.write(place, {**same, "prompt_tokens": 0, "completion_tokens": 0, "copied": True})
                copied += 1
            else:
                rest.append(place)
        missing = rest
    return copied


def correct(aligner: Aligner, suite: Suite, answers: Store, store: Store, progress: Progress) -> None:
    """Correct every answer that the store lacks a correction of; one that the corrector failed at is kept as failed.

    A guard that keeps the original is no failure: the original is then what the stack says.
    """
    waiting: deque[int] = deque()

    def pairs() -> Iterator[tuple[Chat, str]]:
        for place in store.missing():
            if place in answers:
                waiting.append(place)
                yield suite.items[place].question, answers.get(place)["answer"]

    for correction in aligner.correct_batch(pairs()):
        _keep(store, waiting.popleft(), correction)
        progress.step()


def take_over(texts: Iterable[tuple[int, str]], answers: Store, store: Store) -> None:
    """Keep stored corrections that the store lacks; an answer without one has a failed correction."""
    lacking = set(store.missing())
    for place, text in texts:
        if place in lacking and place in answers:
            store.write(place, {"correction": text, "kept_because": None} | _UNKNOWN)
            lacking.discard(place)
    for place in sorted(lacking):
        if place in answers:
            store.write(place, {"correction": "", "kept_because": None} | _UNKNOWN, "no correction is stored")


def check_corrections(corrector: str, upstream: str, store: Store) -> None:
    """Refuse to go on where not one answer of an upstream could be corrected.

    Raises:
        DataError: it is so; names both and the first error.
    """
    if store.failed and not store.whole():
        first = next(iter(store.failed.values()))
        raise DataError(f"{store.path}: the corrector '{corrector}' corrected no answer of '{upstream}' "
                        f"({len(store.failed)} failed, the first: {first}); put that right and go on "
                        "with --resume")  # fmt: skip


def _keep(store: Store, place: int, correction: Correction) -> None:
    failed = correction.kept_because in ("error", "cancelled")
    usage = correction.completion.usage
    row: dict[str, Any] = {
        "correction": correction.text,
        "kept_because": correction.kept_because,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    error = (correction.completion.error or f"the correction was {correction.kept_because}") if failed else None
    store.write(place, row, error)
