"""The lineage on a page: files of one name are told apart where the run that made the model says where they lay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aligner.report.lineage import told_apart
from aligner.report.render import render_run
from aligner.runs import RunDir
from tests.pages import Page

SETTINGS: dict[str, Any] = {
    "data": ["/home/me/cache/suite-1/triplets.jsonl", "cache/answers-crow-2/triplets.jsonl", "notes/own.jsonl"],
    "mix": ["cache/suite-1/reading.jsonl"],
    "model": "cache/base-M-3/model",
}


def ancestor(role: str, name: str) -> dict[str, str]:
    return {"role": role, "name": name, "hash": f"{role}{name}"}


LINEAGE = [
    ancestor("data", "triplets.jsonl"), {**ancestor("data", "triplets.jsonl"), "hash": "other"},
    ancestor("data", "own.jsonl"), ancestor("data", "reading.jsonl"), ancestor("base", "model"),
    ancestor("data", "world.jsonl"),
]  # fmt: skip
PLAIN = [a["name"] for a in LINEAGE]
APART = [
    "suite-1/triplets.jsonl", "answers-crow-2/triplets.jsonl", "own.jsonl", "reading.jsonl", "base-M-3/model",
    "world.jsonl",
]  # fmt: skip


def a_run(path: Path, lineage: Sequence[Any] = LINEAGE, **more: Any) -> RunDir:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(json.dumps(SETTINGS | more))
    (path / "env.json").write_text("{}")
    (path / "result.json").write_text(json.dumps({"kind": "train", "lineage": lineage}))
    return RunDir(path)


def names(path: Path, lineage: Sequence[Any] = LINEAGE) -> list[str]:
    found = told_apart(lineage, path)
    assert [{**a, "name": ""} for a in found] == [{**a, "name": ""} for a in lineage], "nothing but names changes"
    return [a["name"] for a in found]


def test_files_of_one_name_and_a_run_s_model_get_their_directory(tmp_path: Path) -> None:
    assert names(a_run(tmp_path / "run").path) == APART


def test_without_the_run_names_stay_as_they_are(tmp_path: Path) -> None:
    assert names(tmp_path / "nowhere") == PLAIN
    assert names(Path("x" * 300)) == PLAIN
    assert names(Path("\0")) == PLAIN
    other = a_run(tmp_path / "other", LINEAGE[:-1])
    assert names(other.path) == PLAIN, "another model lies there by now"


@pytest.mark.parametrize("content", ["{", "[]", "lineage"])
def test_a_damaged_run_is_done_without(tmp_path: Path, content: str) -> None:
    run = a_run(tmp_path / "run")
    (run.path / "config.yaml").write_text(content)
    assert names(run.path) == PLAIN
    run = a_run(tmp_path / "another")
    (run.path / "result.json").write_text(content)
    assert names(run.path) == PLAIN


@pytest.mark.parametrize(
    "changed",
    [
        {"data": ["cache/*/triplets.jsonl", "notes/own.jsonl"]},
        {"data": [*SETTINGS["data"], "cache/answers-owl-4/triplets.jsonl"]},
        {"data": ["/home/me/cache/suite-1/triplets.jsonl"]},
        {"data": list(reversed(SETTINGS["data"]))},
        {"data": 3},
        {"data": None, "mix": "reading.jsonl"},
    ],
)
def test_where_paths_and_files_do_not_match_no_file_is_called_by_a_guess(tmp_path: Path, changed: Any) -> None:
    assert names(a_run(tmp_path / "run", **changed).path) == [*PLAIN[:4], "base-M-3/model", "world.jsonl"]


def test_a_pattern_that_found_several_files_is_the_place_of_none(tmp_path: Path) -> None:
    lineage = [{**ancestor("data", "t.jsonl"), "hash": str(i)} for i in range(3)]
    run = a_run(tmp_path / "run", lineage, data=["a/*/t.jsonl", "b/t.jsonl"], mix=[], model=None)
    assert names(run.path, lineage) == ["t.jsonl"] * 3
    run = a_run(tmp_path / "three", lineage, data=[f"{x}/t.jsonl" for x in "abc"], mix=[], model=None)
    assert names(run.path, lineage) == ["a/t.jsonl", "b/t.jsonl", "c/t.jsonl"]


def test_a_base_from_elsewhere_keeps_its_name(tmp_path: Path) -> None:
    lineage = [*LINEAGE[:4], ancestor("base", "org/small")]
    assert names(a_run(tmp_path / "run", lineage, model="org/small").path, lineage)[-1] == "org/small"


def test_the_pages_of_a_training_run_and_of_an_evaluation(tmp_path: Path) -> None:
    corrector = a_run(tmp_path / "corrector")
    page = Page(render_run(corrector).read_text(encoding="utf-8"))
    assert [row[1] for row in page.table("What made")] == APART
    for i, place in enumerate((corrector.path, corrector.model_path)):
        run = RunDir(tmp_path / f"eval-{i}")
        run.path.mkdir()
        run.config_path.write_text("")
        named = {"name": "M", "aligner": str(place), "lineage": LINEAGE}
        run.write_result({"kind": "eval", "correctors": [named], "lineage": LINEAGE})
        page = Page(render_run(run).read_text(encoding="utf-8"))
        assert [row[2] for row in page.table("What made")] == APART
