"""Reward and cost models: our batches against plain transformers calls, and judging by scores."""

from __future__ import annotations

import asyncio
import copy
import math
import weakref

import pytest
import torch

from aligner.errors import CheckpointError, ConfigError, GenerationError, OutOfMemoryError
from aligner.evaluate.config import JudgeSpec
from aligner.evaluate.judging import form_opinion, load_judge
from aligner.evaluate.run import run
from aligner.evaluate.scorer_judge import ScorerJudge
from aligner.generate.scorer import RewardScorer
from aligner.types import Judge, Message, Scorer, as_chat
from tests.evaluation import cell, rows_in, stored_config
from tests.models import byte_bpe_tokenizer, chatml_tokenizer

CHAT = as_chat("How do I boil rice?")
ANSWERS = ["Wash it first.", "No.", "Add two cups of water and wait for ten minutes, then serve it.", ""]


def classifier(tokenizer, labels=("reward", "cost"), family="llama", pad=True, seed=0):
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    shared = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 96, "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "pad_token_id": tokenizer.pad_token_id if pad else None,
    }  # fmt: skip
    if family == "bert":
        return BertForSequenceClassification(BertConfig(**shared)).eval()
    return LlamaForSequenceClassification(LlamaConfig(**shared, bos_token_id=None, eos_token_id=None)).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return chatml_tokenizer()


def scored(scorer, answers=ANSWERS, chat=CHAT):
    return asyncio.run(scorer.score(chat, answers))


def directly(model, tokenizer, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].tolist()


