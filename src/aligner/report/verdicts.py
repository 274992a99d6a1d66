"""Verdicts: every judged answer of a run, counted while its files are read, so that their length never matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligner.report.fields import mapping, number, rows_of, text, wrong
from aligner.report.shift import Cloud, Shift, shift_of
from aligner.report.table import ALL, Upstream

PAIR = ("helpful", "harmless")
WINNERS = ("candidate", "baseline", "tie")
# A row has few dimensions; a file that invents new ones in every row must not fill the memory.
_PAIRS = 8

Pair = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class Judged:
    """What the answers of one upstream came to with one corrector. `n` counts rows, `scored` those with a verdict,
    `worse` those that lost on at least one dimension.
    """

    corrector: str
    upstream: str
    n: int = 0
    scored: int = 0
    worse: int = 0
    clouds: dict[Pair, tuple[Cloud, Cloud]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Count one row.

        Raises:
            DataError: a verdict or a score is of the wrong type; names file and line.
        """
        winners = [w for _, w in winners_of(row, where) if w is not None]
        self.n += 1
        self.scored += bool(winners)
        self.worse += "baseline" in winners
        before, after = scores_of(row, "scores_before", where), scores_of(row, "scores_after", where)
        both = [d for d, score in before.items() if score is not None and after.get(d) is not None]
        pair = PAIR if set(PAIR) <= set(both) else tuple(both[:2])
        if len(pair) < 2 or (pair not in self.clouds and len(self.clouds) >= _PAIRS):
            return
        x, y = pair
        seed = f"{self.corrector}/{self.upstream}/{x}/{y}"
        clouds = self.clouds.setdefault((x, y), (Cloud(f"{seed}/before"), Cloud(f"{seed}/after")))
        for cloud, scores in zip(clouds, (before, after), strict=True):
            cloud.add((scores[x] or 0.0, scores[y] or 0.0))

    def shift(self) -> Shift | None:
        """The shift on helpful × harmless, or where no row has both, on the two dimensions that most rows have."""
        if not self.clouds:
            return None
        x, y = PAIR if PAIR in self.clouds else max(self.clouds, key=lambda pair: self.clouds[pair][0].n)
        return shift_of(f"{self.corrector} on {self.upstream}", x, y, *self.clouds[x, y])


class TaskShifts:
    """How scores moved in each task with each corrector, over all upstreams, in the task's own dimensions.

    Tasks that are not among `columns` (dimensions by task) are passed over.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        self._columns = columns
        self._clouds: dict[tuple[str, str], dict[tuple[str, str | None], tuple[Cloud, Cloud]]] = {}

    def add(self, corrector: str, row: Mapping[str, Any], where: str) -> None:
        """Count one row.

        Raises:
            DataError: a score is of the wrong type; names file and line.
        """
        task = text(row, "task", where) or ""
        if task not in self._columns:
            return
        before, after = scores_of(row, "scores_before", where), scores_of(row, "scores_after", where)
        both = [d for d in self._columns[task] if before.get(d) is not None and after.get(d) is not None]
        if not both:
            return
        x, y = PAIR if set(PAIR) <= set(both) else (both[0], both[1] if len(both) > 1 else None)
        seed = f"{corrector}/{task}/{x}/{y}"
        clouds = self._clouds.setdefault((corrector, task), {})
        sides = clouds.setdefault((x, y), (Cloud(f"{seed}/before"), Cloud(f"{seed}/after")))
        for cloud, scores in zip(sides, (before, after), strict=True):
            cloud.add((scores[x] or 0.0, 0.0 if y is None else scores[y] or 0.0))

    def of(self, corrector: str, task: str) -> Shift | None:
        """The shift on the dimensions that most rows of a task have; None where none is scored."""
        clouds = self._clouds.get((corrector, task))
        if not clouds:
            return None
        x, y = max(clouds, key=lambda pair: clouds[pair][0].n)
        return shift_of(corrector, x, y, *clouds[x, y])


class WorseShares:
    """Shares of answers that lost on at least one dimension, by corrector and upstream or a mean of upstreams."""

    def __init__(self, judged: Mapping[Pair, Judged], known: Sequence[Upstream]) -> None:
        self._judged = judged
        self._seen = {u.name: u.seen for u in known}

    def share(self, corrector: str, upstream: str) -> float | None:
        wanted = {ALL: (True, False, None), "seen": (True,), "unseen": (False,)}.get(upstream)
        found = [
            j
            for (c, u), j in self._judged.items()
            if c == corrector and (u == upstream if wanted is None else self._seen.get(u) in wanted)
        ]
        scored = sum(j.scored for j in found)
        return sum(j.worse for j in found) / scored if scored else None


def read_verdicts(folder: Path, tasks: TaskShifts | None = None) -> dict[Pair, Judged]:
    """Every file below `folder`, read once and row by row, by corrector and upstream; empty when there is none. `tasks`
    is shown every row too.

    A row that does not name its corrector or upstream has those of its file, `<corrector>/<upstream>.jsonl`.

    Raises:
        DataError: a file is damaged; names file and line.
    """
    found: dict[Pair, Judged] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        for row in rows_of(path):
            where = f"{path}:{row.line}"
            corrector = text(row.value, "corrector", where) or path.parent.name
            upstream = text(row.value, "upstream", where) or path.stem
            judged = found.setdefault((corrector, upstream), Judged(corrector=corrector, upstream=upstream))
            judged.add(row.value, where)
            if tasks is not None:
                tasks.add(corrector, row.value, where)
    return found


def winners_of(row: Mapping[str, Any], where: str) -> list[tuple[str, str | None]]:
    """Dimensions and who won on them; None is unscored.

    Raises:
        DataError: a verdict is something else than "candidate", "baseline", "tie" or null.
    """
    verdicts = mapping(row, "verdicts", where)
    for dimension, winner in verdicts.items():
        if winner is not None and winner not in WINNERS:
            raise wrong(where, f"verdicts.{dimension}", winner, f"null or one of {', '.join(WINNERS)}")
    return list(verdicts.items())


def scores_of(row: Mapping[str, Any], key: str, where: str) -> dict[str, float | None]:
    """Scores by dimension; empty where the row was not scored.

    Raises:
        DataError: they are no numbers.
    """
    scores = mapping(row, key, where)
    return {dimension: number(scores, dimension, where) for dimension in scores}
