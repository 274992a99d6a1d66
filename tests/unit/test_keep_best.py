"""KeepBest: the best of several corrections and the answer itself, by scores or by verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from aligner import Aligner, Sampling, Verdict
from aligner.correct.card import AlignerCard
from aligner.correct.copy_scorer import CopyScorer
from aligner.correct.gate import Gate
from aligner.correct.keep_best import KeepBest, load_ranker
from aligner.correct.run import CorrectConfig
from aligner.errors import ConfigError, GenerationError, OutOfMemoryError
from aligner.prompts import PromptFormat
from aligner.serve.config import ServeConfig
from aligner.types import Chat, Completion, Correction, Usage, as_chat
from tests.models import byte_bpe_tokenizer, tiny_model


class Lengths:
    """Scores by length; texts in `unscored` get no number. Keeps what it was asked."""

    def __init__(self, unscored: Sequence[str] = (), sign: float = 1.0) -> None:
        self.unscored, self.sign = unscored, sign
        self.asked: list[list[str]] = []

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        self.asked.append(list(answers))
        return [{"length": None if a in self.unscored else self.sign * len(a), "zero": 0.0} for a in answers]


class Order:
    """A judge that prefers what stands further right in `order`; what is not in it is unscored."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.asked: list[tuple[str, str]] = []

    async def judge(self, question: Chat, candidate: str, baseline: str) -> list[Verdict]:
        self.asked.append((candidate, baseline))
        if candidate not in self.order:
            return [Verdict(dimension="d", winner=None), Verdict(dimension="e", winner="candidate")]
        better = self.order.index(candidate) - self.order.index(baseline)
        return [Verdict(dimension="d", winner="candidate" if better > 0 else "baseline" if better < 0 else "tie")]


@pytest.fixture(scope="module")
def aligner():
    tokenizer = byte_bpe_tokenizer()
    card = AlignerCard(prompt=PromptFormat.preset("chat", tokenizer, instruction="", request=""))
    sampling = Sampling(max_new_tokens=24)
    with Aligner(tiny_model("llama", tokenizer), tokenizer, card, sampling=sampling, max_rows=16) as made:
        yield made


def correction(answer: str, text: str, why=None) -> Correction:
    completion = Completion(text=text, finish_reason="stop", usage=Usage(prompt_tokens=10, completion_tokens=len(text)))
    shown = answer if why else text
    return Correction(question=as_chat("q"), answer=answer, text=shown, completion=completion, kept_because=why)


def best(ranker, answer: str, *texts: str) -> Correction:
    aligner = object.__new__(Aligner)  # `best` ranks what it is given
    return asyncio.run(KeepBest(aligner=aligner, ranker=ranker).best([correction(answer, t) for t in texts]))


def test_the_highest_mean_score_wins_and_usage_adds_up() -> None:
    scorer = Lengths()
    found = best(scorer, "ab", "abc", "abcde", "ab", "abc")
    assert (found.text, found.kept_because) == ("abcde", None)
    assert found.completion.usage == Usage(prompt_tokens=40, completion_tokens=3 + 5 + 2 + 3)
    assert scorer.asked == [["ab", "abc", "abcde"]]  # copies and repetitions are not asked for


def test_what_guards_said_of_a_rejected_correction_does_not_stay_with_the_answer() -> None:
    aligner = object.__new__(Aligner)
    flagged = replace(correction("ab", "a"), flags=("dropped_turns:2", "changed_numbers", "changed_urls"))
    found = asyncio.run(KeepBest(aligner=aligner, ranker=Lengths()).best([flagged]))
    assert (found.text, found.kept_because, found.flags) == ("ab", "not_better", ("dropped_turns:2",))


def test_what_scores_no_more_than_a_margin_above_the_answer_is_out() -> None:
    aligner = object.__new__(Aligner)
    candidates = [correction("ab", text) for text in ("abc", "abcd")]
    for margin, text in ((0.9, "abcd"), (1.0, "ab"), (5.0, "ab")):  # the mean of length and zero: 1, and 2 - 1
        best_of = KeepBest(aligner=aligner, ranker=Lengths(), margin=margin)
        found = asyncio.run(best_of.best(candidates))
        assert (found.text, found.kept_because) == (text, None if text != "ab" else "not_better")


