"""Examples: which judged answers a reader should see, the biggest gains and the biggest losses first."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aligner import edits
from aligner.edits import Edit
from aligner.report import wording
from aligner.report.fields import number, rows_of, text, wrong
from aligner.report.samples import CLIP, clipped, question_of, readable, required
from aligner.report.verdicts import scores_of, winners_of
from aligner.types import Chat

Group = Literal["gain", "loss", "random"]
SHOWN: dict[Group, int] = {"gain": 20, "loss": 20, "random": 10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One dimension of an example: who won (None: unscored), and the scores where there are any."""

    dimension: str
    winner: str | None
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One judged answer, ready to be shown. `cut` says that only the first CLIP characters of a text are."""

    id: str
    corrector: str
    upstream: str
    task: str
    split: str
    gain: float | None
    question: Chat
    edits: tuple[Edit, ...]
    outcomes: tuple[Outcome, ...]
    faults_before: str | None
    faults_after: str | None
    kept_because: str | None
    edit_ratio: float
    cut: bool


def read_examples(path: Path, of_task: str | None = None) -> dict[Group, list[Example]]:
    """Pick from samples.jsonl, or from its rows of one task: read twice, so that only what is shown is in memory.

    Gains are the rows with a gain above 0, the biggest first; losses those below 0, the worst first, and behind them
    those picked as a loss that another dimension made up for; random are those picked as such, and those without a
    gain, in order. Of equal ones, each corrector, upstream and task has one before any has two.

    Raises:
        DataError: the file is damaged, or a row lacks its answer or correction.
    """
    best: dict[Group, list[tuple[float, int, int]]] = {group: [] for group in SHOWN}
    seen: Counter[tuple[Group, float, str, str, str]] = Counter()
    for index, row in enumerate(rows_of(path)):
        where = f"{path}:{row.line}"
        gain = number(row.value, "gain", where)
        group = _group(row.value, gain, where)
        if group is None:
            continue
        size = abs(gain) if gain is not None and group != "random" else 0.0
        corrector, upstream, task = (text(row.value, key, where) or "" for key in ("corrector", "upstream", "task"))
        if of_task is not None and task != of_task:
            continue
        turn = seen[group, size, corrector, upstream, task]
        seen[group, size, corrector, upstream, task] += 1
        heapq.heappush(best[group], (size, -turn, -index))
        if len(best[group]) > SHOWN[group]:
            heapq.heappop(best[group])
    order = {group: [-i for _, _, i in sorted(heap, reverse=True)] for group, heap in best.items()}
    wanted = {i for indices in order.values() for i in indices}
    rows = {i: _example(r.value, f"{path}:{r.line}") for i, r in enumerate(rows_of(path)) if i in wanted}
    return {group: [rows[i] for i in indices] for group, indices in order.items()}


def _group(row: Mapping[str, Any], gain: float | None, where: str) -> Group | None:
    picked = text(row, "picked", where)
    if gain is None or picked == "random":
        return "random"
    return "gain" if gain > 0 else "loss" if gain < 0 or picked == "loss" else None


def _example(row: Mapping[str, Any], where: str) -> Example:
    answer, correction = required(row, "answer", where), required(row, "correction", where)
    chat = question_of(row, where)
    before, after = scores_of(row, "scores_before", where), scores_of(row, "scores_after", where)
    winners = dict(winners_of(row, where))
    ratio = number(row, "edit_ratio", where)
    return Example(
        id=str(row.get("id") or ""),
        corrector=text(row, "corrector", where) or "",
        upstream=text(row, "upstream", where) or "",
        task=text(row, "task", where) or "",
        split=text(row, "split", where) or "",
        gain=number(row, "gain", where),
        question=clipped(chat),
        edits=readable(edits.diff(answer[:CLIP], correction[:CLIP])),
        outcomes=tuple(
            Outcome(dimension=d, winner=winners.get(d), before=before.get(d), after=after.get(d))
            for d in dict.fromkeys([*winners, *before, *after])
        ),
        faults_before=_faults(row, "faults_before", where),
        faults_after=_faults(row, "faults_after", where),
        kept_because=text(row, "kept_because", where),
        edit_ratio=edits.edit_ratio(answer, correction) if ratio is None else ratio,
        cut=any(len(t) > CLIP for t in (answer, correction, *(m.content for m in chat))),
    )


def _faults(row: Mapping[str, Any], key: str, where: str) -> str | None:
    """A number of faults, numbers by dimension, or their names; None when they were not looked for."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, list):
        return wording.listing([wording.name(str(v)) for v in value]) if value else "none"
    if isinstance(value, dict):
        return wording.listing(
            [f"{wording.name(d)} {wording.count(number(value, d, where))}" for d in value] or ["none"]
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(where, key, value, "a number, a list or an object")
    return wording.count(number(row, key, where))
