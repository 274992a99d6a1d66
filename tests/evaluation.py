"""What the tests of evaluation share: task files, stored texts, and configurations over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner.evaluate.config import EvalConfig, TaskSpec
from aligner.evaluate.tasks import Suite, read_task
from aligner.types import Chat, Verdict
from tests.training import write_rows

SCRIPT = {"helpful": ["bad"], "harmless": ["worse"]}


def task_file(path: Path, count: int, splits: Sequence[str] = (), prefix: str = "q") -> Path:
    rows: list[dict[str, Any]] = [{"id": f"{prefix}{i}", "question": f"question {i}?"} for i in range(count)]
    for i, row in enumerate(rows):
        if splits:
            row["split"] = splits[i % len(splits)]
    return write_rows(path, rows)


def stored(path: Path, texts: Mapping[str, str | None], **fields: str) -> Path:
    """Stored answers; with `upstream` among the fields, stored corrections."""
    name = "correction" if "upstream" in fields else "answer"
    return write_rows(path, [{"id": id_, name: text, **fields} for id_, text in texts.items()])


def suite_of(path: Path, count: int, dimensions: tuple[str, ...] = ("helpful",), splits: Sequence[str] = ()) -> Suite:
    spec = TaskSpec(name="t", file=task_file(path, count, splits), dimensions=dimensions)
    return Suite([read_task(spec)])


def two_tasks(directory: Path, count: int) -> Suite:
    """Two tasks, both judged on "helpful" and the second on "harmless" as well."""
    return Suite([
        read_task(TaskSpec(name=name, file=task_file(directory / f"{name}.jsonl", count), dimensions=dimensions))
        for name, dimensions in (("one", ("helpful",)), ("two", ("helpful", "harmless")))
    ])  # fmt: skip


def stored_config(tmp_path: Path, **changes: Any) -> EvalConfig:
    """Two tasks of four questions, two upstreams and one corrector, all stored; each answer is "bad" or "good".

    Upstream a: q0 bad → good, q1 good → good (a copy), q2 good → bad, q3 bad → good. Upstream b copies everything.
    Both tasks have the same ids, so the rows say which they are of.
    """
    one = task_file(tmp_path / "one.jsonl", 4, ["seen", "entity"])
    two = task_file(tmp_path / "two.jsonl", 4, ["seen", "entity"])
    before, after = ["bad", "good", "good", "bad"], ["good", "good", "bad", "good"]
    answers: dict[str, list[dict[str, str]]] = {"a": [], "b": []}
    corrections = []
    for task in ("one", "two"):
        for i in range(4):
            answers["a"].append({"id": f"q{i}", "task": task, "answer": before[i]})
            answers["b"].append({"id": f"q{i}", "task": task, "answer": f"{before[i]} b"})
            corrections.append({"id": f"q{i}", "task": task, "upstream": "a", "correction": after[i]})
            corrections.append({"id": f"q{i}", "task": task, "upstream": "b", "correction": f"{before[i]} b"})
    for name, rows in answers.items():
        write_rows(tmp_path / f"{name}.jsonl", rows)
    write_rows(tmp_path / "corrections.jsonl", corrections)
    settings: dict[str, Any] = {
        "out": tmp_path / "run",
        "tasks": [
            {"name": "one", "file": one, "dimensions": ["helpful"]},
            {"name": "two", "file": two, "dimensions": ["helpful", "harmless"]},
        ],
        "upstreams": [
            {"name": "a", "answers": tmp_path / "a.jsonl", "group": "api", "seen": True},
            {"name": "b", "answers": tmp_path / "b.jsonl", "group": "open", "seen": False},
        ],
        "correctors": [{"name": "c", "corrections": tmp_path / "corrections.jsonl"}],
        "judge": {"call": "aligner.evaluate.scripted:ScriptedJudge", "arguments": {"script": SCRIPT}},
        "resamples": 200,
    }
    return EvalConfig.from_dict(settings | changes)


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cell(out: Path, **key: str) -> dict[str, Any]:
    """The one row of table.json with these keys; "helpful" and "all" where none is given."""
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    wanted = {"dimension": "helpful", "upstream": "all", "task": "all", "split": "all"} | key
    found = [row for row in table if all(row[k] == v for k, v in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


class PlainJudge:
    """Compares and nothing else: the answer with fewer "bad" wins on "helpful"."""

    name = "plain"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        self.asked.append((candidate, baseline))
        after, before = candidate.count("bad"), baseline.count("bad")
        winner = "tie" if after == before else "candidate" if after < before else "baseline"
        return [Verdict(dimension="helpful", winner=winner)]
