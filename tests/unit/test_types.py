"""The shared values: what they accept, what they refuse, and that nothing changes them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from aligner import types
from aligner.edits import Edit
from aligner.errors import ConfigError, DataError
from aligner.serve import wire
from aligner.types import (
    Completion,
    Correction,
    Delta,
    GateDecision,
    Generator,
    Message,
    PreferencePair,
    Sampling,
    Streams,
    Triplet,
    Usage,
    Verdict,
    as_chat,
    content_hash,
)

HELLO = Message(role="user", content="hello")


class TestAsChat:
    def test_text_is_one_user_turn(self) -> None:
        assert as_chat("hello") == (HELLO,)
        assert as_chat("") == (Message(role="user", content=""),)

    def test_openai_messages(self) -> None:
        turns = [
            {"role": "system", "content": "be kind", "name": "ignored"},
            {"role": "user", "content": "hi"},
            Message(role="assistant", content="yes?"),
            {"role": "user", "content": "hello"},
        ]
        assert as_chat(turns) == (
            Message(role="system", content="be kind"),
            Message(role="user", content="hi"),
            Message(role="assistant", content="yes?"),
            HELLO,
        )

    def test_what_else_the_api_knows_is_told_as_the_gateway_tells_it(self) -> None:
        call = {"id": "t", "type": "function", "function": {"name": "sum", "arguments": "{}"}}
        turns: list[dict[str, Any]] = [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "What is"}, "12 + 30?"]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}], "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": [{"type": "text", "text": "42"}]},
            {"role": "assistant", "content": "It is"},
            {"role": "function", "name": "sum", "content": "42"},
        ]
        told = (
            Message(role="system", content="be kind"),
            Message(role="user", content="What is\n12 + 30?"),
            Message(role="user", content="Tool result: 42"),
            Message(role="assistant", content="It is"),
            Message(role="user", content="Tool result: 42"),
        )
        assert as_chat(turns) == told == wire.question("chat", {"messages": turns})

    def test_chat_comes_back_as_it_is(self) -> None:
        chat = (Message(role="system", content="s"), HELLO)
        assert as_chat(chat) == chat

    @pytest.mark.parametrize(
        ("question", "message"),
        [
            ([], "the question has no turns; give at least one user message"),
            (None, "the question is a NoneType; expected text or a list of turns"),
            (3, "the question is a int; expected text or a list of turns"),
            ({"role": "user", "content": "x"}, "the question is a dict; expected text or a list of turns"),
            (["x"], "turn 0 is a str; expected an object with 'role' and 'content'"),
            ([HELLO, {"content": "x"}], "turn 1 has the role None; expected one of system, developer, user, assistant"),
            ([{"role": "bot", "content": "x"}], "turn 0 has the role 'bot'; expected one of system, developer, user"),
            ([{"role": ["user"], "content": "x"}], "turn 0 has the role ['user']; expected one of"),
            ([{"role": "user"}], "turn 0 has content of type NoneType; expected text"),
            ([{"role": "user", "content": {}}], "turn 0 has content of type dict; expected text"),
            ([{"role": "assistant", "content": None}], "turn 0 has content of type NoneType; expected text"),
            ([{"role": "user", "content": [{"type": "text"}]}], "turn 0 has a part of type 'text' without text; give"),
            (
                [{"role": "user", "content": ["see", {"type": "image_url", "image_url": {"url": "data:"}}]}],
                "turn 0 has a part of type 'image_url' without text; give text parts only",
            ),
            ([{"role": "user", "content": [3]}], "turn 0 has a part of type 'int' without text"),
            ([Message(role="bot", content="x")], "turn 0 has the role 'bot'"),  # type: ignore[arg-type]
            ([Message(role="user", content=None)], "turn 0 has content of type NoneType"),  # type: ignore[arg-type]
            ([HELLO, {"role": "assistant", "content": "x"}], "the question ends with an assistant turn; the answer to"),
        ],
    )
    def test_refusals(self, question: Any, message: str) -> None:
        with pytest.raises(DataError) as caught:
            as_chat(question)
        assert str(caught.value).startswith(message)


class TestTriplet:
    def test_identity_answers_itself(self) -> None:
        triplet = Triplet(question="q", answer="a", correction="c", source="s", id="1")
        assert triplet.identity() == Triplet(question="q", answer="a", correction="a", source="s", id="1")

    def test_chat(self) -> None:
        assert Triplet(question="hello", answer="", correction="").chat == (HELLO,)

    def test_question_key_groups_the_forms_of_one_question(self) -> None:
        def key(question: Any) -> str:
            return Triplet(question=question, answer="a", correction="c").question_key

        system = Message(role="system", content="s")
        assert key("hello") == key((HELLO,)) == "hello"
        assert key((system, HELLO)) == '[["system", "s"], ["user", "hello"]]'
        assert key((system,)) != key("s")
        assert len({key("hello"), key((system, HELLO)), key((HELLO, HELLO)), key((system,))}) == 4


class TestSampling:
    def test_default_is_greedy(self) -> None:
        assert Sampling().greedy
        assert not Sampling(temperature=0.1).greedy

    @pytest.mark.parametrize(
        ("name", "value", "rule"),
        [
            ("temperature", -0.1, "it must be 0 (greedy) or more, and finite"),
            ("temperature", math.nan, "it must be 0 (greedy) or more, and finite"),
            ("temperature", math.inf, "it must be 0 (greedy) or more, and finite"),
            ("top_k", -1, "it must be 0 (off) or more"),
            ("top_p", 0.0, "it must be above 0 and at most 1 (off)"),
            ("top_p", 1.01, "it must be above 0 and at most 1 (off)"),
            ("top_p", math.nan, "it must be above 0 and at most 1 (off)"),
            ("max_new_tokens", 0, "it must be 1 or more"),
            ("seed", -1, "it must be 0 or more"),
        ],
    )
    def test_refusals(self, name: str, value: float, rule: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Sampling(**{name: value})  # type: ignore[arg-type]
        assert str(caught.value) == f"{name} is {value}; {rule}"

    def test_edges_are_allowed(self) -> None:
        for values in ({"temperature": 0}, {"top_k": 0}, {"top_p": 1}, {"top_p": 1e-9}, {"max_new_tokens": 1}):
            Sampling(**values)  # type: ignore[arg-type]
        assert Sampling(max_new_tokens=None).max_new_tokens is None


DONE = Completion(text="c", finish_reason="stop")


def test_usage_adds_up() -> None:
    total = Usage(prompt_tokens=1, completion_tokens=2) + Usage(prompt_tokens=10, completion_tokens=20)
    assert total == Usage(prompt_tokens=11, completion_tokens=22)
    assert DONE.usage == Usage()


class TestCorrection:
    def test_copy(self) -> None:
        copy = Correction(question=(HELLO,), answer="a b", text="a b", completion=DONE)
        assert copy.is_copy
        assert (copy.edit_ratio, copy.copied_share) == (0.0, 1.0)
        assert copy.diff == (Edit(op="equal", text="a b"),)

    def test_edit(self) -> None:
        edit = Correction(question=(HELLO,), answer="a b c d", text="a b d", completion=DONE)
        assert not edit.is_copy
        assert edit.edit_ratio == pytest.approx(1 / 4)
        assert edit.copied_share == pytest.approx(1.0)
        assert [run.op for run in edit.diff] == ["equal", "delete", "equal"]

    def test_white_space_alone_is_no_copy(self) -> None:
        edit = Correction(question=(HELLO,), answer="a  b", text="a b", completion=DONE)
        assert not edit.is_copy
        assert edit.edit_ratio == 0.0

    def test_preference_pair_prefers_it(self) -> None:
        correction = Correction(question=(HELLO,), answer="worse", text="better", completion=DONE)
        pair = PreferencePair.from_correction(correction)
        assert pair == PreferencePair(question=(HELLO,), chosen="better", rejected="worse")


VALUES = [
    HELLO,
    Triplet(question="q", answer="a", correction="c"),
    Usage(),
    Sampling(),
    DONE,
    Delta(text=""),
    Correction(question=(HELLO,), answer="a", text="c", completion=DONE),
    PreferencePair(question=(HELLO,), chosen="c", rejected="r"),
    Verdict(dimension="harmless", winner=None),
    GateDecision(passed=True, score=-0.1, threshold=-1.0, tokens=12),
]


def test_every_value_is_tried() -> None:
    classes = {c for c in vars(types).values() if isinstance(c, type) and dataclasses.is_dataclass(c)}
    assert classes == {type(value) for value in VALUES}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen_slotted_keyword_only_and_hashable(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
        assert field.kw_only
    assert not hasattr(value, "__dict__")
    assert value == dataclasses.replace(value)
    assert hash(value) == hash(dataclasses.replace(value))


def test_protocols_see_what_a_model_can_do() -> None:
    class Both:
        name = "both"

        def generate(self, chats: Any, sampling: Any) -> Any: ...

        def stream(self, chat: Any, sampling: Any) -> Any: ...

    assert isinstance(Both(), Generator)
    assert isinstance(Both(), Streams)
    assert not isinstance(object(), Generator)
    assert not isinstance(object(), Streams)


class TestContentHash:
    def test_is_stable(self) -> None:
        # printf '1:a2:\xc3\xbc' | sha256sum
        assert content_hash("a", "ü") == "a2de24653fe01733"
        assert content_hash() == "e3b0c44298fc1c14"  # of nothing

    def test_knows_where_one_part_ends(self) -> None:
        parts = [(), ("",), ("", ""), ("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("1:a",), ("a", ""), ("a",)]
        assert len({content_hash(*p) for p in parts}) == len(parts)

    def test_parts_that_imitate_the_separator(self) -> None:
        assert (
            len({content_hash("a", "b"), content_hash("a1:b"), content_hash("1:a", "1:b"), content_hash("1:a1:b")}) == 4
        )

    def test_lone_surrogates(self) -> None:
        assert content_hash("\ud800") != content_hash("\ud801")
