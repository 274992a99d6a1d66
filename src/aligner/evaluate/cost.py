"""Cost: the tokens and the seconds that answers took, or their corrections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from aligner.evaluate.store import Store
from aligner.evaluate.tasks import ALL


@dataclass(slots=True, kw_only=True)
class Cost:
    """Sums over answers. `copied` ones were taken over from an equal answer, cost nothing and are not in `answers`.

    `counted` answers have their tokens known. `timed` ones are those that `seconds` were spent on, one that failed and
    was tried again twice; loading a model is not in them, nor is the time of a process that was killed.
    """

    answers: int = 0
    copied: int = 0
    counted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    timed: int = 0
    seconds: float = 0.0

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Count one row of answers or corrections, a failed one too."""
        if row.get("copied"):
            self.copied += 1
            return
        self.answers += 1
        read, written = row.get("prompt_tokens"), row.get("completion_tokens")
        if read is not None and written is not None:
            self.counted += 1
            self.prompt_tokens += read
            self.completion_tokens += written

    def add_work(self, row: Mapping[str, Any]) -> None:
        """Count one row of metrics.jsonl that says how long some answers took."""
        self.timed += row["answers"]
        self.seconds += row["seconds"]

    def add(self, other: Cost) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def values(self) -> dict[str, Any]:
        """The sums and, under …_each, what one answer took; None is not known."""
        tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {
            "answers": self.answers,
            "copied": self.copied,
            "counted": self.counted,
            **{name: count if self.counted else None for name, count in tokens.items()},
            "seconds": round(self.seconds, 3) if self.timed else None,
            **{f"{name}_each": _each(count, self.counted, 1) for name, count in tokens.items()},
            "seconds_each": _each(self.seconds, self.timed, 6),
        }


def cost_rows(
    answers: Mapping[str, Store],
    corrections: Mapping[tuple[str, str], Store],
    correctors: Sequence[str],
    work: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What answering took (the corrector is None), and correcting, by upstream and over "all" of them.

    Args:
        answers: by upstream.
        corrections: by corrector and upstream.
        correctors: their names, in the order of the rows.
        work: the rows of metrics.jsonl that have seconds of an upstream.
    """
    costs: dict[tuple[str | None, str], Cost] = {(None, upstream): Cost() for upstream in answers}
    costs |= {(name, upstream): Cost() for name in correctors for upstream in answers}
    stores: list[tuple[tuple[str | None, str], Store]] = [((None, name), store) for name, store in answers.items()]
    for key, store in (*stores, *corrections.items()):
        for _, row in store.rows():
            costs[key].add_row(row)
        store.close()
    for spell in work:
        costs[spell["corrector"], spell["upstream"]].add_work(spell)
    found = []
    for corrector in (None, *correctors):
        total = Cost()
        for upstream in answers:
            total.add(costs[corrector, upstream])
            found.append({"corrector": corrector, "upstream": upstream, **costs[corrector, upstream].values()})
        found.append({"corrector": corrector, "upstream": ALL, **total.values()})
    return found


def _each(total: float, count: int, digits: int) -> float | None:
    return round(total / count, digits) if count else None
