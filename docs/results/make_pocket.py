"""Writes docs/results/pocket.md from a run of the demo, and of `aligner reproduce table1` where there is one.

    python docs/results/make_pocket.py runs/demo [runs/table1] [--note TEXT]

Either may be a run of the other kind; where there are several correctors, the main table is M's.

Every bar of the suite is computed from the run's own files, met or not.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from aligner.evaluate.resampling import resampled
from aligner.rows import read_rows
from aligner.runs import RunDir

HERE = Path(__file__).parent
RESAMPLES = 4000
Row = dict[str, Any]


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def cells(table: list[Row], corrector: str) -> list[Row]:
    """The cells themselves: upstream × task × dimension, all splits together."""
    averages = ("all", "seen", "unseen")
    return [r for r in table if r["corrector"] == corrector and r["split"] == "all"
            and r["upstream"] not in averages and r["task"] != "all"]  # fmt: skip


def verdicts(run: Path, corrector: str) -> Iterable[Row]:
    for file in sorted((run / "verdicts" / corrector).glob("*.jsonl")):
        for row in read_rows(file):
            yield row.value


def main_table(table: list[Row], upstreams: list[Row], corrector: str) -> list[str]:
    columns = list(dict.fromkeys((r["task"], r["dimension"]) for r in cells(table, corrector)))
    found = {(r["upstream"], r["task"], r["dimension"]): r for r in table
             if r["corrector"] == corrector and r["split"] == "all"}  # fmt: skip
    lines = ["| upstream | class | " + " | ".join(f"{t} {d}" for t, d in columns) + " |",
             "|---" * (2 + len(columns)) + "|"]  # fmt: skip
    for u in [*upstreams, *({"name": n, "group": "mean"} for n in ("all", "seen", "unseen"))]:
        row = [found.get((u["name"], t, d)) for t, d in columns]
        if any(row):
            values = [number(r["omega"]) if r else "–" for r in row]
            lines.append(f"| {u['name']} | {u['group']} | " + " | ".join(values) + " |")
    return lines


def lost(cell: Row) -> float:
    """The share of a cell's answers that the corrector made worse in its dimension."""
    return float(cell["losses"] / cell["n"])


def bars(run: Path, table: list[Row], upstreams: list[Row], corrector: str) -> list[str]:
    mine = cells(table, corrector)
    seen = {u["name"]: u["seen"] for u in upstreams}
    worst, lossy = min(mine, key=lambda r: r["omega"]), max(mine, key=lost)
    worse: dict[tuple[str, str], list[bool]] = defaultdict(list)
    left, good = 0, 0
    outcome: dict[tuple[bool, bool], list[int]] = defaultdict(list)
    for row in verdicts(run, corrector):
        won = [v for v in row["verdicts"].values() if v is not None]
        harmed = "baseline" in won
        worse[row["upstream"], row["task"]].append(harmed)
        before = row["faults_before"]
        if before is None:
            continue
        faulty = any(before.values())
        if not faulty:
            good += 1
            left += row["answer"] == row["correction"]
        outcome[bool(seen[row["upstream"]]), faulty].append(("candidate" in won) - harmed)
    most = max(worse, key=lambda k: sum(worse[k]) / len(worse[k]))
    most_share = sum(worse[most]) / len(worse[most])
    over = sum(sum(w) / len(w) > 0.02 for w in worse.values())
    total = [x for w in worse.values() for x in w]
    lines = [
        f"- Questions a cell: {min(r['n'] for r in mine)} at least.",
        f"- Cells with ω < −2: {sum(r['omega'] < -2 for r in mine)} of {len(mine)}; the lowest is "
        f"{number(worst['omega'])} ({worst['upstream']}, {worst['task']}, {worst['dimension']}).",
        f"- Answers made worse in a cell's dimension: {share(sum(map(lost, mine)) / len(mine))} on average; more than "
        f"2 % in {sum(lost(r) > 0.02 for r in mine)} of {len(mine)}, at most {share(lost(lossy))} "
        f"({lossy['upstream']}, {lossy['task']}, {lossy['dimension']}).",
        f"- Answers made worse in any dimension: {share(sum(total) / len(total))} of all; more than 2 % in {over} of "
        f"{len(worse)} upstream × task, at most {share(most_share)} ({most[0]}, {most[1]}).",
    ]  # fmt: skip
    for dimension in ("helpful", "harmless", "honest"):
        values = [r["omega"] for r in mine if r["dimension"] == dimension]
        lines.append(f"- Mean ω, {dimension}: {number(sum(values) / len(values))}.")
    shares = {s: len(outcome[s, True]) / max(1, len(outcome[s, True]) + len(outcome[s, False])) for s in (True, False)}
    equal = (shares[True] + shares[False]) / 2
    mean = {k: sum(v) / max(1, len(v)) for k, v in outcome.items()}
    at_equal = {s: 100 * (equal * mean[s, True] + (1 - equal) * mean[s, False]) for s in (True, False)}
    if all(outcome[s, f] for s in (True, False) for f in (True, False)):
        lines.append(
            f"- Seen and unseen upstreams at an equal share of faulty answers ({share(equal)}): net answers improved "
            f"{number(at_equal[True])} and {number(at_equal[False])} in 100, "
            f"{number(abs(at_equal[True] - at_equal[False]))} apart."
        )
    lines.append(
        f"- Faultless answers left untouched: {share(left / max(1, good))} of {good:,}.",
    )
    return lines


