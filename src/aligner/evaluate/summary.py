"""The last step: table.json, samples.jsonl and result.json, made from the verdict files row by row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner.evaluate.answering import OddAnswers
from aligner.evaluate.config import CorrectorSpec, EvalConfig
from aligner.evaluate.cost import cost_rows
from aligner.evaluate.critiques import Critiques
from aligner.evaluate.edit_metrics import EditTable
from aligner.evaluate.examples import Examples, gain_of
from aligner.evaluate.inputs import corrector_place
from aligner.evaluate.judging import judge_facts, judge_name
from aligner.evaluate.pairs import pair_rows
from aligner.evaluate.planted import Planted
from aligner.evaluate.progress import Progress
from aligner.evaluate.reliability import Reliability
from aligner.evaluate.store import Store
from aligner.evaluate.table import Tally
from aligner.evaluate.tasks import SEEN, UPSTREAM, Suite, Task
from aligner.generate.method import load_method
from aligner.prompts import Unit
from aligner.rows import JsonlWriter, storage_errors, write_atomic
from aligner.runs import Lineage, RunDir, ancestor_of_model, lineage_to_json, merge_lineage
from aligner.types import FaultFinder, FaultLocator, Judge, Scorer, Usage

if TYPE_CHECKING:
    from aligner.correct.card import AlignerCard


def summarise(
    config: EvalConfig,
    run_dir: RunDir,
    suite: Suite,
    judge: Judge,
    *,
    answers: Mapping[str, Store],
    corrections: Mapping[tuple[str, str], Store],
    verdicts: Mapping[tuple[str, str], Store],
    planted: Planted | None,
    odd: Mapping[str, OddAnswers],
    failed: Mapping[str, int],
) -> None:
    """Write what the verdicts come to; result.json comes last and says that the run is finished.

    Args:
        config, run_dir, suite, judge: of the run.
        answers: by upstream.
        corrections, verdicts: by corrector and upstream.
        planted: the planted set, where there is one.
        odd: counts of odd answers by upstream.
        failed: what failed, by step.
    """
    samples_path = run_dir.path / "samples.jsonl"
    with storage_errors(samples_path):
        samples_path.unlink(missing_ok=True)
    tallies = []
    critiques: list[Critiques] = []
    judging, edited = _Judging(), EditTable()
    total = sum(store.whole() + len(store.failed) for store in verdicts.values())
    with run_dir.samples() as samples, Progress("counting verdicts", total) as progress:
        for corrector in config.correctors:
            tally = Tally(corrector.name, suite, config.upstreams)
            for upstream in config.upstreams:
                key = (corrector.name, upstream.name)
                _count(verdicts[key], tally, edited, config, suite, samples, judging, progress)
                if corrector.method is not None:
                    heard = Critiques(*key, load_method(corrector.method), len(suite))
                    _hear(heard, corrections[key], verdicts[key])
                    critiques.append(heard)
            tallies.append(tally)
    for row in () if planted is None else planted.verdicts():
        judging.pay(row)
    table = [row for tally in tallies for row in tally.rows(config)]
    write_atomic(run_dir.path / "table.json", json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    cards = {spec.name: _card(spec) for spec in config.correctors}
    lineages = {spec.name: _lineage(spec, cards[spec.name], config) for spec in config.correctors}
    seconds, parameters, spent, work = _metrics(run_dir)
    run_dir.write_result({
        "kind": "eval",
        "correctors": [
            {
                "name": spec.name,
                "aligner": spec.aligner,
                "corrections": None if spec.corrections is None else spec.corrections.name,
                "method": None if spec.method is None else Path(spec.method).name,
                "unit": _unit(spec, cards[spec.name]),
                "parameters": parameters.get(spec.name),
                "lineage": lineage_to_json(lineages[spec.name]),
            }
            for spec in config.correctors
        ],
        "upstreams": [
            {
                "name": spec.name,
                "group": spec.group,
                "seen": spec.seen,
                "model": spec.model,
                "answers": None if spec.answers is None else spec.answers.name,
                "url": spec.url,
                "served_model": spec.served_model,
                **asdict(odd[spec.name]),
            }
            for spec in config.upstreams
        ],
        "tasks": [
            {
                "name": task.name,
                "dimensions": list(task.dimensions),
                "n": len(task.items),
                "splits": _splits(task, config),
                "sampled": task.sampled,
                "total": task.total,
                "repeated": task.repeated,
            }
            for task in suite.tasks
        ],
        "judge": {
            "name": judge_name(judge),
            "call": None if config.judge is None else config.judge.call,
            "counts_faults": isinstance(judge, FaultFinder),
            "locates_faults": isinstance(judge, FaultLocator),
            "scores": isinstance(judge, Scorer),
            **judge_facts(judge, judging.usage, spent),
        },
        "reliability": judging.reliability.rows(),
        "planted": [] if planted is None else planted.rows(),
        "first_reason": judging.first_reason,
        "unscored": sum(tally.unscored for tally in tallies),
        "failed": sum(failed.values()),
        "failed_by_step": dict(failed),
        "regressions": {
            tally.corrector: {
                "worse": (worse := tally.regressions.worse),
                "n": (judged := tally.regressions.judged),
                "share": round(worse / judged, 4) if judged else None,
            }
            for tally in tallies
        },
        "made_worse": [row for tally in tallies for row in tally.worse_rows()],
        "pairs": pair_rows(tallies, config),
        "edits": edited.rows(
            [spec.name for spec in config.correctors],
            [spec.name for spec in config.upstreams],
            [task.name for task in suite.tasks],
        ),
        "seconds": seconds,
        "costs": cost_rows(answers, corrections, [spec.name for spec in config.correctors], work),
        "critiques": [row for heard in critiques for row in heard.rows(config)],
        "lineage": lineage_to_json(merge_lineage(*lineages.values())),
        "self_judged": [name for name, lineage in lineages.items() if _had_a_part(judge, lineage)],
    })  # fmt: skip


@dataclass(slots=True)
class _Judging:
    """What the verdict files say of the judge itself."""

    reliability: Reliability = field(default_factory=Reliability)
    usage: Usage | None = None
    first_reason: str | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        self.reliability.add(row)
        self.pay(row)
        self.first_reason = self.first_reason or next(iter((row.get("reasons") or {}).values()), None)

    def pay(self, row: Mapping[str, Any]) -> None:
        """Count what one row took, and nothing else of it."""
        if row.get("usage"):
            self.usage = (self.usage or Usage()) + Usage(**row["usage"])


def _count(
    store: Store,
    tally: Tally,
    edited: EditTable,
    config: EvalConfig,
    suite: Suite,
    samples: JsonlWriter,
    judging: _Judging,
    progress: Progress,
) -> None:
    """Count one verdict file and keep its examples."""
    examples = {task.name: Examples(config.examples, config.seed) for task in suite.tasks}
    try:
        for place, row in store.rows():
            tally.add(place, row)
            edited.add(row)
            judging.add(row)
            examples[row["task"]].add(place, row, gain_of(row, suite.dimensions[row["task"]]))
            progress.step()
        for picks in examples.values():
            for kind, place, gain in picks.picked():
                samples.write(store.get(place) | {"gain": round(gain, 6), "picked": kind})
    finally:
        store.close()


def _hear(critiques: Critiques, corrections: Store, verdicts: Store) -> None:
    """Lay the critiques of one upstream's answers beside the faults that the judge found in them."""
    try:
        for place, row in verdicts.rows():
            critiques.add(place, corrections.get(place)["critiques"], row["faults_before"])
    finally:
        corrections.close()
        verdicts.close()


