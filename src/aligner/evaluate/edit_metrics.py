"""How a correction edits: what it copies, and whether it changes what is faulty and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from aligner import edits
from aligner.evaluate.tasks import ALL

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditCounts:
    """Words of answers, added up: how many a correction took away or replaced, how many are faulty, and both.

    `copied` and `written` are words of the correction: those that stand in the answer in the same order, and all.
    """

    changed: int = 0
    faulty: int = 0
    changed_faulty: int = 0
    copied: int = 0
    written: int = 0

    def __add__(self, other: EditCounts) -> EditCounts:
        return EditCounts(
            changed=self.changed + other.changed,
            faulty=self.faulty + other.faulty,
            changed_faulty=self.changed_faulty + other.changed_faulty,
            copied=self.copied + other.copied,
            written=self.written + other.written,
        )

    @property
    def precision(self) -> float | None:
        """Share of the changed words that are faulty; None where nothing is changed."""
        return self.changed_faulty / self.changed if self.changed else None

    @property
    def recall(self) -> float | None:
        """Share of the faulty words that are changed; None where nothing is faulty."""
        return self.changed_faulty / self.faulty if self.faulty else None

    @property
    def copied_share(self) -> float | None:
        """Share of the corrections' words that are copied; None where nothing is written."""
        return self.copied / self.written if self.written else None


def count_edits(answer: str, correction: str, faulty: Iterable[Span] = ()) -> EditCounts:
    """Compare a correction with its answer word by word.

    Args:
        answer, correction: the two texts.
        faulty: (start, end) in characters of the answer's faulty places, as its oracle knows them. What the answer
            lacks has no place in it, so that an insertion is neither right nor wrong here.
    """
    spans = list(faulty)
    changed = changed_faulty = place = 0
    for run in edits.diff(answer, correction) if answer != correction else ():
        if run.op == "insert":
            continue
        if run.op == "delete":
            words = _places(run.text, place)
            changed += len(words)
            changed_faulty += sum(_touches(word, spans) for word in words)
        place += len(run.text)
    return count_copied(answer, correction) + EditCounts(
        changed=changed,
        faulty=sum(_touches(word, spans) for word in _places(answer, 0)) if spans else 0,
        changed_faulty=changed_faulty,
    )


def count_copied(answer: str, correction: str) -> EditCounts:
    """The copied and the written words of a correction alone, where nobody knows what was faulty."""
    written = len(edits.words(correction))
    copied = written if answer == correction else round(edits.copied_share(answer, correction) * written)
    return EditCounts(copied=copied, written=written)


class EditTable:
    """Adds up how corrections edit, row by row, by corrector, upstream and task; only sums stay in memory."""

    def __init__(self) -> None:
        self._cells: defaultdict[tuple[str, str, str], EditCounts] = defaultdict(EditCounts)
        self._located: Counter[tuple[str, str, str]] = Counter()
        self._answers: Counter[tuple[str, str, str]] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of a verdict file. Only where it has the answer's faulty places do its changes count."""
        spans = row.get("fault_spans")
        answer, correction = row["answer"], row["correction"]
        counts = count_copied(answer, correction) if spans is None else count_edits(answer, correction, spans)
        for upstream in (row["upstream"], ALL):
            for task in (row["task"], ALL):
                key = row["corrector"], upstream, task
                self._cells[key] += counts
                self._answers[key] += 1
                self._located[key] += spans is not None

    def rows(self, correctors: Sequence[str], upstreams: Sequence[str], tasks: Sequence[str]) -> list[dict[str, Any]]:
        """Shares from 0 to 1 of words, by corrector, upstream and task, and over "all" of each; None is not known.

        `located` of the answers had their faulty places known; precision and recall, and the counts that they come
        from, are of those.
        """
        return [
            {
                "corrector": corrector,
                "upstream": upstream,
                "task": task,
                "answers": self._answers[corrector, upstream, task],
                "located": (located := self._located[corrector, upstream, task]),
                "copied_share": _rounded(counts.copied_share),
                "precision": _rounded(counts.precision),
                "recall": _rounded(counts.recall),
                "changed": counts.changed if located else None,
                "faulty": counts.faulty if located else None,
                "changed_faulty": counts.changed_faulty if located else None,
            }
            for corrector, upstream, task in product(correctors, (*upstreams, ALL), (*tasks, ALL))
            if (counts := self._cells.get((corrector, upstream, task))) is not None
        ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _places(text: str, start: int) -> list[Span]:
    """Where the words of a text stand."""
    found, at = [], 0
    for word in edits.words(text):
        at = text.index(word, at)
        found.append((start + at, start + at + len(word)))
        at += len(word)
    return found


def _touches(word: Span, spans: Sequence[Span]) -> bool:
    return any(word[0] < end and start < word[1] for start, end in spans)