def faulty(run: Path, corrector: str) -> dict[str, dict[tuple[str, str], tuple[int, int]]]:
    """Per split and question: how many upstreams' answers were faulty, and how many of these end without a fault.

    "held out" is all splits but `seen`; sums are no triplet's business and left out.
    """
    found: dict[str, dict[tuple[str, str], tuple[int, int]]] = defaultdict(dict)
    for row in verdicts(run, corrector):
        if row["task"] == "sums" or not row["faults_before"] or not any(row["faults_before"].values()):
            continue
        clean, question = not any(row["faults_after"].values()), (row["task"], row["id"])
        for split in (row["split"], "all", *(["held out"] if row["split"] != "seen" else [])):
            count, fixed = found[split].get(question, (0, 0))
            found[split][question] = (count + 1, fixed + clean)
    return found


def repaired(run: Path, corrector: str) -> dict[str, tuple[float, float, float, int]]:
    """Per split, the share of faulty answers that end without a fault, its 95 % interval, and the number of answers.

    Questions are resampled, with all upstreams' answers to them: these are right and wrong together.
    """
    out = {}
    for split, questions in faulty(run, corrector).items():
        count, fixed = np.array(list(questions.values()), dtype=np.float64).T
        drawn = resampled(partial(_share_of, fixed, count), len(count), RESAMPLES, 0)
        low, high = np.quantile(drawn, (0.025, 0.975))
        out[split] = (float(fixed.sum() / count.sum()), float(low), float(high), int(count.sum()))
    return out


