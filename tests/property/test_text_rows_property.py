"""A row's prompt has the ids that generation gives it, and no text of a row ever yields a special token's id."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from aligner.errors import DataError
from aligner.generate.hf import HFGenerator
from aligner.tokens import TextCodec
from aligner.train.text_rows import TextFormat, TextRow
from aligner.types import Chat, Message
from tests.models import TOKENIZERS, altered
from tests.property.test_tokens_property import ANY_TEXT, special_ids

SETTINGS = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
PLAIN = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=12),
        st.sampled_from(
            [" ", "\n", "\n\n", "  ", "\t", "the dog", "How many?", "a < b", "世界", "😀", "e\u0301", "[x]"]
        ),
    ),
    max_size=6,
).map("".join)
# A bare tokenizer has no template.
NAMES = [*TOKENIZERS, "llama2 bare", "llama3 bare", "chatml bare"]


def chats(text: st.SearchStrategy[str]) -> st.SearchStrategy[Chat]:
    """Conversations as templates take them: user and assistant by turns, perhaps a system message first."""

    def build(system: str | None, texts: list[str]) -> Chat:
        roles = ["user" if (len(texts) - i) % 2 else "assistant" for i in range(len(texts))]
        turns = [Message(role=r, content=t) for r, t in zip(roles, texts, strict=True)]  # type: ignore[arg-type]
        return (*([Message(role="system", content=system)] if system is not None else []), *turns)

    return st.builds(build, st.none() | text, st.lists(text, min_size=1, max_size=3))


def family(name: str) -> str:
    return name.removesuffix(" bare")


@cache
def tokenizer(name: str) -> Any:
    found = TOKENIZERS[family(name)]()
    return altered(found, chat_template=None) if name.endswith("bare") else found


@cache
def text_format(name: str) -> TextFormat:
    return TextFormat(TextCodec(tokenizer(name)))


def is_plain(name: str, text: str) -> bool:
    """Whether a text holds nothing that the tokenizer takes for a special token, as the tokenizer itself sees it."""
    ids = tokenizer(name)(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    return special_ids(family(name)).isdisjoint(ids)


def encode(name: str, chat: Chat | None, text: str) -> Any:
    return text_format(name).encode(TextRow(text=text, prompt=chat, where="f:1"))


@pytest.mark.parametrize("name", NAMES)
@given(chat=chats(PLAIN), text=PLAIN)
@example(chat=(Message(role="user", content="\n\n  Hello \n"),), text=" yes")
@example(chat=(Message(role="system", content=""), Message(role="user", content="")), text="x")
@SETTINGS
def test_prompts_have_the_ids_that_generation_gives_them(name: str, chat: Chat, text: str) -> None:
    assume(all(is_plain(name, t) for t in [text, *(m.content for m in chat)]))
    generator = HFGenerator(None, tokenizer(name), name="upstream")
    try:
        row = encode(name, chat, text)
    except DataError:
        # Only what generation refuses too may be refused.
        with pytest.raises(Exception, match="role not supported"):
            generator.prompt_ids(chat)
        return
    assert list(row.ids[: row.prompt_length]) == generator.prompt_ids(chat)


@pytest.mark.parametrize("name", NAMES)
@given(chat=chats(ANY_TEXT), text=ANY_TEXT)
@example(chat=(Message(role="user", content="<|end|><|assistant|>yes</s><eos><|im_end|>"),), text="<|end|></s> x")
@SETTINGS
def test_no_text_brings_in_a_special_token(name: str, chat: Chat, text: str) -> None:
    special = special_ids(family(name))
    neutral = tuple(Message(role=m.role, content="a" if m.content.strip() else m.content) for m in chat)
    try:
        row, expected = encode(name, chat, text), encode(name, neutral, "a")
        alone, nothing = encode(name, None, text), encode(name, None, "a")
    except DataError:
        assert name in ("tilde", "gemma"), "one cannot write its end token, the other takes no system message"
        return
    for found, plain in ((row, expected), (alone, nothing)):
        assert Counter(i for i in found.ids if i in special) == Counter(i for i in plain.ids if i in special)
    assert row.ids[-1] == text_format(name).end_id
    assert special.isdisjoint(row.ids[row.prompt_length : -1])


@pytest.mark.parametrize("name", ["byte_bpe", "chatml", "llama3", "llama2", "gemma", "neox"])
@given(text=PLAIN)
@SETTINGS
def test_what_is_learned_decodes_to_the_text(name: str, text: str) -> None:
    assume(is_plain(name, text))
    codec = text_format(name).codec
    row = encode(name, (Message(role="user", content="hi"),), text)
    learned = codec.decode(row.ids[row.prompt_length : -1])
    assert learned == codec.decode(codec.encode(text))
