"""The demo: a corrector, trained once, stacked on every upstream of the pocket suite and compared with it.

`aligner demo` trains what is not there yet (base models, upstreams, the corrector), then evaluates and reports.
`aligner reproduce table1` does the same with correctors of three sizes: the paper's main table, at pocket size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from aligner.config import Config, expand
from aligner.errors import Interrupted
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run as evaluate
from aligner.pocket.claims import Language
from aligner.pocket.oracle import Oracle
from aligner.pocket.tasks import Tasks
from aligner.pocket.upstreams import Profile, ScriptedUpstream, profiles
from aligner.pocket.world import World
from aligner.recipes.lanes import lanes_here, run_jobs
from aligner.recipes.made import Made
from aligner.recipes.spans import LocatingOracle
from aligner.recipes.suite_models import CACHE, EVALUATION, SIZES, Models, Size, settings
from aligner.rows import Row, dumps, read_rows, write_atomic
from aligner.runs import Existing, RunDir, check_apart
from aligner.types import Generator

QUICK_UPSTREAMS = ("heron", "crow", "dove")
_SHIFT_POINTS = 2000


class DemoConfig(Config):
    """Train a corrector, stack it on the pocket suite's upstreams, and report what it does to each."""

    out: Path | None = None
    """The run directory; left out: runs/demo, or runs/demo-quick."""
    quick: bool = False
    """The small corrector and three upstreams, in minutes."""
    cache: Path = CACHE
    """Where trained models lie, for the next run to find."""


class Table1Config(DemoConfig):
    """Train correctors of three sizes, stack each on the pocket suite's upstreams, and report what it does to each."""

    out: Path | None = None
    """The run directory; left out: runs/table1, or runs/table1-quick."""
    quick: bool = False
    """Fewer rows to train on, and three upstreams."""


def run(config: DemoConfig, existing: Existing = "refuse") -> RunDir:
    """Run the demo into `config.out`.

    Raises:
        RunError: the directory exists, a run to be resumed is one of other models, or a training process was killed.
        Interrupted: Ctrl-C; what was trained is kept.
    """
    out = config.out or Path("runs/demo-quick" if config.quick else "runs/demo")
    sizes: tuple[Size, ...] = ("S",) if config.quick else ("M",)
    names = QUICK_UPSTREAMS if config.quick else tuple(profiles())
    return stack(out, sizes, names, quick=config.quick, cache=config.cache, existing=existing)


def table1(config: Table1Config, existing: Existing = "refuse") -> RunDir:
    """The main table with correctors of three sizes (paper, table 1)."""
    out = config.out or Path("runs/table1-quick" if config.quick else "runs/table1")
    names = QUICK_UPSTREAMS if config.quick else tuple(profiles())
    return stack(out, SIZES, names, quick=config.quick, cache=config.cache, existing=existing)


