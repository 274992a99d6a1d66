"""No text yields a special token's id, any text comes back, and streams join: for every family of tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aligner.errors import PromptError
from aligner.prompts import PromptFormat
from aligner.tokens import IncrementalText, TextCodec
from aligner.types import Chat, Message
from tests.models import BYTE_LEVEL, TOKENIZERS

TOKENS = (
    "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>",
    "<unk>", "<s>", "</s>", "<0x0A>",
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<table>", "</table>", "<b>", "▁▁", "\n\n",
    "<|padding|>", "    ", "~",
)  # fmt: skip


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def cuts(token: str) -> list[str]:
    middle = len(token) // 2
    return [token[:1], token[:middle], token[middle:], token[:-1], token[1:]]


TOKEN_TEXT = st.sampled_from(TOKENS).flatmap(
    lambda t: st.sampled_from([
        t, t, *cuts(t), t + t, t[:-1] + t, t.upper(), full_width(t), full_width(t[:2]) + t[2:],
        t[:1] + "\u200b" + t[1:], t[:2] + "\u0338" + t[2:], t + "\ufe0f", f" {t} ", f"\n{t}",
    ])
)  # fmt: skip
TEXT = st.lists(
    st.one_of(
        TOKEN_TEXT,
        st.text(max_size=12),
        st.sampled_from(["\x00", " ", "  ", "\r\n", "\t", "\ufeff", "\ufffd", "the dog", "世界", "😀👍🏽", "e\u0301"]),
    ),
    max_size=8,
).map("".join)
SURROGATES = st.text(st.characters(categories=["Cs"]), max_size=2)
ANY_TEXT = st.one_of(TEXT, st.tuples(TEXT, SURROGATES, TEXT).map("".join))
CHATS = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=ANY_TEXT), max_size=3
).flatmap(lambda turns: ANY_TEXT.map(lambda last: (*turns, Message(role="user", content=last))))

SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def codec(name: str) -> TextCodec:
    return TextCodec(TOKENIZERS[name]())


@cache
def prompt(name: str, preset: str = "chat") -> PromptFormat:
    return PromptFormat.preset(preset, TOKENIZERS[name]())


@cache
def special_ids(name: str) -> frozenset[int]:
    """Told apart by other means than the codec's: every special token, and every added one that looks like a tag."""
    tokenizer = TOKENIZERS[name]()
    tags = (i for i, token in tokenizer.added_tokens_decoder.items() if token.content.startswith("<"))
    return frozenset([*tokenizer.all_special_ids, *tags])


def counts(ids: Sequence[int], special: frozenset[int]) -> dict[int, int]:
    return {i: list(ids).count(i) for i in special}


def refused(name: str, *texts: str) -> bool:
    """Whether a text holds a character that is a special token itself."""
    return name == "tilde" and any("~" in text for text in texts)


def each_tokenizer(names: Sequence[str] = tuple(TOKENIZERS)) -> Any:
    return pytest.mark.parametrize("name", names)


@each_tokenizer()
@SETTINGS
@given(text=ANY_TEXT)
@example(text="</s>" * 3 + "<|im_end|>" + "<think>")
@example(text="＜/s＞")
@example(text="~")
def test_no_text_yields_a_special_id(name: str, text: str) -> None:
    if refused(name, text):
        with pytest.raises(PromptError):
            codec(name).encode(text)
        return
    assert special_ids(name).isdisjoint(codec(name).encode(text))


