"""Methods of prompting as correctors of an evaluation: what is asked, kept, resumed, refused, counted and marked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aligner import ScriptedGenerator
from aligner.correct.aligner import Aligner
from aligner.errors import ConfigError, DataError, RunError
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.run import run
from aligner.evaluate.scripted import ScriptedJudge
from aligner.generate.method import Method
from aligner.types import Chat, Completion
from tests.api_server import serving
from tests.evaluation import SCRIPT, PlainJudge, cell, rows_in, task_file
from tests.judging import fewer_bad, seen_in
from tests.models import byte_bpe_tokenizer, tiny_aligner, tiny_model

METHOD = {
    "name": "check",
    "principles": [
        {"name": "helpful", "critique": "Check. {question} # {answer}", "passes": "Yes", "fails": "No",
         "revise": "Again. {question} # {answer} # {critique}"},
    ],
}  # fmt: skip


def answer_of(text: str) -> str:
    """Every second answer is bad; the critic finds it, and the revision puts it right."""
    if text.startswith("Check."):
        return "No, it is bad." if "bad" in text else "Yes."
    if text.startswith("Again."):
        return "a good answer."
    number = int(text.removeprefix("question ").removesuffix("?"))
    return f"a {'bad' if number % 2 else 'good'} answer {number}."


class Upstream(ScriptedGenerator):
    """`answer` of the last turn; `asked` is what it was asked, and at number `stop` it is interrupted."""

    def __init__(self, answer: Callable[[str], str | Completion] = answer_of, stop: int | None = None) -> None:
        self.asked: list[str] = []

        def say(chat: Chat) -> str | Completion:
            if len(self.asked) == stop:
                raise KeyboardInterrupt
            self.asked.append(chat[-1].content)
            return answer(chat[-1].content)

        super().__init__(say, name="up")


def config_of(tmp_path: Path, count: int = 20, method: dict[str, Any] = METHOD, **changes: Any) -> EvalConfig:
    Method.from_dict(method).save(tmp_path / "method.yaml")
    settings = {
        "out": tmp_path / "run",
        "tasks": [{"name": "t", "file": task_file(tmp_path / "t.jsonl", count), "dimensions": ["helpful"]}],
        "upstreams": [{"name": "up"}],
        "correctors": [{"name": "M", "method": str(tmp_path / "method.yaml")}],
        "resamples": 200,
    }
    return EvalConfig.from_dict(settings | changes)


def counting() -> ScriptedJudge:
    return ScriptedJudge(SCRIPT)


def result_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def costs(out: Path) -> dict[tuple[str | None, str], dict[str, Any]]:
    return {(row["corrector"], row["upstream"]): row for row in result_of(out)["costs"]}


def test_an_upstream_revises_its_own_stored_answers(tmp_path) -> None:
    upstream = Upstream()
    out = run(config_of(tmp_path), judge=counting(), upstreams={"up": upstream}).path
    assert len(upstream.asked) == 20 + 20 + 10, "answers once, a critique of each, a revision of the bad ones"
    assert (cell(out, task="t")["wins"], cell(out, task="t")["ties"]) == (10, 10)
    answers = {r["id"]: r["answer"] for r in rows_in(out / "answers" / "up.jsonl")}
    rows = {r["id"]: r for r in rows_in(out / "corrections" / "M" / "up.jsonl")}
    assert rows["q2"]["correction"] == answers["q2"] == "a good answer 2."
    assert rows["q3"] == {
        "id": "q3", "task": "t", "correction": "a good answer.", "kept_because": None,
        "prompt_tokens": 8 + 13, "completion_tokens": 4 + 3,
        "critiques": {"helpful": {"passed": False, "text": "No, it is bad."}},
        "error": None,
    }  # fmt: skip
    result = result_of(out)
    assert result["correctors"][0]["method"] == "method.yaml"
    assert (result["failed"], result["lineage"]) == (0, [])


def test_what_it_cost(tmp_path) -> None:
    out = run(config_of(tmp_path), judge=counting(), upstreams={"up": Upstream()}).path
    found = costs(out)
    assert list(found) == [(None, "up"), (None, "all"), ("M", "up"), ("M", "all")]
    nothing, method = found[None, "all"], found["M", "all"]
    assert (nothing["prompt_tokens"], nothing["completion_tokens"]) == (20 * 2, 20 * 4)
    assert (nothing["prompt_tokens_each"], nothing["completion_tokens_each"]) == (2.0, 4.0)
    assert (method["completion_tokens"], method["completion_tokens_each"]) == (10 * 1 + 10 * 7, 4.0)
    rows = rows_in(out / "corrections" / "M" / "up.jsonl")
    assert method["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows)
    for cost in (nothing, method):
        assert (cost["answers"], cost["copied"], cost["counted"]) == (20, 0, 20)
        assert cost["seconds"] > 0
        assert cost["seconds_each"] == pytest.approx(cost["seconds"] / 20, abs=1e-4)


def test_a_corrector_s_cost_and_copies_that_cost_nothing(tmp_path) -> None:
    with tiny_aligner() as aligner:
        aligner.save_pretrained(tmp_path / "corrector")
    config = config_of(
        tmp_path, 6, upstreams=[{"name": "up"}, {"name": "twin"}],
        correctors=[{"name": "c", "aligner": str(tmp_path / "corrector")}],
    )  # fmt: skip
    out = run(config, judge=counting(), upstreams={"up": Upstream(), "twin": Upstream()}).path
    with Aligner.from_pretrained(tmp_path / "corrector") as aligner:
        for i, row in enumerate(rows_in(out / "corrections" / "c" / "up.jsonl")):
            usage = aligner.correct(f"question {i}?", answer_of(f"question {i}?")).completion.usage
            assert (row["prompt_tokens"], row["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
            assert "copied" not in row
    for row in rows_in(out / "corrections" / "c" / "twin.jsonl"):
        assert (row["prompt_tokens"], row["completion_tokens"], row["copied"]) == (0, 0, True)
    found = costs(out)
    assert (found["c", "twin"]["copied"], found["c", "twin"]["answers"], found["c", "twin"]["seconds"]) == (6, 0, None)
    assert found["c", "all"]["prompt_tokens_each"] == found["c", "up"]["prompt_tokens_each"], "of those it corrected"
    assert found[None, "all"]["answers"] == 12


def test_equal_answers_of_two_upstreams_are_revised_by_each(tmp_path) -> None:
    one, two = Upstream(), Upstream(lambda text: answer_of(text).replace("a good answer.", "a good answer, mine."))
    config = config_of(tmp_path, 4, upstreams=[{"name": "up"}, {"name": "two"}])
    out = run(config, judge=counting(), upstreams={"up": one, "two": two}).path
    assert [rows_in(out / "corrections" / "M" / f"{name}.jsonl")[-1]["correction"] for name in ("up", "two")] == [
        "a good answer.", "a good answer, mine.",
    ]  # fmt: skip


def test_principles_are_drawn_by_the_run_s_seed(tmp_path) -> None:
    principles = [METHOD["principles"][0] | {"name": f"p{i}", "dimension": "helpful"} for i in range(5)]  # type: ignore[index]
    several = METHOD | {"draw": "one", "principles": principles}
    out = run(config_of(tmp_path, method=several, seed=7), judge=counting(), upstreams={"up": Upstream()}).path
    rows = rows_in(out / "corrections" / "M" / "up.jsonl")
    for row in rows:
        question = f"question {row['id'].removeprefix('q')}?"
        (drawn,) = Method.from_dict(several).drawn(question, answer_of(question), 7)
        assert list(row["critiques"]) == [drawn.name]
    assert len({name for row in rows for name in row["critiques"]}) > 2


@pytest.mark.parametrize("stop", [25, 45])
def test_an_interrupted_run_asks_for_the_rest(tmp_path, stop) -> None:
    straight = run(config_of(tmp_path), judge=counting(), upstreams={"up": Upstream()}).path
    config = config_of(tmp_path, out=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=counting(), upstreams={"up": Upstream(stop=stop)})
    kept = len(rows_in(config.out / "corrections" / "M" / "up.jsonl"))
    assert kept == {25: 3, 45: 10 + 5}[stop], "an answer that passes needs nothing more"
    rest = Upstream()
    out = run(config, "resume", judge=counting(), upstreams={"up": rest}).path
    assert not [text for text in rest.asked if text.startswith("question")], "answers are not asked for twice"
    assert len([text for text in rest.asked if text.startswith("Check.")]) == 20 - kept
    path = Path("corrections") / "M" / "up.jsonl"
    first, second = (sorted(rows_in(o / path), key=lambda r: r["id"]) for o in (straight, out))
    assert first == second
    assert (straight / "table.json").read_bytes() == (out / "table.json").read_bytes()
    before, after = costs(straight)["M", "all"], costs(out)["M", "all"]
    assert before | {"seconds": 0, "seconds_each": 0} == after | {"seconds": 0, "seconds_each": 0}
    spells = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    spent = [row["seconds"] for row in spells if row.get("corrector") == "M"]
    assert len(spent) == 2
    assert after["seconds"] == pytest.approx(sum(spent), abs=1e-6), "over resumes"


def test_revisions_that_fail_are_failed_corrections_and_asked_for_again(tmp_path) -> None:
    def flaky(text: str) -> str | Completion:
        if text.startswith("Again. question 3?"):
            return Completion(text="", finish_reason="error", error="overloaded")
        return answer_of(text)

    config = config_of(tmp_path)
    out = run(config, judge=counting(), upstreams={"up": Upstream(flaky)}).path
    assert result_of(out)["failed_by_step"]["corrections"] == 1
    assert cell(out, task="t")["unscored"] == 1
    (failed,) = [r for r in rows_in(out / "corrections" / "M" / "up.jsonl") if r["error"]]
    assert (failed["error"], failed["kept_because"]) == ("the revision failed: overloaded", "error")
    healed = Upstream()
    run(config, "resume", judge=counting(), upstreams={"up": healed})
    assert len(healed.asked) == 2
    assert cell(out, task="t")["wins"] == 10


def test_a_method_that_fails_at_all_stops_the_run(tmp_path) -> None:
    def mute(text: str) -> str | Completion:
        return answer_of(text) if text.startswith("question") else Completion(text="", finish_reason="error")

    with pytest.raises(DataError, match=r"the corrector 'M' corrected no answer of 'up' \(20 failed"):
        run(config_of(tmp_path), judge=counting(), upstreams={"up": Upstream(mute)})


@pytest.mark.parametrize(
    ("said", "kept"),
    [("better. Привет, мир.", "script_leak"), ("", "emptied"), ("It ends inside a", "cut"), ("It is whole.", None)],
)
def test_the_guards_are_those_of_correctors(tmp_path, said, kept) -> None:
    upstream = Upstream(lambda text: said if text.startswith("Again.") else answer_of(text))
    out = run(config_of(tmp_path, 2), judge=counting(), upstreams={"up": upstream}).path
    row = rows_in(out / "corrections" / "M" / "up.jsonl")[-1]
    assert (row["kept_because"], row["correction"]) == (kept, said if kept is None else "a bad answer 1.")


def test_what_is_wrong_is_told_before_a_directory_is_made(tmp_path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"id": "q0", "answer": "x"}\n')
    config = config_of(tmp_path, 1, upstreams=[{"name": "old", "answers": str(tmp_path / "answers.jsonl")}])
    with pytest.raises(ConfigError) as e:
        run(config, judge=counting())
    assert str(e.value) == (
        "correctors, 'M': by a method each upstream revises its own answers, and of 'old' there are only stored ones; "
        "give its 'model' or 'url', or leave it out"
    )
    with pytest.raises(ConfigError, match="no method is called 'cay'; did you mean 'cai'"):
        run(
            config_of(tmp_path, correctors=[{"name": "M", "method": "cay"}]),
            judge=counting(),
            upstreams={"up": Upstream()},
        )
    (tmp_path / "bad.yaml").write_text("name: bad\nprinciples: [{name: x, critique: '{question}', revise: ''}]")
    config = config_of(tmp_path, correctors=[{"name": "M", "method": str(tmp_path / "bad.yaml")}])
    with pytest.raises(ConfigError, match=r"bad.yaml: 'principles.0.critique': it lacks \{answer\}"):
        run(config, judge=counting(), upstreams={"up": Upstream()})
    inside = config_of(tmp_path, correctors=[{"name": "M", "method": str(tmp_path / "run" / "m.yaml")}])
    with pytest.raises(ConfigError, match="lies in the run's own directory"):
        run(inside, judge=counting(), upstreams={"up": Upstream()})
    assert not (tmp_path / "run").exists()


def test_a_method_that_changed_since_is_refused_on_resume(tmp_path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(config, judge=counting(), upstreams={"up": Upstream(stop=30)})
    config_of(tmp_path, method=METHOD | {"turns": "last"})
    with pytest.raises(RunError, match="changed since the run was started"):
        run(config, "resume", judge=counting(), upstreams={"up": Upstream()})


def critic(share_right: int) -> Callable[[str], str]:
    """A critic that says of so many answers in ten what is so, and of the others the contrary."""

    def say(text: str) -> str:
        said = answer_of(text)
        if text.startswith("Check."):
            number = int(re.findall(r"question (\d+)", text)[0])
            right = (number // 2) % 10 < share_right
            return said if right else "Yes." if said.startswith("No") else "No."
        return said

    return say


@pytest.mark.parametrize(("right", "at_chance"), [(5, True), (8, False), (2, True)])
def test_critics_at_chance_are_named(tmp_path, right, at_chance) -> None:
    out = run(config_of(tmp_path, 200), judge=counting(), upstreams={"up": Upstream(critic(right))}).path
    every, one = result_of(out)["critiques"]
    assert (every["principle"], one["principle"], one["dimension"]) == ("all", "helpful", "helpful")
    for row in (every, one):
        assert row["accuracy"] == right / 10
        assert (row["faultless_passed"], row["faulty_failed"]) == (right * 10, right * 10)
        assert row["low"] < right / 10 < row["high"]
        assert row["at_chance"] is at_chance
        assert row["unread"] == 0


def test_a_judge_that_counts_no_faults_says_nothing_of_critiques(tmp_path) -> None:
    out = run(config_of(tmp_path), judge=PlainJudge(), upstreams={"up": Upstream()}).path
    assert result_of(out)["critiques"] == []


def test_a_model_from_a_directory_with_a_shipped_method(tmp_path, capsys) -> None:
    tokenizer = byte_bpe_tokenizer()
    tiny_model("llama", tokenizer, seed=3, context=4096).save_pretrained(tmp_path / "upstream")
    tokenizer.save_pretrained(tmp_path / "upstream")
    config = config_of(
        tmp_path, 3, upstreams=[{"name": "up", "model": str(tmp_path / "upstream")}],
        correctors=[{"name": "CAI", "method": "cai"}, {"name": "self", "method": "self-critique"}],
        sampling={"max_new_tokens": 4},
    )  # fmt: skip
    out = run(config, judge=counting()).path
    told = capsys.readouterr().err
    assert told.count("up: loading") == 2, "once to answer, once to revise by both"
    assert "CAI: revising up: 3/3" in told
    rows = rows_in(out / "corrections" / "self" / "up.jsonl")
    assert [list(row["critiques"]) for row in rows] == [["helpful", "harmless", "honest"]] * 3
    assert [len(row["critiques"]) for row in rows_in(out / "corrections" / "CAI" / "up.jsonl")] == [1] * 3
    (ancestor,) = result_of(out)["lineage"]
    assert (ancestor["role"], ancestor["name"]) == ("upstream", "upstream")


def test_over_an_address_and_a_judge_that_is_the_upstream_itself(tmp_path) -> None:
    def handle(body: dict[str, Any]) -> str:
        text = body["messages"][0]["content"]
        if "Verdict-" in text:
            seen = seen_in(body)
            return seen.say(fewer_bad(seen))
        return answer_of(text)

    with serving(handle) as api:
        config = config_of(
            tmp_path, 4, upstreams=[{"name": "up", "url": api.url, "served_model": "big"}],
            judge={"call": "aligner.evaluate.llm_judge:judge", "arguments": {"url": api.url, "model": "big"}},
            responses=tmp_path / "r.sqlite",
        )  # fmt: skip
        out = run(config).path
        count = len(api.requests)
        assert count == 4 + 4 + 2 + 2 * 2, "answers, critiques, revisions, verdicts in both orders"
        again = EvalConfig(**(dict(config) | {"out": tmp_path / "again"}))
        run(again)
        assert len(api.requests) == count, "another run with the same store asks for nothing"
    assert cell(out, task="t")["wins"] == 2
    assert result_of(out)["self_judged"] == ["M"]
    assert result_of(out)["critiques"] == []
    assert costs(out)["M", "all"]["prompt_tokens"] == 7 * 6
