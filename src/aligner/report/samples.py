"""Samples: which rows of samples.jsonl a reader should see, and how their edits are shown."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

from aligner import edits
from aligner.edits import Edit
from aligner.errors import DataError
from aligner.report.fields import number, rows_of, text
from aligner.rows import Row
from aligner.types import Chat, Message, as_chat

SHOWN = 60
# Word diffs take memory with the product of the two lengths, and nobody reads further than this.
CLIP = 20_000
# Exactly unchanged, then twenty equal steps up to "nothing left in place".
RATIO_BINS = 21

Group = Literal["edit", "kept", "copy"]
GROUPS: tuple[Group, ...] = ("edit", "kept", "copy")
_RESERVED: dict[Group, int] = {"edit": SHOWN, "kept": SHOWN // 5, "copy": SHOWN // 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One corrected answer, ready to be shown. `cut` says that only the first CLIP characters of a text are."""

    id: str
    source: str
    group: Group
    question: tuple[Message, ...]
    edits: tuple[Edit, ...]
    reference: str | None
    kept_because: str | None
    flags: tuple[str, ...]
    edit_ratio: float
    copied_share: float
    cut: bool


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all rows, shown or not. The ratio lists hold counts per bin of `ratio_bin`.

    `failed` counts rows without a correction by their reason; they are in no other count.
    """

    sources: Counter[str] = field(default_factory=Counter)
    groups: Counter[Group] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    ratios: list[int] = field(default_factory=lambda: [0] * RATIO_BINS)
    reference_ratios: list[int] = field(default_factory=lambda: [0] * RATIO_BINS)

    @property
    def n(self) -> int:
        return self.sources.total()


def ratio_bin(ratio: float) -> int:
    """0 for exactly unchanged, else 1…20 for (0, .05], (.05, .1] … (.95, 1]."""
    if not ratio > 0:
        return 0
    steps = RATIO_BINS - 1
    return next(i for i in range(1, RATIO_BINS) if ratio <= i / steps or i == steps)


def read_samples(path: Path, limit: int = SHOWN, *, shadow: bool = False) -> tuple[Tally, list[Sample]]:
    """Count every row and pick at most `limit` of them: read twice, so that only the picked rows are in memory.

    Rows of the gateway's shadow mode say by `model` where an answer is from and by `reason` why it is kept; those
    whose correction failed are counted and not shown.

    Raises:
        DataError: the file is damaged, or a row lacks its answer or correction.
    """
    tally = Tally()
    found: dict[str, dict[Group, list[tuple[float, int]]]] = {}
    for index, row in enumerate(_rows(path, shadow)):
        where = f"{path}:{row.line}"
        if shadow and row.value.get("correction", "") is None:
            tally.failed[text(row.value, "kept_because", where) or "error"] += 1
            continue
        answer, correction = required(row.value, "answer", where), required(row.value, "correction", where)
        source, group, ratio = (
            text(row.value, "source", where) or "",
            _group(row.value, where),
            _ratio(row.value, where),
        )
        tally.sources[source] += 1
        tally.groups[group] += 1
        tally.flags.update(_flags(row.value))
        if because := text(row.value, "kept_because", where):
            tally.kept[because] += 1
        tally.ratios[ratio_bin(ratio)] += 1
        if (reference := text(row.value, "reference", where)) is not None:
            known = number(row.value, "reference_edit_ratio", where)
            tally.reference_ratios[ratio_bin(edits.edit_ratio(answer, reference) if known is None else known)] += 1
        # Of edits the largest, of copies and kept originals the longest: an unchanged "Yes." shows nothing.
        rank = ratio if group == "edit" else float(len(correction))
        best = found.setdefault(source, {g: [] for g in GROUPS})[group]
        heapq.heappush(best, (rank, -index))
        if len(best) > limit:
            heapq.heappop(best)
    picked = set(
        choose([{g: [-i for _, i in sorted(s[g], reverse=True)] for g in GROUPS} for s in found.values()], limit)
    )
    samples = [_sample(r.value, f"{path}:{r.line}") for i, r in enumerate(_rows(path, shadow)) if i in picked]
    return tally, sorted(samples, key=lambda s: (GROUPS.index(s.group), -s.edit_ratio))


def _rows(path: Path, shadow: bool) -> Iterator[Row]:
    if not shadow:
        yield from rows_of(path)
        return
    for row in rows_of(path):
        model = row.value.get("model")  # as the client sent it
        named = {"source": model if isinstance(model, str) else None, "kept_because": row.value.get("reason")}
        yield replace(row, value={**row.value, **named})


def choose(sources: Sequence[Mapping[Group, Sequence[int]]], limit: int = SHOWN) -> list[int]:
    """Pick row numbers from each source's groups, best first: every source once, then in turn from one to the next.

    Up to a fifth of the places each go to kept originals and copies before edits take the rest; what a group does not
    fill, the others may.
    """
    group_of = {i: g for s in sources for g in GROUPS for i in s[g]}
    picked: dict[int, None] = {}

    def take(candidates: Iterable[int], group: Group | None, most: int) -> None:
        for i in candidates:
            taken = len(picked) if group is None else sum(group_of[p] == group for p in picked)
            if len(picked) >= limit or taken >= most:
                return
            picked[i] = None

    take((next(i for g in GROUPS for i in s[g]) for s in sources if any(s.values())), None, limit)
    for group in ("kept", "copy", "edit"):
        take(_in_turn([s[group] for s in sources]), group, _RESERVED[group] * limit // SHOWN)
    for group in GROUPS:
        take(_in_turn([s[group] for s in sources]), None, limit)
    return list(picked)


def _in_turn(lists: Sequence[Sequence[int]]) -> Iterable[int]:
    return (i for i in chain.from_iterable(zip_longest(*lists)) if i is not None)


def readable(runs: Sequence[Edit]) -> tuple[Edit, ...]:
    """Join replacements that share less between them than each replaces: a rewritten sentence reads as one.

    As in `edits.diff`, "equal" and "delete" runs join to the old text, "equal" and "insert" runs to the new one.
    """
    out: list[Edit] = []
    for deleted, inserted, equal in _joined(runs):
        if equal:
            out.append(Edit(op="equal", text=deleted))
            continue
        out += [Edit(op="delete", text=deleted)] if deleted else []
        out += [Edit(op="insert", text=inserted)] if inserted else []
    return tuple(out)


_Block = tuple[str, str, bool]  # old text, new text, whether they are the same


def _joined(runs: Iterable[Edit]) -> list[_Block]:
    """Neighbouring changes as one, and changes around a short equal block too; each join may make the next possible."""
    done: list[_Block] = []
    for run in runs:
        equal = run.op == "equal"
        done.append((run.text if run.op != "insert" else "", run.text if run.op != "delete" else "", equal))
        if not equal and len(done) > 1 and not done[-2][2]:
            (old, new, _), (more_old, more_new, _) = done[-2:]
            done[-2:] = [(old + more_old, new + more_new, False)]
        while len(done) > 2 and _worth_joining(*done[-3:]):
            left, (shared, _, _), right = done[-3:]
            done[-3:] = [(left[0] + shared + right[0], left[1] + shared + right[1], False)]
    return done


def _worth_joining(left: _Block, middle: _Block, right: _Block) -> bool:
    """Both sides replace text and not less of it than they share; what is only deleted, or only added, stays apart."""
    if left[2] or not middle[2] or right[2] or not ((left[0] or right[0]) and (left[1] or right[1])):
        return False
    return len(middle[0]) <= min(max(len(left[0]), len(left[1])), max(len(right[0]), len(right[1])))


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    answer, correction = required(row, "answer", where), required(row, "correction", where)
    reference = text(row, "reference", where)
    chat = question_of(row, where)
    texts = (answer, correction, reference or "", *(m.content for m in chat))
    copied = number(row, "copied_share", where)
    return Sample(
        id=str(row.get("id") or ""),
        source=text(row, "source", where) or "",
        group=_group(row, where),
        question=clipped(chat),
        edits=readable(edits.diff(answer[:CLIP], correction[:CLIP])),
        reference=reference[:CLIP] if reference is not None else None,
        kept_because=text(row, "kept_because", where),
        flags=tuple(_flags(row)),
        edit_ratio=_ratio(row, where),
        copied_share=edits.copied_share(answer, correction) if copied is None else copied,
        cut=any(len(t) > CLIP for t in texts),
    )


def question_of(row: Mapping[str, Any], where: str) -> Chat:
    """The row's question; no turns where it has none, as plain edits, such as a sentence and its rephrasing, have.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return as_chat(row["question"]) if row.get("question") else ()
    except (DataError, TypeError) as e:
        raise DataError(f"{where}: the question cannot be read ({e})") from None


def clipped(chat: Chat) -> Chat:
    """The chat with each turn cut to its first CLIP characters."""
    return tuple(Message(role=m.role, content=m.content[:CLIP]) for m in chat)


def _group(row: Mapping[str, Any], where: str) -> Group:
    if text(row, "kept_because", where):
        return "kept"
    copy = row.get("is_copy")
    return "copy" if (row["answer"] == row["correction"] if copy is None else copy) else "edit"


def _ratio(row: Mapping[str, Any], where: str) -> float:
    ratio = number(row, "edit_ratio", where)
    return edits.edit_ratio(row["answer"], row["correction"]) if ratio is None else ratio


def _flags(row: Mapping[str, Any]) -> list[str]:
    flags = row.get("flags")
    return [str(f) for f in flags] if isinstance(flags, list) else []


def required(row: Mapping[str, Any], key: str, where: str) -> str:
    """A text that a sample cannot be shown without.

    Raises:
        DataError: it is absent or no text.
    """
    value = text(row, key, where)
    if value is None:
        raise DataError(f"{where}: a sample without '{key}'; the file is not a run's samples")
    return value