@pytest.mark.parametrize("texts", [("a",), ("xy",), ("xy", "a", "zw")])
def test_a_tie_or_less_keeps_the_original(texts) -> None:
    found = best(Lengths(), "ab", *texts)
    assert (found.text, found.kept_because) == ("ab", "not_better")
    assert found.completion.text == texts[0]


def test_what_has_no_score_is_out() -> None:
    assert best(Lengths(unscored=["abcde"]), "ab", "abcde", "abc").text == "abc"
    for unscored in (["ab"], ["abc", "abcd"]):
        found = best(Lengths(unscored=unscored), "ab", "abc", "abcd")
        assert (found.text, found.kept_because) == ("ab", "unscored")


class Failing(Lengths):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GenerationError("boom"), "boom"),
        (OutOfMemoryError("alloc"), "alloc"),
        (ConnectionError("reset\nby peer"), "ConnectionError: reset by peer"),
        (KeyError("reward"), "KeyError: 'reward'"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_ranker_that_fails_costs_one_answer_and_not_the_batch(error, said) -> None:
    found = best(Failing(error), "ab", "abc")
    assert (found.text, found.kept_because, found.completion.text) == ("ab", "unscored", "abc")
    assert found.completion.error == f"the ranker failed: {said}"
    assert found.completion.usage == Usage(prompt_tokens=10, completion_tokens=3)


def test_what_holds_for_all_answers_ends_the_run() -> None:
    with pytest.raises(ConfigError, match="no such key"):
        best(Failing(ConfigError("no such key")), "ab", "abc")


@pytest.mark.parametrize("given", [0, 1, 3])
def test_too_few_or_too_many_scores_are_a_failure(given: int) -> None:
    class Miscounts(Lengths):
        async def score(self, question: Chat, answers: Sequence[str]) -> list[dict[str, float | None]]:
            return [{"length": float(i)} for i in range(given)]

    found = best(Miscounts(), "ab", "abc")
    assert (found.text, found.kept_because) == ("ab", "unscored")
    assert found.completion.error == f"the ranker failed: {given} scores for 2 answers"


def test_only_copies_need_no_ranking() -> None:
    scorer = Lengths()
    assert best(scorer, "ab", "ab", "ab").kept_because is None
    assert scorer.asked == []


def test_a_judge_compares_with_the_best_so_far() -> None:
    judge = Order("abcd")
    found = best(judge, "b", "a", "d", "c")
    assert (found.text, found.kept_because) == ("d", None)
    assert judge.asked == [("a", "b"), ("d", "b"), ("c", "d")]
    assert best(Order("abcd"), "d", "a", "c").kept_because == "not_better"
    assert best(Order("abcd"), "b", "x", "y").kept_because == "unscored"
    assert best(Order("abcd"), "b", "x", "c").text == "c"


def test_candidates_share_the_batch_and_are_as_decoded_alone(aligner) -> None:
    pairs = [(f"q{i}", "the cat sat on the mat") for i in range(3)]
    scorer = Lengths()
    best_of = KeepBest(aligner=aligner, ranker=scorer, count=3)
    before = aligner._loop.forward_passes
    found = list(best_of.correct_batch(pairs))
    together = aligner._loop.forward_passes - before
    before = aligner._loop.forward_passes
    own = aligner.sampling
    for (question, answer), kept in zip(pairs, found, strict=True):
        hot = [Sampling(temperature=0.7, max_new_tokens=24, seed=seed) for seed in (1, 2)]
        alone = [aligner.correct(question, answer, sampling) for sampling in (own, *hot)]
        assert kept.text == max([answer, *(c.text for c in alone)], key=len)
        assert kept.completion.usage.completion_tokens == sum(c.completion.usage.completion_tokens for c in alone)
    assert together < aligner._loop.forward_passes - before
    assert best_of.correct(*pairs[0]).text == found[0].text


def test_candidates_that_break_the_wanted_format_are_out(aligner, monkeypatch) -> None:
    """Each is checked as any correction is, before the ranker sees it."""
    form = {"type": "json_object"}
    scorer = Lengths()
    best_of = KeepBest(aligner=aligner, ranker=scorer, count=3)
    found = asyncio.run(best_of.acorrect("q", '{"a": 1}', response_format=form))
    assert (found.text, found.kept_because, scorer.asked) == ('{"a": 1}', "broken_format", [])

    async def one(chat: Chat, answer: str, sampling: Sampling, **options: object) -> Correction:
        assert options == {"response_format": form}
        return correction(answer, '{"a": [1]}' if sampling.greedy else '{"a": [1, 2]}')

    monkeypatch.setattr(aligner, "acorrect", one)

    async def streamed() -> list[str]:
        return [d.text async for d in best_of.stream("q", '{"a": 1}', response_format=form)]

    assert asyncio.run(streamed()) == ['{"a": [1, 2]}', ""]


def test_all_doors_take_a_response_format_and_a_sampling(aligner) -> None:
    best_of = KeepBest(aligner=aligner, ranker=Lengths(), count=2)
    with pytest.raises(ConfigError, match="response_format"):
        best_of.correct("q", "a", response_format={"type": "poem"})
    short = Sampling(max_new_tokens=1)
    found = best_of.correct("q", "the cat sat", short)
    assert found.completion.usage.completion_tokens <= 2


def test_a_passed_answer_is_not_ranked(aligner, monkeypatch) -> None:
    monkeypatch.setattr(aligner, "gate", Gate(threshold=float("-inf")))
    scorer = Lengths()
    found = KeepBest(aligner=aligner, ranker=scorer).correct("q", "the cat sat")
    assert found.gate is not None
    assert found.gate.passed
    assert (found.text, found.kept_because, scorer.asked) == ("the cat sat", None, [])


def test_what_cannot_rank_is_refused(aligner) -> None:
    with pytest.raises(ConfigError, match="a int cannot rank; it needs a method `async def score"):
        KeepBest(aligner=aligner, ranker=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="best_of is 0"):
        KeepBest(aligner=aligner, ranker=Lengths(), count=0)
    for margin in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="margin is"):
            KeepBest(aligner=aligner, ranker=Lengths(), margin=margin)
    with pytest.raises(ConfigError, match="in the units of scores, and this ranker judges"):
        KeepBest(aligner=aligner, ranker=Order("ab"), margin=1.0)