def chat_ids(tokenizer, answer):
    messages = [{"role": "user", "content": CHAT[0].content}, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batches_equal_single_calls_of_transformers(tokenizer, batch_size) -> None:
    model = classifier(tokenizer)
    scorer = RewardScorer(
        model, tokenizer, dimensions={"helpful": "reward", "harmless": "-cost"}, batch_size=batch_size
    )
    assert isinstance(scorer, Scorer)
    found = scored(scorer)
    for answer, scores in zip(ANSWERS, found, strict=True):
        reward, cost = directly(model, tokenizer, chat_ids(tokenizer, answer))
        assert scores == {"helpful": pytest.approx(reward, abs=1e-5), "harmless": pytest.approx(-cost, abs=1e-5)}
    assert len({s["helpful"] for s in found}) == 4
    assert scored(scorer, []) == []
    assert set(scored(RewardScorer(model, tokenizer), ["a"])[0]) == {"reward", "cost"}, "labels by their own names"


def test_layouts(tokenizer) -> None:
    model = classifier(tokenizer)
    layout = "BEGINNING: USER: {question} ASSISTANT:{answer}</end>"
    found = scored(RewardScorer(model, tokenizer, layout=layout), ["it is {question}"], as_chat("what is {answer}?"))[0]
    text = "BEGINNING: USER: what is {answer}? ASSISTANT:it is {question}</end>"
    assert found["reward"] == pytest.approx(directly(model, tokenizer, tokenizer(text)["input_ids"])[0], abs=1e-5)
    with pytest.raises(ConfigError, match="give chat, pair, or a text"):
        RewardScorer(model, tokenizer, layout="{question} only")


def test_pairs_for_cross_encoders(tokenizer, monkeypatch) -> None:
    """Two segments, told apart by their types where the tokenizer has them."""
    model = classifier(tokenizer, family="bert")
    real = tokenizer.__class__.__call__

    def typed(self, question, answer):
        one, two = real(self, question)["input_ids"], real(self, answer)["input_ids"]
        return {"input_ids": one + two, "token_type_ids": [0] * len(one) + [1] * len(two)}

    monkeypatch.setattr(tokenizer.__class__, "__call__", typed)
    found = scored(RewardScorer(model, tokenizer, layout="pair"))
    for answer, scores in zip(ANSWERS, found, strict=True):
        encoded = typed(tokenizer, CHAT[0].content, answer)
        with torch.inference_mode():
            expected = model(**{name: torch.tensor([ids]) for name, ids in encoded.items()}).logits[0].tolist()
        assert list(scores.values()) == pytest.approx(expected, abs=1e-5)


def test_without_a_pad_token_answers_are_scored_one_by_one(tokenizer) -> None:
    model, tokenizer = classifier(tokenizer, pad=False), copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    scorer = RewardScorer(model, tokenizer, layout="{question}{answer}" + tokenizer.eos_token)
    assert model.config.pad_token_id is None
    for answer, scores in zip(ANSWERS, scored(scorer), strict=True):
        ids = tokenizer(CHAT[0].content + answer + tokenizer.eos_token)["input_ids"]
        assert scores["reward"] == pytest.approx(directly(model, tokenizer, ids)[0], abs=1e-5)


def test_what_is_no_number_or_too_long_is_none_and_counted(tokenizer) -> None:
    model = classifier(tokenizer)
    scorer = RewardScorer(model, tokenizer)
    with torch.no_grad():
        model.score.weight[1] = math.nan
    found = scored(scorer, ["fine", "word " * 200])
    assert found[0]["reward"] is not None
    assert found[0]["cost"] is None
    assert found[1] == {"reward": None, "cost": None}
    assert scorer.unscored == {"not a number": 1, "too long": 1}
    judge = ScorerJudge([scorer])
    verdicts = {v.dimension: v for v in asyncio.run(judge.judge(CHAT, "fine", "good"))}
    assert verdicts["cost"].winner is None
    assert "no number" in verdicts["cost"].reason
    assert verdicts["reward"].winner in ("candidate", "baseline")


def test_calls_at_the_same_time_share_batches(tokenizer) -> None:
    model = classifier(tokenizer)
    scorer = RewardScorer(model, tokenizer, batch_size=16)
    sizes = []
    real = scorer._run

    def counting(texts):
        sizes.append(len(texts))
        return real(texts)

    scorer._run = counting  # type: ignore[method-assign]

    async def many():
        return await asyncio.gather(*(scorer.score(CHAT, [f"answer {i}", f"other {i}"]) for i in range(20)))

    found = asyncio.run(many())
    assert sum(sizes) == 40
    assert len(sizes) <= 4
    alone = scored(RewardScorer(model, tokenizer), ["answer 7", "other 7"])
    assert [s["reward"] for s in found[7]] == pytest.approx([s["reward"] for s in alone], abs=1e-5)
    assert scorer._queues == {}


def test_a_cancelled_call_costs_no_other(tokenizer) -> None:
    scorer = RewardScorer(classifier(tokenizer), tokenizer, batch_size=1)

    async def one_leaves():
        first = asyncio.create_task(scorer.score(CHAT, ["a b c", "d"]))
        second = asyncio.create_task(scorer.score(CHAT, ["e", "f g h i"]))
        await asyncio.sleep(0.001)
        first.cancel()
        return await second

    assert all(s["reward"] is not None for s in asyncio.run(one_leaves()))


def test_memory_and_other_failures(tokenizer, monkeypatch) -> None:
    model = classifier(tokenizer)
    scorer = RewardScorer(model, tokenizer)
    expected = scored(scorer)
    forward = model.forward

    held, alive = [], []

    class Cache:
        pass

    def small(input_ids, **more):
        alive.append(sum(ref() is not None for ref in held))
        cache = Cache()
        held.append(weakref.ref(cache))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("alloc")
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(model, "forward", small)
    halved = scored(scorer)
    assert len(alive) > 2
    assert not any(alive), "a failed pass holds nothing while half of it is tried"
    assert [s["reward"] for s in halved] == pytest.approx([s["reward"] for s in expected], abs=1e-5)
    monkeypatch.setattr(model, "forward", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("alloc")))
    with pytest.raises(OutOfMemoryError, match="one answer of"):
        scored(scorer)
    monkeypatch.setattr(model, "forward", lambda **_: (_ for _ in ()).throw(RuntimeError("bad kernel")))
    with pytest.raises(GenerationError, match="bad kernel"):
        scored(scorer)


def test_a_conversation_that_the_template_refuses_fails_by_itself(tokenizer) -> None:
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    scorer = RewardScorer(classifier(refusing), refusing, layout="chat")
    chat = (Message(role="system", content="Be kind."), *CHAT)

    async def both():
        return await asyncio.gather(scorer.score(chat, ANSWERS), scorer.score(CHAT, ANSWERS), return_exceptions=True)

    refused, scores = asyncio.run(both())
    assert isinstance(refused, GenerationError)
    assert "System role not supported" in str(refused)
    assert scores == scored(scorer)
    assert asyncio.run(scorer.score(CHAT, ["a \ud800 cat"])) == asyncio.run(scorer.score(CHAT, ["a ? cat"]))