def _splits(task: Task, config: EvalConfig) -> dict[str, int]:
    """Questions by the splits that the table has; those of unseen upstreams are the seen ones again."""
    splits = task.splits()
    if SEEN in splits and any(spec.seen is False for spec in config.upstreams):
        splits[UPSTREAM] = splits.get(UPSTREAM, 0) + splits[SEEN]
    return splits


def _metrics(run_dir: RunDir) -> tuple[dict[str, float], dict[str, int], dict[str, int], list[dict[str, Any]]]:
    """Seconds by step over all the times that the run was resumed, the correctors' sizes, the judge's requests, and the
    seconds by corrector and upstream."""
    seconds: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    parameters: dict[str, int] = {}
    work: list[dict[str, Any]] = []
    with run_dir.metrics_path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if "parameters" in row:
                parameters[row["corrector"]] = row["parameters"]
            elif "upstream" in row:
                work.append(row)
            else:
                seconds[row.pop("stage")] += row.pop("seconds")
                spent.update(row)
    return {stage: round(value, 3) for stage, value in seconds.items()}, parameters, dict(spent), work


def _lineage(spec: CorrectorSpec, card: AlignerCard | None, config: EvalConfig) -> Lineage:
    """What a corrector was made from: by a method, the upstreams; nothing is known of stored corrections."""
    if spec.method is not None:
        models = (upstream.model or upstream.served_model for upstream in config.upstreams)
        return tuple(dict.fromkeys(ancestor_of_model("upstream", name) for name in models if name is not None))
    return card.lineage if card is not None else ()


def _card(spec: CorrectorSpec) -> AlignerCard | None:
    """What a corrector that was run here says of itself."""
    if spec.aligner is None:
        return None
    from aligner.correct.card import AlignerCard

    return AlignerCard.load(corrector_place(spec))


def _unit(spec: CorrectorSpec, card: AlignerCard | None) -> Unit | None:
    """What it corrected at a time; None where that is not known."""
    if spec.aligner is None:
        return None
    return "answer" if card is None else card.prompt.unit


def _had_a_part(judge: Judge, lineage: Lineage) -> bool:
    """Whether the judge is found in a corrector's lineage, by the hash of its `ancestor` or of one of its
    `ancestors`, or by its `lineage_name`."""
    own = [getattr(judge, "ancestor", None), *getattr(judge, "ancestors", ())]
    hashes = {ancestor.hash for ancestor in own if ancestor is not None}
    name = getattr(judge, "lineage_name", None)
    return any(a.hash in hashes or a.name == name for a in lineage)
