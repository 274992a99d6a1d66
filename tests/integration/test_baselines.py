"""`aligner reproduce table2` from its command to its page, on tiny models that stand where trained ones would."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from aligner.cli import main
from aligner.evaluate.config import EvalConfig
from aligner.generate.method import load_method
from aligner.pocket.suite import SuiteConfig
from aligner.pocket.suite import run as write_suite
from aligner.pocket.upstreams import profiles
from aligner.recipes import demo, suite_models
from aligner.recipes.baselines import METHODS
from aligner.recipes.suite_models import Models
from tests.evaluation import rows_in
from tests.models import byte_bpe_tokenizer, tiny_aligner, tiny_model
from tests.pages import Page, assert_self_contained

TRAINED = ("crow", "dove")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the recipe would train first: a small suite, and models that have learned nothing."""
    directory = tmp_path_factory.mktemp("cache")
    models = Models(quick=True, cache=directory)
    suite = models.suite(TRAINED)
    write_suite(SuiteConfig(out=suite, triplets=20, texts=20, questions=4, upstream_rows=4, upstreams=TRAINED))
    tokenizer = byte_bpe_tokenizer()
    base = models.base("S")
    upstreams = [models.upstream(profiles()[name]) for name in TRAINED]
    for name in TRAINED:
        (answers := models.model_triplets(profiles()[name])).mkdir(parents=True)
        (answers / "result.json").write_text("{}")
        (answers / "triplets.jsonl").write_text((suite / "triplets.jsonl").read_text())
    for seed, run in enumerate([base, models.corrector("S", TRAINED), *upstreams]):
        (run / "model").mkdir(parents=True)
        (run / "config.yaml").write_text("")
        (run / "result.json").write_text("{}")
        if run.name.startswith("corrector"):
            with tiny_aligner("llama", tokenizer, context=4096) as aligner:
                aligner.save_pretrained(run / "model")
        else:
            tiny_model("llama", tokenizer, seed, context=4096).save_pretrained(run / "model")
            tokenizer.save_pretrained(run / "model")
    return directory


@pytest.fixture(scope="module")
def out(cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("out") / "table2"
    assert main(["reproduce", "table2", "--quick", "--out", str(place), "--cache", str(cache)]) == 0
    return place


def test_the_corrector_and_both_methods_on_upstreams_that_can_be_prompted(out) -> None:
    result = json.loads((out / "result.json").read_text())
    assert [u["name"] for u in result["upstreams"]] == list(TRAINED)
    assert [(c["name"], c["method"]) for c in result["correctors"]] == [("S", None), *METHODS.items()]
    assert result["failed"] == 0
    assert {(c["corrector"], c["upstream"]) for c in result["critiques"] if c["principle"] == "all"} == {
        (method, upstream) for method in METHODS for upstream in TRAINED
    }
    costs = {(c["corrector"], c["upstream"]): c for c in result["costs"]}
    assert all(costs[name, "all"]["prompt_tokens_each"] > 0 for name in (None, "S", *METHODS))
    for upstream in TRAINED:
        answers = {(r["task"], r["id"]): r["answer"] for r in rows_in(out / "answers" / f"{upstream}.jsonl")}
        for name, place in METHODS.items():
            rows = rows_in(out / "corrections" / name / f"{upstream}.jsonl")
            assert {(r["task"], r["id"]) for r in rows} == answers.keys()
            known = {p.name for p in load_method(place).principles}
            for row in rows:
                assert len(row["critiques"]) == (1 if name == "CAI" else 3)
                assert row["critiques"].keys() <= known
                if not any(c["passed"] is False for c in row["critiques"].values()):
                    assert row["correction"] == answers[row["task"], row["id"]]
    made = json.loads((out / "made.json").read_text())
    assert made["made"] == []
    assert {"suite", "base S", "corrector S", *TRAINED} <= set(made["from_cache"])


def test_the_page_and_the_terminal(out, cache, capsys) -> None:
    assert main(["reproduce", "table2", "--quick", "--out", str(out), "--cache", str(cache), "--resume"]) == 0
    told = capsys.readouterr()
    for line in ("nothing", "S", "CAI", "self-critique"):
        assert re.search(rf"^ {line} ", told.out, re.MULTILINE), told.out
    assert "left out: heron (scripted upstreams cannot be prompted)" in told.err
    assert "already finished" in told.err
    assert "Nothing follows from the comparison with CAI there." in " ".join(told.err.split())
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert_self_contained(page)
    assert "Methods and cost" in [e["text"] for e in page.all("h2")]


def test_a_run_of_other_models_is_refused_before_any_is_trained(out, cache, capsys, monkeypatch) -> None:
    before = {p: p.read_bytes() for p in out.iterdir() if p.is_file()}
    monkeypatch.setattr(suite_models, "code_hash", lambda room: f"another {room}")
    monkeypatch.setattr(demo, "run_jobs", lambda *_, **__: pytest.fail("something was trained"))
    assert main(["reproduce", "table2", "--quick", "--out", str(out), "--cache", str(cache), "--resume"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was started with another configuration (differs in: correctors, tasks, upstreams)" in said
    assert "--overwrite" in said
    assert {p: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_what_was_made_is_known_when_the_evaluation_was_interrupted(cache, tmp_path, monkeypatch) -> None:
    answers = Models(quick=True, cache=cache)
    answers.suite(TRAINED)
    answers.base("S")
    answers.upstream(profiles()["crow"])
    lacking = answers.model_triplets(profiles()["crow"]) / "result.json"
    lacking.unlink()
    there_already: list[bool] = []

    def make(*_: object, **__: object) -> None:
        time.sleep(0.2)
        lacking.write_text("{}")

    def stop(config: EvalConfig, *_: object, **__: object) -> None:
        there_already.append((config.out / "made.json").is_file())
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_jobs", make)
    arguments = ["reproduce", "table2", "--quick", "--out", str(tmp_path / "run"), "--cache", str(cache)]
    monkeypatch.setattr(demo, "evaluate", stop)
    assert main(arguments) == 130
    first = json.loads((tmp_path / "run/made.json").read_text())
    assert first["made"] == ["answers crow"]
    assert "corrector S" in first["from_cache"]
    assert first["seconds"] > first["making_seconds"] > 0
    assert main([*arguments, "--resume"]) == 130
    later = json.loads((tmp_path / "run/made.json").read_text())
    assert (later["made"], later["from_cache"]) == (first["made"], first["from_cache"])
    assert later["making_seconds"] == first["making_seconds"]
    assert later["seconds"] > first["seconds"]
    assert main([*arguments, "--overwrite"]) == 130
    assert json.loads((tmp_path / "run/made.json").read_text())["made"] == []
    assert there_already == [True] * 3, "a process that is killed has made its models all the same"


def test_an_existing_run_is_not_written_over(out, cache, capsys) -> None:
    before = (out / "result.json").read_bytes()
    assert main(["reproduce", "table2", "--quick", "--out", str(out), "--cache", str(cache)]) == 2
    assert (out / "result.json").read_bytes() == before
    assert "--overwrite" in capsys.readouterr().err
