"""Draws how fast corrections are, by how much of them stands in the answer, from a result of benchmarks/correction.py.

python docs/results/plot_correction.py docs/results/correction.json docs/how-to/latency.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure

BANDS = ("0 to .6", ".6 to .8", ".8 to .95", ".95 to 1")


def main(source: Path, target: Path) -> None:
    rows = {row["name"]: row for row in json.loads(source.read_text(encoding="utf-8"))["rows"]}
    found = [(band, row) for band in BANDS if (row := rows.get(f"replay, copied {band}")) is not None]
    rcParams["svg.hashsalt"] = "aligner"  # the same input draws the same file
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(found))
    for field, label, shift in (("theirs", "prompt lookup", -0.2), ("ours", "answer as draft", 0.2)):
        bars = axes.bar([place + shift for place in places], [row[field] for _, row in found], 0.4, label=label)
        axes.bar_label(bars, fmt="%.1f")
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(list(places), [f"{band}\n({row['rows']} rows)" for band, row in found])
    axes.set_xlabel("share of the correction that stands in the answer")
    axes.set_ylabel("tokens per forward pass")
    axes.legend()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
