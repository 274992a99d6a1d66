"""`aligner correct`: what becomes of an output that was stopped, of rows that failed, and of fields that rows have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from aligner.correct import run as correct_run
from aligner.correct.output import Output, claimed
from aligner.correct.run import CorrectConfig, CorrectSummary
from aligner.errors import ConfigError, DataError, RunError
from aligner.types import Chat, Completion, Correction

ROWS = 8


class Scripted:
    """Corrects to the answer and a mark; `fails` are answers that it fails on, `stops` one at which the run ends."""

    def __init__(self) -> None:
        self.mark = "!"
        self.fails: set[str] = set()
        self.stops: str | None = None
        self.why: Any = "error"
        self.asked: list[str] = []

    def correct_batch(self, pairs: Iterable[tuple[Chat, str]]) -> Iterator[Correction]:
        for chat, answer in list(pairs):  # as far ahead as it goes
            self.asked.append(answer)
            if answer == self.stops:
                raise ConfigError("no such key")
            if answer in self.fails:
                failed = Completion(text="", finish_reason="error", error="lost")
                yield Correction(question=chat, answer=answer, text=answer, completion=failed, kept_because=self.why)
            else:
                done = Completion(text=answer + self.mark, finish_reason="stop")
                yield Correction(question=chat, answer=answer, text=answer + self.mark, completion=done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def corrector(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    made = Scripted()
    monkeypatch.setattr(correct_run, "_aligner", lambda _: made)
    return made


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., CorrectConfig]:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"question": f"q{i}", "answer": f"a{i}"}) + "\n" for i in range(ROWS)))

    def made(**settings: Any) -> CorrectConfig:
        values = {"aligner": "runs/mine", "input": str(source), "output": str(tmp_path / "out.jsonl"), **settings}
        return CorrectConfig.from_dict(values)

    return made


def texts(path: Path) -> list[str]:
    return [json.loads(line)["correction"] for line in path.read_text().splitlines()]


def stopped(corrector: Scripted, config: CorrectConfig, at: str, existing: Any = "refuse") -> None:
    corrector.stops = at
    with pytest.raises(ConfigError, match="no such key"):
        correct_run.run(config, existing)
    corrector.stops, corrector.asked = None, []


def resumed(config: CorrectConfig) -> CorrectSummary:
    return correct_run.run(config, "resume")


@pytest.mark.parametrize("why", ["error", "cancelled", "unscored"])
def test_rows_that_failed_are_done_again_in_their_places(corrector, config, why) -> None:
    corrector.fails, corrector.why = {"a0", "a3", "a4"}, why
    stopped(corrector, config(), "a6")
    output = config().output
    assert texts(output) == ["a0", "a1!", "a2!", "a3", "a4", "a5!"]
    corrector.fails, corrector.mark = {"a4"}, "?"
    done = resumed(config())
    assert corrector.asked == ["a0", "a3", "a4", "a6", "a7"]
    assert texts(output) == ["a0?", "a1!", "a2!", "a3?", "a4", "a5!", "a6?", "a7?"]
    assert (done.rows, done.skipped, done.failed, done.first_error) == (5, 3, 1, "lost")
    corrector.fails = set()
    done = resumed(config())
    assert texts(output)[4] == "a4?"
    assert (done.rows, done.skipped, done.failed, done.first_error) == (1, 7, 0, None)
    assert sorted(p.name for p in output.parent.iterdir()) == [
        ".out.jsonl.lock", "in.jsonl", "out.jsonl", "out.jsonl.config.yaml",
    ]  # fmt: skip


def test_rows_kept_for_other_reasons_are_done(corrector, config) -> None:
    corrector.fails, corrector.why = {"a1"}, "too_long"
    assert correct_run.run(config()).failed == 0
    assert resumed(config()).rows == 0


def test_a_stop_among_the_failed_rows_keeps_what_is_done(corrector, config) -> None:
    corrector.fails = {"a1", "a4", "a6"}
    correct_run.run(config())
    corrector.fails, corrector.mark = set(), "?"
    stopped(corrector, config(), "a4", "resume")
    assert texts(config().output) == ["a0!", "a1?", "a2!", "a3!", "a4", "a5!", "a6", "a7!"]
    assert resumed(config()).rows == 2
    assert texts(config().output) == ["a0!", "a1?", "a2!", "a3!", "a4?", "a5!", "a6?", "a7!"]


@pytest.mark.parametrize("torn", ["", '{"question": "q4", "ans'])
def test_so_does_a_kill(corrector, config, torn) -> None:
    corrector.fails = {"a1", "a4", "a6"}
    correct_run.run(config())
    corrector.fails = set()
    with Output(config().output, config(), anew=False) as output:
        output.write(1, {"question": "q1", "answer": "a1", "correction": "a1?", "kept_because": None})
        output._writer.close()
        assert output._old is not None
        output._old.close()
        output._old = None  # as if killed: nothing is put together
    part = config().output.with_name(".out.jsonl.part")
    assert texts(part) == ["a0!", "a1?"]
    with part.open("a") as file:
        file.write(torn)
    assert texts(config().output)[1] == "a1"
    corrector.mark = "?"
    assert resumed(config()).rows == 2
    assert texts(config().output) == ["a0!", "a1?", "a2!", "a3!", "a4?", "a5!", "a6?", "a7!"]
    assert not part.exists()


def test_what_a_kill_left_is_no_part_of_a_new_output(corrector, config) -> None:
    part = config().output.with_name(".out.jsonl.part")
    part.write_text('{"question": "q0", "answer": "a0", "correction": "old"}\n')
    stopped(corrector, config(), "a3")
    assert resumed(config()).skipped == 3
    assert texts(config().output)[0] == "a0!"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"aligner": "runs/other"}, "aligner"),
        ({"gate": "strict"}, "gate"),
        ({"guards": {"cut": "off"}}, r"guards\.cut"),
        ({"temperature": 0.5, "seed": 3}, "seed, temperature"),
        ({"prompt": "chat", "max_rows": 2}, "prompt"),
    ],
)
def test_an_output_is_not_gone_on_with_by_other_settings(corrector, config, settings, named) -> None:
    stopped(corrector, config(), "a3")
    before = config().output.read_text()
    with pytest.raises(RunError, match=rf"started with other settings \(differs in: {named}; see out\.jsonl\.config"):
        resumed(config(**settings))
    assert config().output.read_text() == before
    assert correct_run.run(config(**settings), "overwrite").rows == ROWS
    assert resumed(config(**settings)).rows == 0


def test_settings_that_change_no_correction_may_be_others(corrector, config) -> None:
    stopped(corrector, config(), "a3")
    done = resumed(config(max_rows=2, cache_tokens=100, speculate=False, device="cpu"))
    assert (done.rows, done.skipped) == (5, 3)


def test_an_output_without_its_settings_is_not_gone_on_with(corrector, config) -> None:
    stopped(corrector, config(), "a3")
    config().output.with_name("out.jsonl.config.yaml").unlink()
    with pytest.raises(RunError, match=r"out\.jsonl\.config\.yaml: no such file.*restore it, or .*--overwrite"):
        resumed(config())
    config().output.write_text("")  # without rows there is nothing to mix
    assert resumed(config()).rows == ROWS


def test_a_foreign_file_of_one_object_is_left_as_it_is(corrector, config) -> None:
    config().output.write_text('{"years": "of work"}')
    with pytest.raises(RunError, match="is not the correction of"):
        resumed(config())
    assert config().output.read_text() == '{"years": "of work"}'


def test_two_processes_do_not_write_one_output(corrector, config) -> None:
    stopped(corrector, config(), "a3")
    with claimed(config().output, "resume"):
        for existing in ("refuse", "resume", "overwrite"):
            with pytest.raises(RunError, match=r"out\.jsonl: another process writes it; wait for it"):
                correct_run.run(config(), existing)
    assert resumed(config()).rows == 5


def test_a_link_stays_one(corrector, config, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    linked = config(output=str(tmp_path / "link.jsonl"))
    corrector.fails = {"a1"}
    correct_run.run(linked)
    corrector.fails = set()
    assert resumed(linked).rows == 1
    assert (tmp_path / "link.jsonl").is_symlink()
    assert texts(tmp_path / "real.jsonl")[1] == "a1!"


def test_correcting_again_keeps_the_reference(corrector, config, tmp_path: Path) -> None:
    source = config().input
    rows = [{"question": "q", "answer": "a", "correction": "reference", "diff": 7}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in (1, 2, 3):
        output = tmp_path / f"{i}.jsonl"
        corrector.mark = f" {i}"
        correct_run.run(config(input=str(source), output=str(output)))
        source = output
    row = json.loads(source.read_text())
    assert {k: v for k, v in row.items() if "correction" in k} == {
        "input_correction": "reference",
        "input_correction_2": "a 1",
        "input_correction_3": "a 2",
        "correction": "a 3",
    }
    assert row["input_diff"] == 7
    assert row["input_kept_because_2"] is None


def test_a_part_without_text_names_its_row(corrector, config) -> None:
    image = {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]}
    rows = [
        {"question": [{"role": "developer", "content": "be kind"}, {"role": "tool", "content": "42"}], "answer": "a"},
        {"question": [image], "answer": "b"},
    ]
    config().input.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"in\.jsonl:2: in 'question', turn 0 has a part of type 'image_url' without"):
        correct_run.run(config())
    config().input.write_text(json.dumps(rows[0]) + "\n")
    assert correct_run.run(config()).rows == 1
    assert json.loads(config().output.read_text())["question"] == rows[0]["question"]
