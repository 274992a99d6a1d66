"""Numbers and findings in plain words. A value that was not measured is "–", never 0."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aligner.report.curves import Stage
from aligner.report.fields import mapping, number, objects, text
from aligner.report.samples import Tally

ABSENT = "–"
MINUS = "\u2212"
# Below this share of the loss a change is not worth a verb.
_SAME = 0.005
_NAME = 120
# Overrides and embeddings, which would turn round the sentence that a name stands in.
_DIRECTION = re.compile(r"[\u202a-\u202e\u2066-\u2069]")

KEPT = {
    "cut": "the correction was cut off",
    "emptied": "the correction was empty",
    "broken_format": "it was not the JSON that was wanted",
    "script_leak": "foreign script appeared",
    "changed_language": "the language changed",
    "repeated": "it repeated itself",
    "collapsed": "next to nothing was left",
    "unbalanced_fence": "a code fence was left open",
    "lost_code_fence": "a code fence was lost",
    "lost_table": "a table was lost",
    "lost_latex": "mathematics was no longer set as such",
    "lost_citation": "a citation was lost",
    "changed_numbers": "a number changed",
    "changed_urls": "a web address changed",
    "too_long": "too long for the corrector",
    "cancelled": "cancelled",
    "error": "the corrector failed",
    "not_better": "no correction was ranked higher",
    "unscored": "the corrections could not be ranked",
    # What the gateway's shadow mode gives as reasons.
    "length": "the answer was cut off",
    "content_filter": "the answer was filtered",
    "tool_calls": "the answer calls tools",
    "empty": "the answer was blank",
    "prefill": "the answer was begun by its request",
    "no_question": "no question was found",
    "unseen_turns": "earlier turns are known to the upstream alone",
    "structured_output": "the answer has a format to keep",
    "infill": "the answer fills a gap",
    "correction_failed": "the corrector failed",
}
_IDENTITY = "identity_"


def count(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return _odd(value)
    return f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return _odd(value)
    return f"{value:.2g}" if 0 < abs(value) < 10**-digits else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """0.123 as 12.3 %."""
    if value is None or not math.isfinite(value):
        return _odd(value)
    return f"{100 * value:.1f}\u00a0%"


def signed(value: float | None) -> str:
    """A per cent value with its sign and one digit: 12.34 as +12.3; what is not 0 never reads 0."""
    if value is None or not math.isfinite(value):
        return _odd(value)
    digits = f"{abs(value):.1f}"
    if value and digits == "0.0":
        digits = f"{abs(value):.1g}"
    return digits if value == 0 else f"{'+' if value > 0 else MINUS}{digits}"


def interval(low: float | None, high: float | None) -> str:
    """[+1.2, +3.4]; empty unless both ends are known."""
    return "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def magnitude(value: float) -> str:
    """1,234,567 as 1.2 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if value >= size and math.isfinite(value):
            return f"{value / size:.1f} {name}"
    return count(value)


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return _odd(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _odd(value: float | None) -> str:
    if value is None:
        return ABSENT
    return "not a number" if math.isnan(value) else "infinite"


def name(value: str) -> str:
    """A name from a file (stage, source, id) as one line of bearable length that keeps its direction to itself."""
    line = " ".join(_DIRECTION.sub("", value).split())
    return line if len(line) <= _NAME else line[: _NAME - 1] + "…"


def plural(n: float, noun: str) -> str:
    return f"{count(n)} {noun}" if n == 1 else f"{count(n)} {noun}s"


def listing(parts: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def said(value: Any) -> str:
    """Any JSON value in a line; null, and what is empty, is absent."""
    if isinstance(value, dict):
        return ", ".join(f"{k}: {said(v)}" for k, v in value.items()) or ABSENT
    if isinstance(value, list):
        return ", ".join(map(said, value)) or ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ABSENT if value is None or value == "" else str(value)


def tallied(counts: Mapping[str, float]) -> str:
    """Counts by name, largest first: too long: 12, empty: 3."""
    return ", ".join(
        f"{name(k).replace('_', ' ')}: {count(v)}" for k, v in sorted(counts.items(), key=lambda kv: -kv[1]) if v
    )


def finished(result: Mapping[str, Any], where: str) -> list[str]:
    """What a finished run did and whether it helped, as sentences; a sentence without its numbers is left out."""
    parameters = number(result, "parameters", where)
    size = f" of {magnitude(parameters)} parameters" if parameters is not None else ""
    kind = "This run trained a corrector" if result.get("kind", "train") == "train" else "This run is finished"
    return [
        f"{kind}{size}.",
        *_rows(mapping(result, "rows", where), where),
        *_work(objects(result, "stages", where), where),
        *_held_out(objects(result, "held_out", where), where),
    ]


def unfinished(stages: Sequence[Stage]) -> list[str]:
    """How far a run without a result has come."""
    lines = ["This run is not finished: it has no result.json yet. The page shows what it has written so far."]
    if stages:
        last = stages[-1]
        loss = f", training loss {decimal(last.last_loss)}" if last.last_loss is not None else ""
        lines.append(f"Last seen in stage {name(last.name)} at step {count(last.last_step)}{loss}.")
    return lines


def shadowed(tally: Tally) -> list[str]:
    """What shadow mode recorded."""
    return [
        f"The gateway recorded {plural(tally.n + tally.failed.total(), 'answer')} in shadow mode: clients were sent "
        "the originals, and the page shows what their corrections would have changed."
    ]


def without_correction(tally: Tally) -> list[str]:
    """How many answers could not be corrected, and why."""
    if not (total := tally.failed.total()):
        return []
    what = "1 answer has" if total == 1 else f"{count(total)} answers have"
    return [f"{what} no correction ({tallied(tally.failed)}): counted here alone."]


def warnings(stages: Sequence[Stage]) -> list[str]:
    """What is wrong with the numbers themselves."""
    lines = []
    for stage in stages:
        if n := stage.not_finite:
            what = "1 loss is" if n == 1 else f"{count(n)} losses are"
            lines.append(f"Stage {name(stage.name)}: {what} not a finite number and cannot be drawn.")
    return lines


def kept(tally: Tally) -> list[str]:
    """How often the original answer was kept among the samples, and why."""
    total = tally.kept.total()
    if not total:
        return []
    reasons = {KEPT.get(k, k.replace("_", " ")): v for k, v in tally.kept.items()}
    return [f"In {count(total)} of {plural(tally.n, 'sample')} the original answer was kept ({tallied(reasons)})."]


def _rows(rows: Mapping[str, Any], where: str) -> list[str]:
    verbs = {"train": "trained on", "held_out": "held out"}
    parts = [f"{count(n)} were {verb}" for key, verb in verbs.items() if (n := number(rows, key, where)) is not None]
    dropped = mapping(rows, "dropped", where)
    reasons = {k: n for k in dropped if (n := number(dropped, k, where))}
    # Those of identity rows are trained on in the residual stage.
    out = {k: n for k, n in reasons.items() if not k.startswith(_IDENTITY)}
    if out:
        parts.append(f"{count(sum(out.values()))} were left out ({tallied(out)})")
    if not parts:
        return []
    read = number(rows, "read", where)
    of = f"Of {plural(read, 'row')} read, " if read is not None else "Of the rows, "
    lines = [f"{of}{listing(parts)}."]
    if shortened := number(rows, "shortened", where):
        lines.append(f"{plural(shortened, 'row')} had no room for their oldest turns.")
    if warm := {k.removeprefix(_IDENTITY): n for k, n in reasons.items() if k not in out}:
        lines.append(f"{plural(sum(warm.values()), 'identity row')} of the warm-up were left out ({tallied(warm)}).")
    return lines


def _work(stages: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    def total(key: str) -> float | None:
        values = [number(s, key, where) for s in stages]
        known = [v for v in values if v is not None]
        return sum(known) if known and len(known) == len(values) else None

    steps, tokens, seconds = total("steps"), total("tokens"), total("seconds")
    parts = [plural(steps, "step")] if steps is not None else []
    parts += [f"{magnitude(tokens)} tokens"] if tokens is not None else []
    parts += [duration(seconds)] if seconds is not None else []
    names = listing([name(text(s, "name", where) or "unnamed") for s in stages]) if stages else ""
    return [f"Training took {listing(parts)} in {plural(len(stages), 'stage')}: {names}."] if parts else []


def _held_out(table: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    lines = []
    if both := weighted(table, ("loss_before", "loss"), "n", where):
        lines.append(f"On {plural(both[1], 'held-out row')} the loss {moved(*both[0])}.")
    elif one := weighted(table, ("loss",), "n", where):
        rows, loss = plural(one[1], "held-out row"), decimal(one[0][0])
        lines.append(f"On {rows} the loss is {loss}; before training it was not measured.")
    worse = [
        f"{name(source)} ({decimal(before)} to {decimal(after)})"
        for row in table
        if (source := text(row, "source", where) or "no source") != "all"
        and (before := number(row, "loss_before", where)) is not None
        and (after := number(row, "loss", where)) is not None
        and got_worse(before, after)
    ]
    if worse:
        lines.append(f"It got worse on {listing(worse)}.")
    if found := weighted(table, ("untouched", "copied_share"), "generated", where):
        (untouched, copied), n = found
        lines.append(
            f"Of {plural(n, 'held-out answer')} corrected, {share(untouched)} came back unchanged; on average "
            f"{share(copied)} of the words of a correction were copied from the answer."
        )
    return lines


def got_worse(before: float, after: float) -> bool:
    """The loss rose by more than half a per cent, or is no number any more."""
    return not after <= before * (1 + _SAME)


def moved(before: float, after: float) -> str:
    """fell from 2.310 to 0.840."""
    fell = after < before * (1 - _SAME)
    verb = "rose" if got_worse(before, after) else "fell" if fell else "stayed the same,"
    return f"{verb} from {decimal(before)} to {decimal(after)}"


def weighted(
    table: Sequence[Mapping[str, Any]], keys: tuple[str, ...], weight: str, where: str
) -> tuple[list[float], float] | None:
    """Means of `keys` over the sources, weighted by a count, and the counts' sum; the row "all" where there is one.

    Rows in which one of them was not measured are left out; None when none is left.
    """
    rows = [r for r in table if r.get("source") == "all"] or table
    used = [
        (w, values)
        for r in rows
        if (w := number(r, weight, where))
        and None not in (values := [number(r, k, where) for k in keys])
    ]  # fmt: skip
    total = sum(w for w, _ in used)
    if not total:
        return None
    return [sum(w * (v[i] or 0.0) for w, v in used) / total for i in range(len(keys))], total
