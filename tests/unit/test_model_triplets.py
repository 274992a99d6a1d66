"""Triplets from what a trained upstream answers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch

from aligner.errors import DataError
from aligner.pocket.claims import Language
from aligner.pocket.model_triplets import ModelTripletsConfig, run
from aligner.pocket.tasks import Tasks
from aligner.pocket.teacher import ErrorRates, Teacher
from aligner.pocket.world import World
from aligner.types import as_chat
from tests.models import byte_bpe_tokenizer, tiny_model

TASKS = Tasks(Language(World(0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("crow")
    tokenizer = byte_bpe_tokenizer()
    tiny_model("llama", tokenizer, 0, context=512).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def config(checkpoint: Path, out: Path, **changes) -> ModelTripletsConfig:
    values = {"name": "crow", "model": str(checkpoint), "out": out, "rows": 6, "max_new_tokens": 8, "max_rows": 4}
    return ModelTripletsConfig(**(values | changes))


def rows(place: Path) -> list[dict]:
    return [json.loads(line) for line in (place / "triplets.jsonl").read_text().splitlines()]


def test_training_questions_and_corrections_of_what_the_model_said(checkpoint, tmp_path) -> None:
    done = run(config(checkpoint, tmp_path / "a"))
    found = rows(done.path)
    assert done.result() == {"kind": "model triplets", "rows": len(found)}
    assert 3 <= len(found) <= 6, "a blank answer makes no row"
    for row in found:
        asked = TASKS.of(as_chat(row["question"]))
        assert asked is not None
        assert (asked.split, row["source"]) == ("train", f"pocket/{asked.task}")
        assert row["answer"] != row["correction"], "a model that has learned nothing says nothing right"
    torch.manual_seed(5)
    assert rows(run(config(checkpoint, tmp_path / "b", max_rows=2)).path) == found
    assert rows(run(config(checkpoint, tmp_path / "c", seed=1)).path) != found
    assert rows(run(config(checkpoint, tmp_path / "d", temperature=0.0)).path) != found


def test_triplets_come_from_seen_upstreams_only(checkpoint, tmp_path) -> None:
    with pytest.raises(DataError, match=r"triplets do not come from 'finch'; give one of heron, kite, crow"):
        run(config(checkpoint, tmp_path / "a", name="finch"))


def test_what_is_missing_is_said_in_the_order_of_a_good_answer() -> None:
    teacher = Teacher(TASKS.language, ErrorRates(miss=0, over_edit=0, err=0))
    asked = TASKS.draw("empathy", Random(1), "train")
    assert len(asked.required) > 1
    good = " ".join(TASKS.language.say(claim, 0) for claim in asked.required)
    assert teacher.correct(asked, teacher.read(asked, "Blue so the and."), Random(0)) == good


def test_a_sentence_that_differs_in_its_first_letter_is_read() -> None:
    teacher = Teacher(TASKS.language, ErrorRates(miss=0, over_edit=0, err=0))
    asked = TASKS.draw("truth", Random(1), "train")
    good = " ".join(TASKS.language.say(claim, 1) for claim in asked.required)
    small = good[0].lower() + good[1:]
    assert [p.fault for p in teacher.read(asked, small)] == [None] * len(asked.required)
