"""Upstreams that the step loop decodes: the same answers as generate(), whatever is in the batch."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from aligner import HFGenerator, Message, Sampling
from aligner.correct.forward import Forward
from aligner.correct.looped import LoopGenerator, load_upstream
from aligner.generate.collect import collect
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
