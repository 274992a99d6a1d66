"""Sentence mode beside whole answers: ω on the stored answers of a pocket evaluation, and tokens read and written.

    python benchmarks/sentences.py --evaluation RUN --suite DIR --base DIR [--answers DIR …] [--passes 1.0] [--more 1.0]
        [--quick] [--whole DIR] [--sentence DIR] [--out DIR] [--json OUT.json]

Two correctors are trained from the base model, on the same triplets (the suite's, and those in each of `--answers`,
made from what trained upstreams said) and the same text mixed in: one on whole answers, one on their sentences. Rows of
sentences repeat the question, so equal passes would be more tokens: each stage has as many tokens for both, those of
`--passes` passes over the rows of whole answers; `--more` gives the corrector of sentences so many times as many. A
corrector that is trained already is given by `--whole` or `--sentence` (a run of `aligner train`); the other one is
then trained by as many tokens as that run says of itself.

Both correct the answers of RUN, a finished `aligner demo` or pocket `aligner eval`, by `aligner eval` itself, and the
run's judge compares each correction with its answer. ω is in points (hundredths), an interval is the evaluation's
(questions resampled), and a difference is sentences (ours) less whole answers (theirs), paired by answer. Tokens are
those of prompts and corrections for each answer; a sentence's prompt counts in full, also the part that was read ahead.

`--out` is gone on with where it was stopped. `--quick`: 300 triplets and their tokens, 5 questions a task; it shows
that all runs, and its ω says nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from common import write

from aligner.correct.card import checkpoint_place
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run as evaluate
from aligner.generate.hf import load_tokenizer
from aligner.prompts import PromptFormat, Unit
from aligner.recipes.suite_models import settings
from aligner.rows import read_rows
from aligner.runs import RunDir
from aligner.tokens import TextCodec
from aligner.train.config import TrainConfig
from aligner.train.corrector import run as train
from aligner.train.dataset import data_files, prepare

UNITS: tuple[Unit, Unit] = ("answer", "sentence")
NAMES: Mapping[Unit, str] = {"answer": "whole answers", "sentence": "sentences"}
STAGES = ("warmup", "residual")
QUICK_ROWS, QUICK_QUESTIONS = 300, 5


def first_rows(files: Sequence[Path], most: int, out: Path) -> Path:
    """The first rows of all files together, as one file."""
    lines = (line for file in files for line in file.open(encoding="utf-8"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(islice(lines, most)), encoding="utf-8")
    return out


def config_of(unit: Unit, arguments: argparse.Namespace) -> TrainConfig:
    """The pocket corrector's own configuration on another unit, one pass for each stage."""
    data = [arguments.suite / "triplets.jsonl", *(place / "triplets.jsonl" for place in arguments.answers)]
    mix = arguments.suite / "reading.jsonl"
    if arguments.quick:
        data = [first_rows(data, QUICK_ROWS, arguments.out / "triplets.jsonl")]
        mix = first_rows([mix], QUICK_ROWS, arguments.out / "reading.jsonl")
    changes = {
        "data": [str(path) for path in data],
        "mix": [str(mix)],
        "model": str(checkpoint_place(arguments.base)),
        "out": str(arguments.out / unit),
        "unit": unit,
        "gate": False,
        "samples": 0,
    }
    return TrainConfig.from_dict(settings("corrector") | changes, where="the pocket corrector")


def tokens_of_a_pass(config: TrainConfig) -> dict[str, int]:
    """Tokens of all rows of each stage, as training makes them."""
    tokenizer = load_tokenizer(str(config.model))
    form = PromptFormat.preset("chat", tokenizer, instruction=config.instruction or "", request=config.request or "")
    with tempfile.TemporaryDirectory() as directory:
        prepared = prepare(
            config, data_files(config.data), replace(form, unit=config.unit), TextCodec(tokenizer), Path(directory),
            mix=data_files(config.mix, "mix"),
        )  # fmt: skip
        return {name: sum(prepared.stages[name]["length"]) for name in STAGES}


def trained_tokens(run_dir: RunDir) -> dict[str, float]:
    """Tokens that a run says it was trained on, by stage."""
    return {stage["name"]: stage["tokens"] for stage in (run_dir.result() or {})["stages"]}


def correctors(arguments: argparse.Namespace) -> dict[Unit, RunDir]:
    """Both, given or trained; each stage of both sees as many tokens, or `--more` (the last batch is whole)."""
    given = {"answer": arguments.whole, "sentence": arguments.sentence}
    found: dict[Unit, RunDir] = {unit: RunDir.open(given[unit]) for unit in UNITS if given[unit] is not None}
    if len(found) == len(UNITS):
        return found
    configs = {unit: config_of(unit, arguments) for unit in UNITS}
    passes = {unit: tokens_of_a_pass(config) for unit, config in configs.items()}
    budget = {name: arguments.passes * tokens for name, tokens in passes["answer"].items()}
    if found and not arguments.quick:
        budget = trained_tokens(next(iter(found.values())))
    for unit, config in configs.items():
        if unit not in found:
            times = arguments.more if unit == "sentence" else 1.0
            changed = {
                name: getattr(config, name).model_copy(
                    update={"epochs": round(times * budget[name] / passes[unit][name], 4)}
                )
                for name in STAGES
            }
            found[unit] = train(config.model_copy(update=changed), "resume")
    return found