def test_rankers_are_loaded_by_name(aligner) -> None:
    assert isinstance(load_ranker(f"{__name__}:Lengths", aligner), Lengths)
    with pytest.raises(ConfigError, match=r"scorer 'no\.such:thing': no module is called 'no'"):
        load_ranker("no.such:thing", aligner)
    with pytest.raises(ConfigError, match="scorer 'builtins:dict': a dict cannot rank"):
        load_ranker("builtins:dict", aligner)
    with pytest.raises(ConfigError, match="it cannot be made with no arguments"):
        load_ranker(f"{__name__}:Order", aligner)
    assert isinstance(load_ranker("self", aligner), CopyScorer)


def test_a_margin_needs_a_scorer() -> None:
    with pytest.raises(ConfigError, match="'margin' is for a 'scorer'"):
        CorrectConfig.from_dict({"aligner": "a", "input": "b", "output": "c", "margin": 0.5}, where="x")
    with pytest.raises(ConfigError, match="'margin' is for a 'scorer'"):
        ServeConfig.from_dict({"aligner": "a", "upstream": ["http://127.0.0.1:1/v1"], "margin": 0.5}, where="x")


@pytest.mark.parametrize("extra", [{"best_of": 3}, {"scorer": "runs/reward"}])
def test_best_of_and_scorer_go_together(extra) -> None:
    with pytest.raises(ConfigError, match="are given together"):
        CorrectConfig.from_dict({"aligner": "a", "input": "b", "output": "c", **extra}, where="x")


@pytest.mark.parametrize("extra", [{"best_of": 3, "scorer": "runs/reward"}, {"gate": "balanced"}, {"quantize": "int8"}])
def test_a_corrector_behind_an_address_has_neither(extra) -> None:
    with pytest.raises(ConfigError, match="runs here, and not an address"):
        CorrectConfig.from_dict(
            {"aligner": "http://127.0.0.1:1/v1", "input": "a.jsonl", "output": "b.jsonl", **extra}, where="x"
        )
