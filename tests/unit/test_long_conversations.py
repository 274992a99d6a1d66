"""Long conversations: no more of them is encoded than may fit, not on the event loop, and not with each new word."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from aligner import PromptFormat
from aligner.correct import apart, outcome
from aligner.tokens import TextCodec
from aligner.types import Chat, Message
from tests.models import byte_bpe_tokenizer, llama2_tokenizer, tiny_aligner
from tests.unit.test_gateway_streaming import SHORT

WORDS = "the quick brown fox jumps over the lazy dog and the dog does not mind "


def conversation(turns: int, words: int) -> Chat:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[i % 2], content=f"{i} " + WORDS * words) for i in range(turns))  # type: ignore[arg-type]


def encoded(codec: TextCodec, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The characters of each text that is encoded from now on, and the thread."""
    found: list[tuple[int, int]] = []
    plain = codec._plain

    def counted(text: str) -> list[int]:
        found.append((len(text), threading.get_ident()))
        return plain(text)

    monkeypatch.setattr(codec, "_plain", counted)
    return found


@pytest.mark.parametrize("build", [byte_bpe_tokenizer, llama2_tokenizer])
@pytest.mark.parametrize("name", ["chat", "aligner-v1"])
def test_of_a_conversation_that_is_far_too_long_only_what_may_fit_is_encoded(
    build: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = TextCodec(build())
    form = PromptFormat.preset(name, codec.tokenizer, instruction="i", request="r")
    chat, most = conversation(100, 4), 600
    lengths = [len(form.encode(codec, chat[dropped:], "an answer").ids) for dropped in range(len(chat))]
    wanted = next(i for i, length in enumerate(lengths) if length <= most)
    assert 0 < wanted < len(chat) - 1
    found = encoded(codec, monkeypatch)
    made = form.encode(codec, chat, "an answer", max_tokens=most)
    assert (made.dropped_turns, len(made.ids)) == (wanted, lengths[wanted])
    assert max(size for size, _ in found) < sum(len(turn.content) for turn in chat) // 2


def test_a_text_is_known_to_be_too_long_by_its_beginning() -> None:
    codec = TextCodec(byte_bpe_tokenizer())
    assert codec.exceeds(WORDS * 1000, 100)
    assert not codec.exceeds(WORDS * 10, 100), "it is encoded whole as fast"
    assert not codec.exceeds("", 1)


@pytest.mark.parametrize("prompt", ["chat", "aligner-v1"])
def test_a_long_question_is_not_encoded_with_each_word_of_its_answer(prompt: str, monkeypatch) -> None:
    question = WORDS * 40
    with tiny_aligner(prompt=prompt, context=4096, sampling=SHORT) as aligner:
        expected = aligner.correct(question, WORDS)
        found = encoded(aligner.codec, monkeypatch)
        session = aligner.open(question)
        for word in WORDS.split(" "):
            session.push(word + " ")
        assert sum(size >= len(question) for size, _ in found) <= 1
        assert len(found) < 10
        assert asyncio.run(session.finish(WORDS)) == expected


def test_what_is_long_is_encoded_and_looked_at_in_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_LONG", 1000)
    with tiny_aligner(context=512, sampling=SHORT) as aligner:
        chat = [*conversation(30, 10), Message(role="user", content="And now?")]
        expected = aligner.correct(chat, "It is Paris.")
        found = encoded(aligner.codec, monkeypatch)
        looked: list[int] = []
        check = outcome.check

        def watched(**texts: Any) -> Any:
            looked.append(threading.get_ident())
            return check(**texts)

        monkeypatch.setattr(outcome, "check", watched)

        async def both() -> tuple[Any, list[Any]]:
            deltas = [delta async for delta in aligner.stream(chat, "It is Paris.")]
            return await aligner.acorrect(chat, "It is Paris."), deltas

        done, deltas = asyncio.run(both())
        assert any("dropped_turns" in flag for flag in done.flags)
        assert (done, deltas[-1].flags) == (expected, expected.flags)
        assert found
        assert len(looked) == 2
        assert threading.get_ident() not in {*(thread for _, thread in found), *looked}
        found.clear()
        session = aligner.open(chat)
        session.push("It is Paris.")
        session.close()
        assert sum(size for size, _ in found) < 10_000, "it will be another prompt, so nothing is read ahead"
