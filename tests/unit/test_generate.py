"""Upstreams: Hugging Face models, scripted ones, and the sync door."""

from __future__ import annotations

import asyncio
import copy
import weakref

import pytest
import torch

from aligner import Completion, HFGenerator, Message, Sampling, ScriptedGenerator
from aligner.correct.looped import LoopGenerator
from aligner.errors import CheckpointError, GenerationError
from aligner.generate.collect import collect, run_sync
from aligner.generate.hf import context_length, load_causal_lm, load_tokenizer
from tests.upstreams import tiny_upstream


def user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


@pytest.fixture(scope="module")
def upstream():
    model, tokenizer = tiny_upstream()
    return HFGenerator(model, tokenizer, name="tiny", batch_size=4)


CHATS = [user("the cat " * (1 + i % 4)) for i in range(11)]


def test_hf_equals_generate_one_by_one(upstream) -> None:
    found = collect(upstream, CHATS, Sampling(max_new_tokens=12))
    for chat, completion in zip(CHATS, found, strict=True):
        ids = upstream.tokenizer.apply_chat_template(
            [{"role": "user", "content": chat[0].content}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        out = upstream.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        text = upstream.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert completion.text == text
        assert completion.usage.prompt_tokens == ids.shape[1]
        assert (completion.finish_reason == "length") == (completion.usage.completion_tokens == 12)


def test_hf_sampling_is_seeded_and_leaves_the_global_generator_alone(upstream) -> None:
    state = torch.random.get_rng_state()
    hot = [collect(upstream, CHATS, Sampling(temperature=1.5, max_new_tokens=8, seed=s)) for s in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_hf_prompt_too_long_is_a_failed_item(upstream) -> None:
    found = collect(upstream, [user("cat " * 200), user("cat")], Sampling(max_new_tokens=4))
    assert found[0].finish_reason == "error"
    assert "takes 96" in found[0].error
    assert found[1].finish_reason in ("stop", "length")


def test_hf_a_long_prompt_takes_no_room_from_its_neighbours(upstream) -> None:
    chats = [user("cat"), user("the cat " * 30), user("the cat " * 30), user("a cat " * 30), user("the cat")]
    alone = [collect(upstream, [chat], Sampling(max_new_tokens=40))[0] for chat in chats]
    assert {c.usage.completion_tokens for c in alone[1:3]} != {c.usage.completion_tokens for c in alone[::4]}
    assert collect(upstream, chats, Sampling(max_new_tokens=40)) == alone


@pytest.mark.parametrize("kind", [HFGenerator, LoopGenerator])
def test_what_the_tokenizer_does_not_take_costs_no_other_answer(upstream, kind) -> None:
    tokenizer = copy.deepcopy(upstream.tokenizer)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    asked = [(Message(role="system", content="be kind"), *user("cat")), user("a \ud800 cat"), user("cat")]
    for template in (tokenizer.chat_template, None):
        tokenizer.chat_template = template
        made = kind(upstream.model, tokenizer, name="tiny")
        refused, odd, plain = collect(made, asked, Sampling(max_new_tokens=4))
        assert (refused.finish_reason == "error") == (template is not None)
        if template is not None:
            assert "takes no conversation of system, user (System role not supported)" in refused.error
        assert odd == collect(made, [user("a ? cat")], Sampling(max_new_tokens=4))[0]
        assert plain.error is None


def test_hf_out_of_memory_halves_the_batch(upstream, monkeypatch) -> None:
    expected = collect(upstream, CHATS, Sampling(max_new_tokens=4))
    real = upstream._run
    sizes = []

    def small(prompts, sampling):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("alloc")
        return real(prompts, sampling)

    monkeypatch.setattr(upstream, "_run", small)
    assert collect(upstream, CHATS, Sampling(max_new_tokens=4)) == expected
    assert max(sizes) == 4
    monkeypatch.setattr(upstream, "_run", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("alloc")))
    with pytest.raises(GenerationError, match="not enough memory for one prompt"):
        collect(upstream, CHATS[:1])
    monkeypatch.setattr(upstream, "_run", lambda *_: (_ for _ in ()).throw(RuntimeError("bad kernel")))
    with pytest.raises(GenerationError, match="bad kernel"):
        collect(upstream, CHATS[:1])


def test_hf_a_failed_pass_holds_no_memory_while_half_of_it_is_tried(upstream, monkeypatch) -> None:
    real, held, alive = upstream._run, [], []

    class Cache:
        pass

    def small(prompts, sampling):
        alive.append(sum(ref() is not None for ref in held))
        cache = Cache()
        held.append(weakref.ref(cache))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("alloc")
        return real(prompts, sampling)

    monkeypatch.setattr(upstream, "_run", small)
    collect(upstream, CHATS[:4], Sampling(max_new_tokens=4))
    assert len(alive) == 7
    assert not any(alive)


def test_hf_without_a_chat_template_reads_role_lines(upstream, monkeypatch) -> None:
    monkeypatch.setattr(upstream.tokenizer, "chat_template", None)
    chat = (Message(role="system", content="be kind"), Message(role="user", content="cat"))
    assert upstream.tokenizer.decode(upstream.prompt_ids(chat)) == "System: be kind\nUser: cat"


def test_load_and_errors(upstream, tmp_path) -> None:
    upstream.model.save_pretrained(tmp_path / "m")
    upstream.tokenizer.save_pretrained(tmp_path / "m")
    again = HFGenerator.from_pretrained(tmp_path / "m", device="cpu", dtype="float32", batch_size=3)
    assert again.name == "m"
    assert collect(again, CHATS, Sampling(max_new_tokens=4)) == collect(upstream, CHATS, Sampling(max_new_tokens=4))
    assert context_length(again.model) == 96
    assert load_causal_lm(str(tmp_path / "m"), dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="no config\\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no such directory"):
        load_tokenizer("./nowhere")
    with pytest.raises(CheckpointError, match="a file"):
        load_tokenizer(tmp_path / "m" / "config.json")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="the model cannot be loaded"):
        load_causal_lm(tmp_path / "m")


def test_scripted_mapping_function_and_failures() -> None:
    mapped = ScriptedGenerator({"hi": "hello there friend"}, name="clerk")
    assert collect(mapped, [user("hi")])[0].text == "hello there friend"
    assert collect(mapped, [user("hi")], Sampling(max_new_tokens=2))[0] == Completion(
        text="hello there", finish_reason="length", usage=collect(mapped, [user("hi")])[0].usage
    )
    missing = collect(mapped, [user("what")])[0]
    assert (missing.finish_reason, missing.text) == ("error", "")
    assert "'what'" in missing.error
    raising = ScriptedGenerator(lambda chat: 1 / 0)
    assert "division" in collect(raising, [user("x")])[0].error
    ready = Completion(text="as is", finish_reason="length")
    assert collect(ScriptedGenerator(lambda chat: ready), [user("x")]) == [ready]


def test_scripted_stream_joins_to_the_answer() -> None:
    answer = "two  words \n and a tail  "

    async def streamed():
        return [d async for d in ScriptedGenerator({"q": answer}, delay=0.001).stream(user("q"), Sampling())]

    deltas = asyncio.run(streamed())
    assert "".join(d.text for d in deltas) == answer
    assert len(deltas) > 4
    assert deltas[-1].finish_reason == "stop"


def test_the_sync_door_works_inside_a_running_loop() -> None:
    generator = ScriptedGenerator({"q": "a"}, delay=0.001)

    async def notebook() -> str:
        return collect(generator, [user("q")])[0].text

    assert asyncio.run(notebook()) == "a"

    async def failing() -> None:
        raise ValueError("inside")

    async def notebook_failing() -> None:
        run_sync(failing())

    with pytest.raises(ValueError, match="inside"):
        asyncio.run(notebook_failing())
    with pytest.raises(ValueError, match="inside"):
        run_sync(failing())
