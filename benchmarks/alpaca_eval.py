"""AlpacaEval 2's win rates beside the published leaderboard: raw ones, and length-controlled ones of models left out.

    python benchmarks/alpaca_eval.py [--quick] [--data DIR] [--json OUT.json]

Every model in turn is unknown: its rows are masked in the verdicts, the weights and the leaderboard before difficulties
are estimated, and its own verdicts and lengths then give its length-controlled win rate. DIR holds annotations.csv.xz,
leaderboard.csv and length_controlled_weights.csv (default: ../shared/data/alpaca_eval, or that of ALIGNER_REAL_DATA).

The published code finds a question's difficulty by the row's number. Where verdicts are missing, ours is fitted that
way too, to be comparable, and `by_instruction` in the JSON is what it comes to with every question's own difficulty.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import row, write

from aligner.evaluate.alpaca_eval import read_verdicts, win_rate
from aligner.evaluate.difficulty import estimate_difficulty
from aligner.evaluate.length_control import length_controlled
from aligner.evaluate.published import read_published

PEER = "published leaderboard"
CONTROLLED = "length-controlled win rate, left out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="length control for every third model only")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("ALIGNER_REAL_DATA", "../shared/data")) / "alpaca_eval"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    verdicts = read_verdicts(options.data / "annotations.csv.xz")
    published = read_published(options.data / "length_controlled_weights.csv", options.data / "leaderboard.csv")
    whole = max(len(v) for v in verdicts.values())
    rows: list[dict[str, Any]] = []
    print(f"{'model':<36} {'win rate':>9} {'error':>8} {'length-controlled':>18} {'error':>8}")
    for place, (name, found) in enumerate(verdicts.items()):
        raw, theirs = win_rate(found).value, published.win_rates[name]
        assert raw is not None
        rows.append(row(name, PEER, "win rate", "%", [raw], [theirs], error=raw - theirs))
        line = f"{name:<36} {raw:>9.2f} {raw - theirs:>+8.4f}"
        if name != found.baseline and (place % 3 == 0 or not options.quick):
            start = time.perf_counter()
            difficulty = estimate_difficulty(verdicts, published, leave_out=name)
            estimate = length_controlled(found, difficulty, resamples=1000, by_row=True)
            seconds = time.perf_counter() - start
            right = length_controlled(found, difficulty).win_rate
            error = estimate.win_rate - published.length_controlled[name]
            extra = {
                "error": error,
                "interval": estimate.interval,
                "by_instruction": right,
                "missing": whole - len(found),
                "seconds": round(seconds, 3),
            }
            rows.append(
                row(name, PEER, CONTROLLED, "%", [estimate.win_rate], [published.length_controlled[name]], **extra)
            )
            line += f" {estimate.win_rate:>18.2f} {error:>+8.3f}"
            if extra["missing"]:
                line += f"  ({extra['missing']} missing; by instruction {right:.2f})"
        print(line, flush=True)
    for metric in dict.fromkeys(r["metric"] for r in rows):
        errors = np.abs([r["error"] for r in rows if r["metric"] == metric])
        print(f"{metric}: {len(errors)} models, mean error {errors.mean():.3f}, largest {errors.max():.3f} points")
    write(rows, options.json)


if __name__ == "__main__":
    main()
