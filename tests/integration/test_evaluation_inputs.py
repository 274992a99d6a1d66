"""A run that goes on with what it was started with: its files and its models."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligner.correct.card import AlignerCard
from aligner.correct.gate import GateCalibration
from aligner.errors import DataError, RunError
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run
from aligner.generate.scripted import ScriptedGenerator
from aligner.recipes.suite_models import settings
from tests.evaluation import PlainJudge, stored, stored_config, task_file
from tests.models import byte_bpe_tokenizer, tiny_aligner, tiny_model
from tests.pocket import drawn
from tests.training import write_rows


class Stopping(PlainJudge):
    """Ctrl-C comes before the first verdict, when all corrections are made."""

    async def faults(self, question, answers):  # which is asked of copies too
        raise KeyboardInterrupt

    async def judge(self, question, candidate, baseline):
        raise KeyboardInterrupt


def save_corrector(place: Path, seed: int = 0) -> None:
    with tiny_aligner("qwen2", byte_bpe_tokenizer(), seed=seed) as aligner:
        aligner.save_pretrained(place)


def save_upstream(place: Path, seed: int) -> None:
    tokenizer = byte_bpe_tokenizer()
    tiny_model("llama", tokenizer, seed=seed).save_pretrained(place)
    tokenizer.save_pretrained(place)


def config_of(place: Path, **changes: Any) -> EvalConfig:
    """Three questions with stored answers, and a corrector from a directory."""
    answers = stored(place / "answers.jsonl", {f"q{i}": "bad" for i in range(3)})
    return EvalConfig.from_dict({
        "out": place / "run",
        "tasks": [{"name": "t", "file": task_file(place / "t.jsonl", 3), "dimensions": ["helpful"]}],
        "upstreams": [{"name": "u", "answers": answers}],
        "correctors": [{"name": "c", "aligner": str(place / "corrector")}],
        "sampling": {"max_new_tokens": 4},
        "resamples": 10,
        **changes,
    })  # fmt: skip


def files_of(out: Path) -> dict[str, str]:
    return json.loads((out / "inputs.json").read_text())["files"]


def test_a_corrector_trained_again_in_its_place_does_not_go_on_for_the_old_one(tmp_path) -> None:
    save_corrector(tmp_path / "corrector")
    shutil.copytree(tmp_path / "corrector", tmp_path / "old")
    config = config_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=Stopping())
    assert set(files_of(config.out)) == {"tasks/t", "answers/u", "aligners/c"}
    save_corrector(tmp_path / "corrector", seed=1)
    with pytest.raises(RunError, match=r"changed since the run was started \(aligners/c\); put that back"):
        run(config, "resume", judge=PlainJudge())
    # The old one again, from a copy with other times.
    shutil.rmtree(tmp_path / "corrector")
    shutil.copytree(tmp_path / "old", tmp_path / "corrector")
    for file in (tmp_path / "corrector").iterdir():
        os.utime(file, (1, 1))
    assert run(config, "resume", judge=PlainJudge()).result() is not None


def test_an_upstream_trained_again_in_its_place_is_told_from_the_old_one(tmp_path) -> None:
    save_upstream(tmp_path / "upstream", seed=3)
    fixed = stored(tmp_path / "fixed.jsonl", {f"q{i}": "good" for i in range(3)}, upstream="u")
    config = config_of(
        tmp_path,
        upstreams=[{"name": "u", "model": str(tmp_path / "upstream")}],
        correctors=[{"name": "c", "corrections": fixed}],
    )
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=Stopping())
    assert set(files_of(config.out)) == {"tasks/t", "models/u", "corrections/c"}
    save_upstream(tmp_path / "upstream", seed=4)
    with pytest.raises(RunError, match=r"\(models/u\)"):
        run(config, "resume", judge=PlainJudge())


def test_of_an_upstream_that_is_brought_no_model_is_recorded(tmp_path) -> None:
    save_upstream(tmp_path / "upstream", seed=3)
    save_corrector(tmp_path / "corrector")
    config = config_of(tmp_path, upstreams=[{"name": "u", "model": str(tmp_path / "upstream")}])
    live = ScriptedGenerator({f"question {i}?": "bad" for i in range(3)})
    out = run(config, judge=PlainJudge(), upstreams={"u": live}).path
    assert set(files_of(out)) == {"tasks/t", "aligners/c"}


def test_what_an_older_version_did_not_record_is_not_taken_for_changed(tmp_path) -> None:
    save_corrector(tmp_path / "corrector")
    config = config_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=Stopping())
    record = json.loads((config.out / "inputs.json").read_text())
    del record["files"]["aligners/c"]
    (config.out / "inputs.json").write_text(json.dumps(record))
    assert run(config, "resume", judge=PlainJudge()).result() is not None
    assert "aligners/c" in files_of(config.out), "from now on it is known"
    del record["files"]["answers/u"]
    (config.out / "inputs.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"\(answers/u\)"):
        run(config, "resume", judge=PlainJudge())


def test_a_finished_run_is_not_taken_for_one_of_another_model(tmp_path, capsys) -> None:
    save_corrector(tmp_path / "corrector")
    config = config_of(tmp_path)
    run(config, judge=PlainJudge())
    save_corrector(tmp_path / "corrector", seed=1)
    with pytest.raises(RunError, match=r"\(aligners/c\)"):
        run(config, "resume", judge=PlainJudge())
    shutil.rmtree(tmp_path / "corrector")
    run(config, "resume", judge=PlainJudge())
    assert "already finished" in capsys.readouterr().err


def test_calibrating_a_gate_that_is_off_changes_no_evaluation(tmp_path, capsys) -> None:
    save_corrector(tmp_path / "corrector")
    config = config_of(tmp_path)
    run(config, judge=PlainJudge())
    card = AlignerCard.load(tmp_path / "corrector")
    assert card is not None
    gate = GateCalibration(thresholds={"balanced": -1.0}, passed={"balanced": 0.5}, needed=99, faultless=9)
    replace(card, gate=gate).save(tmp_path / "corrector")
    (tmp_path / "corrector" / "trainer_state.json").write_text("{}")
    run(config, "resume", judge=PlainJudge())
    assert "already finished" in capsys.readouterr().err
    replace(card, prompt=replace(card.prompt, after="?")).save(tmp_path / "corrector")
    with pytest.raises(RunError, match=r"\(aligners/c\)"):
        run(config, "resume", judge=PlainJudge())


def test_a_finished_run_stays_finished_without_its_files_and_is_refused_with_others(tmp_path, capsys) -> None:
    config = stored_config(tmp_path)
    out = run(config).path
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunError, match=r"\(answers/a\)"):
        run(config, "resume")
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    run(config, "resume")
    assert "already finished" in capsys.readouterr().err
    for damaged in ("{", "[]", '{"files": 3}'):
        (out / "inputs.json").write_text(damaged)
        with pytest.raises(RunError, match=r"inputs\.json: damaged"):
            run(config, "resume")
    (out / "inputs.json").unlink()
    run(config, "resume")


def test_a_question_of_the_pocket_suites_training_split_is_told_before_anything_is_asked(tmp_path) -> None:
    rows = [{"id": f"q{seed}", "question": drawn(seed, "truth", "seen")[0].text} for seed in range(2)]
    rows.append({"id": "taught", "question": drawn(1, "truth", "train")[0].text})
    asked = []

    class Upstream(ScriptedGenerator):
        def generate(self, chats, sampling):
            asked.extend(chats)
            return super().generate(chats, sampling)

    config = config_of(
        tmp_path,
        tasks=[{"name": "truth", "file": write_rows(tmp_path / "truth.jsonl", rows), "dimensions": ["honest"]}],
        upstreams=[{"name": "u"}],
        correctors=[{"name": "c", "method": "self-critique"}],
        judge=settings("eval")["judge"],
    )
    with pytest.raises(DataError, match=r"^task 'truth', question 'taught': it belongs to the training split"):
        run(config, upstreams={"u": Upstream({})})
    assert (asked, config.out.exists()) == ([], False)