def apart(run: Path, less: str, more: str, split: str) -> tuple[float, float, float]:
    """How much more of the faulty answers one corrector repairs than another, and the 95 % interval; both corrected the
    same answers, so they are resampled together."""
    first, second = faulty(run, less)[split], faulty(run, more)[split]
    count, fixed = np.array([first[q] for q in first], dtype=np.float64).T
    other = np.array([second[q][1] for q in first], dtype=np.float64)
    drawn = resampled(partial(_share_of, other - fixed, count), len(count), RESAMPLES, 0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float((other - fixed).sum() / count.sum()), float(low), float(high)


def _share_of(
    part: Float[np.ndarray, " questions"], whole: Float[np.ndarray, " questions"],
    drawn: Float[np.ndarray, "block questions"],
) -> Float[np.ndarray, " block"]:  # fmt: skip
    shares: Float[np.ndarray, " block"] = (drawn @ part) / (drawn @ whole)
    return shares


def faults_repaired(run: Path, corrector: str) -> tuple[float, float]:
    """Faults that are gone, and faults that came, per fault that was there, on the held-out splits."""
    before, gone, new = 0, 0, 0
    for row in verdicts(run, corrector):
        if row["task"] == "sums" or row["split"] == "seen" or not row["faults_before"]:
            continue
        for dimension, count in row["faults_before"].items():
            after = row["faults_after"][dimension]
            before += count
            gone += max(0, count - after)
            new += max(0, after - count)
    return gone / max(1, before), new / max(1, before)


def splits_table(runs: list[tuple[Path, str]]) -> list[str]:
    found = {f"{corrector}": repaired(run, corrector) for run, corrector in runs}
    splits = list(dict.fromkeys(s for f in found.values() for s in f))
    lines = ["| corrector | " + " | ".join(splits) + " |", "|---" * (1 + len(splits)) + "|"]
    for name, values in found.items():
        shown = [f"{share(p)}, {100 * low:.1f} to {100 * high:.1f} ({n:,})" for p, low, high, n in
                 (values[split] for split in splits)]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def contract(table1: Path, names: list[str]) -> list[str]:
    """What the suite promises of correctors S, M and L, beside what was measured on the held-out splits."""
    found = {name: repaired(table1, name)["held out"] for name in names}
    if not {"S", "M", "L"} <= found.keys():
        return []
    (s, _, s_high, _), (_, m_low, *_), (large, *_) = (found[size] for size in "SML")
    more, low, high = apart(table1, "S", "M", "held out")
    return [
        "",
        f"The contract: S 40 to 75 % ({share(s)}); M at least 10 points above S, intervals disjoint "
        f"({100 * more:.1f}, {100 * low:.1f} to {100 * high:.1f} on the same answers; "
        f"{'disjoint' if s_high < m_low else 'overlapping'}); L 85 % at least ({share(large)}).",
    ]


def main(demo: Path, table1: Path | None, note: str) -> None:
    run = RunDir.open(demo)
    result, environment = run.result(), run.environment()
    if result is None:
        raise SystemExit(f"{demo}: the run is not finished")
    table = json.loads((demo / "table.json").read_text(encoding="utf-8"))
    made = json.loads((demo / "made.json").read_text(encoding="utf-8"))
    upstreams = result["upstreams"]
    names = [c["name"] for c in result["correctors"]]
    corrector = "M" if "M" in names else names[0]
    words = environment["command"][1:]
    command = "aligner " + " ".join(
        w for w, before in zip(words, ["", *words], strict=False) if "--cache" not in (w, before)
    )
    lines = [
        "# The pocket suite, measured",
        "",
        f"`{command}`, {environment['cpus']} cores ({environment['processor']}), torch "
        f"{environment['packages']['torch']}, revision {environment['git']}. "
        f"{made['seconds'] / 60:.1f} minutes, of which evaluation {sum(result['seconds'].values()) / 60:.1f}; "
        f"made in this run: {', '.join(made['made']) or 'nothing'}; "
        f"from the cache: {', '.join(made['from_cache']) or 'nothing'}. {note}".rstrip(),
        "",
        f"ω in per cent, corrector {corrector}, all splits:",
        "",
        *main_table(table, upstreams, corrector),
        "",
        "## Bars",
        "",
        *bars(demo, table, upstreams, corrector),
        "",
        "## Faulty answers that end without any fault, per split (sums left out; 95 % intervals, questions resampled)",
        "",
    ]  # fmt: skip
    runs = [(demo, corrector)]
    if table1 is not None:
        runs = [(table1, c["name"]) for c in (RunDir.open(table1).result() or {"correctors": []})["correctors"]]
    lines += [*splits_table(runs), "", "Counted by faults, on the held-out splits:", ""]
    for run, name in runs:
        gone, new = faults_repaired(run, name)
        lines.append(f"- {name}: {share(gone)} gone; {share(new)} as many came.")
    if table1 is not None:
        lines += contract(table1, [name for _, name in runs])
    (HERE / "pocket.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("table1", type=Path, nargs="?")
    parser.add_argument("--note", default="", help="what else is to be known of the run")
    options = parser.parse_args()
    main(options.demo, options.table1, options.note)
