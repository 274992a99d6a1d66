"""10,000 stored comparisons: judged with the places of their faults, counted, bootstrapped and rendered.

    python benchmarks/evaluation.py [--quick] [--json OUT.json]

Answers of ten upstreams of the pocket suite, with their recorded faults, and a teacher's corrections lie in files.
"judged" takes them through `aligner eval` with the oracle, which counts faults and locates them, and renders the page;
"counted again" does so from the verdicts that are stored by then. There is no peer: the bound is 30 s on two cores
(OMP_NUM_THREADS=2).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from common import write

from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run
from aligner.pocket.faults import text_of
from aligner.pocket.suite import questions
from aligner.pocket.tasks import TASKS
from aligner.pocket.teacher import Teacher
from aligner.pocket.upstreams import Answerer, profiles
from aligner.recipes.spans import oracle
from aligner.report.render import render_run
from aligner.rows import dumps, write_atomic
from aligner.types import as_chat

BOUND = 30.0
UPSTREAMS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the comparisons")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        config = stored(place, 20 if options.quick else 200)
        rows = [measured("judged", config)]
        (config.out / "result.json").unlink()
        rows.append(measured("counted again", config, "resume"))
    for r in rows:
        print(f"{r['name']:<14} {r['comparisons']:>6,} comparisons  run {r['run']:6.2f} s  page {r['page']:5.2f} s  "
              f"together {r['ours']:6.2f} s  bound {BOUND:.0f} s  ratio {r['ratio']:.1f}")  # fmt: skip
    write(rows, options.json)


def stored(place: Path, each: int) -> EvalConfig:
    """Questions, answers and corrections in files, and the evaluation of them."""
    judge = oracle().oracle
    names = [name for name in TASKS if name != "sums"]
    upstreams = list(profiles().values())[:UPSTREAMS]
    teacher = Teacher(judge.tasks.language)
    asked: list[tuple[str, str, Any]] = []
    for name in names:
        rows = list(questions(judge.tasks, name, each))
        write_atomic(place / f"{name}.jsonl", (dumps(row) + "\n" for row in rows))
        asked += [(name, row["id"], judge.tasks.of(as_chat(row["question"]))) for row in rows]
    corrections = []
    for profile in upstreams:
        answerer, random, answers = Answerer(judge.tasks, profile), Random(profile.name), []
        for task, id_, question in asked:
            answer = answerer.answer(question, random)
            key = {"id": id_, "task": task}
            answers.append(key | {"answer": text_of(answer)})
            corrected = teacher.correct(question, answer, random)
            corrections.append(key | {"upstream": profile.name, "correction": corrected})
        write_atomic(place / f"{profile.name}.jsonl", (dumps(row) + "\n" for row in answers))
    write_atomic(place / "corrections.jsonl", (dumps(row) + "\n" for row in corrections))
    return EvalConfig.from_dict({
        "out": place / "run",
        "tasks": [
            {"name": name, "file": place / f"{name}.jsonl", "dimensions": ["helpful", "harmless", "honest"]}
            for name in names
        ],
        "upstreams": [
            {"name": p.name, "group": p.group, "seen": p.seen, "answers": place / f"{p.name}.jsonl"} for p in upstreams
        ],
        "correctors": [{"name": "teacher", "corrections": place / "corrections.jsonl"}],
        "judge": {"call": "aligner.recipes.spans:oracle"},
    })  # fmt: skip


def measured(name: str, config: EvalConfig, existing: Any = "refuse") -> dict[str, Any]:
    begin = time.perf_counter()
    done = run(config, existing)
    scored = time.perf_counter()
    render_run(done)
    end = time.perf_counter()
    result = json.loads((done.path / "result.json").read_text(encoding="utf-8"))
    assert result["edits"], "the judge located no fault"
    return {
        "name": name,
        "peer": "bound",
        "metric": "wall time",
        "unit": "s",
        "comparisons": sum(task["n"] for task in result["tasks"]) * len(result["upstreams"]),
        "resamples": config.resamples,
        "run": scored - begin,
        "page": end - scored,
        "ours": end - begin,
        "theirs": BOUND,
        "ratio": BOUND / (end - begin),
        "seconds": result["seconds"],
    }


if __name__ == "__main__":
    main()