@each_tokenizer()
@SETTINGS
@given(chat=CHATS, answer=ANY_TEXT, correction=ANY_TEXT)
def test_a_chat_prompt_holds_the_special_ids_of_its_fixed_parts_and_no_more(
    name: str, chat: Chat, answer: str, correction: str
) -> None:
    tokenizer, layout = TOKENIZERS[name](), prompt(name)
    if refused(name, answer, *(m.content for m in chat)):
        with pytest.raises(PromptError):
            layout.encode(codec(name), chat, answer)
        return
    fixed = [
        i
        for part in (layout.before, layout.between, layout.after)
        for i in tokenizer(part, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    ]
    special = special_ids(name)
    expected = counts(fixed, special)
    assert sum(expected.values()) > 0
    assert counts(layout.encode(codec(name), chat, answer).ids, special) == expected
    if not refused(name, correction):
        completion = layout.encode_correction(codec(name), correction)
        assert special.isdisjoint(completion[:-1])
        assert completion[-1] == tokenizer.convert_tokens_to_ids(layout.end)


@each_tokenizer()
@pytest.mark.parametrize("preset", ["aligner-v1", "aligner-repo"])
@settings(SETTINGS, max_examples=30)
@given(chat=CHATS, answer=ANY_TEXT, correction=ANY_TEXT)
def test_a_published_prompt_holds_the_begin_token_alone(
    name: str, preset: str, chat: Chat, answer: str, correction: str
) -> None:
    if refused(name, answer, correction, *(m.content for m in chat)):
        return
    ids = prompt(name, preset).encode(codec(name), chat, answer).ids
    first = codec(name).first_ids
    assert ids[: len(first)] == first
    assert special_ids(name).isdisjoint(ids[len(first) :])
    completion = prompt(name, preset).encode_correction(codec(name), correction)
    assert special_ids(name).isdisjoint(completion[:-1])
    assert completion[-1] == TOKENIZERS[name]().eos_token_id


@each_tokenizer(BYTE_LEVEL)
@SETTINGS
@given(text=TEXT)
def test_byte_level_text_comes_back(name: str, text: str) -> None:
    if refused(name, text):
        return
    normalizer = TOKENIZERS[name]().backend_tokenizer.normalizer
    expected = normalizer.normalize_str(text) if normalizer is not None else text
    assert codec(name).decode(codec(name).encode(text)) == expected


def streamed(name: str, ids: Sequence[int], chunks: Sequence[int], final_with_last: bool) -> list[str]:
    """The pieces of a stream that takes `chunks[i]` ids at step i, and one id a step after that."""
    stream, pieces, at = IncrementalText(codec(name)), [], 0
    sizes = iter(chunks)
    while at < len(ids):
        size = next(sizes, 1)
        last = at + size >= len(ids)
        pieces.append(stream.push(ids[at : at + size], final=last and final_with_last))
        at += size
    if not ids or not final_with_last:
        pieces.append(stream.push([], final=True))
    return pieces


@each_tokenizer()
@SETTINGS
@given(text=TEXT, chunks=st.lists(st.integers(0, 9), max_size=30), final_with_last=st.booleans())
@example(text=" 😀😀 世界  the dog", chunks=[], final_with_last=False)
def test_pieces_of_a_stream_join_to_the_whole(name: str, text: str, chunks: list[int], final_with_last: bool) -> None:
    if refused(name, text):
        return
    ids = codec(name).encode(text)
    whole = codec(name).decode(ids)
    pieces = streamed(name, ids, chunks, final_with_last)
    assert "".join(pieces) == whole
    assert "\ufffd" in whole or not any("\ufffd" in piece for piece in pieces)


@each_tokenizer(BYTE_LEVEL)
@SETTINGS
@given(data=st.data(), chunks=st.lists(st.integers(0, 4), max_size=30), final_with_last=st.booleans())
def test_pieces_of_any_ids_join_to_the_whole(name: str, data: Any, chunks: list[int], final_with_last: bool) -> None:
    """What a model writes need be no text: bytes that end nowhere, special tokens in the middle."""
    size = len(TOKENIZERS[name]())
    ids = data.draw(
        st.lists(st.one_of(st.integers(0, size - 1), st.sampled_from(sorted(special_ids(name)))), max_size=40)
    )
    pieces = streamed(name, ids, chunks, final_with_last)
    assert "".join(pieces) == codec(name).decode(ids)