def stack(
    out: Path,
    sizes: Sequence[Size],
    names: Sequence[str],
    *,
    quick: bool,
    cache: Path,
    existing: Existing,
    methods: Mapping[str, str] | None = None,
) -> RunDir:
    """Correctors of some sizes on some upstreams: trained where they are not there yet, evaluated, shown.

    `methods` (of prompting, by the name they are shown under) stand beside them.

    Raises:
        RunError: the directory exists, a run to be resumed is one of other models, or a training process was killed.
        Interrupted: Ctrl-C while training; what was trained is kept.
    """
    started = time.monotonic()
    out, cache = expand(out, "out"), expand(cache, "cache")
    check_apart(out, [cache])
    chosen = [p for name, p in profiles().items() if name in names]
    models = Models(quick=quick, cache=cache)
    suite = models.suite(names)
    for size in SIZES:
        if size in sizes or any(p.size == size for p in chosen):
            models.base(size)
    trained = {p.name: models.upstream(p) for p in chosen if p.size != "scripted"}
    answered = [models.model_triplets(p) for p in chosen if p.seen and p.name in trained]
    correctors = {size: models.corrector(size, trained) for size in sizes}
    config = _evaluation(out, chosen, suite, trained, correctors, methods or {}, quick=quick)
    # Places of models are named by what makes them, so this tells a run of other models before any is trained.
    RunDir.check_place(out, existing, config)
    if models.from_cache:
        say(f"trained before: {', '.join(models.from_cache)}")
    if models.jobs:
        lanes = lanes_here()
        say(f"{len(models.jobs)} things to make, {lanes} at a time: {', '.join(job.name for job in models.jobs)}")
        try:
            run_jobs(models.jobs, lanes, say, after=EVALUATION * len(correctors))
        except KeyboardInterrupt:
            raise Interrupted("stopped; what was made is kept, and the same command goes on") from None
    making = time.monotonic() - started if models.jobs else 0.0
    tasks = Tasks(Language(World(settings("suite")["world"])))
    live: dict[str, Generator] = {p.name: ScriptedUpstream(tasks, p) for p in chosen if p.size == "scripted"}
    oracle = Oracle(tasks)
    finished = existing == "resume" and RunDir(out).result() is not None
    run_dir = RunDir.create(out, config, existing)
    earlier = Made.read(run_dir)

    def record() -> None:
        if finished:  # nothing is added to it
            return
        earlier.and_then(Made(
            made=tuple(job.name for job in models.jobs), from_cache=tuple(models.from_cache), making_seconds=making,
            seconds=time.monotonic() - started,
        )).write(run_dir)  # fmt: skip

    count = len(config.correctors)
    say(f"evaluating: {len(chosen)} upstreams, {count} corrector{'s' * (count > 1)}")
    record()  # a process that is killed while it evaluates has made its models all the same
    try:
        evaluate(config, "resume", judge=LocatingOracle(oracle=oracle), upstreams=live)
    finally:
        record()
    triplets = [place / "triplets.jsonl" for place in (suite, *answered)]
    write_atomic(run_dir.path / "shift.json", dumps(training_shift(oracle, triplets)) + "\n")
    return run_dir


def _evaluation(
    out: Path,
    chosen: Sequence[Profile],
    suite: Path,
    trained: Mapping[str, Path],
    correctors: Mapping[Size, Path],
    methods: Mapping[str, str],
    *,
    quick: bool,
) -> EvalConfig:
    """What is measured, of models that need not be there yet."""
    values = settings("eval")
    return EvalConfig.from_dict(values | {
        "out": str(out),
        "tasks": [{**t, "file": str(suite / "tasks" / Path(t["file"]).name)} for t in values["tasks"]],
        "upstreams": [
            {"name": p.name, "group": p.group, "seen": p.seen}
            | ({"model": str(trained[p.name] / "model")} if p.name in trained else {})
            for p in chosen
        ],
        "correctors": [
            # A quick corrector holds out too few rows to calibrate its gate.
            *({"name": size, "aligner": str(place), "gate": "off" if quick else "balanced"}
              for size, place in correctors.items()),
            *({"name": name, "method": method} for name, method in methods.items()),
        ],
    }, where="the demo's evaluation")  # fmt: skip


def training_shift(oracle: Oracle, triplets: Sequence[Path]) -> dict[str, Any]:
    """Scores of the answers and the corrections of some triplets: how the training data moves answers."""
    before: list[list[int]] = []
    after: list[list[int]] = []
    random, drawn = Random(0), list[Row]()
    for seen, row in enumerate(row for path in triplets for row in read_rows(path)):
        if seen < _SHIFT_POINTS:
            drawn.append(row)
        elif (place := random.randrange(seen + 1)) < _SHIFT_POINTS:
            drawn[place] = row
    for row in drawn:
        question = row.value["question"]
        asked = oracle.tasks.read(question if isinstance(question, str) else question[-1]["content"])
        if asked is None:  # a request that is none of the tasks, and that nothing is changed for
            continue
        for points, text in ((before, row.value["answer"]), (after, row.value["correction"])):
            scores = oracle.scores(asked, text)
            points.append([scores["helpful"], scores["harmless"]])
    return {"training data": {"before": before, "after": after, "x": "helpful", "y": "harmless"}}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress
