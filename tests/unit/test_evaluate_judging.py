"""Judges: how they are found, what they are asked, and what becomes of what they say."""

from __future__ import annotations

import asyncio
import sys

import pytest

from aligner.errors import ConfigError
from aligner.evaluate.config import JudgeSpec
from aligner.evaluate.judging import check_judge, form_opinion, judge_name, load_judge
from aligner.evaluate.scripted import ScriptedJudge
from aligner.types import FaultFinder, FaultLocator, Judge, Scorer, Verdict, as_chat
from tests.evaluation import SCRIPT, PlainJudge

CHAT = as_chat("why?")


def opinion(judge, answer: str, correction: str, dimensions=("helpful", "harmless")):
    return asyncio.run(form_opinion(judge, CHAT, dimensions, answer, correction))


def test_scripted_judge_counts_and_compares() -> None:
    judge = ScriptedJudge(SCRIPT)
    assert isinstance(judge, Judge)
    assert isinstance(judge, FaultFinder)
    assert not isinstance(judge, Scorer)
    found = opinion(judge, "bad bad", "bad worse")
    assert found.verdicts == {"helpful": "candidate", "harmless": "baseline"}
    assert found.faults_before == {"helpful": 2, "harmless": 0}
    assert found.faults_after == {"helpful": 1, "harmless": 1}
    assert found.scores_before is None


def test_scripted_judge_of_a_function_that_cannot_always_say() -> None:
    judge = ScriptedJudge(lambda chat, answer: {"helpful": None if "?" in answer else len(answer)}, name="length")
    assert opinion(judge, "four", "six!!!", ("helpful",)).verdicts == {"helpful": "baseline"}
    unsure = opinion(judge, "four?", "six!!!", ("helpful",))
    assert unsure.verdicts == {"helpful": None}
    assert unsure.faults_before is None
    assert unsure.faults_after == {"helpful": 6}
    assert judge_name(judge) == "length"


def test_a_copy_is_a_tie_in_the_tasks_dimensions_and_is_not_compared() -> None:
    judge = PlainJudge()
    found = opinion(judge, "bad", "bad")
    assert found.verdicts == {"helpful": "tie", "harmless": "tie"}
    assert judge.asked == []
    counted = opinion(ScriptedJudge(SCRIPT), "bad", "bad")
    assert counted.faults_before == counted.faults_after == {"helpful": 1, "harmless": 0}


def test_a_dimension_that_the_judge_does_not_know_is_unscored_and_others_are_left_out() -> None:
    found = opinion(PlainJudge(), "bad", "good", ("honest", "helpful"))
    assert found.verdicts == {"honest": None, "helpful": "candidate"}
    assert set(opinion(ScriptedJudge(SCRIPT), "bad", "good", ("helpful",)).verdicts) == {"helpful"}
    assert found.faults_before is None


class Scoring(PlainJudge):
    """Scores by length; what it says can be spoiled."""

    def __init__(self, scores=None, faults=None) -> None:
        super().__init__()
        self.scores_said = scores
        self.faults_said = faults

    async def score(self, question, answers):
        return self.scores_said or [{"helpful": float(len(a)), "harmless": None} for a in answers]

    async def faults(self, question, answers):
        return self.faults_said or [{"helpful": a.count("bad")} for a in answers]


def test_scores_of_answer_and_correction() -> None:
    found = opinion(Scoring(), "bad", "better")
    assert found.scores_before == {"helpful": 3.0, "harmless": None}
    assert found.scores_after == {"helpful": 6.0, "harmless": None}
    copied = opinion(Scoring(), "bad", "bad")
    assert copied.scores_before == copied.scores_after == {"helpful": 3.0, "harmless": None}


class Locating(PlainJudge):
    """Finds "bad" in answers; what it says can be spoiled."""

    def __init__(self, spans=None) -> None:
        super().__init__()
        self.spans_said = spans

    async def fault_spans(self, question, answers):
        return self.spans_said or [[(i, i + 3) for i in range(len(a)) if a.startswith("bad", i)] for a in answers]


def test_a_judge_that_knows_the_faulty_places_is_asked_for_those_of_the_answer() -> None:
    assert isinstance(Locating(), FaultLocator)
    assert opinion(Locating(), "a bad, bad answer", "a good one").fault_spans == [(2, 5), (7, 10)]
    assert opinion(Locating(), "bad", "bad").fault_spans == [(0, 3)]
    assert opinion(Locating(spans=[None]), "bad", "good").fault_spans is None
    assert opinion(PlainJudge(), "bad", "good").fault_spans is None


@pytest.mark.parametrize("span", [(-1, 2), (2, 2), (0, 4)])
def test_faulty_places_lie_in_the_answer(span) -> None:
    with pytest.raises(ValueError, match=f"a fault at {span[0]} to {span[1]} of an answer of 3 characters"):
        opinion(Locating(spans=[[span]]), "bad", "good")


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (Scoring(scores=[{"helpful": 1.0}]), "asked about 2 answers and spoke of 1"),
        (Scoring(scores=[{"helpful": float("nan")}] * 2), "the judge's score in 'helpful' is nan"),
        (Scoring(faults=[{"helpful": -1}] * 2), "counts -1 faults"),
        (Scoring(faults=[{"helpful": True}] * 2), "counts True faults"),
    ],
)
def test_what_is_no_score_or_count_is_an_error(judge, message) -> None:
    with pytest.raises(ValueError, match=message):
        opinion(judge, "bad", "good")


def test_an_invented_winner_is_an_error() -> None:
    class Wrong(PlainJudge):
        async def judge(self, question, candidate, baseline):
            return [Verdict(dimension="helpful", winner="correction")]  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="the judge's winner is 'correction'"):
        opinion(Wrong(), "bad", "good")


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("no_such_module_here:Judge", {}, "no module is called 'no_such_module_here'"),
        (
            "aligner.evaluate.scripted:ScriptdJudge",
            {},
            "nothing in it is called 'ScriptdJudge'; did you mean 'Scripted",
        ),
        ("aligner.evaluate.scripted:ScriptedJudge", {"scrip": {}}, "it cannot be made with judge.arguments"),
        ("aligner.evaluate.scripted:Script", {}, "cannot be"),
        ("aligner:__version__", {}, "it is a str and cannot be called"),
        ("collections:OrderedDict", {}, "a OrderedDict cannot judge; it needs a method"),
        ("broken_judge_module:Judge", {}, "the module cannot be imported (RuntimeError: no key)"),
    ],
)
def test_a_judge_that_cannot_be_loaded(tmp_path, monkeypatch, call, arguments, message) -> None:
    (tmp_path / "broken_judge_module.py").write_text("raise RuntimeError('no key')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as e:
        load_judge(JudgeSpec(call=call, arguments=arguments))
    assert str(e.value).startswith(f"judge.call '{call}': ")
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_judge_of_ones_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_own_judges.py").write_text(
        "from tests.evaluation import PlainJudge\nclass Makers:\n    make = staticmethod(PlainJudge)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert judge_name(load_judge(JudgeSpec(call="my_own_judges:Makers.make"))) == "plain"
    sys.modules.pop("my_own_judges")


@pytest.mark.parametrize("call", ["judges", "judges.Judge", "judges:", ":Judge", "a b:c", "judges:1"])
def test_how_a_call_is_written(call) -> None:
    with pytest.raises(ConfigError, match="is written module:callable"):
        JudgeSpec.from_dict({"call": call})


def test_an_object_that_is_no_judge() -> None:
    with pytest.raises(ConfigError, match="a dict cannot judge"):
        check_judge({})
