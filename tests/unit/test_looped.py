"""Upstreams that the step loop decodes: the same answers as generate(), whatever is in the batch."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, Phi3Config, Phi3ForCausalLM

from aligner import Aligner, HFGenerator, Message, Sampling
from aligner.correct.card import AlignerCard
from aligner.correct.decoding import StepLoop
from aligner.correct.forward import Forward
from aligner.correct.looped import LoopGenerator, load_upstream
from aligner.generate.collect import collect
from aligner.prompts import PromptFormat
from tests.upstreams import tiny_upstream

CHATS = [(Message(role="user", content="the cat " * (1 + i % 4)),) for i in range(23)]


@pytest.fixture(scope="module")
def parts():
    return tiny_upstream()


def test_greedy_answers_are_those_of_generate(parts) -> None:
    ours = collect(LoopGenerator(*parts, name="tiny", max_rows=3), CHATS, Sampling(max_new_tokens=12))
    theirs = collect(HFGenerator(*parts, name="tiny", batch_size=1), CHATS, Sampling(max_new_tokens=12))
    assert ours == theirs


def test_a_sampled_answer_does_not_depend_on_its_batch(parts) -> None:
    sampling = Sampling(temperature=1.5, max_new_tokens=8, seed=1)
    alone = collect(LoopGenerator(*parts, name="tiny", max_rows=1), CHATS, sampling)
    assert collect(LoopGenerator(*parts, name="tiny", max_rows=16), CHATS, sampling) == alone
    other = collect(LoopGenerator(*parts, name="tiny"), CHATS, Sampling(temperature=1.5, max_new_tokens=8, seed=2))
    assert other != alone


def test_what_does_not_fit_is_a_failed_answer(parts) -> None:
    found = collect(
        LoopGenerator(*parts, name="tiny"), [(Message(role="user", content="cat " * 200),), CHATS[0]], Sampling()
    )
    assert found[0].finish_reason == "error"
    assert "takes 1 to 95" in (found[0].error or "")
    assert found[1].finish_reason in ("stop", "length")


def test_a_failed_pass_fails_its_answers(parts, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("lost device")

    monkeypatch.setattr(Forward, "__call__", broken)
    found = collect(LoopGenerator(*parts, name="tiny"), CHATS[:3], Sampling(max_new_tokens=4))
    assert all(c.finish_reason == "error" and "tiny: the model failed: lost device" in c.error for c in found)


def test_leaving_early_stops_the_loop_and_frees_the_model(parts) -> None:
    generator = LoopGenerator(*parts, name="tiny", max_rows=2)

    async def first() -> int:
        answers = generator.generate(CHATS, Sampling(max_new_tokens=50))
        async for i, _ in answers:
            await answers.aclose()  # type: ignore[attr-defined]
            return i
        raise AssertionError

    before = set(threading.enumerate())
    assert 0 <= asyncio.run(first()) < len(CHATS)
    assert not [t for t in set(threading.enumerate()) - before if t.name == "aligner-step-loop"]
    assert not parts[0].get_output_embeddings()._forward_pre_hooks


def test_nothing_asked_is_nothing_answered(parts) -> None:
    assert collect(LoopGenerator(*parts, name="tiny"), [], Sampling()) == []


@pytest.mark.parametrize(
    ("field", "value", "looped"),
    [
        ("repetition_penalty", 1.3, False), ("no_repeat_ngram_size", 3, False), ("suppress_tokens", [5], False),
        ("forced_bos_token_id", 0, False), ("num_beams", 2, False), ("min_p", 0.1, False),
        ("repetition_penalty", 1.0, True), ("no_repeat_ngram_size", 0, True), ("suppress_tokens", [], True),
        ("temperature", 0.6, True), ("top_p", 0.9, True), ("max_length", 50, True),
    ],
)  # fmt: skip
def test_what_a_generation_config_sets_takes_generate(parts, tmp_path, field, value, looped) -> None:
    model, tokenizer = parts
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    place = tmp_path / "generation_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"do_sample": True, field: value}))
    loaded = load_upstream(tmp_path, max_rows=5)
    assert isinstance(loaded, LoopGenerator if looped else HFGenerator)
    if field == "repetition_penalty":
        sampling = Sampling(max_new_tokens=12)
        theirs = collect(HFGenerator.from_pretrained(tmp_path, batch_size=5), CHATS[:4], sampling)
        assert collect(loaded, CHATS[:4], sampling) == theirs
        plain = collect(HFGenerator(model, tokenizer, name=loaded.name, batch_size=5), CHATS[:4], sampling)
        assert (plain == theirs) == looped


def test_of_longrope_the_loop_takes_what_one_set_of_frequencies_reaches(parts, tmp_path) -> None:
    _, tokenizer = parts
    config = Phi3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=96, original_max_position_embeddings=48, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [8.0] * 8},
    )  # fmt: skip
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with StepLoop(model) as loop:
        assert loop.context == 48
    card = AlignerCard(prompt=PromptFormat.preset("chat", tokenizer, instruction="", request=""))
    with Aligner(model, tokenizer, card) as aligner:
        assert aligner.context == 48
    assert isinstance(load_upstream(tmp_path), HFGenerator)
    long = (Message(role="user", content="cat " * 60),)
    found = collect(LoopGenerator(model, tokenizer, name="long"), [long], Sampling())
    assert "takes 1 to 47" in (found[0].error or "")


def test_a_model_that_the_loop_cannot_decode_runs_through_generate(parts, tmp_path) -> None:
    model, tokenizer = parts
    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=0)
    torch.manual_seed(0)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    assert isinstance(load_upstream(tmp_path / "mamba"), HFGenerator)
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    loaded = load_upstream(tmp_path / "llama", max_rows=5)
    assert isinstance(loaded, LoopGenerator)
    assert (loaded.name, loaded.max_rows) == ("llama", 5)
    again = LoopGenerator.from_pretrained(tmp_path / "llama", device="cpu", dtype="float32")
    expected = collect(loaded, CHATS[:2], Sampling(max_new_tokens=5))
    assert collect(again, CHATS[:2], Sampling(max_new_tokens=5)) == expected
