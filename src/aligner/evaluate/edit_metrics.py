"""How a correction edits: what it copies, and whether it changes what is faulty and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aligner import edits

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
    for run in edits.diff(answer, correction):
        if run.op == "insert":
            continue
        if run.op == "delete":
            words = _places(run.text, place)
            changed += len(words)
            changed_faulty += sum(_touches(word, spans) for word in words)
        place += len(run.text)
    written = len(edits.words(correction))
    return EditCounts(
        changed=changed,
        faulty=sum(_touches(word, spans) for word in _places(answer, 0)),
        changed_faulty=changed_faulty,
        copied=round(edits.copied_share(answer, correction) * written),
        written=written,
    )


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
