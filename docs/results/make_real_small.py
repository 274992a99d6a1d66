"""Writes docs/results/real-small.md from the run that configs/real-small.yaml made.

    python docs/results/make_real_small.py runs/real-small

Rows of the data appear by their id alone, except those of IteraTeR, which is under Apache-2.0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from aligner.rows import read_rows
from aligner.runs import RunDir

HERE = Path(__file__).parent
ATTRIBUTION = "IteraTeR: Du et al., *Understanding Iterative Revision from Human-Written Text*, ACL 2022 (Apache-2.0)."


def figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| source | held-out rows | loss before | loss after | corrected | copied share | (reference) | edit ratio "
        "| (reference) | untouched | kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [
            r["source"], str(r["n"]), figure(r["loss_before"]), figure(r["loss"]), str(r["generated"]),
            figure(r["copied_share"]), figure(r["reference_copied_share"]), figure(r["edit_ratio"]),
            figure(r["reference_edit_ratio"]), figure(r["untouched"]), figure(r["kept"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def examples(samples: list[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "By row id (the text is not ours to print): the most and the least edited correction of each source.",
        "",
    ]
    by_source: dict[str, list[dict[str, Any]]] = {}
    for s in samples:
        by_source.setdefault(s["source"].split("/")[0], []).append(s)
    for source, mine in sorted(by_source.items()):
        ranked = sorted((s for s in mine if s["kept_because"] is None), key=lambda s: s["edit_ratio"])
        if ranked:
            least, most = ranked[0], ranked[-1]
            lines.append(
                f"- {source}: `{least['id']}` (edit ratio {least['edit_ratio']:.2f}), "
                f"`{most['id']}` ({most['edit_ratio']:.2f})"
            )
    lines += ["", f"In words, from {ATTRIBUTION}", ""]
    iterater = sorted(by_source.get("iterater", []), key=lambda s: len(s["answer"]))
    for s in [s for s in iterater if s["kept_because"] is None][:3]:
        lines += [f"`{s['id']}`", "", f"- answer: {s['answer']}", f"- corrected: {s['correction']}"]
        lines += [f"- by a person: {s['reference']}", ""]
    return lines


def main(directory: Path) -> None:
    run = RunDir.open(directory)
    result, environment = run.result(), run.environment()
    if result is None:
        raise SystemExit(f"{directory}: the run is not finished")
    samples = [row.value for row in read_rows(directory / "samples.jsonl")]
    rows, stages = result["rows"], result["stages"]
    dropped = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in rows["dropped"].items())
    minutes = sum(s["seconds"] for s in stages) / 60
    lines = [
        "# Ten million parameters from scratch on all real triplets",
        "",
        f"`ALIGNER_REAL_DATA=… aligner train configs/real-small.yaml`, {environment['cpus']} cores "
        f"({environment['processor']}), torch {environment['packages']['torch']}, revision {environment['git']}.",
        "",
        f"{result['parameters']:,} parameters. {rows['read']:,} triplets read, {rows['train']:,} trained on, "
        f"{rows['held_out']:,} held out by question ({rows['measured']:,} measured), dropped: {dropped}. "
        f"Training took {minutes:.1f} minutes:",
        "",
        "| stage | rows | steps | tokens | tokens/s | loss, first step | last step |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in stages:
        lines.append(
            f"| {s['name']} | {s['rows']:,} | {s['steps']:,} | {s['tokens']:,} | {s['tokens'] / s['seconds']:,.0f} "
            f"| {s['loss_first']:.2f} | {s['loss_last']:.2f} |"
        )
    lines += [
        "",
        "Losses in nats per token of the correction; copied share and edit ratio over words, beside those of the",
        "held-out references; *untouched*: corrections equal to the answer; *kept*: the guards kept the original.",
        "",
    ]
    lines += table(result["held_out"])
    lines += examples(samples)
    (HERE / "real-small.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
