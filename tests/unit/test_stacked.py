"""The stack: an upstream and a corrector as one generator."""

from __future__ import annotations

import asyncio

import pytest

from aligner import Aligner, Completion, Message, Sampling, ScriptedGenerator, StackedModel
from aligner.correct.card import AlignerCard
from aligner.generate.collect import collect
from aligner.prompts import PromptFormat
from aligner.train.config import Scratch
from aligner.train.scratch import build_model, train_tokenizer
from aligner.types import Generator, Streams

ANSWERS = {f"q{i}": f"the cat sat {i} times." for i in range(9)}
CHATS = [(Message(role="user", content=q),) for q in ANSWERS]


@pytest.fixture(scope="module")
def aligner():
    tokenizer = train_tokenizer(iter(["the cat sat on the mat.", "a dog ran home."] * 5), 320)
    model = build_model(Scratch(layers=1, hidden=32, heads=2, vocabulary=320), tokenizer, 128, seed=0).eval()
    card = AlignerCard(prompt=PromptFormat.preset("chat", tokenizer, instruction="", request=""))
    with Aligner(model, tokenizer, card, max_rows=3) as made:
        yield made


def test_a_stack_is_a_generator_and_streams(aligner) -> None:
    stack = StackedModel(ScriptedGenerator(ANSWERS), aligner)
    assert isinstance(stack, Generator)
    assert isinstance(stack, Streams)
    assert stack.name == "scripted+aligner"
    assert StackedModel(stack, aligner, name="twice").name == "twice"


def test_answers_are_the_corrections_of_the_upstreams_answers(aligner) -> None:
    found = collect(StackedModel(ScriptedGenerator(ANSWERS), aligner), CHATS)
    for chat, completion in zip(CHATS, found, strict=True):
        answer = ANSWERS[chat[0].content]
        correction = aligner.correct(chat, answer)
        assert completion.text == correction.text
        assert completion.finish_reason == "stop"
        written = len(answer.split()) + correction.completion.usage.completion_tokens
        assert completion.usage.completion_tokens == written


def test_failed_upstream_items_pass_through_uncorrected(aligner) -> None:
    broken = Completion(text="half", finish_reason="error", error="overloaded")
    upstream = ScriptedGenerator(lambda chat: broken if chat[0].content == "q3" else "the cat.")
    found = collect(StackedModel(upstream, aligner), CHATS)
    assert found[3] == broken
    assert all(c.finish_reason == "stop" for i, c in enumerate(found) if i != 3)


def test_correction_starts_while_the_upstream_still_works(aligner) -> None:
    """With a slow upstream, early corrections come out before its last answer."""
    order: list[str] = []

    class Noting(ScriptedGenerator):
        async def generate(self, chats, sampling):
            async for i, completion in super().generate(chats, sampling):
                order.append(f"answer {i}")
                yield i, completion

    async def run() -> None:
        stack = StackedModel(Noting(ANSWERS, delay=0.05), aligner)
        async for i, _ in stack.generate(CHATS, Sampling()):
            order.append(f"correction {i}")

    asyncio.run(run())
    assert order.index("correction 0") < order.index("answer 8")
    assert sorted(order) == sorted([f"answer {i}" for i in range(9)] + [f"correction {i}" for i in range(9)])


def test_a_slow_corrector_holds_the_upstream_back(aligner, monkeypatch) -> None:
    """Answers that wait for the corrector are bounded, however many the upstream could give."""
    waiting = most = 0

    async def slow(chat, answer, sampling=None):
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.002)
        waiting -= 1
        return await real(chat, answer)

    real = aligner.acorrect
    monkeypatch.setattr(aligner, "acorrect", slow)
    upstream = ScriptedGenerator(lambda _: "the cat.")
    stack = StackedModel(upstream, aligner, in_flight=5)
    assert len(collect(stack, CHATS * 6)) == 54
    assert 1 < most <= 5


def test_stream_gives_the_correction_and_upstream_errors(aligner) -> None:
    async def streamed(stack, chat):
        return [d async for d in stack.stream(chat, Sampling())]

    stack = StackedModel(ScriptedGenerator(ANSWERS), aligner)
    deltas = asyncio.run(streamed(stack, CHATS[2]))
    whole = aligner.correct(CHATS[2], ANSWERS["q2"])
    assert "".join(d.text for d in deltas) == (whole.completion.text or whole.text)
    assert deltas[-1].usage.prompt_tokens > whole.completion.usage.prompt_tokens
    failed = asyncio.run(streamed(stack, (Message(role="user", content="unknown"),)))
    assert failed[-1].finish_reason == "error"


def test_leaving_early_cancels_the_corrections(aligner) -> None:
    async def leave() -> int:
        stack = StackedModel(ScriptedGenerator(ANSWERS), aligner)
        results = stack.generate(CHATS, Sampling())
        await anext(results)
        await results.aclose()
        await asyncio.sleep(0)
        return len([t for t in asyncio.all_tasks() if not t.done() and t is not asyncio.current_task()])

    assert asyncio.run(leave()) == 0
