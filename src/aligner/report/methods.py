"""Methods: correctors, prompting and nothing side by side: what each wins, what it costs, and who can criticise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aligner.report import wording
from aligner.report.fields import items, mapping, number, objects, text, wrong
from aligner.report.table import ALL, Cell, ScoreTable

NOTHING = "nothing"
_KINDS = ("faultless", "faulty")
SELF_JUDGED = "self-judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method: ω by dimension over all upstreams and tasks, and what one answer takes, as text.

    The line of `nothing` has what the upstreams' own answers took, which every other method takes besides.
    """

    name: str
    cells: Sequence[Cell]
    worse: str
    read: str
    written: str
    seconds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """How well one upstream tells its faulty answers by one method; `at_chance` is None where that cannot be said.

    Of `asked` critiques `unread` did not say whether the answer passes.
    """

    upstream: str
    accuracy: str
    interval: str
    at_chance: bool | None
    unread: str
    asked: str

    @property
    def note(self) -> str:
        return "cannot be said" if self.at_chance is None else "at chance" if self.at_chance else ""

    @property
    def silence(self) -> str:
        """How many said nothing; empty where all did."""
        return "" if self.unread in ("0", wording.ABSENT) else f"{self.unread} of {self.asked} unread"


def method_lines(table: ScoreTable, values: Mapping[str, Any], where: str) -> list[Line]:
    """The lines of a result's costs; none where it has none, as one of an older version.

    Raises:
        DataError: a value is of the wrong type.
    """
    costs = {
        text(row, "corrector", where): row for row in objects(values, "costs", where) if row.get("upstream") == ALL
    }
    marked = items(values, "self_judged", where)
    found = []
    for name, cost in costs.items():
        if name is None:
            cells, worse = [Cell(text=wording.signed(0.0)) for _ in table.dimensions], wording.share(0.0)
        elif name in marked:
            cells, worse = [Cell(text=SELF_JUDGED) for _ in table.dimensions], SELF_JUDGED
        else:
            cells = [table.cell(name, ALL, ALL, dimension) for dimension in table.dimensions]
            lost = mapping(mapping(values, "regressions", where), name, where)
            worse = wording.share(number(lost, "share", where))
        found.append(
            Line(
                name=NOTHING if name is None else name,
                cells=cells,
                worse=worse,
                read=wording.decimal(number(cost, "prompt_tokens_each", where), 1),
                written=wording.decimal(number(cost, "completion_tokens_each", where), 1),
                seconds=wording.decimal(number(cost, "seconds_each", where), 3),
            )
        )
    return found


def critics(values: Mapping[str, Any], where: str) -> dict[str, list[Critic]]:
    """By method, the critics of all its principles together, in the result's order of upstreams.

    Raises:
        DataError: a value is of the wrong type.
    """
    found: dict[str, list[Critic]] = {}
    for row in objects(values, "critiques", where):
        if row.get("principle") != ALL:
            continue
        at_chance = row.get("at_chance")
        if at_chance is not None and not isinstance(at_chance, bool):
            raise wrong(where, "at_chance", at_chance, "true, false or null")
        low, high = number(row, "low", where), number(row, "high", where)
        unread = number(row, "unread", where)
        read = [number(row, f"{kind}_{said}", where) or 0.0 for kind in _KINDS for said in ("passed", "failed")]
        critic = Critic(
            upstream=text(row, "upstream", where) or "",
            accuracy=wording.decimal(number(row, "accuracy", where), 2),
            interval="" if low is None or high is None else f"[{low:.2f}, {high:.2f}]",
            at_chance=at_chance,
            unread=wording.count(unread),
            asked=wording.count((unread or 0.0) + sum(read)),
        )
        found.setdefault(text(row, "corrector", where) or "", []).append(critic)
    return found


def critique_notes(values: Mapping[str, Any], where: str) -> list[str]:
    """What a reader of the comparison must know: where critics are blind, and where nobody can tell.

    Raises:
        DataError: a value is of the wrong type.
    """
    lines = []
    known = critics(values, where)
    for name, of in known.items():
        method = wording.name(name)
        if blind := [f"{wording.name(c.upstream)} ({c.accuracy} {c.interval})" for c in of if c.at_chance]:
            lines.append(
                f"The critiques by {method} are at chance on {wording.listing(blind)}: there the comparison with "
                f"{method} is not meaningful."
            )
        if unsure := [_unsure(c) for c in of if c.at_chance is None]:
            lines.append(
                f"Whether the critiques by {method} are better than chance cannot be said on {wording.listing(unsure)}"
                f": too few of the faulty answers, or of the others, have one that says whether they pass. Nothing "
                f"follows from the comparison with {method} there."
            )
    models = [c for c in items(values, "correctors", where) if isinstance(c, dict)]
    if silent := [name for c in models if c.get("method") and (name := text(c, "name", where) or "") not in known]:
        shown = wording.listing([wording.name(name) for name in silent])
        lines.append(f"How good the critiques by {shown} are is not known: the judge counts no faults.")
    return lines


def _unsure(critic: Critic) -> str:
    silence = f" ({critic.silence})" if critic.silence else ""
    return f"{wording.name(critic.upstream)}{silence}"