def evaluated(found: Mapping[Unit, RunDir], arguments: argparse.Namespace) -> RunDir:
    """Both on the stored answers of the finished evaluation."""
    source: Path = arguments.evaluation
    done = EvalConfig.from_yaml(source / "config.yaml")
    tasks = [
        {"name": task.name, "file": source / "questions" / f"{task.name}.jsonl", "dimensions": task.dimensions}
        for task in done.tasks
    ]
    upstreams = [
        {"name": u.name, "group": u.group, "seen": u.seen, "answers": source / "answers" / f"{u.name}.jsonl"}
        for u in done.upstreams
    ]
    config = EvalConfig.from_dict({
        "out": arguments.out / "evaluation",
        "tasks": tasks,
        "upstreams": upstreams,
        "correctors": [
            {"name": NAMES[unit], "aligner": str(found[unit].path), "unit": unit} for unit in UNITS
        ],
        "judge": done.judge.model_dump() if done.judge is not None else None,
        "guards": done.guards.model_dump(),
        "sample": QUICK_QUESTIONS if arguments.quick else None,
        "seed": done.seed,
    })  # fmt: skip
    return evaluate(config, "resume")


def ratio(ours: float, theirs: float) -> float | None:
    """Above 1 ours is better; of numbers that are not above 0 it says nothing."""
    return ours / theirs if ours > 0 and theirs > 0 else None


def omega_rows(table: Iterable[Mapping[str, Any]], pairs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each dimension over all tasks: both ω with their intervals, and the paired difference."""
    means = {(r["corrector"], r["dimension"]): r for r in table
             if (r["task"], r["upstream"], r["split"]) == ("all", "all", "all")}  # fmt: skip
    rows = []
    for pair in pairs:
        if pair["task"] != "all":
            continue
        theirs, ours = (means[NAMES[unit], pair["dimension"]] for unit in UNITS)
        rows.append({
            "name": f"omega, {pair['dimension']}", "peer": "whole answers", "metric": "omega", "unit": "points",
            "ours": ours["omega"], "theirs": theirs["omega"],
            "ratio": ratio(ours["omega"], theirs["omega"]),
            "ours_range": [ours["low"], ours["high"]], "theirs_range": [theirs["low"], theirs["high"]],
            "difference": pair["difference"], "difference_range": [pair["low"], pair["high"]],
            "p_value": pair["p_value"], "answers": pair["pairs"], "higher_is_better": True,
        })  # fmt: skip
    return rows


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the dimensions."""
    ours, theirs = (sum(r[side] for r in rows) / len(rows) for side in ("ours", "theirs"))
    return {
        "name": "omega, mean of the dimensions", "peer": "whole answers", "metric": "omega", "unit": "points",
        "ours": ours, "theirs": theirs, "ratio": ratio(ours, theirs), "points_below": theirs - ours,
        "higher_is_better": True,
    }  # fmt: skip


def cost_rows(costs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens and seconds of an answer; what was taken over from an equal answer is not counted."""
    found = {r["corrector"]: r for r in costs if r["upstream"] == "all" and r["corrector"] is not None}
    theirs, ours = (found[NAMES[unit]] for unit in UNITS)
    return [
        {
            "name": name, "peer": "whole answers", "metric": "mean of answers", "unit": unit,
            "ours": ours[field], "theirs": theirs[field], "ratio": theirs[field] / ours[field],
            "answers": ours["counted"],
        }
        for name, field, unit in (
            ("tokens read", "prompt_tokens_each", "tokens"),
            ("tokens written", "completion_tokens_each", "tokens"),
            ("time, corrected together", "seconds_each", "s"),
        )
    ]  # fmt: skip


def kept(run_dir: RunDir) -> dict[str, dict[str, int]]:
    """Why whole answers were kept as they were, by corrector."""
    found = {}
    for name in NAMES.values():
        files = sorted((run_dir.path / "corrections" / name).glob("*.jsonl"))
        found[name] = dict(Counter(row.value["kept_because"] or "corrected" for f in files for row in read_rows(f)))
    return found


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    for r in rows:
        low_high = [
            f" ({r[key][0]:.1f} to {r[key][1]:.1f})" if key in r else "" for key in ("ours_range", "theirs_range")
        ]
        line = f"{r['name']:<30} sentences {r['ours']:8.3f}{low_high[0]}  {r['peer']} {r['theirs']:8.3f}{low_high[1]}"
        if "difference" in r:
            low, high = r["difference_range"]
            line += f"  difference {r['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
        elif "points_below" in r:
            line += f"  difference {-r['points_below']:+.2f}"
        print(f"{line}  {r['unit']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--answers", type=Path, nargs="*", action="extend", default=[])
    parser.add_argument("--passes", type=float, default=1.0)
    parser.add_argument("--more", type=float, default=1.0)
    parser.add_argument("--whole", type=Path)
    parser.add_argument("--sentence", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/sentences"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if None in (arguments.whole, arguments.sentence) and None in (arguments.suite, arguments.base):
        parser.error("give --suite and --base, or both --whole and --sentence")
    found = correctors(arguments)
    run_dir = evaluated(found, arguments)
    result = run_dir.result() or {}
    table = json.loads((run_dir.path / "table.json").read_text(encoding="utf-8"))
    rows = omega_rows(table, result["pairs"])
    rows += [mean_row(rows), *cost_rows(result["costs"])]
    show(rows)
    write(
        rows, arguments.json, kept=kept(run_dir), regressions=result["regressions"],
        trained={NAMES[unit]: (found[unit].result() or {})["stages"] for unit in UNITS},
    )  # fmt: skip


if __name__ == "__main__":
    main()