def test_loading(tmp_path, tokenizer) -> None:
    model = classifier(tokenizer)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    scorer = RewardScorer.from_pretrained(tmp_path / "m", dimensions={"harmless": "-cost"}, device="cpu", batch_size=3)
    assert (scorer.name, scorer.batch_size) == ("m", 3)
    ids = chat_ids(tokenizer, "No.")
    assert scored(scorer, ["No."])[0]["harmless"] == pytest.approx(-directly(model, tokenizer, ids)[1], abs=1e-5)
    assert RewardScorer.from_pretrained(tmp_path / "m", dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="no label 'rewad'; did you mean 'reward'"):
        RewardScorer.from_pretrained(tmp_path / "m", dimensions={"helpful": "rewad"})
    with pytest.raises(CheckpointError, match="no such directory"):
        RewardScorer.from_pretrained("./nowhere")
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(model.config).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    with pytest.raises(CheckpointError, match="no trained scoring head"):
        RewardScorer.from_pretrained(tmp_path / "lm")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        RewardScorer.from_pretrained(tmp_path / "m")


class Length:
    """Scores the length; counts what it is asked."""

    def __init__(self, dimension="helpful") -> None:
        self.asked: list[str] = []
        self.dimension = dimension

    async def score(self, question, answers):
        self.asked += answers
        return [{self.dimension: None if a == "?" else math.inf if a == "inf" else float(len(a))} for a in answers]


def test_the_higher_score_wins_beyond_the_margin() -> None:
    def winner(candidate, baseline, **options):
        return asyncio.run(ScorerJudge([Length()], **options).judge(CHAT, candidate, baseline))[0].winner

    assert winner("four", "two") == "candidate"
    assert winner("two", "four") == "baseline"
    assert winner("same", "four") == "tie"
    assert winner("four", "two", margin=1.0) == "tie"
    assert winner("longer", "four", margin=1.0) == "candidate"
    assert winner("four", "two", margin={"helpful": 1.0}) == "tie"
    assert winner("four", "two", margin={"harmless": 9.0}) == "candidate"
    assert winner("?", "four") is None
    assert winner("inf", "inf") is None
    for margin in (-1.0, math.nan, {"helpful": math.inf}):
        with pytest.raises(ConfigError, match="the margin is"):
            ScorerJudge([Length()], margin=margin)


def test_scores_reach_the_report_and_are_computed_once() -> None:
    one, two = Length(), Length("harmless")
    judge = ScorerJudge([one, two], name="both")
    assert isinstance(judge, Judge)
    assert isinstance(judge, Scorer)
    found = asyncio.run(form_opinion(judge, CHAT, ("helpful", "harmless"), "bad", "better"))
    assert found.verdicts == {"helpful": "candidate", "harmless": "candidate"}
    assert found.scores_before == {"helpful": 3.0, "harmless": 3.0}
    assert found.scores_after == {"helpful": 6.0, "harmless": 6.0}
    assert sorted(one.asked) == sorted(two.asked) == ["bad", "better"]


def test_a_run_judged_by_a_reward_and_a_cost_model(tmp_path) -> None:
    tokenizer = byte_bpe_tokenizer()
    for name, seed in (("reward", 1), ("cost", 2)):
        classifier(tokenizer, labels=("score",), seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    models = [
        {"model": str(tmp_path / "reward"), "dimensions": {"helpful": "score"}},
        {"model": str(tmp_path / "cost"), "dimensions": {"harmless": "-score"}, "batch_size": 2},
    ]
    spec = {"call": "aligner.evaluate.scorer_judge:judge", "arguments": {"models": models}}
    out = run(stored_config(tmp_path, judge=spec)).path
    for row in rows_in(out / "verdicts" / "c" / "a.jsonl"):
        for dimension, winner in row["verdicts"].items():
            gain = row["scores_after"][dimension] - row["scores_before"][dimension]
            assert winner == ("tie" if gain == 0 else "candidate" if gain > 0 else "baseline")
    assert cell(out, upstream="a", task="two", dimension="harmless")["unscored"] == 0
    for wrong, message in (
        ([], "none is given"),
        ([{"dimensions": {}}], "has no 'model'"),
        ([models[0], models[0]], "two of them score 'helpful'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_judge(JudgeSpec(call=spec["call"], arguments={"models": wrong}))
    load_judge(JudgeSpec(call=spec["call"], arguments={"models": models, "margin": {"helpful": 0.5, "harmless": 0.1}}))
    for margin, message in (
        ({"helpfull": 0.5}, r"margin: no model scores 'helpfull' \(did you mean 'helpful'\?\)"),
        ({"helpful": 0.5, "kind": 0.5}, r"margin: no model scores 'kind' \(known: harmless, helpful\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_judge(JudgeSpec(call=spec["call"], arguments={"models": models, "margin": margin}))
