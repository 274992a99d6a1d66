"""Regressions: answers that a corrector made worse, by upstream, task and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from aligner.evaluate.tasks import ALL

Place = tuple[str, str, str]


class Regressions:
    """Counts corrections row by row: those with a verdict (`judged`), and of them those that lost in any dimension."""

    def __init__(self) -> None:
        self._judged: Counter[Place] = Counter()
        self._worse: Counter[Place] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of a verdict file."""
        winners = row["verdicts"].values()
        for split in {ALL, row["split"]}:
            place = row["upstream"], row["task"], split
            self._judged[place] += any(winner is not None for winner in winners)
            self._worse[place] += "baseline" in winners

    @property
    def judged(self) -> int:
        return _total(self._judged)

    @property
    def worse(self) -> int:
        return _total(self._worse)

    def rows(self, upstreams: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> list[dict[str, Any]]:
        """`worse` of `n` answers and their share from 0 to 1, None where none has a verdict.

        Args:
            upstreams: which upstreams count under each name.
            tasks: their names; a row over "all" of them comes last. Every answer weighs the same.
        """
        splits = sorted({split for _, _, split in self._judged}, key=lambda split: (split != ALL, split))
        found = []
        for name, members in upstreams.items():
            for task, of in [*((task, (task,)) for task in tasks), (ALL, tasks)]:
                for split in splits:
                    places = [place for u in members for t in of if (place := (u, t, split)) in self._judged]
                    if places:
                        n, worse = (sum(counts[place] for place in places) for counts in (self._judged, self._worse))
                        key = {"upstream": name, "task": task, "split": split}
                        found.append({**key, "worse": worse, "n": n, "share": round(worse / n, 4) if n else None})
        return found


def _total(counts: Mapping[Place, int]) -> int:
    return sum(count for (_, _, split), count in counts.items() if split == ALL)
